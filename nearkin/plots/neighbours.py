"""The nearest neighbours of every picture: which are right, and which classes are taken for each other.

Shape key: n = pictures, D = embedding size, k = neighbours kept per picture, R = other pictures of the query's
class, C = queries of one chunk.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearkin.metrics.ranking import nearest, scores


@dataclass(frozen=True)
class Neighbours:
    """What a search with each picture among all the others finds.

    Args:
        indices: (n, k) nearest first, ties to the lower index, the picture itself never among them.
        distances: (n, k) Euclidean.
        precision: (n,) average precision at R, in [0, 1]; nan for a picture alone in its class.
        margin: (n,) distance to the nearest picture of another class less that to the nearest of its own;
            inf where there is none of another class, -inf where there is none of its own, nan for neither.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    precision: NDArray[np.float64]
    margin: NDArray[np.float64]


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes whose pictures are taken for each other.

    Args:
        classes: The two labels, the lower first.
        counts: How many pictures of each have their nearest neighbour in the other.
        queries: Some of these pictures, those nearest to their wrong neighbour first.
    """

    classes: tuple[int, int]
    counts: tuple[int, int]
    queries: list[int]


def find_neighbours(embeddings: NDArray[np.float32], labels: NDArray[np.int64], k: int = 8) -> Neighbours:
    """Search with each of the pictures among all the others, a chunk of queries at a time.

    Ranked by the same exact comparison as the scores, and at the same cost in time and memory.

    Args:
        embeddings: (n, D), compared by Euclidean distance as they are.
        labels: (n,) class ids.
        k: Neighbours to keep per picture; fewer where there are fewer other pictures.
    """
    if len(labels) == 1:
        none, unknown = np.zeros((1, 0)), np.full(1, np.nan)
        return Neighbours(none.astype(np.int64), none, unknown, unknown)
    points = torch.from_numpy(embeddings)
    members = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    mates = torch.bincount(members)[members] - 1  # (n,) R of each query
    k = min(k, len(labels) - 1)
    depth = min(max(k, int(mates.max()) + 1), len(labels) - 1)  # k to show, R to score, one more to meet another class

    chunks = []
    for rows, score in scores(points):
        found = nearest(score, depth)  # (C, depth)
        same = members[rows, None] == members  # (C, n)
        hits = same.gather(1, found)
        precision = _average_precision(hits, mates[rows])
        distances = (points[rows, None] - points[found[:, :k]]).norm(dim=2)  # (C, k)

        own = score.masked_fill_(~same, -torch.inf).argmax(dim=1)  # the nearest of the query's class
        other = found.gather(1, hits.int().argmin(dim=1, keepdim=True))[:, 0]  # the first that is not
        to_own = (points[rows] - points[own]).norm(dim=1).masked_fill(mates[rows] == 0, torch.inf)
        to_other = (points[rows] - points[other]).norm(dim=1).masked_fill(hits.all(dim=1), torch.inf)
        chunks.append((found[:, :k], distances, precision, to_other - to_own))
    return Neighbours(*(torch.cat(parts).numpy() for parts in zip(*chunks, strict=True)))


def best_first(neighbours: Neighbours) -> NDArray[np.int64]:
    """Order the queries by average precision at R, then by margin; those alone in their class are left out.

    Returns:
        Indices of queries (m,), the best first, ties to the lower index.
    """
    order = np.lexsort((-neighbours.margin, -neighbours.precision))
    return order[~np.isnan(neighbours.precision[order])]


def one_per_class(order: Iterable[int], labels: NDArray[np.int64], count: int) -> list[int]:
    """The first `count` queries of an order, leaving out those whose class has come before."""
    first: dict[int, int] = {}
    for query in order:
        first.setdefault(int(labels[query]), int(query))
    return list(first.values())[:count]


def confused_pairs(
    neighbours: Neighbours, labels: NDArray[np.int64], limit: int = 9, examples: int = 4
) -> list[ConfusedPair]:
    """The pairs of classes that most often hold the nearest neighbour of each other's pictures.

    Args:
        neighbours: Of all pictures.
        labels: (n,) their class ids.
        limit: Pairs to return at most, the most confused first, ties to the lower labels.
        examples: Queries to name for each pair at most.
    """
    if not neighbours.indices.size:
        return []
    found_class = labels[neighbours.indices[:, 0]]
    wrong = np.flatnonzero(found_class != labels)
    queries_of: dict[tuple[int, int], list[int]] = {}
    for query in wrong[np.argsort(neighbours.distances[wrong, 0], kind="stable")]:
        first, second = sorted((int(labels[query]), int(found_class[query])))
        queries_of.setdefault((first, second), []).append(int(query))

    pairs = []
    for (first, second), queries in queries_of.items():
        of_first = int((labels[queries] == first).sum())
        counts = (of_first, len(queries) - of_first)
        pairs.append(ConfusedPair((first, second), counts, queries[:examples]))
    return sorted(pairs, key=lambda pair: (-sum(pair.counts), pair.classes))[:limit]


def _average_precision(hits: Tensor, mates: Tensor) -> Tensor:
    """Average precision at R of each query (C,): precision averaged at the hits within the first R, over R.

    Musgrave et al., "A Metric Learning Reality Check", ECCV 2020.

    Args:
        hits: (C, at least R) whether the i-th nearest is of the query's class.
        mates: (C,) R of each query; 0 gives nan.
    """
    rank = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    counted = hits & (rank <= mates[:, None])
    average: Tensor = (counted * counted.cumsum(dim=1) / rank).sum(dim=1) / mates
    return average
