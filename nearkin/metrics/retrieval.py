"""How well nearest neighbours share the query's class: Recall@K, MAP@R, R-precision.

Recall@K as in Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016; MAP@R and
R-precision as in Musgrave et al., "A Metric Learning Reality Check", ECCV 2020.

One protocol for all three. Every image is a query once. Its gallery is all the other images (itself left out by its
index, so that copies of it stay), or a separate set of images where one is given. Distance is Euclidean, ties go to the
lower index, and a query with nobody of its class in the gallery scores 0.

Shape key: Q = queries, M = gallery, D = embedding size, C = queries of one chunk, K = length of a ranked list.
"""

import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearkin.metrics.inputs import Array, as_embeddings, as_labels
from nearkin.metrics.ranking import nearest, rank_of_first, scores

# A top-k this short costs what a pass over the scores does, however short it is made.
SHORT = 32


def recall_at_k(
    queries: Array,
    query_labels: Array,
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    normalize: bool = False,
) -> dict[int, float]:
    """Share of the queries that have their own class among their K nearest, for every K: {K: fraction}.

    Arguments and errors as in `retrieval`.
    """
    found = retrieval(queries, query_labels, gallery, gallery_labels, ks=ks, normalize=normalize)
    return {k: found[f"recall@{k}"] for k in ks}


def map_at_r(
    queries: Array,
    query_labels: Array,
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    normalize: bool = False,
) -> float:
    """Mean over the queries of 1/R · Σ precision at i, over the i <= R whose neighbour i shares the class.

    R is the number of images of the query's class in its gallery. Arguments and errors as in `retrieval`.
    """
    return retrieval(queries, query_labels, gallery, gallery_labels, normalize=normalize)["map@r"]


def r_precision(
    queries: Array,
    query_labels: Array,
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    normalize: bool = False,
) -> float:
    """Mean over the queries of the share of their R nearest that are of their class.

    R is the number of images of the query's class in its gallery. Arguments and errors as in `retrieval`.
    """
    return retrieval(queries, query_labels, gallery, gallery_labels, normalize=normalize)["r_precision"]


def retrieval(
    queries: Array,
    query_labels: Array,
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    normalize: bool = False,
) -> dict[str, float]:
    """All three from one pass over the distances: {"recall@K": ... for each K, "map@r": ..., "r_precision": ...}.

    Ranks are exact for the embeddings as `ranking.to_grid` rounds them (to about float32), so they depend neither on
    the machine nor on how the work is cut up. Costs one float64 product (Q, D) x (D, M) and a top-k of it, the same
    for every K; memory is the embeddings in float64 and a few chunks of 64 MB.

    Args:
        queries: (Q, D) embeddings, NumPy or PyTorch, of any floating type; computed on the device they are on.
        query_labels: (Q,) integers.
        gallery: (M, D) embeddings to search instead of the other queries.
        gallery_labels: (M,) integers; given exactly when `gallery` is.
        ks: Each K at least 1. K beyond the size of the gallery means all of it.
        normalize: Put the embeddings on the unit sphere first.

    Returns:
        Fractions in [0, 1].

    Raises:
        ValueError: Input of another shape, size or type, empty, or not finite; no K, or one below 1.
    """
    ks = [operator.index(k) for k in ks]
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be one or more integers of at least 1, got {ks}")
    alone = gallery is None
    if alone != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together, got one without the other")
    points = as_embeddings(queries)
    labels = as_labels(query_labels, len(points))
    others = points if gallery is None else as_embeddings(gallery, "gallery").to(points.device)
    other_labels = labels if gallery_labels is None else as_labels(gallery_labels, len(others), "gallery_labels")
    if points.shape[1] != others.shape[1]:
        raise ValueError(f"queries and gallery must share one size D, got {points.shape[1]} and {others.shape[1]}")
    if normalize:
        points = F.normalize(points.double())
        others = points if alone else F.normalize(others.double())

    # Classes numbered from 0, then R of every query.
    classes, numbers = np.unique(np.concatenate([labels, other_labels]), return_inverse=True)
    class_of = torch.from_numpy(numbers).to(points.device)
    query_class, gallery_class = class_of[: len(points)], class_of[len(points) :]
    relevant = torch.bincount(gallery_class, minlength=len(classes))[query_class] - int(alone)

    judged = [
        _judge(score, gallery_class, query_class[rows], relevant[rows])
        for rows, score in scores(points, None if alone else others)
    ]
    rank, average_precision, precision = (torch.cat(part) for part in zip(*judged, strict=True))
    return {
        **{f"recall@{k}": float((rank < min(k, len(others))).double().mean()) for k in ks},
        "map@r": float(average_precision.mean()),
        "r_precision": float(precision.mean()),
    }


def _judge(score: Tensor, gallery_class: Tensor, query_class: Tensor, relevant: Tensor) -> tuple[Tensor, ...]:
    """Judge each query's ranked list.

    Args:
        score: (C, M), the nearer the higher; -inf for the query itself, if it is in the gallery.
        gallery_class: (M,).
        query_class: (C,).
        relevant: (C,) R of each query.

    Returns:
        The rank, from 0, of the nearest of the query's class (M where there is none), the average precision at R, and
        the precision at R: (C,) each.
    """
    length = min(max(int(relevant.max()), SHORT), len(gallery_class))
    hit = gallery_class[nearest(score, length)] == query_class[:, None]  # (C, K)
    hit &= relevant[:, None] > 0  # an image alone in its class does not find itself, at the end of a whole list
    found = hit.any(dim=1)
    rank = hit.byte().argmax(dim=1).where(found, len(gallery_class))
    later = (relevant > 0) & ~found  # beyond the list: rare where the embedding is good, and too far to sort for
    if later.any():
        rank[later] = rank_of_first(score[later], gallery_class == query_class[later, None])

    position = torch.arange(1, length + 1, dtype=torch.float64, device=score.device)
    hit &= position <= relevant[:, None]
    precision = hit.cumsum(dim=1) / position  # at each position
    divisor = relevant.clamp(min=1)
    return rank, (hit * precision).sum(dim=1) / divisor, hit.double().sum(dim=1) / divisor
