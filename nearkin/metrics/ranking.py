"""Who is nearest: exact, so that the answer is the same on every machine.

A float32 matrix product gives two copies of one vector unequal scores, depending on the column they stand in, the
shape of the product and the processor. Here the embeddings are rounded, once, to a grid on which every dot product
in float64 is an integer below 2**53: no later operation rounds. Copies tie, order of summation cannot matter, and
neither can tile size, threads, BLAS or device. Coordinates on the grid are exact in float32, which is how it is kept.

Shape key: Q = queries, M = gallery, D = embedding size, C = queries of one chunk, K = length of a ranked list,
P = pairs of a query and a member of the gallery.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Float64 scores held at a time, 64 MB, but no fewer than those of so many queries, for which the gallery is converted.
CHUNK = 2**23
LEAST_ROWS = 64
# Vectors in float64 at a time.
TILE = 2**12
# Vectors of the gallery whose median is the origin.
SAMPLE = 1000
# Float64 coordinates times this have squares that neither vanish nor overflow: from 2**-800 to float32's largest.
LIFT = 2.0**300
# Exponent of a scale: float64 holds no 2.0**1024.
FINEST = 1000


@dataclass(frozen=True)
class Grid:
    """Integers that vectors are shifted, scaled and rounded to.

    Order of distances is kept up to the rounding, which moves a coordinate by at most 2**-25 of the largest distance
    from the origin (2**-24 where one coordinate has nearly all of it): what float32 itself does to a vector of that
    length. Integers, or multiples of any power of two, are not moved at all where no distance from the origin reaches
    2**24 of these units. Vectors less than 1e-240 from the origin (on the sphere, if they are put there) may count as
    equal to it.

    Attributes:
        origin: (D,) float64.
        scale: A power of two.
        normalize: Whether vectors are put on the unit sphere first.
    """

    origin: Tensor
    scale: float
    normalize: bool

    @classmethod
    def around(cls, gallery: Tensor, *others: Tensor, normalize: bool = False) -> "Grid":
        """Grid for a gallery (M, D) and others (Q, D): vectors are at most 2**25 long, and coordinates at most 2**24.

        The origin is the median of each coordinate over a thousand of the gallery, evenly spaced.
        """
        # Distances do not depend on the origin, but precision does. The mean would not keep integers integers.
        sample = gallery[:: -(-len(gallery) // SAMPLE)]
        sample = _on_sphere(sample) if normalize else sample.double()
        origin = sample.contiguous().median(dim=0).values  # of an expanded tensor PyTorch finds none of its values
        length = coordinate = 0.0
        for x in (gallery, *others):
            for tile in cls(origin, 1.0, normalize)._tiles(x):
                coordinate = max(coordinate, float(tile.abs().max()))
                length = max(length, float(torch.linalg.vector_norm(tile.mul_(LIFT), dim=1).max()) / LIFT)
        # x < 2 ** the exponent of x
        exponent = min(25 - math.frexp(length)[1], 24 - math.frexp(coordinate)[1])
        return cls(origin, 2.0 ** min(exponent, FINEST), normalize)

    def round(self, x: Tensor) -> Tensor:
        """Put vectors (N, D) on the grid: integers (N, D), held in float32."""
        grid = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        for part, tile in zip(torch.split(grid, TILE), self._tiles(x), strict=True):
            part.copy_(tile.mul_(self.scale).round_())
        return grid

    def _tiles(self, x: Tensor) -> Iterator[Tensor]:
        """Vectors (N, D) relative to the origin, new in float64, a TILE at a time."""
        for tile in torch.split(x, TILE):
            yield (_on_sphere(tile) if self.normalize else tile.double()) - self.origin


def _on_sphere(x: Tensor) -> Tensor:
    """Unit vectors (N, D) in float64; zeros stay zeros."""
    lifted = x.double() * LIFT  # none is subnormal any more; then by a power of two, to a largest coordinate near 1
    exponent = torch.frexp(lifted.abs().amax(dim=1, keepdim=True)).exponent
    return F.normalize(lifted * torch.pow(2.0, -exponent.double()))


def to_grid(queries: Tensor, gallery: Tensor, normalize: bool = False) -> tuple[Tensor, Tensor]:
    """Put queries (Q, D) and gallery (M, D) on the grid around them; one tensor where they are one."""
    if gallery is queries:
        points = Grid.around(gallery, normalize=normalize).round(gallery)
        return points, points
    grid = Grid.around(gallery, queries, normalize=normalize)
    return grid.round(queries), grid.round(gallery)


def offsets(gallery: Tensor) -> Tensor:
    """-|g|²/2 of every vector of the gallery (M, D) on the grid: (M,) float64.

    |q - g|² = |q|² - 2 (q·g - |g|²/2): to order distances by, for one q. At most 1.5 * 2**50, in halves: exact in
    float64.
    """
    return torch.cat([tile.double().square().sum(dim=1) for tile in torch.split(gallery, TILE)]) / -2


def scores_between(queries: Tensor, gallery: Tensor, offset: Tensor) -> Tensor:
    """Scores of a few queries (C, D) for a gallery (M, D), both on the grid, and its offsets (M,): (C, M) float64."""
    queries = queries.double()
    score = torch.empty(len(queries), len(gallery), dtype=torch.float64, device=gallery.device)
    parts = zip(torch.split(score, TILE, dim=1), torch.split(gallery, TILE), torch.split(offset, TILE), strict=True)
    for part, tile, shift in parts:
        torch.addmm(shift, queries, tile.double().T, out=part)
    return score


def scores_of_pairs(queries: Tensor, gallery: Tensor, offset: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Scores of queries[row] for gallery[column], both on the grid, (P,) each: (P,) float64, as in `scores_between`."""
    # On the CPU as many as PyTorch leaves to one thread: two would wait for each other longer than they work.
    step = max(1, (2**14 if gallery.device.type == "cpu" else 2**23) // gallery.shape[1])
    # Written to one tensor: small ones, kept between large ones that are not, would leave holes in the heap.
    score = torch.empty(len(row), dtype=torch.float64, device=gallery.device)
    parts = zip(torch.split(score, step), torch.split(row, step), torch.split(column, step), strict=True)
    for part, some_row, some_column in parts:
        query, member = queries.index_select(0, some_row).double(), gallery.index_select(0, some_column).double()
        torch.linalg.vecdot(query, member, out=part)
    return score.add_(offset[column])


def rows_at_once(count: int, columns: int) -> int:
    """How many of a number of queries to score at a time in float64 for a gallery of that many columns."""
    return min(count, max(LEAST_ROWS, CHUNK // columns))


def scores(points: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Score every point (Q, D) for all of them: chunks of queries as (rows, (C, Q) scores).

    The nearer the higher, equal where distances are equal, -inf for a query itself.
    """
    points, _ = to_grid(points, points)
    offset = offsets(points)
    step = rows_at_once(len(points), len(points))
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        score = scores_between(points[rows], points, offset)
        score.diagonal(start).fill_(-torch.inf)
        yield rows, score


def nearest(score: Tensor, k: int) -> Tensor:
    """Columns of the k highest scores of each row (C, M), highest first, ties to the lower column: (C, K).

    torch.topk finds the right scores, but among equals it may take any columns in any order.
    """
    values, columns = score.topk(min(k + 1, score.shape[1]))
    last, columns = values[:, k - 1 : k], columns[:, :k]

    # Where more columns tie with the last than there is room for: all those above it, then the lowest of the tied.
    crowded = (values[:, k:] == last).any(dim=1)
    if crowded.any():
        some, last = score[crowded], last[crowded]
        first = -torch.arange(score.shape[1], dtype=score.dtype, device=score.device)
        key = torch.where(some == last, first, -torch.inf).masked_fill_(some > last, 1)
        columns[crowded] = key.topk(k).indices

    columns = columns.sort(dim=1).values
    order = score.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    return columns.gather(1, order)


def rank_of_first(score: Tensor, wanted: Tensor) -> Tensor:
    """Rank, from 0, of the first of the wanted columns (C, M bool) in the order of `nearest`: (C,).

    Counts instead of sorting: one comparison per score, however far down that column is.
    """
    best, column = score.masked_fill(~wanted, -torch.inf).max(dim=1, keepdim=True)  # of equals, the lowest column
    lower = torch.arange(score.shape[1], device=score.device) < column
    return ((score > best) | ((score == best) & lower)).sum(dim=1)
