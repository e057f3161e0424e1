"""Angular loss over a batch.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_chunk_size, check_pairs, exponentials_, lowest
from nearkin.losses.tiles import Tile, pair_loss


class AngularLoss(nn.Module):
    """Bound the angle at the negative of every triangle (anchor, positive, negative), all negatives at once.

    The mean over positive pairs (a, p) of log(1 + Σ_n exp f), Eq. 8, n over all samples of other classes, where
    f = 4 tan²α (x_a + x_p)·x_n - 2 (1 + tan²α) x_a·x_p. On the unit sphere that is Eq. 6 but for a constant. It
    is the same for (p, a), so each pair counts once. O(N² (D + K)) time and O(N²) memory.

    Args:
        alpha: Bound on the angle in degrees, in (0, 90). The paper finds 36 to 55 safe.
        normalize: Put the embeddings on the unit sphere first. Eq. 8 assumes unit length, yet the paper's
            experiments normalize nothing: its configurations set False.
        chunk_size: Rows of the matrix of pairs in memory at a time, about, but whole classes; None for all. The result
            is the same.

    Raises:
        ValueError: alpha is outside (0, 90); chunk_size is below 1.
    """

    def __init__(self, alpha: float = 45.0, normalize: bool = True, chunk_size: int | None = None) -> None:
        super().__init__()
        self.tan2 = squared_tangent(alpha)
        self.alpha = alpha
        self.normalize = normalize
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where there is no triplet."""
        batch = check_pairs(embeddings, labels, normalize=self.normalize)
        return angular_loss(batch, self.tan2, chunk_size=self.chunk_size)


def squared_tangent(alpha: float) -> float:
    """Return tan² of an angle in degrees; ValueError outside (0, 90)."""
    if not 0 < alpha < 90:
        raise ValueError(f"alpha must be in (0, 90) degrees, got {alpha}")
    return math.tan(math.radians(alpha)) ** 2


def angular(products: Tensor, tile: Tile, tan2: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of Eq. 8 over unordered positive pairs, their number, and its slopes by the products (B, M)."""
    positives, weights = tile.once  # (B, K // 2)
    negatives = tile.set_members_(4 * tan2 * products, lowest(products))  # (B, M)
    pull = 2 * (1 + tan2) * products.gather(1, tile.positives)

    # Σ_n exp(u_an + u_pn) over all pairs is a matrix product of exponentials too, but one that underflows where
    # the rows of a and p peak at different n. Adding first, for one classmate p of every a at a time, is exact.
    value, slopes, pulls = products.new_zeros(()), torch.zeros_like(products), torch.zeros_like(pull)
    for i, (positive, weight) in enumerate(zip(positives.T, weights.T[..., None], strict=True)):
        terms, total, push = exponentials_(negatives[positive].add_(negatives))  # (B, M), (B, 1), (B, 1)
        exponent = push - pull[:, i, None]
        value += (weight * F.softplus(exponent)).sum()
        slope = weight * exponent.sigmoid()
        share = terms.mul_(4 * tan2 * slope / total)  # by x_a·x_n, and as much by x_p·x_n
        slopes.add_(share).index_add_(0, positive, share)
        pulls[:, i, None] = -2 * (1 + tan2) * slope
    return value, weights.sum(), slopes.scatter_add_(1, tile.positives, pulls)


angular_loss = pair_loss("inner products", whole_classes=True)(angular)
