"""Angular loss over triplets.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import torch
from torch import Tensor, nn

from nearkin.losses.angular import squared_tangent
from nearkin.losses.pairs import check_chunk_size, check_pairs
from nearkin.losses.tiles import Tile, pair_loss


class AngularHingeLoss(nn.Module):
    """Bound the angle at the negative of every triangle (anchor, positive, negative).

    The mean over all triplets of max(0, |x_a - x_p|² - 4 tan²α |x_n - (x_a + x_p) / 2|²), Eq. 6; its gradient is
    Eq. 7, and 0 at the kink, up to rounding. O(N² (D + K)) time and O(N²) memory.

    Args:
        alpha: Bound on the angle in degrees, in (0, 90). The paper finds 36 to 55 safe.
        normalize: Put the embeddings on the unit sphere first.
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
        return angular_hinge(batch, self.tan2, chunk_size=self.chunk_size)


@pair_loss("squared distances", whole_classes=True)
def angular_hinge(d2: Tensor, tile: Tile, tan2: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of Eq. 6 over triplets, their number, and its slopes by the squared distances (B, M).

    By Apollonius' theorem |x_n - (x_a + x_p) / 2|² = (d²_an + d²_pn) / 2 - d²_ap / 4. So Eq. 6 is
    max(0, (1 + tan²α) d²_ap - 2 tan²α (d²_an + d²_pn)).
    """
    positives, weights = tile.once  # (B, K // 2)
    pull = (1 + tan2) * d2.gather(1, tile.positives)
    negatives = tile.set_members_(d2.mul_(2 * tan2), torch.inf)  # the class: too far to be active

    value, slopes, pulls = d2.new_zeros(()), torch.zeros_like(d2), torch.zeros_like(pull)
    for i, (positive, weight) in enumerate(zip(positives.T, weights.T[..., None], strict=True)):
        hinge = negatives[positive].add_(negatives)  # (B, M)
        hinge = torch.sub(pull[:, i, None], hinge, out=hinge).relu_()
        value += (weight * hinge.sum(dim=1, keepdim=True)).sum()
        active = hinge.sign_().mul_(weight)
        slopes.sub_(active).index_add_(0, positive, active, alpha=-1)
        pulls[:, i, None] = (1 + tan2) * active.sum(dim=1, keepdim=True)
    slopes = slopes.mul_(2 * tan2).scatter_add_(1, tile.positives, pulls)
    return value, (weights * tile.negatives).sum(), slopes
