"""Ranked list and angular loss of a large batch on a GPU: no matrix of pairs in memory, nor a chunk of one.

As in flash attention, a program multiplies out a block of queries with one block of the gallery after another, turns
the products into weights in registers, and multiplies these onto the gallery at once. Weights that are normalized over
a row, here by the exponentials of all negatives, need no pass of their own: whenever a larger exponent appears, what
was summed so far shrinks. Each program writes rows of its own, so results are the same every time. Memory is that of
the embeddings, the gradient in float32, and for the angular loss as many sums of two embeddings.

- Ranked list: two products of (N, N, D), the fewest there are, and again the blocks that hold a query's own class.
- Angular: four of (Q, N, D), with Q the pairs of one class: Q = N / 2 in classes of two, 1.5 N of four. `tiles` does
  with three of (N, N, D), which is less from four per class on.

The embeddings are float32, or bfloat16 (the weights and the sums of two, too, then), and everything else float32.
Distances are |x_i|² + |x_j|² - 2 x_i·x_j, in float32 about the mean. Below 2^-18 of |x_i|² + |x_j|², which is d < 0.003
between unit vectors, that is all rounding: such a pair counts as duplicates, which have no direction. `tiles` resolves
them. A weight e^f of the angular loss is off by 1e-7 |f| of itself, which asks for vectors of about unit length;
those of very unlike lengths lose the distances between the short ones.

Verified: values and gradients against float64, in Triton's interpreter on a CPU; and that Triton compiles the kernels
for sm_90, without a GPU. There at D = 512 both groups of four warps take the same first product of a block, so that the
ranked list loss multiplies by half as much again; to D = 256 it is one group. In float32 nothing uses the tensor cores,
and the ranked list kernel spills registers. Not verified: any run on a GPU, and how fast it is. Therefore no loss uses
this module, and nothing but its test imports it.

Shape key: N = batch size, D = embedding size, Q = unordered pairs of one class, of one step of going round the classes.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from nearkin.losses.pairs import FLOOR, centered

LARGEST = 512  # D: what the registers of a program hold of 64 sums
RESOLUTION = tl.constexpr(2**-18)  # of squared distances, beside the squared norms that they are a difference of
NEAREST = tl.constexpr(FLOOR)

# The arguments of kernels have Triton's types:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"


class Sorted(NamedTuple):
    """Embeddings sorted by class.

    Attributes:
        x: (N, D) embeddings, with columns of zeros up to a power of two.
        start: (N,) row where each one's class begins, by which the kernels tell the classes.
        stop: (N,) row behind its last.
        order: (N,) row that each came from.
        size: D as it came.
    """

    x: Tensor
    start: Tensor
    stop: Tensor
    order: Tensor
    size: int

    @property
    def options(self) -> dict[str, Any]:
        """How the kernels are compiled."""
        exact, width = self.x.dtype == torch.float32, self.x.shape[1]
        return {
            "block": 32 if exact else 64,
            "width": width,
            "precision": "ieee" if exact else "tf32",  # the latter says nothing of bfloat16
            "num_warps": 8 if exact or width > 256 else 4,  # 64 sums of 512 are half the registers of 256 threads
            "num_stages": 2,
        }

    def grid(self, rows: int) -> tuple[int]:
        """How many programs it takes for so many rows."""
        return (triton.cdiv(rows, self.options["block"]),)

    def blocks(self, rows: Tensor) -> TensorDescriptor:
        """Rows (., D) as the kernels read them: in blocks, zero beyond the end."""
        return TensorDescriptor.from_tensor(rows, [self.options["block"], rows.shape[1]])

    def unsorted(self, gradient: Tensor) -> Tensor:
        """Rows (N, D) in the order that the embeddings came in."""
        return torch.empty_like(gradient).index_copy_(0, self.order, gradient)[:, : self.size]


def ranked_list(
    x: Tensor, labels: Tensor, alpha: float, margin: float, temperature: float, negative_weight: float
) -> tuple[Tensor, Tensor]:
    """Return the ranked list loss, as `RankedListLoss(normalize=False)`, and its gradient (N, D) by x in float32.

    Args:
        x: (N, D) embeddings, float32 or bfloat16, D at most 512.
        labels: (N,) integer class ids.
        alpha: As all that follows, an argument of `RankedListLoss`.

    Raises:
        ValueError: x has another type or a larger D.
    """
    batch = _sort(x, labels, about_mean=True)
    n = len(batch.x)
    norm2 = batch.x.float().square().sum(dim=1)
    values, gradient = torch.empty_like(norm2), torch.empty_like(batch.x, dtype=torch.float32)
    _ranked_list[batch.grid(n)](
        batch.blocks(batch.x), norm2, batch.start, batch.stop, values, gradient,
        n, alpha, alpha - margin, temperature, negative_weight, **batch.options,
    )  # fmt: skip
    return values.mean(), batch.unsorted(gradient.div_(n))


def angular(x: Tensor, labels: Tensor, tan2: float) -> tuple[Tensor, Tensor]:
    """Return the angular loss, as `AngularLoss(normalize=False)`, and its gradient (N, D) by x in float32.

    Args:
        x: (N, D) embeddings, float32 or bfloat16, D at most 512.
        labels: (N,) integer class ids.
        tan2: tan²α, as of `squared_tangent`.

    Raises:
        ValueError: x has another type or a larger D.
    """
    batch = _sort(x, labels, about_mean=False)
    x, n = batch.x, len(batch.x)
    row = torch.arange(n, device=x.device)
    rank, members = row - batch.start, batch.stop - batch.start
    value, pairs, gradient = x.new_zeros((), dtype=torch.float32), 0, torch.zeros_like(x, dtype=torch.float32)
    for step in range(1, int(members.max()) // 2 + 1):
        # Half-way round a class every pair has been met; exactly half-way, it is met from both ends.
        anchor = row[(2 * step < members) | ((2 * step == members) & (rank < step))]
        positive = batch.start[anchor] + (rank[anchor] + step) % members[anchor]
        a, p, q = x[anchor], x[positive], len(anchor)
        both_sides = batch.blocks(a + p), batch.start[anchor], batch.blocks(x), batch.start
        push, mean = gradient.new_empty(q), gradient.new_empty(q, x.shape[1])
        _negatives_of_pairs[batch.grid(q)](*both_sides, push, mean, q, n, 4 * tan2, **batch.options)
        exponent = push - 2 * (1 + tan2) * torch.linalg.vecdot(a.float(), p.float())
        slope = exponent.sigmoid()
        _pairs_of_negatives[batch.grid(n)](*both_sides, push, slope, gradient, q, n, 4 * tan2, **batch.options)
        pushed, pull = mean.mul_(4 * tan2 * slope[:, None]), 2 * (1 + tan2) * slope[:, None]
        for rows, others in ((anchor, p), (positive, a)):  # within a step each row is once an anchor at most
            gradient.index_add_(0, rows, pushed - pull * others)
        value += F.softplus(exponent).sum()
        pairs += q
    return value / max(pairs, 1), batch.unsorted(gradient.div_(max(pairs, 1)))


def _sort(x: Tensor, labels: Tensor, about_mean: bool) -> Sorted:
    if x.dtype not in (torch.float32, torch.bfloat16) or x.ndim != 2 or not len(x) or x.shape[1] > LARGEST:
        raise ValueError(
            f"embeddings must be (N, D), float32 or bfloat16, with N at least 1 and D at most {LARGEST}, "
            f"got {x.dtype} of shape {tuple(x.shape)}: use the loss itself, with a chunk_size"
        )
    ranked, order = labels.long().sort(stable=True)
    start, stop = (torch.searchsorted(ranked, ranked, right=right, out_int32=True) for right in (False, True))
    x = x.detach()[order]
    if (
        about_mean and x.dtype == torch.float32
    ):  # bfloat16 would round once more, where the products of the rows as they came are exact
        x = centered(x, x)[0]
    width = max(16, triton.next_power_of_2(x.shape[1]))
    x, size = F.pad(x, (0, width - x.shape[1])), x.shape[1]
    return Sorted(x, start, stop, order, size)


@triton.jit
def _compare(query, norm2, label, i, x, norms2, classes, j0, n, block: tl.constexpr, precision: tl.constexpr):
    """Some queries beside the rows of x from j0 on: these, distances, their inverses (0 of duplicates), same class."""
    j = j0 + tl.arange(0, block)
    gallery = x.load([j0, 0])
    norms = norm2[:, None] + tl.load(norms2 + j, mask=j < n, other=0.0)[None, :]
    d2 = norms - 2 * tl.dot(query, gallery.T, input_precision=precision)
    resolved = tl.maximum(norms * RESOLUTION, NEAREST * NEAREST)
    inverse = tl.where(d2 > resolved, tl.rsqrt(tl.maximum(d2, resolved)), 0.0)
    same = label[:, None] == tl.load(classes + j, mask=j < n, other=-1)[None, :]
    return gallery, tl.maximum(d2 * inverse, NEAREST), inverse, same, j


@triton.jit
def _ranked_list(
    x, norms2, start, stop, values, gradient,
    n, alpha, boundary, temperature, negative_weight,
    block: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write the terms (N,) of a block of queries, Eq. 13, and the gradient (N, D) of their sum."""
    i0 = tl.program_id(0) * block
    i = i0 + tl.arange(0, block)
    query = x.load([i0, 0])
    norm2 = tl.load(norms2 + i, mask=i < n, other=0.0)
    label = tl.load(start + i, mask=i < n, other=-2)

    # Negatives, Eq. 9 and 12, scaled by exp(-T max push) of those seen so far.
    peak = tl.zeros([block], tl.float32)
    total = tl.zeros([block], tl.float32)
    pushed = tl.zeros([block], tl.float32)
    weight = tl.zeros([block], tl.float32)
    pulled = tl.zeros([block, width], tl.float32)
    for j0 in range(0, n, block):
        gallery, d, inverse, same, j = _compare(query, norm2, label, i, x, norms2, start, j0, n, block, precision)
        push = tl.where(same | (j >= n)[None, :], 0.0, tl.maximum(alpha - d, 0.0))
        higher = tl.maximum(peak, tl.max(push, 1))
        shrink = tl.exp(temperature * (peak - higher))
        share = tl.where(push > 0, tl.exp(temperature * (push - higher[:, None])), 0.0)
        total = total * shrink + tl.sum(share, 1)
        pushed = pushed * shrink + tl.sum(share * push, 1)
        # Σ_j s_ij (x_i - x_j): rounded in both terms, a slope is off by as much, but duplicates cancel.
        slope = (share * inverse).to(gallery.dtype)
        weight = weight * shrink + tl.sum(slope.to(tl.float32), 1)
        pulled = tl.dot(slope, gallery, pulled * shrink[:, None], input_precision=precision)
        peak = higher
    scale = -negative_weight / tl.maximum(total, 1.0)
    weight *= scale
    pulled *= scale[:, None]

    # Positives, Eq. 8 and 11: their number first. They stand next to the queries.
    first = tl.load(start + i0)
    last = tl.load(stop + tl.minimum(i0 + block, n) - 1)
    count = tl.zeros([block], tl.float32)
    far = tl.zeros([block], tl.float32)
    for j0 in range(first, last, block):
        gallery, d, inverse, same, j = _compare(query, norm2, label, i, x, norms2, start, j0, n, block, precision)
        pull = tl.where(same & (i[:, None] != j[None, :]), tl.maximum(d - boundary, 0.0), 0.0)
        count += tl.sum((pull > 0).to(tl.float32), 1)
        far += tl.sum(pull, 1)
    count = tl.maximum(count, 1.0)
    for j0 in range(first, last, block):
        gallery, d, inverse, same, j = _compare(query, norm2, label, i, x, norms2, start, j0, n, block, precision)
        counts = same & (i[:, None] != j[None, :]) & (d > boundary)
        slope = tl.where(counts, inverse / count[:, None], 0.0).to(gallery.dtype)
        weight += tl.sum(slope.to(tl.float32), 1)
        pulled = tl.dot(slope, gallery, pulled, input_precision=precision)

    tl.store(values + i, far / count - pushed * scale, mask=i < n)
    at = i.to(tl.int64)[:, None] * width + tl.arange(0, width)[None, :]
    tl.store(gradient + at, weight[:, None] * query.to(tl.float32) - pulled, mask=(i < n)[:, None])


