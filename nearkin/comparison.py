"""The runs of a comparison, and what they say together: means, differences, and what was held equal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nearkin.class_keys import Tree
from nearkin.statistics import Estimate, difference, estimate

Key = tuple[int, int | None]
"""The seed, and the fold where there are folds: runs of the same key are pairs."""

Scores = dict[Key, float]

TUNED = ", tuned"
"""Behind the name of a method: the same method with what a search found."""


@dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Args:
        name: Unique.
        config: What its runs have in common.
        folder: Below which its runs lie.
        papers: The papers' figures of this cell by metric, as fractions; None where they have none.
        note: What has to be said of it beside the table: what a search found.
    """

    name: str
    config: Tree
    folder: Path
    papers: dict[str, float] | None = None
    note: str | None = None


@dataclass(frozen=True)
class Run:
    """One training of one method.

    Args:
        method: Name of the method.
        seed: Of the run.
        fold: Of the training classes, None where the test classes score.
        folder: Where it lies.
        result: Its `result.json`; None where it came to nothing.
        architecture: How its model is built and its embeddings are compared, of `model.json`.
        failure: Why it came to nothing.
    """

    method: str
    seed: int
    fold: int | None
    folder: Path
    result: dict[str, Any] | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @property
    def key(self) -> Key:
        return self.seed, self.fold

    @property
    def title(self) -> str:
        return f"{self.method}, seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")


@dataclass(frozen=True)
class Untrained:
    """Networks that were the same before training, and are compared in the same way.

    Args:
        title: What to call them.
        methods: Whose they are.
    """

    title: str
    methods: list[str]


@dataclass(frozen=True)
class Comparison:
    """Methods and their runs.

    Args:
        methods: In the order in which they are shown.
        runs: Of all of them.
        baseline: Name of the method that the others are set against.
        seeds: Asked for.
        folds: Into which the training classes were cut; None where the test classes score.
    """

    methods: list[Method]
    runs: list[Run]
    baseline: str
    seeds: int
    folds: int | None = None

    def finished(self, method: str) -> dict[Key, Run]:
        return {run.key: run for run in self.runs if run.method == method and run.result is not None}

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.result is None]

    @property
    def metrics(self) -> list[str]:
        """Keys of the scores, in the order in which a run gives them; none where no run was finished."""
        return next((list(run.result["trained"]) for run in self.runs if run.result is not None), [])

    @property
    def overlap(self) -> float:
        """Classes scored over classes trained on, between folds; see `nearkin.statistics.estimate`."""
        return 1 / (self.folds - 1) if self.folds else 0.0

    def scores(self, method: str, metric: str, when: str = "trained") -> Scores:
        """What the finished runs of a method scored `trained`, or before their first step, `untrained`."""
        return {key: run.result[when][metric] for key, run in self.finished(method).items() if run.result is not None}

    def untrained_scores(self, untrained: Untrained, metric: str) -> Scores:
        """What these networks scored before their first step: the same for all methods, any may speak for a seed."""
        found: Scores = {}
        for name in reversed(untrained.methods):
            found |= self.scores(name, metric, "untrained")
        return found

    def costs(self, method: str) -> tuple[float, float] | None:
        """Mean seconds of training, and the highest peak of memory in MB; None where no run was finished."""
        seconds = self.fact(method, "seconds")
        return (sum(seconds) / len(seconds), max(self.fact(method, "peak_memory_mb"))) if seconds else None

    def mean(self, scores: Scores) -> Estimate | None:
        return estimate(list(scores.values()), self.overlap) if scores else None

    def against_baseline(self, scores: Scores, metric: str) -> Estimate | None:
        """Scores less the trained baseline's, pair by pair."""
        return difference(scores, self.scores(self.baseline, metric), self.overlap)

    def fact(self, method: str, name: str) -> list[Any]:
        """What the `training` of each finished run of a method says of one thing."""
        return [run.result["training"][name] for run in self.finished(method).values() if run.result is not None]

    def alike(self, fact: Callable[[Run], Any]) -> list[list[str]]:
        """Put methods together that agree in a fact about every run whose key they share; one at least is shared."""
        facts = {
            method.name: {key: fact(run) for key, run in self.finished(method.name).items()} for method in self.methods
        }
        groups: list[list[str]] = []
        for name, own in facts.items():
            for group in groups:
                shared = [(key, member) for member in group for key in own.keys() & facts[member].keys()]
                if shared and all(own[key] == facts[member][key] for key, member in shared):
                    group.append(name)
                    break
            else:
                if own:
                    groups.append([name])
        return groups

    def untrained(self) -> list[Untrained]:
        """The distinct untrained networks: by their weights, and by how their embeddings are made and compared."""
        groups = self.alike(lambda run: (of_training(run, "initial_weights"), run.architecture))
        if len(groups) == 1:
            return [Untrained("untrained", groups[0])]
        weights = self.alike(lambda run: of_training(run, "initial_weights"))
        besides = self.alike(lambda run: {**run.architecture, "normalize": None})
        if len(weights) == len(besides) == 1:  # they differ in nothing but the way of comparing
            ways = {True: "on the unit sphere", False: "as they are"}
            return [Untrained(f"untrained, {ways[self._normalized(group[0])]}", group) for group in groups]
        return [Untrained(f"untrained network of {', '.join(group)}", group) for group in groups]

    def _normalized(self, method: str) -> bool:
        return bool(next(iter(self.finished(method).values())).architecture.get("normalize"))


def of_training(run: Run, name: str) -> Any:
    """One entry of `training` in the result of a finished run."""
    assert run.result is not None
    return run.result["training"][name]
