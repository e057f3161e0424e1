"""Losses over all pairs of a batch, or of a batch and a gallery, a few rows of the matrix of pairs at a time.

A loss over pairs is a mean of terms, and the terms of a query need its row of inner products or distances to all
others, at most the rows of its classmates too. So a loss is written as a function of some rows, its *tile*: it returns
the sum of their terms, how many these are, and the slope of the sum by every entry. Here the rows are multiplied out,
and the slopes multiplied back onto the embeddings at once. What stays for the backward is the gradient (N, D). The
matrix (N, M) exists as a whole only without a `chunk_size`.

Shape key: N = queries, M = gallery (N, the queries themselves, without a separate one), D = embedding size, B = queries
of a tile, K = size of the largest class in the gallery, P = K - 1 without a separate gallery, else K.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nearkin.losses.pairs import (
    FLOOR,
    Batch,
    Near,
    add_transpose_,
    centered,
    finish_squared_distances_,
    full_precision,
    known_gradient,
    may_look,
    pull_near_,
)

Measure = Literal["inner products", "squared distances", "distances"]
Columns = Literal["constant", "moves", "mirrors"]

IN_CACHE = 2**17
"""Entries of a tile on a CPU: 512 KB in float32, which the many passes over it find in a cache."""


class Tile(NamedTuple):
    """Some rows of the matrix of pairs, and who in them is in whose class.

    Attributes:
        matrix: (B, M) inner products, squared distances or distances.
        rows: Which queries, in the order of `Pairs`.
        members: (B, K) columns of the query's class. In a class smaller than K they go round again. Without a separate
            gallery the first is the query's own.
        size: (B, 1) of that class.
        positives: (B, P) the members but for the query itself.
        valid: (B, P) which of them count: every positive once.
        alone: Whether the gallery is the queries themselves.
        near: Pairs whose distance is taken from their difference.
    """

    matrix: Tensor
    rows: slice
    members: Tensor
    size: Tensor
    positives: Tensor
    valid: Tensor
    alone: bool
    near: Near

    @property
    def local(self) -> Tensor:
        """Rows of this tile (B, P) that the positives stand in, if it has whole classes."""
        local: Tensor = self.positives - self.rows.start
        return local

    @property
    def once(self) -> tuple[Tensor, Tensor]:
        """The first K // 2 of `local`, and weights (B, K // 2) that count every pair once.

        Going half-way round a class meets each of its pairs from one end; exactly half-way, from both ends.
        """
        step = torch.arange(1, self.members.shape[1] // 2 + 1, device=self.matrix.device)
        weights = (2 * step < self.size).to(self.matrix.dtype) + 0.5 * (2 * step == self.size)
        return self.local[:, : len(step)], weights

    @property
    def others(self) -> int:
        """Pairs that a query is in."""
        return self.matrix.shape[1] - int(self.alone)

    @property
    def negatives(self) -> Tensor:
        """Negatives (B, 1) of each query."""
        return self.matrix.shape[1] - self.size

    def set_members_(self, matrix: Tensor, values: Tensor | float) -> Tensor:
        """Set the entries of each query's class, itself included, in a matrix (B, M), to a number or values (B, K)."""
        if not self.alone:  # some have nobody of their class there: their column of members is somebody else's
            present = matrix.gather(1, self.members)
            values = torch.where(self.size > 0, values, present)
        return matrix.scatter_(1, self.members, values)


