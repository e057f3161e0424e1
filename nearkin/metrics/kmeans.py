"""k-means: the clustering that NMI and F1 are measured on.

Lloyd, "Least Squares Quantization in PCM", 1982, run by faiss; started at random points, or by the greedy form of Arthur
and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007 (section 6), which is scikit-learn's too.

Shape key: N = points, D = their size, T = points tried for one centroid.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearkin.metrics.inputs import Array, as_embeddings


class KMeans(NamedTuple):
    """k clusters of N points.

    Attributes:
        assignments: (N,) int64, the cluster of each point: its nearest centroid. Some clusters may be empty.
        centroids: (k, D) float32.
        objective: Sum over the points of the squared distance to their centroid.
    """

    assignments: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float32]
    objective: float


def kmeans(
    x: Array,
    k: int,
    *,
    init: Literal["k-means++", "random"] = "k-means++",
    restarts: int = 1,
    iterations: int = 100,
    seed: int = 0,
) -> KMeans:
    """Cluster points (N, D) into k groups, using all of them, in float32 on the CPU.

    The same input and seed give the same clusters on one machine. Report seed and restarts with what is measured on
    them: from one seed to the next NMI moves by a point or more.

    Args:
        x: (N, D) points, NumPy or PyTorch, of any floating type.
        k: Number of clusters, from 1 to N.
        init: First centroids. "random" is k of the points, as in the papers' code. "k-means++" spreads them, at the
            price of log k more products of the points with k centroids, and was better wherever clusters stood apart.
        restarts: How many starts to run; the one of the lowest objective is returned.
        iterations: The most updates of the centroids; it ends before once they no longer lower the objective.
        seed: Of the random choices of all the starts.

    Raises:
        ValueError: Points that `as_embeddings` refuses; k outside 1 to N; init neither of the two; restarts or
            iterations below 1.
    """
    import faiss  # only here: the other metrics do without

    points = as_embeddings(x, "x").double().cpu()
    count, size = points.shape
    starts = {"k-means++": _spread_start, "random": _random_start}
    if not 1 <= k <= count:
        raise ValueError(f"k must be from 1 to the number of points, {count}, got {k}")
    if init not in starts:
        raise ValueError(f"init must be one of {', '.join(starts)}, got {init!r}")
    if restarts < 1 or iterations < 1:
        raise ValueError(f"restarts and iterations must be at least 1, got {restarts} and {iterations}")

    # Distances from float32 dot products are lost far from the origin and at extreme scales.
    center = points.mean(dim=0)
    points = points - center
    scale = float(torch.linalg.vector_norm(points, dim=1).max()) or 1.0
    points = points.div_(scale).float()

    def run(start: Tensor) -> KMeans:
        model = faiss.Kmeans(
            size,
            k,
            niter=int(iterations),
            max_points_per_centroid=count,  # beyond, it would train on a sample
            min_points_per_centroid=1,  # below, it would warn
        )
        model.train(points.numpy(), init_centroids=points[start].numpy())
        distances, assignments = model.assign(points.numpy())  # squared distances
        centroids = torch.from_numpy(model.centroids) * scale + center
        objective = float(distances.sum(dtype=np.float64)) * scale**2
        return KMeans(assignments, centroids.float().numpy(), objective)

    generator = torch.Generator().manual_seed(int(seed))
    runs = [run(starts[init](points, k, generator)) for _ in range(restarts)]
    return min(runs, key=lambda found: found.objective)


def _random_start(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k different rows of points (N, D): (k,)."""
    return torch.randperm(len(points), generator=generator)[:k]


def _spread_start(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k rows of points (N, D), each the best of a few drawn with odds of their squared distance to those before: (k,).

    The best is the one that leaves the lowest sum of squared distances. O(k N D log k).
    """
    trials = 2 + int(math.log(k))
    square = points.square().sum(dim=1)  # (N,)
    start = torch.empty(k, dtype=torch.long)
    start[0] = torch.randint(len(points), (), generator=generator)
    nearest = (points - points[start[0]]).square().sum(dim=1)  # (N,), squared distance to the nearest so far
    for i in range(1, k):
        cumulative = nearest.cumsum(dim=0, dtype=torch.float64)
        draw = torch.rand(trials, dtype=torch.float64, generator=generator) * cumulative[-1]
        # right=True passes over points at distance 0; the clamp is for when all are.
        rows = torch.searchsorted(cumulative, draw, right=True).clamp(max=len(points) - 1)  # (T,)
        distance = torch.addmm(square[rows], points, points[rows].T, alpha=-2).add_(square[:, None]).clamp_(min=0)
        left = distance.minimum(nearest[:, None])  # (N, T)
        best = left.sum(dim=0).argmin()
        start[i], nearest = rows[best], left[:, best]
    return start
