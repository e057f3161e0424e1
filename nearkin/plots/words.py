"""A run in words: the sentence that sums it up, the facts under it, its scores, and how they were made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearkin.plots.embedding_map import FEWEST_FOR_TSNE, perplexity

MEANINGS = {
    "recall@1": ("Recall@1", "the nearest picture is right"),
    "map@r": ("MAP@R", "how many of the R nearest are right, and how early they come"),
    "r_precision": ("R-precision", "how many of the R nearest are right"),
    "nmi": ("NMI", "how well clusters agree with classes"),
    "f1": ("F1", "how well pairs in a cluster agree with pairs in a class"),
}


@dataclass(frozen=True)
class Score:
    """One line of the table of scores: fractions, None where there is none."""

    title: str
    meaning: str
    untrained: float | None
    trained: float | None


def scores(result: Mapping[str, Mapping[str, float]]) -> list[Score]:
    """Put {"untrained": {"recall@1": 0.36, ...}, "trained": {...}} side by side."""
    untrained, trained = result.get("untrained", {}), result.get("trained", {})
    return [
        Score(*meaning(key), _finite(untrained.get(key)), _finite(trained.get(key)))
        for key in dict.fromkeys([*trained, *untrained])
    ]


def summary(first: Score | None, classes: int) -> str:
    """Say in one sentence how good the run is, by its first score on so many unseen classes."""
    unseen = counted(classes, "unseen class", "unseen classes")
    if first is None or first.trained is None:
        return f"No score on {unseen}."
    sentence = f"{first.title} on {unseen}: {100 * first.trained:.1f}%"
    if first.untrained is None:
        return sentence + "."
    points = 100 * (first.trained - first.untrained)
    size = f"{abs(points):.{0 if abs(points) >= 10 else 1}f}"
    if size == "0.0":
        return f"{sentence}, the same as the untrained network."
    unit = "point" if size == "1.0" else "points"
    return f"{sentence}, {size} {unit} {'above' if points > 0 else 'below'} the untrained network."


def facts(
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> list[tuple[str, str]]:
    """What a reader wants to know first, as (term, value)."""
    found = [(key.capitalize(), named(config[key])) for key in ("data", "loss", "backbone") if key in config]
    found.append(("Unseen classes", f"{len(np.unique(labels)):,}"))
    found.append(("Their pictures", f"{len(labels):,}"))
    found.append(("Embedding", counted(embeddings.shape[1], "number", "numbers")))
    if history:
        found.append(("Training", counted(max(row["step"] for row in history), "step", "steps")))
        found.append(("Time", duration(max(row.get("seconds", 0) for row in history))))
    return [(term, value) for term, value in found if value]


def map_note(on_map: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
    """Which of the pictures the map shows."""
    shown, classes = len(np.unique(labels[on_map])), len(np.unique(labels))
    if len(on_map) == len(labels):
        pictures = counted(len(labels), "picture", "pictures")
        return f"{pictures} of {counted(classes, 'class', 'classes')} that the network has never seen."
    return (
        f"A random {len(on_map):,} of the {len(labels):,} pictures, from {shown:,} of the {classes:,} classes "
        "that the network has never seen."
    )


def method(
    config: Mapping[str, Any],
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    on_map: NDArray[np.int64],
) -> list[tuple[str, str]]:
    """How the numbers were made, as (term, explanation)."""
    sizes = np.unique(labels, return_counts=True)[1]
    alone = int((sizes == 1).sum())
    misses = f" {counted(alone, 'picture', 'pictures')} alone in a class: always a miss." if alone else ""
    on_sphere = np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    drawn = (
        f"t-SNE with perplexity {perplexity(len(on_map)):.3g}"
        if len(on_map) >= FEWEST_FOR_TSNE
        else "the first two principal components"
    )
    return [
        (
            "Unseen classes",
            "The network was trained on other classes. It never saw a picture of these "
            f"{len(sizes):,}, and they chose nothing: no setting, no checkpoint.",
        ),
        (
            "Search",
            f"Each of the {len(labels):,} pictures searches among all the others. Its own entry is left out "
            f"by its index, so that copies of it count; ties go to the lower index.{misses}",
        ),
        (
            "Distance",
            "Euclidean, between embeddings as they were scored: "
            + ("on the unit sphere, so between 0 and 2." if on_sphere else "not brought to unit length."),
        ),
        ("Recall@K", "The share of pictures that have one of their own class among their K nearest."),
        (
            "R-precision, MAP@R",
            "R is the number of other pictures of the same class. R-precision is the share of the R nearest "
            "that are right. MAP@R adds up the precision at each right one among them, and divides by R.",
        ),
        ("NMI, F1", f"The classes against {len(sizes):,} clusters by k-means{_kmeans(config)}."),
        ("Untrained", "The same network before its first training step, scored in the same way."),
        (
            "Map",
            f"Drawn by {drawn}. Who is next to whom means something. The distance between far groups, the "
            "size of a group and the directions do not.",
        ),
    ]


def counted(number: int, one: str, many: str) -> str:
    """`1 picture`, `2,420 pictures`."""
    return f"{number:,} {one if number == 1 else many}"


def meaning(key: str) -> tuple[str, str]:
    """Title and meaning of a metric."""
    if key in MEANINGS:
        return MEANINGS[key]
    if key.startswith("recall@"):
        k = key.removeprefix("recall@")
        return f"Recall@{k}", f"one of the {k} nearest is right"
    return key, ""


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def named(value: Any) -> str:
    """The name in a configured value: of a class without its module, of a folder without its parents."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("class_path", "name", "root") if value.get(key)), "")
    text = str(value).rstrip("/")
    return text.rsplit("/", 1)[1] if "/" in text else text.rsplit(".", 1)[-1]


def _kmeans(config: Mapping[str, Any]) -> str:
    """How the clusters were started, where the configuration says so."""
    protocol = config.get("protocol")
    wanted = ("kmeans_init", "kmeans_seed", "kmeans_restarts")
    if not isinstance(protocol, Mapping) or not all(key in protocol for key in wanted):
        return ""
    init, seed, restarts = (protocol[key] for key in wanted)
    return f", {init} start, seed {seed}, the best of {counted(restarts, 'run', 'runs')}"


def duration(seconds: float) -> str:
    """Seconds in words; empty where none were logged."""
    if not 0 < seconds < math.inf:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
