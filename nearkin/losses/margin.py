"""Margin loss with distance-weighted negatives.

Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017.

Shape key: N = batch size, D = embedding size, C = number of classes, K = size of the largest class in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, check_classes, classmates, distances, same_class

NEAREST = 0.5  # Nearer negatives weigh as if they were here: random points are so rare there that weights explode.
FARTHEST = 1.4  # Negatives beyond are not drawn: with the default alpha and beta they cost nothing.


class MarginLoss(nn.Module):
    """Pull positives within a boundary, and push as many negatives, drawn from all distances alike, beyond it.

    The sum of max(0, d - beta + alpha) over ordered positive pairs and of max(0, beta - d + alpha) over drawn
    negative pairs, divided by the number of terms above 0; d is the Euclidean distance. An anchor draws one negative
    for each of its positives, with replacement; where the batch has none for it, it only pulls. A negative at d = 0
    costs most, and its gradient is 0 for want of a direction.

    A negative is drawn with weight 1 / q(d), q the density of the distance between two random points of the unit
    sphere. Distances below 0.5 weigh as 0.5, and negatives beyond 1.4 are left out; an anchor that has no others
    draws from all of them equally. As q belongs to the sphere, the draw goes by the distances between *normalized*
    embeddings even with normalize=False. It is held constant, and uses torch's default generator: seed that for a
    repeatable value.

    Args:
        alpha: Half the gap, at least 0, about the boundary: positives are pulled within beta - alpha, negatives
            pushed beyond beta + alpha.
        beta: Boundary, as a distance above 0. On the unit sphere distances end at 2.
        num_classes: C. If given, every class of anchors has a boundary of its own: a parameter (C,) that starts at
            beta. Labels are then class ids from 0 to C - 1.
        normalize: Put the embeddings on the unit sphere first.

    Raises:
        ValueError: alpha is negative, beta not above 0, one of them not finite, or num_classes below 1; a label is
            outside [0, num_classes).
    """

    def __init__(
        self, alpha: float = 0.2, beta: float = 1.2, num_classes: int | None = None, normalize: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be at least 0 and finite, got {alpha}")
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be above 0 and finite, got {beta}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None for one fixed beta, got {num_classes}")
        self.alpha = alpha
        self.beta = beta if num_classes is None else nn.Parameter(torch.full((num_classes,), float(beta)))
        self.normalize = normalize

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar, 0 where nothing is out of place."""
        x = check_batch(embeddings, labels)
        boundary: float | Tensor = self.beta
        if isinstance(boundary, Tensor):
            check_classes(labels, len(boundary))
            boundary = boundary[labels.long(), None]  # (N, 1), of the anchor
        if self.normalize:
            x = F.normalize(x)
        distance = distances(x)  # (N, N), anchor by other
        on_sphere = distance.detach() if self.normalize else distances(F.normalize(x.detach()))
        times = draw_pairs(on_sphere, labels, x.shape[1])

        # A pair that counts k times costs k times as much.
        hinge = (self.alpha * times.abs() + times * (distance - boundary)).relu()
        terms = (times.abs() * (hinge > 0)).sum().clamp_min(1)
        value: Tensor = hinge.sum() / terms
        return value


@torch.library.custom_op("nearkin::draw_pairs", mutates_args=(), tags=torch.Tag.nondeterministic_seeded)
def draw_pairs(distance: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return how often each ordered pair counts, by the sign of its term, as (N, N).

    1 for a positive pair, -k for a negative that its anchor drew k times, else 0. As an operator of its own this may
    have K in its shapes, and draws the same, under `torch.compile`.

    Args:
        distance: Distances between unit vectors (N, N).
        labels: Class ids (N,).
        size: D, on which the density of distances depends.
    """
    times = torch.zeros_like(distance)
    if len(times) < 2:
        return times
    positives, valid = classmates(labels)  # (N, K - 1)
    if not positives.shape[1]:
        return times
    times.scatter_add_(1, positives, valid.to(times.dtype))

    # log 1 / q, but for a constant. At D = 512 the weights of a row span hundreds of powers of ten.
    near = distance.clamp(NEAREST, FARTHEST)
    log_weight = (2 - size) * near.log() - (size - 3) / 2 * (1 - near.square() / 4).log()
    negative = ~same_class(labels)
    within = negative & (distance <= FARTHEST)
    # If none is within, they all weigh as the farthest: equally.
    candidates = torch.where(within.any(dim=1, keepdim=True), within, negative)
    has_negatives = negative.any(dim=1, keepdim=True)
    weight = log_weight.masked_fill_(~candidates, -torch.inf).softmax(dim=1).masked_fill_(~has_negatives, 1)
    drawn = weight.multinomial(positives.shape[1], replacement=True)  # (N, K - 1)
    return times.scatter_add_(1, drawn, -(valid & has_negatives).to(times.dtype))


@draw_pairs.register_fake
def _(distance: Tensor, labels: Tensor, size: int) -> Tensor:
    return torch.empty_like(distance)
