"""Triplet loss, over disjoint triplets or over all triplets of the batch.

Schroff et al., "FaceNet", CVPR 2015. T-I, T-II and the equation number are those of Wang et al., "Deep Metric
Learning with Angular Loss", ICCV 2017.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs, may_look
from nearkin.losses.tiles import Tile, pair_loss


class TripletLoss(nn.Module):
    """Keep every negative farther from the anchor than every positive, by a margin.

    The mean over triplets (a, p, n) of max(0, d²_ap - d²_an + margin), Eq. 2, d the Euclidean distance; at the
    kink the gradient is 0. All triplets take O(N² (D + K)) time and O(N²) memory.

    Args:
        margin: Gap between squared distances, at least 0. On the unit sphere squared distances end at 4.
        normalize: Put the embeddings on the unit sphere first.
        disjoint: Use N / 3 triplets, each sample in one (T-I): the batch is the anchors, then their positives,
            then their negatives. Otherwise use all triplets of the labels (T-II).
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: margin is negative or not finite; chunk_size is below 1; with disjoint, the batch is not made of
            such thirds.
    """

    def __init__(
        self,
        margin: float = 0.2,
        normalize: bool = True,
        disjoint: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}")
        self.margin = margin
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)
        self.disjoint = disjoint

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        gallery: Tensor | None = None,
        gallery_labels: Tensor | None = None,
    ) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        batch = check_pairs(embeddings, labels, gallery, gallery_labels, normalize=self.normalize)
        if not self.disjoint:
            return batch_all(batch, self.margin, chunk_size=self.chunk_size)
        if gallery is not None:
            raise ValueError("disjoint triplets lie in one batch, got a gallery: use disjoint=False")
        return disjoint_triplets(*thirds(batch.x, labels), self.margin)


@pair_loss("squared distances")
def batch_all(d2: Tensor, tile: Tile, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of Eq. 2 over all triplets of a tile, their number, and its slopes by (B, M)."""
    thresholds = (d2.gather(1, tile.positives) + margin).masked_fill_(~tile.valid, -torch.inf)  # (B, P)
    negatives = tile.set_members_(d2, torch.inf)  # beyond any threshold

    value, slopes, pulls = d2.new_zeros(()), torch.zeros_like(d2), torch.zeros_like(thresholds)
    for i, threshold in enumerate(thresholds.T[..., None]):
        hinge = (threshold - negatives).relu_()
        value += hinge.sum()
        active = hinge.sign_()  # 1 and 0
        slopes.sub_(active)
        pulls[:, i] = active.sum(dim=1)
    return value, (tile.valid * tile.negatives).sum(), slopes.scatter_add_(1, tile.positives, pulls)


def disjoint_triplets(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return the mean of Eq. 2 over triplets whose members are rows of three matrices (N / 3, D)."""
    d2_positive = (anchor - positive).square().sum(dim=1)
    d2_negative = (anchor - negative).square().sum(dim=1)
    return (d2_positive - d2_negative + margin).relu().sum() / max(len(anchor), 1)


def thirds(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchors, positives and negatives, (N / 3, D) each, of a batch (N, D) in that order.

    Raises:
        ValueError: The batch is not made of such thirds. Labels are looked at where `may_look`.
    """
    if len(labels) % 3:
        raise ValueError(
            "disjoint triplets are a batch of anchors, then positives, then negatives, in equal thirds, "
            f"got {len(labels)} samples: pass a multiple of 3, in the order of DisjointTripletSampler"
        )
    if may_look(labels):
        anchor, positive, negative = labels.reshape(3, len(labels) // 3)
        wrong = int(((anchor != positive) | (anchor == negative)).sum())
        if wrong:
            raise ValueError(
                "disjoint triplets are anchors, then their positives of the same class, then their negatives of "
                f"another, got {wrong} of {len(anchor)} triplets otherwise: put the batch in that order"
            )
    anchors, positives, negatives = x.reshape(3, len(x) // 3, x.shape[1])
    return anchors, positives, negatives
