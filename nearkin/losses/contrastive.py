"""Contrastive loss.

Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, Eq. 4.

Shape key: N = batch size, D = embedding size.
"""

import math

from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


class ContrastiveLoss(nn.Module):
    """Pull positives together and push negatives beyond a margin.

    The mean over the N (N - 1) / 2 pairs of the batch of d² / 2 for a positive and max(0, margin - d)² / 2 for a
    negative, d the Euclidean distance. A negative at d = 0 costs most, and its gradient is 0 for want of a
    direction.

    Args:
        margin: Distance, above 0, beyond which a negative costs nothing. On the unit sphere distances end at 2.
        normalize: Put the embeddings on the unit sphere first.
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: margin is not above 0 and finite; chunk_size is below 1.
    """

    def __init__(self, margin: float = 1.0, normalize: bool = True, chunk_size: int | None = None) -> None:
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be above 0 and finite, got {margin}")
        self.margin = margin
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
        return contrastive(batch, self.margin, chunk_size=self.chunk_size)


@pair_loss("distances", mirrored=True)
def contrastive(distance: Tensor, tile: Tile, margin: float) -> tuple[Tensor, int, Tensor]:
    """Return the sum of Eq. 4 over the pairs of a tile, their number, and the sum's slopes by the distances (B, M)."""
    # How far a positive is too far (above 0), a negative too near (below 0).
    excess = distance.clamp_max(margin).sub_(margin)
    tile.set_members_(excess, distance.gather(1, tile.members))
    return excess.square().sum() / 2, len(distance) * tile.others, excess