@triton.jit
def _negatives_of_pairs(
    sums, pair_classes, x, classes, push, mean, q, n, scale,
    block: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Write, for a block of sums of pairs, the logsumexp (Q,) over their negatives, and these' weighted mean (Q, D)."""
    i0 = tl.program_id(0) * block
    i = i0 + tl.arange(0, block)
    pair = sums.load([i0, 0])
    label = tl.load(pair_classes + i, mask=i < q, other=-2)
    peak = tl.full([block], -1e30, tl.float32)
    total = tl.zeros([block], tl.float32)
    pulled = tl.zeros([block, width], tl.float32)
    for j0 in range(0, n, block):
        j = j0 + tl.arange(0, block)
        negatives = x.load([j0, 0])
        other = (label[:, None] != tl.load(classes + j, mask=j < n, other=-1)[None, :]) & (j < n)[None, :]
        exponent = scale * tl.dot(pair, negatives.T, input_precision=precision)
        exponent = tl.where(other, exponent, float("-inf"))
        higher = tl.maximum(peak, tl.max(exponent, 1))
        shrink = tl.exp(peak - higher)
        share = tl.exp(exponent - higher[:, None])
        total = total * shrink + tl.sum(share, 1)
        pulled = tl.dot(share.to(negatives.dtype), negatives, pulled * shrink[:, None], input_precision=precision)
        peak = higher
    tl.store(push + i, peak + tl.log(total), mask=i < q)
    at = i.to(tl.int64)[:, None] * width + tl.arange(0, width)[None, :]
    tl.store(mean + at, pulled / tl.where(total > 0, total, 1.0)[:, None], mask=(i < q)[:, None])


@triton.jit
def _pairs_of_negatives(
    sums, pair_classes, x, classes, push, slopes, gradient, q, n, scale,
    block: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Add to the gradient (N, D) of a block of samples what the pairs whose negatives they are push them by."""
    i0 = tl.program_id(0) * block
    i = i0 + tl.arange(0, block)
    negatives = x.load([i0, 0])
    label = tl.load(classes + i, mask=i < n, other=-2)
    pulled = tl.zeros([block, width], tl.float32)
    for j0 in range(0, q, block):
        j = j0 + tl.arange(0, block)
        pair = sums.load([j0, 0])
        other = (label[:, None] != tl.load(pair_classes + j, mask=j < q, other=-1)[None, :]) & (j < q)[None, :]
        total = tl.load(push + j, mask=j < q, other=0.0)
        slope = tl.load(slopes + j, mask=j < q, other=0.0)
        exponent = scale * tl.dot(negatives, pair.T, input_precision=precision) - total[None, :]
        share = tl.where(other, slope[None, :] * tl.exp(tl.minimum(exponent, 0.0)), 0.0)  # but for rounding, <= 0
        pulled = tl.dot(share.to(pair.dtype), pair, pulled, input_precision=precision)
    at = gradient + i.to(tl.int64)[:, None] * width + tl.arange(0, width)[None, :]
    tl.store(at, tl.load(at, mask=(i < n)[:, None], other=0.0) + scale * pulled, mask=(i < n)[:, None])
