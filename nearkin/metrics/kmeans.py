"""k-means: the clustering that NMI and F1 are measured on.

Lloyd, "Least Squares Quantization in PCM", 1982. It starts at random points, or as in Arthur and
Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007: the greedy form, as in scikit-learn, whose own
would take half an hour of a processor at 60,502 x 512 points and 11,316 clusters, six times this one's.

Points and centroids lie on the grid of `ranking`, where scores and sums are exact: assignments depend neither on the
device nor on the order in which points came and went, and the objective cannot rise. A mean is rounded to the grid;
no other point of it is a better centroid. As in `screening`, the product is in float32, and what its rounding leaves
open is decided in float64.

Shape key: N = points, D = their size, C = some of the points, T = points tried for one centroid, P = points drawn at
once.
"""

import math
import operator
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nearkin.metrics.inputs import Array, Progress, as_embeddings
from nearkin.metrics.precision import full_precision
from nearkin.metrics.ranking import TILE, Grid, nearest, offsets, rows_at_once, scores_between, scores_of_pairs
from nearkin.metrics.screening import rounding_errors

BLOCK = 32
# Scores held at a time, 128 MB, but no fewer than those of so many points.
CHUNK = 2**25
LEAST_ROWS = 128
STARTS = ("k-means++", "random")


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
    normalize: bool = False,
    init: Literal["k-means++", "random"] = "k-means++",
    restarts: int = 1,
    iterations: int = 100,
    seed: int = 0,
    progress: Progress = iter,
) -> KMeans:
    """Cluster points (N, D) into k groups, using all of them, on the device that they are on.

    The same input and seed give the same clusters: from a random start on every machine, from k-means++ on one, for its
    odds are those of float32 distances. The start moves NMI: report it, with seed and
    restarts. Over eight seeds, NMI in % (mean ± standard deviation):

        points, clusters                          random         best of 5      k-means++      best of 5
        grocery, mean colors, 1,846 in 32         37.6 ± 0.8     37.8 ± 1.1     38.1 ± 0.4     38.1 ± 0.7
        Omniglot, pixels, 2,420 in 121            52.1 ± 0.3     52.1 ± 0.4     52.7 ± 0.2     53.0 ± 0.3
        Gaussians that overlap, 5,924 in 100      68.4 ± 1.6     69.7 ± 0.3     68.0 ± 2.0     69.8 ± 1.4
        Gaussians that do not, 5,924 in 100       97.9 ± 0.5     98.4 ± 0.2     99.2 ± 0.2     99.4 ± 0.1
        Gaussians, 6,050 in 1,131                 89.4 ± 0.2     89.5 ± 0.2     95.3 ± 0.1     95.4 ± 0.1

    Args:
        x: (N, D) points, NumPy or PyTorch, of any floating type.
        k: Number of clusters, from 1 to N.
        normalize: Put the points on the unit sphere first.
        init: First centroids. "random" is k of the points, as in the papers' code. "k-means++" spreads them, at the
            price of 2 + log k products of the points with k others.
        restarts: How many starts to run; the one of the lowest objective is returned.
        iterations: The most updates of the centroids; it ends before once no point changes its cluster.
        seed: Of the random choices of all the starts, from 0 to 2**64 - 1.
        progress: Wraps the pieces of work, the centroids of k-means++ and the iterations, to show them to a person.

    Raises:
        ValueError: Points that `as_embeddings` refuses; k outside 1 to N; arguments that `check_arguments` refuses.
    """
    points = as_embeddings(x, "x")
    count = len(points)
    if not 1 <= k <= count:
        raise ValueError(f"k must be from 1 to the number of points, {count}, got {k}")
    check_arguments(init=init, restarts=restarts, iterations=iterations, seed=seed)

    grid = Grid.around(points, normalize=normalize)
    points = grid.round(points)
    generator = torch.Generator().manual_seed(operator.index(seed))
    best: tuple[float, Tensor, Tensor] | None = None
    with full_precision(points.device):
        for _ in range(restarts):
            if init == "random":
                start = _random_start(points, k, generator)
            else:
                start = _spread_start(points, k, generator, progress)
            assignments, centroids = _lloyd(points, points[start], progress(range(iterations)))
            objective = float(_squared_distances(points, centroids, assignments).sum())
            if best is None or objective < best[0]:
                best = objective, assignments, centroids
    assert best is not None
    objective, assignments, centroids = best
    centroids = (centroids.double() / grid.scale + grid.origin).float()
    return KMeans(assignments.cpu().numpy(), centroids.cpu().numpy(), objective / grid.scale / grid.scale)


def check_arguments(*, init: str, restarts: int, iterations: int = 1, seed: int) -> None:
    """Raise ValueError if `kmeans` takes no such init, restarts, iterations or seed, whatever the points."""
    if init not in STARTS:
        raise ValueError(f"init must be one of {', '.join(STARTS)}, got {init!r}")
    if restarts < 1 or iterations < 1:
        raise ValueError(f"restarts and iterations must be at least 1, got {restarts} and {iterations}")
    if not 0 <= operator.index(seed) < 2**64:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")


