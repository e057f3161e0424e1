"""N-pair loss.

Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016. Equations are those of
AL: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, and of RLL: Wang et al., "Ranked List Loss for
Deep Metric Learning", CVPR 2019.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import (
    check_batch,
    classmates,
    gram,
    inner_products,
    known_gradient,
    lowest,
    same_class,
    softmax_,
)


class NPairLoss(nn.Module):
    """Make the inner product with the positive larger than with all negatives at once.

    "tuplet" (AL Eq. 10): the mean over ordered positive pairs (a, p) of log(1 + Σ_n exp(x_a·x_n - x_a·x_p)), n
    over all samples of other classes. With two samples per class, every sample is the anchor once.

    "mc" (RLL Eq. 2): with exactly two samples per class, the same mean over classes. The anchor is the first of
    its class in the batch, the positive the second, and the negatives are the other classes' second samples.

    Args:
        form: "tuplet" or "mc".
        l2: Weight λ, at least 0, of the penalty λ / 4 · (mean |x_a|² + mean |x_p|²), which is λ / 2 · mean |x|²
            over the batch. It holds the norms, with which inner products grow.
        normalize: Put the embeddings on the unit sphere first. The papers do not.

    Raises:
        ValueError: form is unknown; l2 is negative or not finite; with "mc", the batch has other than two samples per
            class.
    """

    def __init__(self, form: Literal["tuplet", "mc"] = "tuplet", l2: float = 0.0, normalize: bool = False) -> None:
        super().__init__()
        if form not in ("tuplet", "mc"):
            raise ValueError(f'form must be "tuplet" or "mc", got {form!r}')
        if not 0 <= l2 < math.inf:
            raise ValueError(f"l2 must be at least 0 and finite, got {l2}")
        self.form = form
        self.l2 = l2
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, the penalty alone where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        loss = tuplet(gram(x), labels) if self.form == "tuplet" else _multi_class(x, labels)
        return loss + self.l2 / 2 * x.square().sum() / max(len(x), 1)


@known_gradient
def tuplet(products: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of AL Eq. 10 over ordered positive pairs, and its gradient by the inner products (N, N)."""
    positives, valid = classmates(labels)  # (N, K - 1)
    softmax, push = softmax_(products.masked_fill(same_class(labels), lowest(products)))  # (N, N), (N, 1)
    exponent = push - products.gather(1, positives)
    pairs = valid.sum().clamp_min(1)
    slope = exponent.sigmoid() * valid / pairs
    gradient = softmax.mul_(slope.sum(dim=1, keepdim=True)).scatter_add_(1, positives, -slope)
    return (F.softplus(exponent) * valid).sum() / pairs, gradient


def _multi_class(x: Tensor, labels: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        _check_pairs(labels)
    order = labels.long().argsort(stable=True)
    anchors, positives = x[order].reshape(len(x) // 2, 2, x.shape[1]).unbind(dim=1)  # (N / 2, D) each
    logits = inner_products(anchors, positives)  # (N / 2, N / 2)
    target = torch.arange(len(logits), device=x.device)
    return F.cross_entropy(logits, target, reduction="sum") / max(len(logits), 1)


def _check_pairs(labels: Tensor) -> None:
    wrong = int((same_class(labels).sum(dim=1) != 2).sum())
    if wrong:
        raise ValueError(
            'form="mc" takes exactly 2 samples of each class, '
            f"got {wrong} of {len(labels)} samples in classes of another size: "
            'sample 2 per class, or use form="tuplet"'
        )
