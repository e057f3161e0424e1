"""What the three papers report, and how each of their experiments is run here."""

from nearkin.papers.experiments import EXPERIMENTS, Experiment
from nearkin.papers.figures import Cell, figures, published

__all__ = ["EXPERIMENTS", "Cell", "Experiment", "figures", "published"]
