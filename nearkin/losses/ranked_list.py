"""Ranked list loss.

Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


class RankedListLoss(nn.Module):
    """Pull positives into a hypersphere and push negatives beyond a boundary.

    Each sample is the query once; the other N - 1 samples are its gallery. With d the Euclidean distance to the
    query, its loss is the mean of d - (alpha - margin) over the positives beyond alpha - margin, plus
    negative_weight times the mean of alpha - d over the negatives within alpha, weighted by
    exp(temperature · (alpha - d)). The weights are held constant. A set without members adds 0, and the loss is
    the mean over all N queries (Eq. 8-14). A negative at d = 0 costs most, and its gradient is 0 for want of a
    direction.

    Args:
        alpha: Boundary, as a distance, that negatives are pushed beyond. On the unit sphere distances end at 2.
        margin: Gap between boundaries, in [0, alpha]; positives are pulled within alpha - margin. With margin =
            alpha every positive counts, however near (Table 4).
        temperature: T in Eq. 9, at least 0. 0 weights negatives equally; higher favors hard ones.
        negative_weight: λ in Eq. 13, at least 0.
        symmetric: Move the gallery too. The paper holds it constant: each term moves only its query.
        normalize: Put the embeddings on the unit sphere first, as the paper does.
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same.

    Raises:
        ValueError: margin is outside [0, alpha], or temperature or negative_weight is negative; one is not finite;
            chunk_size is below 1.
    """

    def __init__(
        self,
        alpha: float = 1.2,
        margin: float = 0.4,
        temperature: float = 10.0,
        negative_weight: float = 1.0,
        symmetric: bool = False,
        normalize: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= margin <= alpha < math.inf:
            raise ValueError(f"margin must be in [0, alpha={alpha}], and alpha finite, got {margin}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")
        if not 0 <= negative_weight < math.inf:
            raise ValueError(f"negative_weight must be at least 0 and finite, got {negative_weight}")
        self.alpha, self.margin, self.temperature = alpha, margin, temperature
        self.negative_weight = negative_weight
        self.symmetric = symmetric
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        gallery: Tensor | None = None,
        gallery_labels: Tensor | None = None,
    ) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where nothing is out of place."""
        batch = check_pairs(embeddings, labels, gallery, gallery_labels, normalize=self.normalize)
        numbers = self.alpha, self.margin, self.temperature, self.negative_weight
        # The gallery is held constant (after Eq. 13).
        return ranked_list(batch, *numbers, chunk_size=self.chunk_size, constant=not self.symmetric)


@pair_loss("distances")
def ranked_list(
    distance: Tensor, tile: Tile, alpha: float, margin: float, temperature: float, negative_weight: float
) -> tuple[Tensor, int, Tensor]:
    """Return the sum of Eq. 13 over the queries of a tile, their number, and its slopes by the distances (B, M).

    The weights are held constant.
    """
    # Eq. 8. A query is never its own positive.
    pull = (distance.gather(1, tile.positives) - (alpha - margin)).relu_() * tile.valid  # (B, P)
    push = tile.set_members_((alpha - distance).relu_(), 0)  # (B, M)

    pull_weight = (pull > 0).to(pull.dtype)
    pull_weight.div_(pull_weight.sum(dim=1, keepdim=True).clamp_min_(1))
    # Eq. 9, scaled per row by exp(-T max push): cancels in Eq. 12, cannot overflow.
    push_weight = (push - push.amax(dim=1, keepdim=True)).mul_(temperature).clamp_min_(-80).exp_().mul_(push.sign())
    total = push_weight.sum(dim=1, keepdim=True).clamp_min_(1)

    positive_loss = (pull_weight * pull).sum()  # Eq. 11
    negative_loss = (push.mul_(push_weight).sum(dim=1, keepdim=True) / total).sum()  # Eq. 12
    slopes = push_weight.mul_(-negative_weight / total).scatter_add_(1, tile.positives, pull_weight)
    return positive_loss + negative_weight * negative_loss, len(distance), slopes
