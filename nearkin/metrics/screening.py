"""The exact ranks of `ranking` from a float32 product: what its rounding leaves open is decided in float64.

A score is q·g - |g|²/2 on the grid, whose coordinates float32 holds exactly. Computed in float32, in whatever order,
with or without fused multiply-add, no term meets more than D + 2 roundings, so that it is off by at most

    e = gamma (|q| |g| + |g|²/2),    gamma = n u / (1 - n u),    n = D + 2,    u = 2**-24

(Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1, and Cauchy-Schwarz). Among integers
nothing underflows, and overflow is far. n is taken a little larger, for thresholds are rounded to float32 as well.

Only the members of the query's class need a rank: those that may be among its R nearest, and the first. The scores lie
in disjoint blocks; the R-th largest of their maxima is a lower bound of the R-th largest score.

Shape key: Q = queries, M = gallery, D = embedding size, C = queries of one chunk, B = scores of a block, S = blocks,
R = members of the query's class in the gallery, P = pairs of a query and a member of the gallery.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nearkin.metrics.precision import full_precision
from nearkin.metrics.ranking import offsets, scores_of_pairs

BLOCK = 32
# Float32 scores held at a time, 128 MB, but no fewer than those of so many queries: products of a few are slow.
CHUNK = 2**25
LEAST_ROWS = 128
# Float64 scores of pairs cost many times what they cost in a product. Screening pays for a query whose class has at
# most one in so many of the gallery, and where it leaves no more than one in so many of the gallery open.
RARE, OPEN = 256, 64
# Blocks looked into beyond the R that the R nearest may lie in.
SPARE = 8
# Beyond this size of embedding the bound says little.
LARGEST = 2**20


def rounding_errors(norm: Tensor, longest: float, size: int) -> Tensor:
    """The bound e for queries so long (C,), float64, and a gallery at most so long, of that embedding size: (C,)."""
    if size > LARGEST:
        return torch.full_like(norm, torch.inf)
    n = (size + 8) * 2.0**-24
    return n / (1 - n) * (norm * longest + longest**2 / 2)


class Screen:
    """Judges queries against one gallery.

    Args:
        gallery: (M, D) on the grid of `ranking.to_grid`.
        gallery_class: (M,) numbers of classes, from 0.
        classes: How many there are.
    """

    def __init__(self, gallery: Tensor, gallery_class: Tensor, classes: int) -> None:
        self.gallery, self.gallery_class = gallery, gallery_class
        count = len(gallery)
        self.offset = offsets(gallery)  # (M,)
        self.rounded_offset = self.offset.float()
        self.longest = float(-2 * self.offset.min()) ** 0.5

        # Members of class c: members[first[c] : first[c] + size[c]].
        self.members = gallery_class.argsort(stable=True)
        self.size = torch.bincount(gallery_class, minlength=classes)
        self.first = self.size.cumsum(0) - self.size

        # A block is every S-th column, so that whole vectors of S are compared. The last columns may stand for nobody.
        self.blocks = 8 * -(-count // (8 * BLOCK))  # a multiple of 8, for `_count`
        self.rows = max(LEAST_ROWS, CHUNK // count)
        self.score = torch.empty(0, device=gallery.device)
        self.mask = torch.empty(0, dtype=torch.bool, device=gallery.device)

    def pays(self, relevant: Tensor) -> Tensor:
        """Which queries, of R = relevant (Q,), to screen; others are ranked in float64 at less cost: (Q,) bool."""
        return (relevant > 0) & (relevant * RARE <= len(self.gallery)) & (self.gallery.shape[1] <= LARGEST)

    def judge(
        self, queries: Tensor, query_class: Tensor, relevant: Tensor, itself: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find where the query's class stands in its ranked list.

        Args:
            queries: (C, D) on the grid, at most `rows` of them.
            query_class: (C,).
            relevant: (C,) R of each query, for which screening pays.
            itself: (C,) column of each query where it is in the gallery: left out.

        Returns:
            The rank, from 0, of the first of its class, (C,), the hits among its R nearest, (C, max R) bool, and
            whether they are known, (C,) bool: if not, the query has to be ranked in float64.
        """
        score = self._scores(queries, itself)  # (C, B S)
        maxima = score.view(-1, BLOCK, self.blocks).amax(dim=1)  # (C, S)
        norm = torch.linalg.vector_norm(queries, dim=1, dtype=torch.float64)
        error = rounding_errors(norm, self.longest, queries.shape[1])  # (C,)
        twice = (2 * error).float()[:, None]

        # Whoever of the class is not near is surely not among the R nearest.
        most = int(relevant.max())
        largest, block = maxima.topk(min(most + SPARE, self.blocks))
        member, own = self._own(score, query_class)  # (C, R)
        near = own >= largest.gather(1, relevant[:, None] - 1) - twice  # (C, R)
        listed = near.any(dim=1)

        # List all that may stand before the last of those near.
        low = own.masked_fill(~near, torch.inf).amin(dim=1) - twice[:, 0]  # inf where there is none
        open_, place = (largest >= low[:, None]).nonzero(as_tuple=True)
        row, column = self._between(score, open_, block[open_, place], low, torch.full_like(low, torch.inf))
        known = self._few(row, len(queries)) & (largest[:, -1] < low)
        row, column, place = self._sort(queries, row[known[row]], column[known[row]])
        mate = self.gallery_class[column] == query_class[row]
        rank = torch.full_like(query_class, len(self.gallery))
        rank.scatter_reduce_(0, row[mate], place[mate], "amin")
        hit = torch.zeros(len(queries), most, dtype=torch.bool, device=score.device)
        mate &= place < relevant[row]
        hit[row[mate], place[mate]] = True

        if not listed.all():
            candidate = (own >= own.amax(dim=1, keepdim=True) - twice) & ~listed[:, None]
            counted, sure = self._count_before_first(queries, score, member, candidate, error)
            rank, known = torch.where(listed, rank, counted), torch.where(listed, known, sure)
        return rank, hit, known

    def _scores(self, queries: Tensor, itself: Tensor | None) -> Tensor:
        """Scores of queries (C, D), not exact: (C, B S), -inf for whom a query must not find."""
        count = len(self.gallery)
        if len(self.score) < len(queries):  # one that is written again and again is much faster than a new one
            self.score = self.gallery.new_full((len(queries), BLOCK * self.blocks), -torch.inf)
            self.mask = torch.empty_like(self.score, dtype=torch.bool)
        score = self.score[: len(queries)]
        with full_precision(score.device):
            torch.addmm(self.rounded_offset, queries, self.gallery.T, out=score[:, :count])
        if itself is not None:
            score[torch.arange(len(queries), device=score.device), itself] = -torch.inf
        return score

    def _own(self, score: Tensor, query_class: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of the members of each query's class, the last again where fewer, and their scores: (C, R) each."""
        place = torch.arange(int(self.size[query_class].max()), device=score.device)
        member = self.members[self.first[query_class, None] + place.minimum(self.size[query_class, None] - 1)]
        return member, score.gather(1, member)

    def _between(self, score: Tensor, row: Tensor, block: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs in some blocks of some rows with scores from low to high (C,): rows and columns, (P,) each."""
        value = score.view(-1, BLOCK, self.blocks)[row, :, block]  # (blocks, B)
        found, place = ((value >= low[row, None]) & (value <= high[row, None])).nonzero(as_tuple=True)
        return row[found], place * self.blocks + block[found]

    def _few(self, row: Tensor, count: int) -> Tensor:
        """Which of a number of rows have few of these pairs or blocks: (count,) bool."""
        return torch.bincount(row, minlength=count) <= max(1, len(self.gallery) // OPEN)

    def _sort(self, queries: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Order pairs (P,) by row, then exact score, the higher first, then column: both, and the place in the row."""
        score = scores_of_pairs(queries, self.gallery, self.offset, row, column)
        order = column.argsort(stable=True)
        order = order[score[order].argsort(descending=True, stable=True)]
        order = order[row[order].argsort(stable=True)]
        row, column = row[order], column[order]
        sizes = torch.bincount(row, minlength=len(queries))
        place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
        return row, column, place

    def _count_before_first(
        self, queries: Tensor, score: Tensor, member: Tensor, candidate: Tensor, error: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rank of the first among the candidate (C, R bool) members, and whether it is known: (C,) each.

        0 where there is no candidate.

        One comparison with each end of the interval that the rounding leaves, however far down it is.
        """
        row, place = candidate.nonzero(as_tuple=True)
        column = member[row, place]
        value = scores_of_pairs(queries, self.gallery, self.offset, row, column)
        best = torch.full_like(error, -torch.inf).scatter_reduce_(0, row, value, "amax")
        top = value == best[row]
        first = torch.full_like(member[:, 0], len(self.gallery))
        first.scatter_reduce_(0, row[top], column[top], "amin")  # of equals, the lowest column

        best.masked_fill_(best.isneginf(), torch.inf)
        low, high = (best - error).float(), (best + error).float()
        above, not_below = self._count(torch.gt, score, high), self._count(torch.ge, score, low)  # (C, S)
        row, block = (above != not_below).nonzero(as_tuple=True)
        known = self._few(row, len(queries))
        row, column = self._between(score, row[known[row]], block[known[row]], low, high)
        known &= self._few(row, len(queries))
        row, column = row[known[row]], column[known[row]]
        value = scores_of_pairs(queries, self.gallery, self.offset, row, column)
        before = (value > best[row]) | ((value == best[row]) & (column < first[row]))
        return above.sum(dim=1) + torch.bincount(row[before], minlength=len(queries)), known

    def _count(self, compare: Callable[..., Tensor], score: Tensor, threshold: Tensor) -> Tensor:
        """How many scores of each block compare with the threshold (C,): (C, S) uint8."""
        mask = compare(score, threshold[:, None], out=self.mask[: len(score)])
        # Eight truth values at a time, as the bytes of an integer: none of the sums exceeds B.
        words = mask.view(torch.int64).view(len(score), BLOCK, self.blocks // 8)
        return words.sum(dim=1).view(torch.uint8)
