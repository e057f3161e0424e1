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
from nearkin.metrics.ranking import nearest, scores


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
    the machine nor on how the work is cut up. Costs one float64 product (Q, D) x (D, M) and a top-k of it; memory is
    the embeddings in float64 and a few chunks of 64 MB.

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

    measured = []
    for rows, score in scores(points, None if alone else others):
        length = min(max(*ks, int(relevant[rows].max())), len(others) - int(alone))
        hit = gallery_class[nearest(score, length)] == query_class[rows, None]  # (C, K)
        measured.append(_measure(hit, relevant[rows], ks))
    names = [*(f"recall@{k}" for k in ks), "map@r", "r_precision"]
    return dict(zip(names, torch.cat(measured, dim=1).mean(dim=1).tolist(), strict=True))


def _measure(hit: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Recall at each K, average precision at R, and R-precision of every query: (len(ks) + 2, C) float64.

    Args:
        hit: (C, K) whether the i-th nearest is of the query's class, K at least as long as any of ks and R needs.
        relevant: (C,) R of each query; 0 makes every one of the scores 0.
    """
    recall = [hit[:, :k].any(dim=1).double() for k in ks]
    rank = torch.arange(1, hit.shape[1] + 1, dtype=torch.float64, device=hit.device)
    hit = hit & (rank <= relevant[:, None])
    precision = hit.cumsum(dim=1) / rank  # (C, K), at each rank
    total = relevant.clamp(min=1)
    return torch.stack([*recall, (hit * precision).sum(dim=1) / total, hit.double().sum(dim=1) / total])