class Pairs:
    """The pairs of a batch, sorted by class, and the gradient of what is computed from them.

    Args:
        batch: Embeddings and class ids, with or without a gallery.
        measure: What the matrix holds.
        columns: What of a pair's gradient the gallery's side receives. "constant": none. "moves": its own. "mirrors":
            the slopes are a symmetric matrix, the gallery is the queries themselves, and one product does for both.
        whole_classes: Whether every tile has whole classes, however large; not with a separate gallery.
    """

    def __init__(
        self, batch: Batch, measure: Measure, columns: Columns = "moves", *, whole_classes: bool = False
    ) -> None:
        x, labels, gallery, gallery_labels = batch
        x = x.contiguous()
        self.measure, self.columns, self.alone = measure, columns, gallery is None
        self.whole_classes = whole_classes
        # Who is in whose class is found where the labels are: on the CPU that waits for no GPU.
        labels = labels.long().contiguous()
        others = labels if gallery_labels is None else gallery_labels.long().to(labels.device)
        order = others.argsort(stable=True)
        ranked = others[order]
        wanted = ranked if self.alone else labels
        start = torch.searchsorted(ranked, wanted)
        size = torch.searchsorted(ranked, wanted, right=True) - start
        self.largest = largest_class(size, len(others))
        rank = torch.arange(len(ranked), device=ranked.device) - start if self.alone else torch.zeros_like(start)
        # Batches mostly come sorted; on a GPU it is cheaper to sort again than to wait for the answer.
        self.sorted = may_look(order) and bool((order == torch.arange(len(order))).all())
        self.class_start = start  # where the labels are
        self.order, self.start, self.size, self.rank = (
            each.to(x.device, non_blocking=True) for each in (order, start, size, rank)
        )
        self.x = x if self.sorted or not self.alone else x[self.order]
        if gallery is not None and not self.sorted:
            gallery = gallery[self.order]
        self.gallery = self.x if gallery is None else gallery
        self.left, self.right = self.x, self.gallery  # the factors of the matrix of products
        if measure != "inner products":
            self.left, self.right = centered(self.x, self.gallery)
            self.norm2 = self.right.square().sum(dim=1)
        # Σ_j s_ij g_j and, with distances, Σ_j s_ij, for each query and likewise for each of the gallery.
        self.x_sum = self.gallery_sum = self.x_weight = self.gallery_weight = x.new_empty(0)
        # Σ_j s_ij (x_i - g_j) over the near pairs, which are not in the other sums, once there are any.
        self.x_near: Tensor | None = None
        self.gallery_near: Tensor | None = None

    def tiles(self, chunk_size: int | None = None) -> Iterator[Tile]:
        """Yield all queries in tiles. `push` each before the next.

        Args:
            chunk_size: Rows that are multiplied out at a time, about so many with whole classes; None for all.
        """
        queries, others = len(self.left), len(self.right)
        if chunk_size is not None and chunk_size < queries:
            self._start_from_zero()
        in_cache = max(1, IN_CACHE // others) if self.x.device.type == "cpu" else queries
        for chunk in self._cut(slice(0, queries), chunk_size or queries):
            with full_precision(self.x):
                products = self.left[chunk] @ self.right.T
            for rows in self._cut(chunk, in_cache):
                yield self._tile(products[rows.start - chunk.start : rows.stop - chunk.start], rows)
            self._pull_back(products, chunk)

    def push(self, tile: Tile, slopes: Tensor) -> None:
        """Take the slopes (B, M) of a sum by a tile's entries into account."""
        if self.measure == "distances":  # by d² / 2; at the floor a distance has no direction
            torch.div(slopes, torch.threshold_(tile.matrix, FLOOR, torch.inf), out=tile.matrix)
            if tile.near:
                self._pull_near_back(tile)
        elif slopes.data_ptr() != tile.matrix.data_ptr():
            tile.matrix.copy_(slopes)

    def gradients(self, terms: Tensor | int) -> tuple[Tensor, Tensor]:
        """The gradients of the pushed sums, divided by `terms`, by the embeddings (N, D) and by the gallery (M, D).

        The latter is empty if the gallery is the queries themselves, or constant.
        """
        scale = (2 if self.columns == "mirrors" else 1) * (2 if self.measure == "squared distances" else 1) / terms
        x = self._gradient(self.x_sum, self.x_weight, self.left, self.x_near).mul_(scale)
        none = x.new_empty(0)
        if self.alone:
            return self._unsorted(x), none
        if self.columns == "constant":
            return x, none
        by_gallery = self._gradient(self.gallery_sum, self.gallery_weight, self.right, self.gallery_near)
        return x, self._unsorted(by_gallery.mul_(scale))

    def _gradient(self, pulled: Tensor, weight: Tensor, vectors: Tensor, near: Tensor | None) -> Tensor:
        if self.measure == "inner products":
            return pulled
        pulled.neg_().addcmul_(weight, vectors)  # Σ_j s_ij (x_i - g_j)
        return pulled if near is None else pulled.add_(near)

    def _unsorted(self, rows: Tensor) -> Tensor:
        return rows if self.sorted else torch.empty_like(rows).index_copy_(0, self.order, rows)

    def _cut(self, rows: slice, step: int) -> Iterator[slice]:
        if rows.stop - rows.start <= step:
            yield rows
            return
        starts = list(range(rows.start, rows.stop, step))
        if self.whole_classes:  # where the classes of these begin
            starts = sorted(set(self.class_start[rows.start : rows.stop : step].tolist()))
        for start, stop in zip(starts, [*starts[1:], rows.stop], strict=True):
            yield slice(start, stop)

    def _tile(self, matrix: Tensor, rows: slice) -> Tile:
        near: Near = []
        if self.measure != "inner products":
            own = rows.start if self.alone else None
            near = finish_squared_distances_(matrix, self.left[rows], self.norm2, self.x[rows], self.gallery, own)
            if self.measure == "distances":
                matrix.clamp_min_(FLOOR**2).sqrt_()
            if own is not None:
                matrix.diagonal(own).fill_(0)
        start, size, rank = (each[rows, None] for each in (self.start, self.size, self.rank))
        step = torch.arange(self.largest, device=matrix.device)
        members = (start + (rank + step) % size.clamp(min=1)).clamp_(max=matrix.shape[1] - 1)
        own = int(self.alone)
        return Tile(matrix, rows, members, size, members[:, own:], step[own:] < size, self.alone, near)

    def _start_from_zero(self) -> None:
        self.x_sum, self.x_weight = torch.zeros_like(self.left), self.left.new_zeros(len(self.left), 1)
        self.gallery_sum, self.gallery_weight = self.x_sum, self.x_weight
        if not self.alone:
            self.gallery_sum = torch.zeros_like(self.right)
            self.gallery_weight = self.right.new_zeros(len(self.right), 1)

    def _pull_near_back(self, tile: Tile) -> None:
        if self.x_near is None:
            self.x_near = torch.zeros_like(self.x)
            if self.columns == "moves":
                self.gallery_near = self.x_near if self.alone else torch.zeros_like(self.gallery)
        x, x_near = self.x[tile.rows], self.x_near[tile.rows]
        pull_near_(tile.matrix, tile.near, x, self.gallery, x_near, self.gallery_near)

    def _pull_back(self, slopes: Tensor, rows: slice) -> None:
        """Multiply the slopes (B, M) of a chunk onto the vectors of both sides, and sum them for each."""
        whole, both_ways = len(slopes) == len(self.left), self.columns == "moves"
        if whole and self.alone and both_ways:
            slopes, both_ways = add_transpose_(slopes), False  # one product for both
        with full_precision(slopes):
            if whole:  # nothing to add to, which at a few hundred queries saves a tenth of the time
                self.x_sum = slopes @ self.right
                self.gallery_sum = slopes.T @ self.left if both_ways else self.x_sum
            else:
                self.x_sum[rows].addmm_(slopes, self.right)
                if both_ways:
                    self.gallery_sum.addmm_(slopes.T, self.left[rows])
        if self.measure == "inner products":
            return
        if whole:
            self.x_weight = slopes.sum(dim=1, keepdim=True)
            self.gallery_weight = slopes.sum(dim=0)[:, None] if both_ways else self.x_weight
        else:
            self.x_weight[rows] += slopes.sum(dim=1, keepdim=True)
            if both_ways:
                self.gallery_weight += slopes.sum(dim=0)[:, None]


def largest_class(size: Tensor, most: int) -> int:
    """K, of the sizes (N,) of the queries' classes; a GPU stalls for it, unless the labels are on the CPU.

    While a CUDA graph is captured nothing can be asked: then K is `most`, the slowest that is right for all batches.
    """
    if size.is_cuda and torch.cuda.is_current_stream_capturing():  # pragma: no cover - CUDA only
        return most
    return int(size.max())


def pair_loss(
    measure: Measure, *, mirrored: bool = False, whole_classes: bool = False
) -> Callable[[Callable[..., tuple[Tensor, Tensor | int, Tensor]]], Callable[..., Tensor]]:
    """Make `function(matrix, tile, *numbers) -> (sum, terms, slopes)` a loss (batch, *numbers) -> scalar, their mean.

    The loss takes `chunk_size`, the rows at a time, None for all, and `constant`: whether the gallery's side of each
    pair is held constant. `mirrored` is for slopes that are a symmetric matrix if the gallery is the queries
    themselves, `whole_classes` for functions that look at the rows of a query's classmates too. The function may
    overwrite a matrix of products or squared distances, and return it as the slopes.
    """

    def make(function: Callable[..., tuple[Tensor, Tensor | int, Tensor]]) -> Callable[..., Tensor]:
        def mean_of_terms(
            x: Tensor,
            moving: Tensor | None,
            fixed: Tensor | None,
            labels: Tensor,
            gallery_labels: Tensor | None,
            numbers: list[float],
            constant: bool,
            chunk_size: int | None,
        ) -> tuple[Tensor, Tensor, Tensor]:
            gallery = fixed if moving is None else moving
            held = constant or fixed is not None
            columns: Columns = "constant" if held else "mirrors" if mirrored and gallery is None else "moves"
            pairs = Pairs(Batch(x, labels, gallery, gallery_labels), measure, columns, whole_classes=whole_classes)
            total, terms = x.new_zeros(()), x.new_zeros((), dtype=torch.double)
            for tile in pairs.tiles(chunk_size):
                value, count, slopes = function(tile.matrix, tile, *numbers)
                total += value
                terms += count
                pairs.push(tile, slopes)
            terms = terms.clamp_min(1).to(x.dtype)
            return total / terms, *pairs.gradients(terms)

        mean_of_terms.__name__ = function.__name__
        operator = known_gradient(mean_of_terms)

        def loss(batch: Batch, *numbers: float, chunk_size: int | None = None, constant: bool = False) -> Tensor:
            x, labels, gallery, gallery_labels = batch
            if gallery is not None and not len(gallery):
                return (0 * x).sum()
            if gallery is not None and constant:
                batch = batch._replace(gallery=gallery.detach())
            return operator(
                x, *batch.sides, labels, gallery_labels, [float(each) for each in numbers], constant, chunk_size
            )

        return loss

    return make
