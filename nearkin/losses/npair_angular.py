"""N-pair and angular loss together.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, Eq. 9.

Shape key: N = batch size, D = embedding size.
"""

import math

from torch import Tensor, nn

from nearkin.losses.angular import angular, squared_tangent
from nearkin.losses.npair import tuplet
from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


class NPairAngularLoss(nn.Module):
    """Add a weighted angular loss to the N-pair loss.

    `NPairLoss("tuplet")` + weight · `AngularLoss(alpha)`, on the same embeddings; the sum is not divided by
    1 + weight.

    Args:
        alpha: Upper bound of the angle in degrees, in (0, 90). The paper reports 36 to 55 as safe.
        weight: λ in Eq. 9, at least 0.
        normalize: Put the embeddings on the unit sphere first. The paper does not.
        chunk_size: Rows of the matrix of pairs in memory at a time, about, but whole classes; None for all. The result
            is the same.

    Raises:
        ValueError: alpha is outside (0, 90), or weight is negative or not finite; chunk_size is below 1.
    """

    def __init__(
        self,
        alpha: float = 45.0,
        weight: float = 2.0,
        normalize: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, got {weight}")
        self.alpha = alpha
        self.tan2 = squared_tangent(alpha)
        self.weight = weight
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        batch = check_pairs(embeddings, labels, normalize=self.normalize)
        return npair_angular(batch, self.tan2, self.weight, chunk_size=self.chunk_size)


@pair_loss("inner products", whole_classes=True)
def npair_angular(products: Tensor, tile: Tile, tan2: float, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of Eq. 9 over ordered positive pairs, their number, and its slopes by the products (B, M)."""
    value, _, slopes = angular(products, tile, tan2)  # over unordered pairs: half as many
    npair_value, ordered_pairs, npair_slopes = tuplet(products, tile)
    return npair_value + 2 * weight * value, ordered_pairs, npair_slopes.add_(slopes, alpha=2 * weight)
