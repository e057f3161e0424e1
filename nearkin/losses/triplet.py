"""Triplet loss, over disjoint triplets or over all triplets of the batch.

Schroff et al., "FaceNet", CVPR 2015. T-I, T-II and the equation number are those of Wang et al., "Deep Metric
Learning with Angular Loss", ICCV 2017.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, classmates, known_gradient, same_class, squared_distances


class TripletLoss(nn.Module):
    """Keep every negative farther from the anchor than every positive, by a margin.

    The mean over triplets (a, p, n) of max(0, d²_ap - d²_an + margin), Eq. 2, d the Euclidean distance; at the
    kink the gradient is 0. All triplets take O(N² (D + K)) time and O(N²) memory.

    Args:
        margin: Gap between squared distances, at least 0. On the unit sphere squared distances end at 4.
        normalize: Put the embeddings on the unit sphere first.
        disjoint: Use N / 3 triplets, each sample in one (T-I): the batch is the anchors, then their positives,
            then their negatives. Otherwise use all triplets of the labels (T-II).

    Raises:
        ValueError: margin is negative or not finite; with disjoint, the batch is not made of such thirds.
    """

    def __init__(self, margin: float = 0.2, normalize: bool = True, disjoint: bool = False) -> None:
        super().__init__()
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}")
        self.margin = margin
        self.normalize = normalize
        self.disjoint = disjoint

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        if not self.disjoint:
            return batch_all(squared_distances(x), labels, self.margin)
        return disjoint_triplets(*thirds(x, labels), self.margin)


@known_gradient
def batch_all(d2: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean of Eq. 2 over all triplets, and its gradient by the squared distances (N, N)."""
    positives, valid = classmates(labels)  # (N, K - 1)
    same = same_class(labels)
    negatives = d2.masked_fill(same, torch.inf)  # beyond any threshold
    thresholds = (d2.gather(1, positives) + margin).masked_fill_(~valid, -torch.inf)

    total, gradient = d2.new_zeros(()), torch.zeros_like(d2)
    for positive, threshold in zip(positives.T[..., None], thresholds.T[..., None], strict=True):
        hinge = (threshold - negatives).relu_()
        total += hinge.sum()
        active = hinge.gt_(0)  # 1 and 0
        gradient.sub_(active).scatter_add_(1, positive, active.sum(dim=1, keepdim=True))
    triplets = (valid.sum(dim=1) * (~same).sum(dim=1)).sum().clamp_min(1)
    return total / triplets, gradient.div_(triplets)


def disjoint_triplets(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean of Eq. 2 over triplets whose members are rows of three matrices (N / 3, D)."""
    d2_positive = (anchor - positive).square().sum(dim=1)
    d2_negative = (anchor - negative).square().sum(dim=1)
    return (d2_positive - d2_negative + margin).relu().sum() / max(len(anchor), 1)


def thirds(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchors, positives and negatives, (N / 3, D) each, of a batch (N, D) in that order.

    Raises:
        ValueError: The batch is not made of such thirds. Under `torch.compile` the labels are not looked at.
    """
    if len(labels) % 3:
        raise ValueError(
            "disjoint triplets are a batch of anchors, then positives, then negatives, in equal thirds, "
            f"got {len(labels)} samples: pass a multiple of 3, in the order of DisjointTripletSampler"
        )
    if not torch.compiler.is_compiling():
        anchor, positive, negative = labels.reshape(3, len(labels) // 3)
        wrong = int(((anchor != positive) | (anchor == negative)).sum())
        if wrong:
            raise ValueError(
                "disjoint triplets are anchors, then their positives of the same class, then their negatives of "
                f"another, got {wrong} of {len(anchor)} triplets otherwise: put the batch in that order"
            )
    anchors, positives, negatives = x.reshape(3, len(x) // 3, x.shape[1])
    return anchors, positives, negatives
