"""A search over hyper-parameters that sees training classes only.

Every method gets the same number of trials, in each of which one configuration learns from three quarters of the
training classes and is scored on the last quarter. The first trial is the configuration as it is written; each later
one is proposed by the tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization",
NeurIPS 2011; Optuna's) and depends on nothing but its number and the scores before it: a search that was cut short
continues with exactly the trials that it would have made.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from nearkin.class_keys import Tree
from nearkin.errors import InputError

OBJECTIVE = "map@r"
"""What is maximised. Recall@1 looks at one neighbour of each query: on the few held-out classes it is noisier, and it
does not tell a class that is gathered from one that is scattered in pairs. MAP@R does (Musgrave et al., "A Metric
Learning Reality Check", ECCV 2020, who search by it too)."""

SEED = 1_000_000
"""Of every trial: the same held-out classes, initial weights and batches for all. No comparison counts up to it."""

HELD_OUT = 0.25
"""Of the training classes, scored in every trial."""

DIGITS = 3
"""Significant digits of a proposed value: it is to be read and written down."""


@dataclass(frozen=True)
class Range:
    """Values that a search tries.

    Args:
        low: The lowest.
        high: The highest.
        log: Every factor is as likely as any other, rather than every difference.
        relative: `low` and `high` are factors of the configuration's own value.
    """

    low: float
    high: float
    log: bool = False
    relative: bool = False

    def around(self, own: float) -> "Range":
        """Absolute limits, widened where they would leave out the configuration's own value."""
        low, high = (self.low * own, self.high * own) if self.relative else (self.low, self.high)
        return Range(min(low, own), max(high, own), log=self.log and own > 0)


LEARNING_RATE = Range(0.1, 10.0, log=True, relative=True)

# What the papers ablate or report as safe lies inside. A margin on the unit sphere is of distances up to 2, of squared
# ones up to 4; without normalisation the scale is the network's own. What defines a method (the form of N-pair,
# symmetric gradients, normalisation) is not searched.
LOSSES: dict[str, dict[str, Range]] = {
    "ContrastiveLoss": {"margin": Range(0.3, 1.8)},
    "DDMLLoss": {"beta": Range(1.0, 30.0, log=True), "tau": Range(1.1, 3.9)},
    "TripletLoss": {"margin": Range(0.02, 1.0, log=True)},
    "SemihardTripletLoss": {"margin": Range(0.02, 1.0, log=True)},
    "MarginLoss": {"alpha": Range(0.05, 0.5), "beta": Range(0.6, 1.4)},
    "LiftedStructureLoss": {"margin": Range(0.1, 10.0, log=True)},
    "NPairLoss": {"l2": Range(0.0, 0.1)},
    "AngularLoss": {"alpha": Range(30.0, 60.0)},
    "AngularHingeLoss": {"alpha": Range(30.0, 60.0)},
    "NPairAngularLoss": {"alpha": Range(30.0, 60.0), "weight": Range(0.2, 20.0, log=True)},
    "ProxyNCALoss": {"scale": Range(1.0, 30.0, log=True)},
    "FacilityLocationLoss": {"gamma": Range(0.1, 100.0, log=True)},
    "SpectralClusteringLoss": {},
    "DAMLLoss": {"margin": Range(0.1, 10.0, log=True)},
    "RankedListLoss": {"alpha": Range(0.8, 1.6), "margin": Range(0.0, 0.6), "temperature": Range(0.0, 20.0)},
    "CrossBatchMemory": {"weight": Range(0.1, 10.0, log=True)},
    "DAMLRRMLoss": {"alpha": Range(0.5, 2.0, log=True, relative=True), "beta": Range(0.1, 1.0)},
}


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Args:
        values: Of the keys that are searched.
        score: What the held-out classes gave; None where the run came to nothing.
        failure: Why it came to nothing.
    """

    values: dict[str, float]
    score: float | None
    failure: str | None = None


def check_installed() -> None:
    """Refuse a search without Optuna.

    Raises:
        InputError: It is not installed.
    """
    if find_spec("optuna") is None:
        raise InputError("--trials needs a package that is not here: pip install 'nearkin[search]'")


def own_values(config: Tree) -> dict[str, float]:
    """The values that a configuration gives to what is searched: `optimizer.lr`, `loss.alpha`, ...

    Raises:
        InputError: Its optimizer has no learning rate.
    """
    rate = config["optimizer"]["init_args"].get("lr")
    if not isinstance(rate, float | int):
        raise InputError(f"--trials searches the learning rate, and optimizer.lr is {rate}; write a number there")
    values = {"optimizer.lr": float(rate)}
    arguments = config["loss"].get("init_args", {})
    for name in _loss_ranges(config):
        if isinstance(arguments.get(name), float | int):
            values[f"loss.{name}"] = float(arguments[name])
    return values


def with_values(config: Tree, values: Mapping[str, float]) -> Tree:
    """A copy of the configuration with these values in their places."""
    changed = deepcopy(config)
    for key, value in values.items():
        part, name = key.split(".")
        changed[part]["init_args"][name] = value
    return changed


def propose(config: Tree, trials: Sequence[Trial]) -> dict[str, float]:
    """The values of the next trial after these."""
    own = own_values(config)
    if not trials:
        return own
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {key: _range(config, key).around(value) for key, value in own.items()}
    space: dict[str, BaseDistribution] = {
        key: FloatDistribution(each.low, each.high, log=each.log) for key, each in ranges.items()
    }
    # A generator of its own for every number: nothing depends on what this process did before.
    seed = int(np.random.SeedSequence((SEED, len(trials))).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for trial in trials:
        # A run that came to nothing retrieves nothing: told so, the estimator keeps away from there.
        study.add_trial(create_trial(params=trial.values, distributions=space, value=trial.score or 0.0))
    asked = study.ask(space).params
    return {key: min(max(_rounded(asked[key]), each.low), each.high) for key, each in ranges.items()}


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest score, the first of equals; None where none has a score."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda trial: trial.score or 0.0, default=None)


def _loss_ranges(config: Tree) -> dict[str, Range]:
    return LOSSES.get(str(config["loss"]["class_path"]).rpartition(".")[2], {})


def _range(config: Tree, key: str) -> Range:
    part, name = key.split(".")
    return LEARNING_RATE if part == "optimizer" else _loss_ranges(config)[name]


def _rounded(value: Any) -> float:
    return float(f"{value:.{DIGITS}g}")
