"""What the losses share: the check of a batch, gradients that are known, products and distances.

Shape key: N = batch size, M = gallery, D = embedding size, B = rows of a block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR_DUPLICATES = 8  # of a row, that a GPU computes with care
FLOOR = 1e-6  # of unsquared distances, whose gradient has no direction at 0
LONGEST = 1e16  # of embeddings: longer ones have diverged, and their squared distances sum up to infinity in float32

Near = list[tuple[Tensor, Tensor]]
"""Pairs of which each entry holds some: their rows and their columns."""


class Batch(NamedTuple):
    """What a loss over pairs compares: a batch with itself, or with a gallery.

    Attributes:
        x: (N, D) queries.
        labels: (N,) class ids.
        gallery: (M, D), or None for the queries themselves.
        gallery_labels: (M,), or None likewise.
    """

    x: Tensor
    labels: Tensor
    gallery: Tensor | None
    gallery_labels: Tensor | None

    @property
    def sides(self) -> tuple[Tensor | None, Tensor | None]:
        """The gallery, if there is one, as what autograd moves or as what it does not, and None for the other."""
        moves = self.gallery is not None and self.gallery.requires_grad
        return (self.gallery, None) if moves else (None, self.gallery)


def check_pairs(
    embeddings: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    normalize: bool,
) -> Batch:
    """Return a batch and its gallery, if there is one, as `check_batch` does, on the unit sphere if asked.

    Raises:
        ValueError: As in `check_batch`; one of gallery and gallery_labels without the other; embeddings of two sizes or
            on two devices.
    """
    x = check_batch(embeddings, labels)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together, got one without the other")
    if gallery is not None and gallery_labels is not None:
        gallery = check_batch(gallery, gallery_labels, "gallery").to(x.dtype)
        if gallery.device != x.device:
            raise ValueError(f"gallery must be on the device of the embeddings, {x.device}, got {gallery.device}")
        if gallery.shape[1] != x.shape[1]:
            raise ValueError(
                f"embeddings and gallery must have one size D, got {x.shape[1]} and {gallery.shape[1]}: "
                "pass a gallery of the same model"
            )
    if normalize:
        x, gallery = on_sphere(x), None if gallery is None else on_sphere(gallery)
    return Batch(x, labels, gallery, gallery_labels)


def check_batch(embeddings: Tensor, labels: Tensor, name: str = "embeddings") -> Tensor:
    """Return the embeddings (N, D), in float32 if they came in half precision, once the batch is valid.

    Labels are integers of any type, or booleans for two classes.

    Raises:
        ValueError: The embeddings are not a dense, finite floating-point matrix of at least one column and of rows up
            to LONGEST, or the labels not N integers on their device or the CPU. Values are looked at where `may_look`.
    """
    if not (isinstance(embeddings, Tensor) and isinstance(labels, Tensor)):
        kinds = f"{type(embeddings).__name__} and {type(labels).__name__}"
        raise ValueError(f"{name} and labels must be tensors, got {kinds}: convert with torch.as_tensor")
    if embeddings.ndim != 2 or not embeddings.shape[1] or not embeddings.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point matrix (N, D), one row per sample, D at least 1, "
            f"got {embeddings.dtype} of shape {tuple(embeddings.shape)}"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(embeddings)},), one class id per row of the {name}, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integer class ids, got {labels.dtype}: convert with labels.long()")
    if not embeddings.layout == labels.layout == torch.strided:
        raise ValueError(
            f"{name} and labels must be dense, got {embeddings.layout} and {labels.layout}: use to_dense()"
        )
    if labels.device != embeddings.device and labels.device.type != "cpu":
        raise ValueError(
            f"labels must be on the CPU or on the device of the {name}, {embeddings.device}, got {labels.device}"
        )
    x = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
    # The length of all together bounds that of each row, in a tenth of the time of looking at each.
    if may_look(x) and not torch.linalg.vector_norm(x.detach()) <= LONGEST:
        _check_rows(x.detach(), name)
    return x


def _check_rows(x: Tensor, name: str) -> None:
    bad = int((~x.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {bad} of {len(x)} rows: "
            "lower the learning rate, or look for an overflow in half precision"
        )
    longest = float(torch.linalg.vector_norm(x, dim=1, dtype=torch.double).max())
    if longest > LONGEST:
        raise ValueError(
            f"{name} must be at most {LONGEST:g} long, got a row of length {longest:.4g}: "
            "lower the learning rate, or scale the embeddings down"
        )


def may_look(tensor: Tensor) -> bool:
    """Whether Python may ask for values: under `torch.compile` that would break the graph, and a GPU would stall.

    There a loss of embeddings that are not finite is not finite either.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def on_sphere(x: Tensor) -> Tensor:
    """Return the rows of x (N, D) at length 1; those up to 1e-12 long have no direction: they become 0, of gradient 0.

    `F.normalize` gives a row of zeros a gradient of a million million: one of them ends a training.
    """
    return x / F.threshold(torch.linalg.vector_norm(x, dim=1, keepdim=True), 1e-12, torch.inf)


