"""What the three papers report, how each of their experiments is run here, and their methods on small pictures."""

from nearkin.papers.experiments import EXPERIMENTS, Experiment
from nearkin.papers.figures import Cell, figures, published

__all__ = ["EXPERIMENTS", "Cell", "Experiment", "figures", "published"]
