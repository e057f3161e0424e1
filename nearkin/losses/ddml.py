"""Discriminative deep metric learning (DDML).

Hu, Lu and Tan, "Discriminative Deep Metric Learning for Face Verification in the Wild", CVPR 2014.

Shape key: N = batch size, D = embedding size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, known_gradient, same_class, squared_distances


class DDMLLoss(nn.Module):
    """Pull positives within one squared distance and push negatives beyond another, both softly.

    Half the mean over the N (N - 1) / 2 pairs of the batch of g(1 - ℓ (tau - d²)), ℓ = 1 for a positive and -1 for a
    negative, d the Euclidean distance, and g(z) = log(1 + exp(beta z)) / beta a smooth max(0, z). So positives are
    wanted within d² = tau - 1 and negatives beyond tau + 1. Defaults are the paper's, as remembered, not looked up.

    Args:
        beta: Sharpness of g, above 0.
        tau: Squared distance, above 1, between the two boundaries. On the unit sphere squared distances end at 4: a
            tau above 3 asks there for more than opposite negatives.
        normalize: Put the embeddings on the unit sphere first.

    Raises:
        ValueError: beta is not above 0, or tau not above 1, where positives would be wanted nearer than 0; or one is
            not finite.
    """

    def __init__(self, beta: float = 10.0, tau: float = 3.0, normalize: bool = True) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be above 0 and finite, got {beta}")
        if not 1 < tau < math.inf:
            raise ValueError(f"tau must be above 1 and finite: positives are pulled within tau - 1, got {tau}")
        self.beta, self.tau = beta, tau
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no pair."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        return ddml(squared_distances(x), labels, self.beta, self.tau)


@known_gradient
def ddml(d2: Tensor, labels: Tensor, beta: float, tau: float) -> tuple[Tensor, Tensor]:
    """Return half the mean over pairs, and its gradient by the squared distances (N, N)."""
    same = same_class(labels)
    # How far a positive is too far, a negative too near, both above 0 then; a sample is no pair with itself.
    excess = torch.where(same, d2 + (1 - tau), (1 + tau) - d2).fill_diagonal_(-torch.inf).mul_(beta)
    pairs = max(len(d2) * (len(d2) - 1), 1)  # each from both ends
    value = F.softplus(excess).sum() / (2 * beta * pairs)
    slope = excess.sigmoid_().div_(2 * pairs)
    return value, torch.where(same, slope, -slope)
