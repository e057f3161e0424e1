"""Triplet loss with semihard negatives.

Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015, Eq. 3 and 4.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


class SemihardTripletLoss(nn.Module):
    """Keep, for every positive pair, the nearest negative that is beyond the positive away by a margin.

    The mean over ordered positive pairs (a, p), those at 0 included, of max(0, d²_ap - d²_an + margin), d the
    Euclidean distance. The negative n is the one with the smallest d²_an > d²_ap, or, if there is none, the one
    with the largest d²_an. Beyond is by more than four machine epsilons of the anchor's largest d², for rounding alone
    parts duplicates: in float32 a negative as near behind the positive as that is passed over. Of equal negatives
    one receives the gradient; at the kink the gradient is 0. O(N² (D + K)) time and O(N²) memory.

    Args:
        margin: Gap between squared distances, at least 0. On the unit sphere squared distances end at 4.
        normalize: Put the embeddings on the unit sphere first.
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: margin is negative or not finite; chunk_size is below 1.
    """

    def __init__(self, margin: float = 0.2, normalize: bool = True, chunk_size: int | None = None) -> None:
        super().__init__()
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}")
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
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        batch = check_pairs(embeddings, labels, gallery, gallery_labels, normalize=self.normalize)
        return semihard(batch, self.margin, chunk_size=self.chunk_size)


@pair_loss("squared distances")
def semihard(d2: Tensor, tile: Tile, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum over the ordered positive pairs of a tile, their number, and its slopes by (B, M)."""
    eps = torch.finfo(d2.dtype).eps
    rounding = 4 * eps * d2.amax(dim=1, keepdim=True)
    pull = d2.gather(1, tile.positives)  # (B, P)
    farthest = tile.set_members_(d2, -torch.inf).argmax(dim=1, keepdim=True)
    negatives = tile.set_members_(d2, torch.inf)

    value, slopes = d2.new_zeros(()), torch.zeros_like(d2)
    for i, positive in enumerate(tile.positives.T[..., None]):
        d2_positive, counts = pull[:, i, None], tile.valid[:, i, None]  # (B, 1)
        # A duplicate of the positive is as far as the positive; rounding must not take it beyond: by 1.9 eps of the
        # row's largest was seen. Near duplicates of the anchor are known better (`finish_squared_distances_`).
        nearest_beyond = d2_positive + torch.minimum(rounding, 4 * eps**0.5 * d2_positive)
        beyond = torch.threshold_(negatives - nearest_beyond, 0.0, torch.inf)
        gap, nearest = beyond.min(dim=1, keepdim=True)
        negative = torch.where(gap.isinf(), farthest, nearest)
        hinge = d2_positive - negatives.gather(1, negative) + margin  # minus infinity without negatives
        hinge = hinge.relu_().masked_fill_(~counts, 0)
        value += hinge.sum()
        active = hinge.sign_()  # 1 and 0
        slopes.scatter_add_(1, positive, active).scatter_add_(1, negative, -active)
    return value, tile.valid.sum(), slopes
