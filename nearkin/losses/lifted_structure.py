"""Lifted structure loss.

Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, Eq. 4: the smooth bound, which
the paper trains with.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs, exponentials_, lowest
from nearkin.losses.tiles import Tile, pair_loss


class LiftedStructureLoss(nn.Module):
    """Pull each positive pair together and push the negatives of both its ends away, the nearest most.

    Half the mean over positive pairs (i, j) of max(0, J)², where
    J = d_ij + log(Σ_k exp(margin - d_ik) + Σ_l exp(margin - d_jl)), d is the Euclidean distance, not squared, and k
    and l run over the negatives of i and of j. At d = 0 a distance has gradient 0.

    Args:
        margin: Distance that negatives are pushed beyond, softly.
        normalize: Put the embeddings on the unit sphere first. The paper does not.
        chunk_size: Rows of the matrix of pairs in memory at a time, about, but whole classes; None for all. The result
            is the same.

    Raises:
        ValueError: margin is not finite; chunk_size is below 1.
    """

    def __init__(self, margin: float = 1.0, normalize: bool = False, chunk_size: int | None = None) -> None:
        super().__init__()
        if not math.isfinite(margin):
            raise ValueError(f"margin must be finite, got {margin}")
        self.margin = margin
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        batch = check_pairs(embeddings, labels, normalize=self.normalize)
        return lifted_structure(batch, self.margin, chunk_size=self.chunk_size)


@pair_loss("distances", whole_classes=True)
def lifted_structure(distance: Tensor, tile: Tile, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of Eq. 4 over the ordered positive pairs of a tile, their number, and its slopes by (B, M)."""
    logits = tile.set_members_(margin - distance, lowest(distance))
    terms, total, push = exponentials_(logits)  # (B, M), (B, 1), (B, 1)
    push_other = push.squeeze(1)[tile.local]  # (B, P)
    bound = torch.logaddexp(push, push_other) + distance.gather(1, tile.positives)  # J
    excess = bound.relu() * tile.valid
    # A sample's negatives are in the bound of each of its pairs, seen from this end and from the other.
    share = 2 * (excess * (push - push_other).sigmoid()).sum(dim=1, keepdim=True)
    slopes = terms.mul_(-share / total).scatter_add_(1, tile.positives, excess)
    return excess.square().sum() / 2, tile.valid.sum(), slopes
