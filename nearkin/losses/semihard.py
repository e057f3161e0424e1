"""Triplet loss with semihard negatives.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015, Eq. 3 and 4.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, classmates, known_gradient, same_class, squared_distances


class SemihardTripletLoss(nn.Module):
    """Keep, for every positive pair, the nearest negative that is beyond the positive away by a margin.

    The mean over ordered positive pairs (a, p), those at 0 included, of max(0, d²_ap - d²_an + margin), d the
    Euclidean distance. The negative n is the one with the smallest d²_an > d²_ap, or, if there is none, the one
    with the largest d²_an. Distances that differ by no more than rounding are taken as equal; of equal negatives
    one receives the gradient; at the kink the gradient is 0. O(N² (D + K)) time and O(N²) memory.

    Args:
        margin: Gap between squared distances, at least 0. On the unit sphere squared distances end at 4.
        normalize: Put the embeddings on the unit sphere first.

    Raises:
        ValueError: margin is negative or not finite.
    """

    def __init__(self, margin: float = 0.2, normalize: bool = True) -> None:
        super().__init__()
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}")
        self.margin = margin
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        return semihard(squared_distances(x), labels, self.margin)


@known_gradient
def semihard(d2: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean over ordered positive pairs, and its gradient by the squared distances (N, N)."""
    positives, valid = classmates(labels)  # (N, K - 1)
    same = same_class(labels)
    negatives = d2.masked_fill(same, torch.inf)
    farthest = d2.masked_fill(same, -torch.inf).argmax(dim=1, keepdim=True)
    eps = torch.finfo(d2.dtype).eps
    rounding = 64 * eps * d2.amax(dim=1, keepdim=True)

    total, gradient = d2.new_zeros(()), torch.zeros_like(d2)
    for positive, counts in zip(positives.T[..., None], valid.T[..., None], strict=True):
        d2_positive = d2.gather(1, positive)  # (N, 1)
        # A duplicate of the positive is as far as the positive; rounding must not take it beyond. Near duplicates of
        # the anchor are known better than the rest of its row (`squared_distances`).
        nearest_beyond = d2_positive + torch.minimum(rounding, 32 * eps**0.5 * d2_positive)
        beyond = torch.threshold_(negatives - nearest_beyond, 0.0, torch.inf)
        gap, nearest = beyond.min(dim=1, keepdim=True)
        negative = torch.where(gap.isinf(), farthest, nearest)
        hinge = d2_positive - negatives.gather(1, negative) + margin  # minus infinity without negatives
        hinge = hinge.relu_().masked_fill_(~counts, 0)
        total += hinge.sum()
        active = hinge.gt_(0)  # 1 and 0
        gradient.scatter_add_(1, positive, active).scatter_add_(1, negative, -active)
    pairs = valid.sum().clamp_min(1)
    return total / pairs, gradient.div_(pairs)
