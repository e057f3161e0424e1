"""N-pair loss.

Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016. Equations are those of
AL: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, and of RLL: Wang et al., "Ranked List Loss for
Deep Metric Learning", CVPR 2019.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import Batch, check_chunk_size, check_pairs, exponentials_, lowest, may_look, same_class
from nearkin.losses.tiles import Tile, pair_loss


class NPairLoss(nn.Module):
    """Make the inner product with the positive larger than with all negatives at once.

    "tuplet" (AL Eq. 10): the mean over ordered positive pairs (a, p) of log(1 + Σ_n exp(x_a·x_n - x_a·x_p)), n
    over all samples of other classes. With two samples per class, every sample is the anchor once.

    "mc" (RLL Eq. 2): with exactly two samples per class, the same mean over classes. The anchor is the first of
    its class in the batch, the positive the second, and the negatives are the other classes' second samples.

    Args:
        form: "tuplet" or "mc".
        l2: Weight λ, at least 0, of the penalty λ / 4 · (mean |x_a|² + mean |x_p|²), which is λ / 2 · mean |x|²
            over the batch. It holds the norms, with which inner products grow. Against a gallery there is none:
            `CrossBatchMemory` adds both losses.
        normalize: Put the embeddings on the unit sphere first. The papers do not.
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: form is unknown; l2 is negative or not finite; with "mc", the batch has other than two samples per
            class; chunk_size is below 1.
    """

    def __init__(
        self,
        form: Literal["tuplet", "mc"] = "tuplet",
        l2: float = 0.0,
        normalize: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if form not in ("tuplet", "mc"):
            raise ValueError(f'form must be "tuplet" or "mc", got {form!r}')
        if not 0 <= l2 < math.inf:
            raise ValueError(f"l2 must be at least 0 and finite, got {l2}")
        self.form = form
        self.l2 = l2
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        gallery: Tensor | None = None,
        gallery_labels: Tensor | None = None,
    ) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, the penalty alone where there is no triplet."""
        batch = check_pairs(embeddings, labels, gallery, gallery_labels, normalize=self.normalize)
        form = tuplet_loss if self.form == "tuplet" else multi_class
        loss = form(batch, chunk_size=self.chunk_size)
        if not self.l2 or gallery is not None:
            return loss
        return loss + self.l2 / 2 * batch.x.square().sum() / max(len(batch.x), 1)


def tuplet(products: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of AL Eq. 10 over ordered positive pairs, their number, and its slopes by the products (B, M)."""
    pull = products.gather(1, tile.positives)  # (B, P)
    terms, total, push = exponentials_(tile.set_members_(products, lowest(products)))  # (B, M), (B, 1), (B, 1)
    exponent = push - pull
    slope = exponent.sigmoid() * tile.valid
    slopes = terms.mul_(slope.sum(dim=1, keepdim=True) / total).scatter_add_(1, tile.positives, -slope)
    return (F.softplus(exponent) * tile.valid).sum(), tile.valid.sum(), slopes


tuplet_loss = pair_loss("inner products")(tuplet)


def multi_class(batch: Batch, chunk_size: int | None) -> Tensor:
    """Return RLL Eq. 2, which is `tuplet_loss` of the anchors with the positives for a gallery."""
    x, labels, gallery, _ = batch
    if gallery is not None:
        raise ValueError('form="mc" compares a batch with itself, got a gallery: use form="tuplet"')
    if may_look(labels):
        _check_pairs(labels)
    order = labels.long().argsort(stable=True)
    anchors, positives = x[order].view(-1, 2, x.shape[1]).unbind(dim=1)  # (N / 2, D) each
    classes = labels[order[::2]]
    return tuplet_loss(Batch(anchors, classes, positives, classes), chunk_size=chunk_size)


def _check_pairs(labels: Tensor) -> None:
    wrong = int((same_class(labels).sum(dim=1) != 2).sum())
    if wrong:
        raise ValueError(
            'form="mc" takes exactly 2 samples of each class, '
            f"got {wrong} of {len(labels)} samples in classes of another size: "
            'sample 2 per class, or use form="tuplet"'
        )
