"""N-pair and angular loss together.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, Eq. 9.

Shape key: N = batch size, D = embedding size.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.angular import angular, squared_tangent
from nearkin.losses.npair import tuplet
from nearkin.losses.pairs import check_batch, gram


class NPairAngularLoss(nn.Module):
    """Add a weighted angular loss to the N-pair loss.

    `NPairLoss("tuplet")` + weight · `AngularLoss(alpha)`, on the same embeddings; the sum is not divided by
    1 + weight.

    Args:
        alpha: Upper bound of the angle in degrees, in (0, 90). The paper reports 36 to 55 as safe.
        weight: λ in Eq. 9, at least 0.
        normalize: Put the embeddings on the unit sphere first. The paper does not.

    Raises:
        ValueError: alpha is outside (0, 90), or weight is negative or not finite.
    """

    def __init__(self, alpha: float = 45.0, weight: float = 2.0, normalize: bool = False) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, got {weight}")
        self.alpha = alpha
        self.tan2 = squared_tangent(alpha)
        self.weight = weight
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        products = gram(x)
        return tuplet(products, labels) + self.weight * angular(products, labels, self.tan2)
