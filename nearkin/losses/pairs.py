"""What the losses share: the check of a batch, its products or distances, and who is in whose class.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-6  # of unsquared distances, whose gradient has no direction at 0


def check_batch(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the embeddings (N, D), in float32 if they came in half precision, once the batch is valid.

    Labels are integers of any type, or booleans for two classes.

    Raises:
        ValueError: The embeddings are not a finite floating-point matrix, or the labels not N integers. Under
            `torch.compile` the values are not looked at, which would break the graph.
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            "embeddings must be a floating-point matrix (N, D), one row per sample, "
            f"got {embeddings.dtype} of shape {tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(embeddings)},), one class id per row of the embeddings, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integer class ids, got {labels.dtype}: convert with labels.long()")
    # A finite sum shows that every value is finite, in a tenth of the time of looking at each.
    if not torch.compiler.is_compiling() and not embeddings.sum().isfinite():
        bad = int((~embeddings.isfinite()).any(dim=1).sum())
        if bad:
            raise ValueError(
                f"embeddings must be finite, got NaN or infinity in {bad} of {len(embeddings)} rows: "
                "lower the learning rate, or look for an overflow in half precision"
            )
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Make sure that every label is a class id from 0 to num_classes - 1.

    Raises:
        ValueError: One is not. Under `torch.compile` the values are not looked at.
    """
    if torch.compiler.is_compiling() or not len(labels):
        return
    smallest, largest = (int(label) for label in labels.long().aminmax())
    if smallest < 0 or largest >= num_classes:
        raise ValueError(
            f"labels must be from 0 to num_classes - 1, got num_classes={num_classes} and labels from {smallest} to "
            f"{largest}: set num_classes to the number of classes, and count them from 0"
        )


def same_class(labels: Tensor) -> Tensor:
    """Return the boolean matrix (N, N) of pairs of one class, the diagonal included."""
    return labels[:, None] == labels[None, :]


