"""Lifted structure loss.

Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, Eq. 4: the smooth bound, which
the paper trains with.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import (
    check_batch,
    classmates,
    distances,
    known_gradient,
    lowest,
    same_class,
    softmax_,
)


class LiftedStructureLoss(nn.Module):
    """Pull each positive pair together and push the negatives of both its ends away, the nearest most.

    Half the mean over positive pairs (i, j) of max(0, J)², where
    J = d_ij + log(Σ_k exp(margin - d_ik) + Σ_l exp(margin - d_jl)), d is the Euclidean distance, not squared, and k
    and l run over the negatives of i and of j. At d = 0 a distance has gradient 0.

    Args:
        margin: Distance that negatives are pushed beyond, softly.
        normalize: Put the embeddings on the unit sphere first. The paper does not.

    Raises:
        ValueError: margin is not finite.
    """

    def __init__(self, margin: float = 1.0, normalize: bool = False) -> None:
        super().__init__()
        if not math.isfinite(margin):
            raise ValueError(f"margin must be finite, got {margin}")
        self.margin = margin
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        return lifted_structure(distances(x), labels, self.margin)


@known_gradient
def lifted_structure(distance: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean of Eq. 4 over positive pairs, and its gradient by the distances (N, N)."""
    positives, valid = classmates(labels)  # (N, K - 1), each pair from both ends
    softmax, push = softmax_((margin - distance).masked_fill_(same_class(labels), lowest(distance)))
    push_other = push.squeeze(1)[positives]
    bound = torch.logaddexp(push, push_other) + distance.gather(1, positives)  # J
    excess = bound.relu() * valid
    pairs = valid.sum().clamp_min(1)
    slope = excess / pairs
    # A sample's negatives are in the bound of each of its pairs, seen from this end and from the other.
    share = 2 * (slope * (push - push_other).sigmoid()).sum(dim=1, keepdim=True)
    gradient = softmax.mul_(-share).scatter_add_(1, positives, slope)
    return excess.square().sum() / (2 * pairs), gradient
