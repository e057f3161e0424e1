"""Contrastive loss.

Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, Eq. 4.

Shape key: N = batch size, D = embedding size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, distances, known_gradient, same_class


class ContrastiveLoss(nn.Module):
    """Pull positives together and push negatives beyond a margin.

    The mean over the N (N - 1) / 2 pairs of the batch of d² / 2 for a positive and max(0, margin - d)² / 2 for a
    negative, d the Euclidean distance. A negative at d = 0 costs most, and its gradient is 0 for want of a
    direction.

    Args:
        margin: Distance, above 0, beyond which a negative costs nothing. On the unit sphere distances end at 2.
        normalize: Put the embeddings on the unit sphere first.

    Raises:
        ValueError: margin is not above 0 and finite.
    """

    def __init__(self, margin: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be above 0 and finite, got {margin}")
        self.margin = margin
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no pair."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        return contrastive(distances(x), labels, self.margin)


@known_gradient
def contrastive(distance: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean of Eq. 4 over pairs, and its gradient by the distances (N, N)."""
    # How far a positive is too far (above 0), a negative too near (below 0).
    excess = torch.where(same_class(labels), distance, (distance - margin).clamp_max_(0))
    pairs = max(len(distance) * (len(distance) - 1), 1)  # each from both ends
    return excess.square().sum() / (2 * pairs), excess.div_(pairs)
