"""Ranked list loss.

Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, classmates, distances, known_gradient, same_class


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

    Raises:
        ValueError: margin is outside [0, alpha], or temperature or negative_weight is negative; one is not finite.
    """

    def __init__(
        self,
        alpha: float = 1.2,
        margin: float = 0.4,
        temperature: float = 10.0,
        negative_weight: float = 1.0,
        symmetric: bool = False,
        normalize: bool = True,
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

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where nothing is out of place."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        # The gallery is held constant (after Eq. 13).
        distance = distances(x, constant_gallery=not self.symmetric)  # (N, N), query by gallery
        return ranked_list(distance, labels, self.alpha, self.margin, self.temperature, self.negative_weight)


@known_gradient
def ranked_list(
    distance: Tensor, labels: Tensor, alpha: float, margin: float, temperature: float, negative_weight: float
) -> tuple[Tensor, Tensor]:
    """Return Eq. 14, and its gradient by the distances (N, N) with the weights held constant."""
    # Eq. 8. A query is never its own positive.
    positives, valid = classmates(labels)  # (N, K - 1)
    pull = (distance.gather(1, positives) - (alpha - margin)).relu_() * valid
    push = (alpha - distance).relu_().masked_fill_(same_class(labels), 0)  # (N, N)

    pull_weight = (pull > 0).to(pull.dtype)
    pull_weight.div_(pull_weight.sum(dim=1, keepdim=True).clamp_min_(1))
    # Eq. 9, scaled per row by exp(-T max push): cancels in Eq. 12, cannot overflow.
    push_weight = (push - push.amax(dim=1, keepdim=True)).mul_(temperature).exp_().mul_(push > 0)
    push_weight.div_(push_weight.sum(dim=1, keepdim=True).clamp_min_(1))

    positive_loss = (pull_weight * pull).sum(dim=1)  # Eq. 11
    negative_loss = (push_weight * push).sum(dim=1)  # Eq. 12
    value = (positive_loss + negative_weight * negative_loss).mean()  # Eq. 13-14
    gradient = push_weight.mul_(-negative_weight).scatter_add_(1, positives, pull_weight)
    return value, gradient.div_(len(distance))
