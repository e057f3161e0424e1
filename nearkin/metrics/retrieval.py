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
from torch import Tensor

from nearkin.metrics.inputs import Array, Progress, as_embeddings, as_labels
from nearkin.metrics.ranking import nearest, rank_of_first, rows_at_once, scores_between, to_grid
from nearkin.metrics.screening import Screen
from nearkin.processes import collect, share

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
    progress: Progress = iter,
) -> dict[str, float]:
    """All three from one pass over the distances: {"recall@K": ... for each K, "map@r": ..., "r_precision": ...}.

    Ranks are exact for the embeddings as `ranking.to_grid` rounds them (to about float32), so they depend neither on
    the machine nor on how the work is cut up. Costs little more than one float32 product (Q, D) x (D, M), the same for
    every K. Queries with more than one in 256 of the gallery in their class, or with as many others at nearly the same
    distance as their own, take a float64 product and a top-k instead. Memory is the embeddings in float32 and a few
    hundred MB; for a gallery of more than 200,000, a few times what 128 float32 numbers for each of them take. In a
    nearkin command of several processes all have to call it with the same arguments: each takes its share of the
    queries, and all have the whole result.

    Args:
        queries: (Q, D) embeddings, NumPy or PyTorch, of any floating type; computed on the device they are on.
        query_labels: (Q,) integers.
        gallery: (M, D) embeddings to search instead of the other queries.
        gallery_labels: (M,) integers; given exactly when `gallery` is.
        ks: Each K at least 1. K beyond the size of the gallery means all of it.
        normalize: Put the embeddings on the unit sphere first.
        progress: Wraps the chunks of queries, to show them to a person; again, if some are ranked in float64.

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

    # Classes numbered from 0, then R of every query.
    classes, numbers = np.unique(np.concatenate([labels, other_labels]), return_inverse=True)
    class_of = torch.from_numpy(numbers).to(points.device)
    query_class, gallery_class = class_of[: len(points)], class_of[len(points) :]
    relevant = torch.bincount(gallery_class, minlength=len(classes))[query_class] - int(alone)

    points, others = to_grid(points, points if alone else others, normalize)
    screen = Screen(others, gallery_class, len(classes))
    rank = torch.full_like(relevant, len(others))
    average_precision = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    precision = torch.zeros_like(average_precision)

    def record(rows: Tensor, first: Tensor, hit: Tensor) -> None:
        rank[rows] = first
        average_precision[rows], precision[rows] = _precisions(hit, relevant[rows])

    mine = share(len(points))
    asked = torch.zeros_like(relevant, dtype=torch.bool)
    asked[mine] = relevant[mine] > 0
    screened = screen.pays(relevant) & asked
    unknown = [(asked & ~screened).nonzero()[:, 0]]
    for rows in progress(_cut(screened.nonzero()[:, 0], screen.rows)):
        itself = rows if alone else None
        first, hit, known = screen.judge(points[rows], query_class[rows], relevant[rows], itself)
        record(rows[known], first[known], hit[known])
        unknown.append(rows[~known])
    left = torch.cat(unknown)
    for rows in progress(_cut(left, rows_at_once(len(left), len(others)))):
        score = scores_between(points[rows], others, screen.offset)
        if alone:
            score[torch.arange(len(rows)), rows] = -torch.inf
        record(rows, *_judge(score, gallery_class, query_class[rows], relevant[rows]))
    judged = collect([each[mine].cpu().numpy().copy() for each in (rank, average_precision, precision)])
    rank, average_precision, precision = map(torch.from_numpy, map(np.concatenate, zip(*judged, strict=True)))
    return {
        **{f"recall@{k}": float((rank < min(k, len(others))).double().mean()) for k in ks},
        "map@r": float(average_precision.mean()),
        "r_precision": float(precision.mean()),
    }


def _cut(rows: Tensor, step: int) -> list[Tensor]:
    """Rows (N,) in pieces of at most so many."""
    return list(torch.split(rows, max(1, step))) if len(rows) else []


def _judge(score: Tensor, gallery_class: Tensor, query_class: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Judge each query's ranked list.

    Args:
        score: (C, M), the nearer the higher; -inf for the query itself, if it is in the gallery.
        gallery_class: (M,).
        query_class: (C,).
        relevant: (C,) R of each query, at least 1.

    Returns:
        The rank, from 0, of the nearest of the query's class, (C,), and which of its R nearest are, (C, K) bool.
    """
    length = min(max(int(relevant.max()), SHORT), len(gallery_class))
    hit = gallery_class[nearest(score, length)] == query_class[:, None]  # (C, K)
    rank = hit.byte().argmax(dim=1)
    later = ~hit.any(dim=1)  # beyond the list: rare where the embedding is good, and too far to sort for
    if later.any():
        rank[later] = rank_of_first(score[later], gallery_class == query_class[later, None])
    return rank, hit & (torch.arange(length, device=hit.device) < relevant[:, None])


def _precisions(hit: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision and precision at R = relevant (C,), from the hits (C, K) among the R nearest: (C,) each."""
    position = torch.arange(1, hit.shape[1] + 1, dtype=torch.float64, device=hit.device)
    precision = hit.cumsum(dim=1) / position  # at each position
    return (hit * precision).sum(dim=1) / relevant, hit.double().sum(dim=1) / relevant
