"""Every metric of one embedding at once."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from nearkin.metrics.clustering import nmi, pairwise_f1
from nearkin.metrics.inputs import Array, Progress, as_labels
from nearkin.metrics.kmeans import check_arguments, kmeans
from nearkin.metrics.retrieval import retrieval
from nearkin.processes import once


def evaluate(
    embeddings: Array,
    labels: Array,
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    normalize: bool = False,
    clustering: bool = True,
    init: Literal["k-means++", "random"] = "k-means++",
    restarts: int = 1,
    seed: int = 0,
    progress: Progress = iter,
) -> dict[str, float]:
    """Score embeddings (N, D) of known classes by retrieval and by clustering.

    Without a gallery every image searches all the others; with one, it searches the gallery. Clustering is always of
    `embeddings`, by k-means into as many clusters as they have classes; init, restarts and seed are part of its result
    and should be reported with it. In a nearkin command of several processes all have to call it, as `retrieval`.

    Args:
        embeddings: (N, D), NumPy or PyTorch, of any floating type, or integers.
        labels: (N,) integers.
        gallery: (M, D) embeddings to search instead.
        gallery_labels: (M,) integers; given exactly when `gallery` is.
        ks: The K of Recall@K, each at least 1.
        normalize: Put the embeddings on the unit sphere first.
        clustering: False leaves out "nmi" and "f1", the slow part where classes are many.
        init, restarts, seed: Of `kmeans`.
        progress: Wraps the pieces of work, of retrieval and then of clustering, to show them to a person.

    Returns:
        Fractions in [0, 1]: "recall@K" for each K, "map@r", "r_precision", "nmi", "f1"; defined at `retrieval`, `nmi`
        and `pairwise_f1`.

    Raises:
        ValueError: As in `retrieval` and `kmeans`.
    """
    if clustering:
        check_arguments(init=init, restarts=restarts, seed=seed)  # before the slow part
    result = retrieval(embeddings, labels, gallery, gallery_labels, ks=ks, normalize=normalize, progress=progress)
    if clustering:
        classes = len(np.unique(as_labels(labels)))
        cluster = partial(kmeans, normalize=normalize, init=init, restarts=restarts, seed=seed, progress=progress)
        clusters = once(lambda: cluster(embeddings, classes).assignments)
        result |= {"nmi": nmi(labels, clusters), "f1": pairwise_f1(labels, clusters)}
    return result