def finite(tensor: Tensor) -> bool:
    """Whether every value is finite."""
    # A finite sum shows it, in a tenth of the time of looking at each; a sum may overflow where no value does.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def check_chunk_size(chunk_size: int | None) -> int | None:
    """Return how many rows of pairs are in memory at a time, None for all, once that is at least 1.

    Raises:
        ValueError: It is not.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 row at a time, or None for all at once, got {chunk_size}")
    return chunk_size


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Make sure that every label is a class id from 0 to num_classes - 1.

    Raises:
        ValueError: One is not. Labels are looked at where `may_look`.
    """
    if not may_look(labels) or not len(labels):
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


def known_gradient(function: Callable[..., tuple[Tensor, ...]], *, tags: Any = ()) -> Callable[..., Tensor]:
    """Make `function(*arguments) -> (value, *gradients)` a scalar that autograd differentiates, once.

    Raises ValueError where one of them is not finite, looked at where `may_look`.

    The gradients are those by the first arguments, each a tensor, or None with an empty tensor for its gradient. A
    loss goes over the matrix of pairs in passes, and each pass knows its share of the slopes. Summing the shares keeps
    memory down, where autograd would hold every pass until the backward, and takes half the time. As an operator of
    its own, a loop whose length depends on the labels does not break the graph of `torch.compile`.
    """
    operator = torch.library.custom_op(f"nearkin::{function.__name__}", function, mutates_args=(), tags=tags)
    moving = str(operator._opoverload._schema).count("Tensor", str(operator._opoverload._schema).index("->")) - 1

    def fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        like = (x.new_empty(0) if each is None else each.new_empty(each.shape) for each in (x, *rest)[:moving])
        return x.new_empty(()), *like

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.present = [each is not None for each in inputs[:moving]]
        ctx.constants = len(inputs) - moving
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> tuple[Tensor | None, ...]:
        if any(each is not None for each in second):
            raise RuntimeError(f"{function.__name__} is differentiable once, and a second gradient was asked for")
        known = [
            grad * gradient if grad is not None and present else None
            for gradient, present in zip(ctx.saved_tensors, ctx.present, strict=True)
        ]
        return *known, *[None] * ctx.constants

    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=save)

    def scalar(x: Tensor, *rest: Any) -> Tensor:
        if not len(x):
            return x.sum()  # there is no maximum over no samples, but a sum
        value: Tensor
        value, *gradients = operator(x, *rest)
        if may_look(value) and not all(finite(each.detach()) for each in (value, *gradients)):
            raise ValueError(
                f"loss and gradient must be finite in {str(value.dtype).removeprefix('torch.')}, got NaN or infinity: "
                "bring the embeddings, or what weighs the loss, nearer to 1"
            )
        return value

    return scalar


