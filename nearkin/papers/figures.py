"""Every figure of the papers' tables: `figures.csv`, in percent where it is a score."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

METRICS = {"NMI": "nmi", "F1": "f1"}  # as our scores are named; R@1 is recall@1


@dataclass(frozen=True)
class Cell:
    """One row of one table for one data set.

    Args:
        paper: AL, RLL or DAM.
        table: Its number there.
        data_set: cub200, cars196 or sop.
        method: The row's name, as printed.
    """

    paper: str
    table: str
    data_set: str
    method: str


@cache
def published() -> dict[Cell, dict[str, float]]:
    """Every row of every table with its scores as fractions, keyed as `nearkin.metrics.evaluate` keys them."""
    found: dict[Cell, dict[str, float]] = {}
    with (files("nearkin.papers") / "figures.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores = found.setdefault(Cell(row["paper"], row["table"], row["data_set"], row["method"]), {})
            metric = row["metric"]
            if metric.startswith("R@") or metric in METRICS:
                scores[METRICS.get(metric, f"recall@{metric[2:]}")] = float(row["value"]) / 100
            else:  # a number of samples, a speed or a time
                scores[metric] = float(row["value"])
    return found


def figures(data_set: str, name: str) -> dict[str, float] | None:
    """The scores that the papers report for `configs/<data_set>/<name>.yaml`; None for what is not theirs."""
    from nearkin.papers.experiments import EXPERIMENTS

    for experiment in EXPERIMENTS:
        if (experiment.data_set, experiment.name) == (data_set, name):
            return published()[experiment.cells[0]]
    return None
