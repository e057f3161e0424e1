"""Angular loss over triplets.

Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017. Equation numbers are that paper's.

Shape key: N = batch size, D = embedding size, K = size of the largest class in the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.angular import squared_tangent
from nearkin.losses.pairs import (
    check_batch,
    classmates_once,
    known_gradient,
    same_class,
    squared_distances,
)


class AngularHingeLoss(nn.Module):
    """Bound the angle at the negative of every triangle (anchor, positive, negative).

    The mean over all triplets of max(0, |x_a - x_p|² - 4 tan²α |x_n - (x_a + x_p) / 2|²), Eq. 6; its gradient is
    Eq. 7, and 0 at the kink. O(N² (D + K)) time and O(N²) memory.

    Args:
        alpha: Bound on the angle in degrees, in (0, 90). The paper finds 36 to 55 safe.
        normalize: Put the embeddings on the unit sphere first.

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
        return angular_hinge(squared_distances(x), labels, self.tan2)


@known_gradient
def angular_hinge(d2: Tensor, labels: Tensor, tan2: float) -> tuple[Tensor, Tensor]:
    """Return the mean of Eq. 6 over triplets, and its gradient by the squared distances (N, N).

    By Apollonius' theorem |x_n - (x_a + x_p) / 2|² = (d²_an + d²_pn) / 2 - d²_ap / 4. So Eq. 6 is
    max(0, (1 + tan²α) d²_ap - 2 tan²α (d²_an + d²_pn)).
    """
    positives, weights = classmates_once(labels)  # (N, K // 2)
    weights = weights.to(d2.dtype)
    same = same_class(labels)
    negatives = (2 * tan2 * d2).masked_fill_(same, torch.inf)  # too far to be active

    total, gradient = d2.new_zeros(()), torch.zeros_like(d2)
    for positive, weight in zip(positives.T, weights.T[..., None], strict=True):
        column = positive[:, None]
        hinge = negatives[positive].add_(negatives)  # (N, N)
        hinge = torch.sub((1 + tan2) * d2.gather(1, column), hinge, out=hinge).relu_()
        total += (weight * hinge.sum(dim=1, keepdim=True)).sum()
        active = hinge.gt_(0).mul_(weight)
        gradient.sub_(active, alpha=2 * tan2).index_add_(0, positive, active, alpha=-2 * tan2)
        gradient.scatter_add_(1, column, (1 + tan2) * active.sum(dim=1, keepdim=True))
    triplets = (weights.sum(dim=1) * (~same).sum(dim=1)).sum().clamp_min(1)
    return total / triplets, gradient.div_(triplets)
