"""Discriminative deep metric learning (DDML).

Hu, Lu and Tan, "Discriminative Deep Metric Learning for Face Verification in the Wild", CVPR 2014.

Shape key: N = batch size, D = embedding size.
"""

import math

from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


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
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: beta is not above 0, or tau not above 1, where positives would be wanted nearer than 0; or one is
            not finite; chunk_size is below 1.
    """

    def __init__(
        self,
        beta: float = 10.0,
        tau: float = 3.0,
        normalize: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be above 0 and finite, got {beta}")
        if not 1 < tau < math.inf:
            raise ValueError(f"tau must be above 1 and finite: positives are pulled within tau - 1, got {tau}")
        self.beta, self.tau = beta, tau
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        gallery: Tensor | None = None,
        gallery_labels: Tensor | None = None,
    ) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no pair."""
        batch = check_pairs(embeddings, labels, gallery, gallery_labels, normalize=self.normalize)
        return ddml(batch, self.beta, self.tau, chunk_size=self.chunk_size)


@pair_loss("squared distances", mirrored=True)
def ddml(d2: Tensor, tile: Tile, beta: float, tau: float) -> tuple[Tensor, int, Tensor]:
    """Return half the sum over the pairs of a tile, their number, and its slopes by the squared distances (B, M)."""
    # How far a positive is too far, a negative too near, both above 0 then. A sample is no pair with itself: at d = 0
    # that is below 0, for tau is above 1, and moves nothing; the logarithm leaves it out.
    too_far = (d2.gather(1, tile.members) + (1 - tau)) * beta  # (B, K)
    excess = tile.set_members_(d2.mul_(-beta).add_(beta * (1 + tau)), too_far)
    # log(1 + e^z) = max(0, z) + log(1 + e^-|z|). That logarithm loses what is rounded off 1 + e; torch.log1p does not,
    # at fifteen times the price.
    faded = excess.abs().neg_().clamp_min_(-80).exp_()  # exp takes fifty times as long below e^-87
    if tile.alone:
        faded.scatter_(1, tile.members[:, :1], 0)
    rounded = faded + 1
    lost = faded.sub_(rounded - 1).div_(rounded)
    value = (excess.relu().sum() + rounded.log_().sum() + lost.sum()) / (2 * beta)
    slopes = excess.sigmoid_().div_(-2)
    return value, len(d2) * tile.others, tile.set_members_(slopes, -slopes.gather(1, tile.members))