def classmates(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return every sample's classmates as indices (N, K - 1), and which of them count, booleans (N, K - 1).

    Column j - 1 holds each sample's j-th next classmate in batch order, going round its class. So one pass over
    an (N, N) matrix per column meets every ordered positive pair. In a class smaller than K the last columns go
    round again, and do not count. Every column is a permutation of the batch.

    K depends on the data: use this inside `known_gradient` only, which hides it from `torch.compile`.
    """
    labels = labels.long().contiguous()
    order = labels.argsort(stable=True)
    ranked = labels[order]
    start = torch.searchsorted(ranked, labels)
    size = torch.searchsorted(ranked, labels, right=True) - start
    rank = order.argsort() - start
    step = torch.arange(1, int(size.max()), device=labels.device)
    return order[start[:, None] + (rank[:, None] + step) % size[:, None]], step < size[:, None]


def classmates_once(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first K // 2 columns of `classmates`, and weights (N, K // 2) that count each pair once.

    Going half-way round a class meets each of its pairs from one end; exactly half-way, from both ends.
    """
    positives, valid = classmates(labels)
    size = valid.sum(dim=1, keepdim=True) + 1
    step = torch.arange(1, (positives.shape[1] + 1) // 2 + 1, device=labels.device)
    return positives[:, : len(step)], (2 * step < size) + 0.5 * (2 * step == size)


def known_gradient(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """Make `function(matrix, labels, *parameters) -> (value, gradient)` a scalar that autograd differentiates.

    A loss goes over an (N, N) matrix in passes, and each pass knows its share of d value / d matrix. Summing the
    shares keeps memory at O(N²), where autograd would hold every pass until the backward, and takes half the
    time. As an operator of its own, a loop whose length depends on the labels does not break the graph of
    `torch.compile`. Differentiable once.
    """
    operator = torch.library.custom_op(f"nearkin::{function.__name__}", function, mutates_args=())

    def fake(matrix: Tensor, labels: Tensor, *parameters: float) -> tuple[Tensor, Tensor]:
        return matrix.new_empty(()), torch.empty_like(matrix)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.constants = len(inputs) - 1
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad: Tensor | None, second: Tensor | None) -> tuple[Tensor | None, ...]:
        if second is not None:
            raise RuntimeError(f"{function.__name__} is differentiable once, and a second gradient was asked for")
        return None if grad is None else grad * ctx.saved_tensors[0], *[None] * ctx.constants

    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=save)

    def scalar(matrix: Tensor, labels: Tensor, *parameters: float) -> Tensor:
        if not len(matrix):
            return matrix.sum()  # there is no maximum over no samples, but a sum
        value: Tensor = operator(matrix, labels, *parameters)[0]
        return value

    return scalar


def softmax_(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each row of logits (N, M) by its softmax; return that and the logsumexp (N, 1)."""
    peak = logits.amax(dim=1, keepdim=True)
    # e^-80 is nothing beside the largest term's 1; below e^-87 exp takes fifty times as long in float32.
    terms = logits.sub_(peak).clamp_min_(-80).exp_()
    total = terms.sum(dim=1, keepdim=True)
    return terms.div_(total), peak + total.log()


def lowest(tensor: Tensor) -> float:
    """Return a finite stand-in for a masked logit's minus infinity: a row of nothing else has no NaN.

    Two of them may be added.
    """
    return torch.finfo(tensor.dtype).min / 4


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which matrix products keep the tensor's type, even inside autocast."""
    return torch.autocast(tensor.device.type, enabled=False)


def gram(x: Tensor) -> Tensor:
    """Return the inner products (N, N) of the rows of x (N, D)."""
    product: Tensor = _Gram.apply(x)
    return product


def inner_products(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner products (N, M) of the rows of x (N, D) with those of y (M, D)."""
    product: Tensor = _InnerProducts.apply(x, y)
    return product


def squared_distances(x: Tensor) -> Tensor:
    """Return the squared Euclidean distances (N, N) between the rows of x (N, D).

    At the cost of one matrix product: |x_i|² + |x_j|² - 2 x_i·x_j. That form leaves an absolute error of a few
    machine epsilons times |x|². So it is taken about the mean of the batch, which changes no distance but shortens
    x, and pairs so close that half their digits would be lost are taken from their difference instead. What
    remains is a relative error of about 1e-8 in float64 and 1e-3 in float32 at most (D = 512), 0 for duplicates.
    """
    d2: Tensor = _distances(x, True, False)
    return d2


def distances(x: Tensor, constant_gallery: bool = False) -> Tensor:
    """Return the Euclidean distances (N, N) between the rows of x (N, D), at least 1e-6 off the diagonal.

    At that floor the gradient is 0. Precision is that of `squared_distances`.

    Args:
        constant_gallery: Differentiate by the row's sample only, as if the column's were detached.
    """
    d: Tensor = _distances(x, False, constant_gallery)
    return d


class _Gram(torch.autograd.Function):
    # One product in the backward; autograd, not knowing that both factors are x, would take two.

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        with full_precision(x):
            return x @ x.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        with full_precision(x):
            return _plus_transpose(grad) @ x


class _InnerProducts(torch.autograd.Function):
    # Keeps its precision where the backward too runs inside autocast.

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        with full_precision(x):
            return x @ y.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        with full_precision(x):
            return grad @ y, grad.T @ x


@torch.library.custom_op("nearkin::distances", mutates_args=())
def _distances(x: Tensor, squared: bool, constant_gallery: bool) -> Tensor:
    if len(x) < 2:
        return x.new_zeros(len(x), len(x))
    centered = _centered(x)
    norm2 = centered.square().sum(dim=1)
    with full_precision(x):
        d2 = (-2 * centered) @ centered.T
    d2.add_(norm2).add_(norm2[:, None]).fill_diagonal_(torch.inf)

    # Which pairs lost half their digits? The nearest neighbor of most rows tells, cheaply, that none did; points so
    # near have about the same norm.
    tolerance = torch.finfo(x.dtype).eps ** 0.5
    suspects = (d2.amin(dim=1) < tolerance * 3 * norm2).nonzero().squeeze(1)
    limit = tolerance * (norm2[suspects, None] + norm2)
    row, column = (d2[suspects] < limit).nonzero(as_tuple=True)
    for i, j in zip(suspects[row].split(4096), column.split(4096), strict=True):
        d2[i, j] = (x[i] - x[j]).square().sum(dim=1)

    if not squared:
        d2.clamp_min_(FLOOR**2).sqrt_()
    return d2.fill_diagonal_(0)


@_distances.register_fake
def _(x: Tensor, squared: bool, constant_gallery: bool) -> Tensor:
    return x.new_empty(len(x), len(x))


def _save(ctx: Any, inputs: tuple[Tensor, bool, bool], output: Tensor) -> None:
    x, ctx.squared, ctx.constant_gallery = inputs
    ctx.save_for_backward(x, output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    x, d = ctx.saved_tensors
    # By x_i, d²_ij has the gradient 2 (x_i - x_j), and d_ij has (x_i - x_j) / d_ij, taken as 0 at the floor.
    weight = grad if ctx.squared else grad / F.threshold(d, FLOOR, torch.inf)
    if not ctx.constant_gallery:
        weight = _plus_transpose(weight)
    x = (2 if ctx.squared else 1) * _centered(x)
    with full_precision(x):
        return weight.sum(dim=1, keepdim=True) * x - weight @ x, None, None  # Σ_j weight_ij (x_i - x_j)


_distances.register_autograd(_differentiate, setup_context=_save)


def _centered(x: Tensor) -> Tensor:
    # About the first row first: equal rows then become exactly 0, where a rounded mean would leave noise.
    x = x - x[:1]
    return x - x.mean(dim=0)


def _plus_transpose(matrix: Tensor) -> Tensor:
    # A copy first: adding a transposed view strides through memory, and costs more than the matrix product.
    return matrix.T.clone(memory_format=torch.contiguous_format).add_(matrix)
