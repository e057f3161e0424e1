"""Angular loss over a batch.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import (
    check_batch,
    classmates_once,
    gram,
    known_gradient,
    lowest,
    same_class,
    softmax_,
)


class AngularLoss(nn.Module):
    """Bound the angle at the negative of every triangle (anchor, positive, negative), all negatives at once.

    The mean over positive pairs (a, p) of log(1 + Σ_n exp f), Eq. 8, n over all samples of other classes, where
    f = 4 tan²α (x_a + x_p)·x_n - 2 (1 + tan²α) x_a·x_p. On the unit sphere that is Eq. 6 but for a constant. It
    is the same for (p, a), so each pair counts once. O(N² (D + K)) time and O(N²) memory.

    Args:
        alpha: Bound on the angle in degrees, in (0, 90). The paper finds 36 to 55 safe.
        normalize: Put the embeddings on the unit sphere first. Eq. 8 assumes unit length, yet the paper's
            experiments normalize nothing: its configurations set False.

    Raises:
        ValueError: alpha is outside (0, 90).
    """

    def __init__(self, alpha: float = 45.0, normalize: bool = True) -> None:
        super().__init__()
        self.tan2 = squared_tangent(alpha)
        self.alpha = alpha
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        x = check_batch(embeddings, labels)
        if self.normalize:
            x = F.normalize(x)
        return angular(gram(x), labels, self.tan2)


def squared_tangent(alpha: float) -> float:
    """Return tan² of an angle in degrees; ValueError outside (0, 90)."""
    if not 0 < alpha < 90:
        raise ValueError(f"alpha must be in (0, 90) degrees, got {alpha}")
    return math.tan(math.radians(alpha)) ** 2


@known_gradient
def angular(products: Tensor, labels: Tensor, tan2: float) -> tuple[Tensor, Tensor]:
    """Return the mean of Eq. 8 over positive pairs, and its gradient by the inner products (N, N)."""
    positives, weights = classmates_once(labels)  # (N, K // 2)
    weights = weights.to(products.dtype)
    negatives = (4 * tan2 * products).masked_fill_(same_class(labels), lowest(products))

    # Σ_n exp(u_an + u_pn) over all pairs is a matrix product of exponentials too, but one that underflows where
    # the rows of a and p peak at different n. Adding first, for one classmate p of every a at a time, is exact.
    total, gradient = products.new_zeros(()), torch.zeros_like(products)
    for positive, weight in zip(positives.T, weights.T[..., None], strict=True):
        column = positive[:, None]
        softmax, push = softmax_(negatives[positive].add_(negatives))  # (N, N), (N, 1)
        exponent = push - 2 * (1 + tan2) * products.gather(1, column)
        total += (weight * F.softplus(exponent)).sum()
        slope = weight * exponent.sigmoid()
        share = softmax.mul_(4 * tan2 * slope)  # by x_a·x_n, and as much by x_p·x_n
        gradient.add_(share).index_add_(0, positive, share)
        gradient.scatter_add_(1, column, -2 * (1 + tan2) * slope)
    pairs = weights.sum().clamp_min(1)
    return total / pairs, gradient.div_(pairs)