def _lloyd(points: Tensor, centroids: Tensor, rounds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Move centroids (k, D) to the means of their points (N, D) until these stay, or rounds end.

    Every round ends with every point at its nearest centroid, the lower of equals, so that equal points share one, and
    with no higher objective. None comes twice: where points changed clusters, the objective fell, or stayed and they
    went to lower ones.

    Work is left out only where it cannot change anything. A centroid moves only if points came or went. A point whose
    own centroid stayed, or came nearer, is compared with those that moved: no other has come nearer than its own was.

    Returns:
        Nearest centroid of each point, (N,), and centroids, (k, D).
    """
    centroids, offset = centroids.clone(), offsets(centroids)
    everyone, every = (torch.arange(len(x), device=points.device) for x in (points, centroids))
    norm = offsets(points).mul_(-2).sqrt_()
    assignments, score = torch.zeros_like(everyone), torch.full_like(norm, -torch.inf)

    def compare(rows: Tensor, those: Tensor) -> None:
        """Move points to one of those centroids where it is nearer than theirs, or as near and lower."""
        some, shift = centroids[those], offset[those]
        best, second, which = _best_two(points, rows, some, shift)
        error = rounding_errors(norm[rows], float(-2 * shift.min()) ** 0.5, points.shape[1])
        unclear = second + 2 * error >= best
        may_move = (best + error >= score[rows]) & (unclear | (those[which] != assignments[rows]))
        rows, which, unclear = rows[may_move], which[may_move], unclear[may_move].nonzero()[:, 0]

        value = scores_of_pairs(points, some, shift, rows, which)
        for part in torch.split(unclear, rows_at_once(len(rows), len(those))) if len(unclear) else ():
            exact = scores_between(points[rows[part]], some, shift)
            which[part] = nearest(exact, 1)[:, 0]
            value[part] = exact.gather(1, which[part, None])[:, 0]
        which = those[which]
        moves = (value > score[rows]) | ((value == score[rows]) & (which < assignments[rows]))
        assignments[rows[moves]], score[rows[moves]] = which[moves], value[moves]

    compare(everyone, every)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=points.device)
    sizes = torch.zeros_like(every)
    counted = torch.full_like(assignments, -1)  # where the sums have each point
    for _ in rounds:
        _settle_empty(points, centroids, assignments)
        moved = _recount(points, sums, sizes, counted, assignments)
        if not len(moved):
            break
        centroids[moved] = (sums[moved] / sizes[moved, None]).round_().float()
        offset[moved] = offsets(centroids[moved])

        theirs = torch.zeros_like(every, dtype=torch.bool).index_fill_(0, moved, True)[assignments].nonzero()[:, 0]
        now = scores_of_pairs(points, centroids, offset, theirs, assignments[theirs])
        away = torch.zeros_like(everyone, dtype=torch.bool)
        away[theirs] = now < score[theirs]
        score[theirs] = now
        compare(everyone[away], every)
        compare(everyone[~away], moved)
    return assignments, centroids


def _best_two(points: Tensor, rows: Tensor, centroids: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores p·c - |c|²/2 = (|p|² - |p - c|²) / 2 of points[rows] for centroids (k, D) and their offsets (k,).

    Returns:
        The highest and the second highest, in float32, not exact, and a centroid of the highest: (rows,) each.
    """
    k, size = centroids.shape
    offset = offset.float()
    blocks = max(2, -(-k // BLOCK))
    step = max(LEAST_ROWS, CHUNK // max(k, size))
    score = points.new_full((min(step, len(rows)), blocks * BLOCK), -torch.inf)
    best, second, which = points.new_empty(len(rows)), points.new_empty(len(rows)), torch.empty_like(rows)
    for some, first, next_, place in zip(*(torch.split(x, step) for x in (rows, best, second, which)), strict=True):
        part = score[: len(some)]
        torch.addmm(offset, points[some], centroids.T, out=part[:, :k])
        # The largest of every block first: faster than the place of the largest of all.
        blocked = part.view(len(some), blocks, BLOCK)
        maxima = blocked.amax(dim=2)
        block = maxima.argmax(dim=1, keepdim=True)
        within = blocked[torch.arange(len(some), device=some.device), block[:, 0]]
        first[:], inside = within.max(dim=1)
        place[:] = block[:, 0] * BLOCK + inside
        # And the largest of what is left.
        within.scatter_(1, inside[:, None], -torch.inf)
        torch.maximum(within.amax(dim=1), maxima.scatter_(1, block, -torch.inf).amax(dim=1), out=next_)
    return best, second, which


def _recount(points: Tensor, sums: Tensor, sizes: Tensor, counted: Tensor, assignments: Tensor) -> Tensor:
    """Bring sums (k, D), sizes (k,) and counted (N,) up to date with assignments (N,).

    Returns:
        Clusters that have changed and are not empty: an empty one keeps its centroid.
    """
    went = (counted != assignments).nonzero()[:, 0]
    for some in torch.split(went, TILE):
        vectors, ones = points[some].double(), torch.ones_like(some)
        old = counted[some]
        if (old >= 0).all():
            sums.index_add_(0, old, vectors, alpha=-1)
            sizes.index_add_(0, old, ones, alpha=-1)
        sums.index_add_(0, assignments[some], vectors)
        sizes.index_add_(0, assignments[some], ones)
    changed: Tensor = torch.unique(torch.cat([counted[went], assignments[went]]))
    counted.copy_(assignments)
    changed = changed[changed >= 0]
    return changed[sizes[changed] > 0]


def _settle_empty(points: Tensor, centroids: Tensor, assignments: Tensor) -> None:
    """Give every cluster without a point the one that is farthest from its centroid, as scikit-learn does.

    Of equal points only one is given: the others will follow it. Changes assignments (N,). Points that lie on their
    centroid stay, and clusters empty, if there are too few others.
    """
    empty = (torch.bincount(assignments, minlength=len(centroids)) == 0).nonzero()[:, 0]
    if len(empty):
        distance = _squared_distances(points, centroids, assignments)
        order = distance.argsort(descending=True, stable=True)
        order = order[distance[order] > 0]
        _, first = np.unique(_marks(points)[order].cpu().numpy(), return_index=True)
        farthest = order[torch.from_numpy(np.sort(first)[: len(empty)]).to(order.device)]
        assignments[farthest] = empty[: len(farthest)]


def _marks(points: Tensor) -> Tensor:
    """A number for each point (N, D) on the grid, the same for equal points, and hardly ever for others: (N,).

    The dot product with a random vector, of integers so small that it is exact up to D = 2**20.
    """
    weights = torch.randint(2**17, points.shape[1:], generator=torch.Generator().manual_seed(0))
    weights = weights.to(points.device, torch.float64)
    return torch.cat([tile.double() @ weights for tile in torch.split(points, TILE)])


def _squared_distances(points: Tensor, centroids: Tensor, assignments: Tensor) -> Tensor:
    """Squared distance of each point to its centroid: (N,) float64."""
    return torch.cat(
        [
            (some.double() - centroids[nearest]).square().sum(dim=1)
            for some, nearest in zip(torch.split(points, TILE), torch.split(assignments, TILE), strict=True)
        ]
    )


def _random_start(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k different rows of points (N, D): (k,)."""
    return torch.randperm(len(points), generator=generator)[:k]


def _spread_start(points: Tensor, k: int, generator: torch.Generator, progress: Progress = iter) -> Tensor:
    """k rows of points (N, D), each the best of a few drawn with odds of their squared distance to those before: (k,).

    The best is the one that leaves the lowest sum of squared distances. O(k N D log k), in large products: a pool is
    drawn at once with the odds of the moment. When its turn comes, each of it is tried with the probability by which
    its odds have shrunk since, and else passed over: what is tried is distributed as if it had been drawn then.
    """
    count, trials = len(points), 2 + int(math.log(k))
    square = offsets(points).mul_(-2).float()  # (N,)

    def distances(rows: Tensor, out: Tensor) -> Tensor:
        """Squared distances of points[rows] to all: (rows, N)."""
        torch.addmm(square, points[rows], points.T, alpha=-2, out=out)
        return out.add_(square[rows, None]).clamp_(min=0)

    start = torch.randint(count, (k,), generator=generator).to(points.device)  # all but the first to be replaced
    closest = distances(start[:1], points.new_empty(1, count))[0]  # (N,), squared distance to the nearest so far
    most = trials * max(1, min(k // 4, CHUNK // (trials * count)))
    distance, left = points.new_empty(most, count), points.new_empty(2 * trials, count)
    pool, doubt, turn = start[:0], closest[:0], 0
    for done in progress(range(1, k)):
        while True:
            tried = doubt[turn : turn + len(left)] <= closest[pool[turn : turn + len(left)]]
            enough = tried.nonzero()[trials - 1 : trials, 0]
            if len(enough):
                break
            # A pool that would serve for many more than there are already would mostly be passed over.
            size = min(most, trials * max(1, min(done // 4, k - done)))
            cumulative = closest.cumsum(dim=0, dtype=torch.float64)
            draw, doubt = torch.rand(2, size, dtype=torch.float64, generator=generator).to(points.device)
            pool = torch.searchsorted(cumulative, draw * cumulative[-1])  # (P,)
            distances(pool, distance[:size])  # (P, N)
            doubt *= closest[pool]
            turn = 0
        end = int(enough) + 1
        torch.minimum(distance[turn : turn + end], closest, out=left[:end])  # (T, N), and those passed over
        best = left[:end].sum(dim=1).masked_fill_(~tried[:end], torch.inf).argmin()
        start[done] = pool[turn + best]
        closest.copy_(left[best])
        turn += end
    return start