def lowest(tensor: Tensor) -> float:
    """Return a finite stand-in for a masked logit's minus infinity: a row of nothing else has no NaN.

    Two of them may be added.
    """
    return torch.finfo(tensor.dtype).min / 4


def exponentials_(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Replace the rows of logits (B, M) by e^(logit - largest); return them, their sums and the logsumexp (B, 1)."""
    peak = logits.amax(dim=1, keepdim=True)
    # e^-80 is nothing beside the largest term's 1; below e^-87 exp takes fifty times as long in float32.
    terms = logits.sub_(peak).clamp_min_(-80).exp_()
    total = terms.sum(dim=1, keepdim=True)
    return terms, total, peak + total.log()


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which matrix products keep the tensor's type, even inside autocast."""
    return torch.autocast(tensor.device.type, enabled=False)


def inner_products(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner products (N, M) of the rows of x (N, D) with those of y (M, D)."""
    product: Tensor = _InnerProducts.apply(x, y)
    return product


def distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances (N, N) between the rows of x (N, D), at least 1e-6 off the diagonal.

    At that floor the gradient is 0. Precision is that of `finish_squared_distances_`.
    """
    d: Tensor = _distances(x)
    return d


def centered(x: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (N, D) and gallery (M, D), which may be one, about the gallery's mean, which keeps distances."""
    # About the first row first: equal rows then become exactly 0, where a rounded mean would leave noise.
    origin = gallery[:1]
    moved = gallery - origin
    mean = moved.mean(dim=0)
    if gallery is x:
        return moved.sub_(mean), moved
    return (x - origin).sub_(mean), moved.sub_(mean)


def finish_squared_distances_(
    products: Tensor, left: Tensor, norm2: Tensor, x: Tensor, gallery: Tensor, own: int | None
) -> Near:
    """Turn the inner products (B, M) of centered vectors into squared Euclidean distances; return the near pairs.

    |x_i|² + |g_j|² - 2 x_i·g_j leaves an absolute error of a few machine epsilons times |x|². So it is taken about the
    mean, which changes no distance but shortens the vectors, and near pairs are taken from their difference instead.
    What remains is a relative error of about 1e-8 in float64 and 1e-3 in float32 at most (D = 512), just beyond those
    that are near, and in these a few machine epsilons. On a GPU that holds for the `NEAR_DUPLICATES` nearest of a row.

    Args:
        products: left · (the gallery, centered).
        left: (B, D) the rows' vectors, centered.
        norm2: (M,) squared norms of the gallery, centered.
        x: (B, D) the rows' vectors as they came.
        gallery: (M, D) as it came.
        own: Column of the first row's own vector, if they are in the gallery. What is there is for the caller to set.
    """
    left2 = left.square().sum(dim=1, keepdim=True)
    d2 = products.mul_(-2).add_(norm2).add_(left2)
    if own is not None:
        d2.diagonal(own).fill_(torch.inf)
    if not may_look(d2):
        d2.clamp_min_(0)  # of more near duplicates than are taken from differences
    near = near_pairs(d2, left2, norm2)
    for i, j in near:
        d2[i, j] = (x[i] - gallery[j]).square().sum(dim=1)
    return near


def near_pairs(d2: Tensor, left2: Tensor, norm2: Tensor) -> Near:
    """Return the pairs so close that half the digits of their squared distance (B, M) are lost, as rows and columns.

    They come in blocks, whose differences fit a cache. A GPU would stall to say how many they are: there they are the
    nearest of each row, near or not.

    Args:
        d2: As rounded, infinite where a vector meets itself.
        left2: (B, 1) squared norms of the rows' vectors, centered.
        norm2: (M,) of the gallery's.
    """
    if not may_look(d2):
        few = min(NEAR_DUPLICATES, d2.shape[1])
        column = d2.topk(few, largest=False, sorted=False).indices.flatten()
        row = torch.arange(len(d2), device=d2.device).repeat_interleave(few)
        return list(zip(torch.split(row, 2**16), torch.split(column, 2**16), strict=True))
    # The nearest neighbor of most rows tells, cheaply, that none is; points so near have about the same norm.
    tolerance = torch.finfo(d2.dtype).eps ** 0.5
    suspects = (d2.amin(dim=1) < tolerance * 3 * left2.squeeze(1)).nonzero().squeeze(1)
    if not len(suspects):
        return []
    limit = tolerance * (left2[suspects] + norm2)
    row, column = (d2[suspects] < limit).nonzero(as_tuple=True)
    return list(zip(torch.split(suspects[row], 4096), torch.split(column, 4096), strict=True))


def pull_near_(
    slopes: Tensor, near: Near, x: Tensor, gallery: Tensor, x_sum: Tensor, gallery_sum: Tensor | None = None
) -> Tensor:
    """Add Σ_j s_ij (x_i - g_j) over the near pairs to x_sum (B, D), return it, and set their slopes s (B, M) to 0.

    By an unsquared distance d the slopes are up to 1 / d: in s_ij x_i - s_ij g_j all digits could cancel. What moves x
    is taken off gallery_sum (M, D), if it is given.
    """
    for i, j in near:
        pull = slopes[i, j, None] * (x[i] - gallery[j])
        x_sum.index_add_(0, i, pull)
        if gallery_sum is not None:
            gallery_sum.index_add_(0, j, pull, alpha=-1)
        slopes[i, j] = 0
    return x_sum


def add_transpose_(matrix: Tensor) -> Tensor:
    """Add its transpose to a square matrix, in place."""
    # On a CPU, adding a transposed view as a whole costs a third of the matrix product, and fresh memory for a copy of
    # it as much; blocks stay in a cache.
    step = 128 if matrix.device.type == "cpu" else max(1, len(matrix))
    for i in range(0, len(matrix), step):
        for j in range(0, i + 1, step):
            rows, columns = slice(i, i + step), slice(j, j + step)
            both = matrix[rows, columns] + matrix[columns, rows].T
            matrix[rows, columns] = both
            matrix[columns, rows] = both.T
    return matrix


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
def _distances(x: Tensor) -> Tensor:
    if len(x) < 2:
        return x.new_zeros(len(x), len(x))
    left, right = centered(x, x)
    with full_precision(x):
        d2 = left @ right.T
    finish_squared_distances_(d2, left, right.square().sum(dim=1), x, x, 0)
    return d2.clamp_min_(FLOOR**2).sqrt_().fill_diagonal_(0)


@_distances.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(len(x), len(x))


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


@torch.library.custom_op("nearkin::distances_backward", mutates_args=())
def _gradient(x: Tensor, d: Tensor, grad: Tensor) -> Tensor:
    if len(x) < 2:
        return torch.zeros_like(x)
    # By x_i, d_ij has the gradient (x_i - x_j) / d_ij, taken as 0 at the floor.
    weight = add_transpose_(grad / F.threshold(d, FLOOR, torch.inf))
    left = centered(x, x)[0]
    norm2 = left.square().sum(dim=1)
    near = near_pairs(d.square().fill_diagonal_(torch.inf), norm2[:, None], norm2)
    by_near = pull_near_(weight, near, x, x, torch.zeros_like(x)) if near else 0
    with full_precision(x):
        return weight.sum(dim=1, keepdim=True) * left - weight @ left + by_near  # Σ_j weight_ij (x_i - x_j)


@_gradient.register_fake
def _(x: Tensor, d: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(x)


def _differentiate(ctx: Any, grad: Tensor) -> Tensor:
    x, d = ctx.saved_tensors
    gradient: Tensor = _gradient(x, d, grad)
    return gradient


_distances.register_autograd(_differentiate, setup_context=_save)
