"""A model and pictures -> every metric on the classes that the model has never seen."""

import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nearkin import metrics
from nearkin.data import ClassSplit, Data, Pictures, read_all
from nearkin.data.cache import UnusableCache
from nearkin.data.folder import ImageList, count
from nearkin.embed import Model, load
from nearkin.errors import InputError
from nearkin.progress import track
from nearkin.run_folder import BACK, RunFolder

log = logging.getLogger("nearkin")

Start = Literal["k-means++", "random"]
"""Of k-means."""


@dataclass(frozen=True)
class Protocol:
    """How embeddings are scored.

    Args:
        ks: The K of each Recall@K.
        kmeans_restarts: Runs of k-means, the best of which is scored by NMI and F1.
        kmeans_init: How each run starts: `k-means++`, or the single `random` start of the papers' code.
        kmeans_seed: Seed of those starts.
        classes: Whose pictures: those of the `test` classes, or of the training classes that `data.validation` held
            out (`validation`): to choose a method or its arguments by. A held-out class then chooses no checkpoint,
            and no test picture is read.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8)
    kmeans_restarts: int = 1
    kmeans_init: Start = "k-means++"
    kmeans_seed: int = 0
    classes: Literal["test", "validation"] = "test"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Protocol":
        """From the `protocol` of a run's configuration.

        Raises:
            InputError: It is damaged.
        """
        try:
            return cls(**config)
        except TypeError as error:
            raise InputError(f"protocol of config.yaml is damaged ({error}); {BACK}") from error

    def scored(self, split: ClassSplit) -> NDArray[np.int64]:
        """The classes that are scored.

        Raises:
            InputError: The training classes are to be scored that are held out, and none are.
        """
        if self.classes == "validation" and not len(split.validation):
            raise InputError("protocol.classes validation needs training classes held out: add --data.validation 0.25")
        return split.validation if self.classes == "validation" else split.test

    def __post_init__(self) -> None:
        starts = get_args(Start)
        if self.kmeans_init not in starts:
            raise InputError(f"protocol.kmeans_init is one of {', '.join(starts)}, got {self.kmeans_init!r}")
        if not self.ks or min(self.ks) < 1:
            raise InputError(f"protocol.ks expects one or more numbers of at least 1, got {list(self.ks)}")
        for key, value, least in (
            ("kmeans_restarts", self.kmeans_restarts, 1),
            ("kmeans_seed", self.kmeans_seed, 0),
        ):
            if value < least:
                raise InputError(f"protocol.{key} must be at least {least}, got {value}")

    def score(self, embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        """Every metric of embeddings (n, D), each picture searching among all the others."""
        return metrics.evaluate(
            embeddings,
            labels,
            ks=self.ks,
            restarts=self.kmeans_restarts,
            init=self.kmeans_init,
            seed=self.kmeans_seed,
            progress=lambda work: track(work, "scoring", len(work), transient=True),
        )

    def about(self, labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
        """What has to be said beside the scores of pictures with these labels (n,), indices into `classes`."""
        present = np.unique(labels)
        return {
            **asdict(self),
            "test_classes": len(present),
            "test_images": len(labels),
            "scored": [classes[c] for c in present],
        }


@dataclass(frozen=True)
class Embedded:
    """Pictures of unseen classes as a model sees them: `embeddings[i]` is of `images.paths[i]`."""

    images: ImageList
    embeddings: NDArray[np.float32]


def embed_unseen(model: Model, data: Data, classes: Container[str] | None = None) -> Embedded:
    """Embed the pictures of every class whose name is not among the model's training classes.

    Where the pictures come with a split of their own, as published data sets do, only its test classes count. A cache
    that cannot be used is done without.

    Args:
        model: What embeds them.
        data: Where they are.
        classes: Names of the only classes that are wanted; all unless given.

    Raises:
        InputError: The pictures cannot be used, or hold no unseen class.
    """
    found, split = data.read()
    candidates = np.arange(len(found.classes)) if split is None or classes is not None else split.test
    if not len(candidates):
        raise InputError(
            f"{data.root} puts no class into its split test, and scores are for those; name other pictures"
        )
    seen = set(model.trained_classes)
    unseen = np.array([i for i in candidates if found.classes[i] not in seen], dtype=np.int64)
    if not len(unseen):
        kind = "class" if split is None else "test class"
        raise InputError(
            f"the model was trained on all {count(len(candidates), kind)} of {data.root}; "
            "scores are for classes that it has not seen: name other pictures with --data"
        )
    if classes is not None:
        unseen = unseen[[found.classes[i] in classes for i in unseen]]
        if not len(unseen):
            raise InputError(f"{data.root} holds none of the classes that the run was scored on; name their folder")
    chosen = found.of_classes(unseen)
    listed = ImageList(
        [found.paths[i] for i in chosen],
        np.searchsorted(unseen, found.labels[chosen]),
        [found.classes[i] for i in unseen],
    )
    reading = partial(read_all, listed, model.architecture.image, track, of=len(found.paths))
    try:
        images, pictures = reading(cache=data.cache)
    except (UnusableCache, OSError) as error:
        if data.cache is None:
            raise
        # Nor can another be named: it is the run's.
        reason = error.__cause__ or error
        log.warning("the run's cache %s cannot be used (%s); decoding every picture without it", data.cache, reason)
        images, pictures = reading()
    return Embedded(images, embed_all(model, pictures))


def embed_all(model: Model, pictures: Pictures) -> NDArray[np.float32]:
    return model.embed_pictures(pictures, np.arange(len(pictures)))


def evaluate_run(run: Path, data: Data | None = None, levels: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Score a finished run on unseen classes: of `data`, or of the pictures that it was trained with.

    Args:
        run: Its folder.
        data: Where other pictures are.
        levels: Of a run with several levels, those that are scored; all unless given.

    Returns:
        {"trained": scores, "protocol": how they were made}.

    Raises:
        InputError: There is no such run or level, or the pictures cannot be used.
    """
    model = load(run)
    config = RunFolder(run).config()
    unseen = embed_unseen(model, data or Data.of(config["data"]), None if data else scored_classes(RunFolder(run)))
    embeddings = unseen.embeddings if levels is None else model.of_levels(levels, unseen.embeddings)
    protocol, labels = Protocol.of(config["protocol"]), unseen.images.labels
    return {
        "trained": protocol.score(embeddings, labels),
        "protocol": protocol.about(labels, unseen.images.classes),
    }


def scored_classes(run: RunFolder) -> set[str]:
    """Names of the classes whose pictures gave a finished run its scores."""
    return set(run.result()["protocol"]["scored"])


def describe(result: dict[str, dict[str, Any]]) -> str:
    """The scores of a run for a terminal, and how they came about."""
    how = result["protocol"]
    return "\n".join(
        [
            f"{how['test_images']:,} pictures of {how['test_classes']:,} "
            f"{'held-out training classes' if how.get('classes') == 'validation' else 'unseen classes'}, in %",
            table({name: result[name] for name in ("untrained", "trained") if name in result}),
            f"k-means for NMI and F1: {how['kmeans_init']} start, {how['kmeans_restarts']} run(s), "
            f"seed {how['kmeans_seed']}",
        ]
    )


def table(columns: dict[str, dict[str, float]]) -> str:
    """Scores in percent, a metric per line and a column for each named dictionary."""
    width = max(len(name) for name in columns) + 2
    head = " " * 12 + "".join(f"{name:>{width}}" for name in columns)
    rows = [
        f"{metric:12s}" + "".join(f"{100 * scores[metric]:{width}.1f}" for scores in columns.values())
        for metric in next(iter(columns.values()))
    ]
    return "\n".join([head, *rows])
