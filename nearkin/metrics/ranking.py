"""Who is nearest: exact, so that the answer is the same on every machine.

A float32 matrix product gives two copies of one vector unequal scores, depending on the column they stand in, the
shape of the product and the processor. Here the embeddings are rounded, once, to a grid on which every dot product
in float64 is an integer below 2**53: no later operation rounds. Copies tie, order of summation cannot matter, and
neither can tile size, threads, BLAS or device.

Shape key: Q = queries, M = gallery, D = embedding size, C = queries of one chunk, K = length of a ranked list.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Scores held at a time: 64 MB in float64.
CHUNK = 2**23


def to_grid(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale queries (Q, D) and gallery (M, D) and round them to integers, in float64, of norm <= 2**25.

    Order of distances is kept up to the rounding, which moves a coordinate by at most 2**-25 of the largest distance
    from gallery[0]: what float32 itself does to a vector of that length. Integers, or multiples of any power of two,
    are not moved at all where no distance from gallery[0] reaches 2**25 of these units.
    """
    # Distances do not depend on the origin, but precision does. A vector of the data as origin, not the mean, keeps
    # integers integers.
    origin = gallery[0].double()
    shared = gallery is queries
    queries = queries.double() - origin
    gallery = queries if shared else gallery.double() - origin
    radius = max(float(torch.linalg.vector_norm(x, dim=1).max()) for x in (queries, gallery))
    scale = 2.0 ** (25 - math.frexp(radius)[1])  # radius < 2 ** its exponent
    queries = queries.mul_(scale).round_()
    return queries, queries if shared else gallery.mul_(scale).round_()


def scores(queries: Tensor, gallery: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Yield chunks of queries as (rows, (C, M) scores), the nearer the higher, equal where distances are equal.

    Without a gallery the queries are each other's, and each scores -inf for itself.
    """
    alone = gallery is None
    queries, gallery = to_grid(queries, queries if gallery is None else gallery)
    # |q - g|² = |q|² - 2 (q·g - |g|²/2): the same order for one q. At most 1.5 * 2**50, in halves: exact in float64.
    offset = gallery.square().sum(dim=1) / -2
    step = max(1, CHUNK // len(gallery))
    for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        score = torch.addmm(offset, queries[rows], gallery.T)  # (C, M)
        if alone:
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
