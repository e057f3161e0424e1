"""Margin loss with distance-weighted negatives.

Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017.

Shape key: N = batch size, D = embedding size, C = number of classes, K = size of the largest class in the batch.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import FLOOR, Batch, check_chunk_size, check_classes, check_pairs, known_gradient, lowest
from nearkin.losses.tiles import Pairs, Tile

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
        chunk_size: Rows of the matrix of pairs in memory at a time; None for all. The result is the same, but
            for the draw on a GPU.

    Raises:
        ValueError: alpha is negative, beta not above 0, one of them not finite, or num_classes below 1; a label is
            outside [0, num_classes); chunk_size is below 1.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 1.2,
        num_classes: int | None = None,
        normalize: bool = True,
        chunk_size: int | None = None,
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
        if isinstance(self.beta, Tensor):
            check_classes(labels, len(self.beta))
            boundary = self.beta.to(batch.x.dtype)[labels.long()]  # (N,), of the anchor
        else:
            boundary = batch.x.new_full((len(labels),), self.beta)
        if not len(labels) or (gallery is not None and not len(gallery)):
            return (0 * batch.x).sum() + (0 * boundary).sum()
        return margin(
            batch.x, boundary, *batch.sides, labels, gallery_labels, self.alpha, self.normalize, self.chunk_size
        )


@partial(known_gradient, tags=torch.Tag.nondeterministic_seeded)
def margin(
    x: Tensor,
    boundary: Tensor,
    moving: Tensor | None,
    fixed: Tensor | None,
    labels: Tensor,
    gallery_labels: Tensor | None,
    alpha: float,
    on_sphere: bool,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean of the terms above 0, and its gradients by x (N, D), boundary (N,) and the moving gallery."""
    gallery = fixed if moving is None else moving
    pairs = Pairs(Batch(x, labels, gallery, gallery_labels), "distances", "moves" if fixed is None else "constant")
    order = pairs.order if pairs.alone else torch.arange(len(x), device=x.device)
    boundary = boundary[order, None]
    norm, other_norm = (torch.linalg.vector_norm(each, dim=1).clamp_min(FLOOR) for each in (pairs.x, pairs.gallery))

    value, terms, boundary_gradient = x.new_zeros(()), x.new_zeros(()), torch.zeros_like(boundary)
    for tile in pairs.tiles(chunk_size):
        distance, beta = tile.matrix, boundary[tile.rows]
        on_unit_sphere = distance.clone()
        if not on_sphere:  # |a - b|² = (|a| - |b|)² + |a| |b| (their distance after normalization)²
            gap, product = norm[tile.rows, None] - other_norm, norm[tile.rows, None] * other_norm
            on_unit_sphere.square_().sub_(gap.square_()).div_(product).clamp_min_(0).sqrt_()
        chance = torch.rand(len(distance), pairs.largest, device=x.device).to(x.dtype)  # for each possible positive
        drawn, counts = draw_negatives(on_unit_sphere, tile, x.shape[1], chance)
        pull = (distance.gather(1, tile.positives) - (beta - alpha)).relu_() * tile.valid
        push = (beta + alpha - distance.gather(1, drawn)).relu_() * counts
        value += pull.sum() + push.sum()
        pulled, pushed = pull.sign_(), push.sign_()  # 1 and 0
        terms += pulled.sum() + pushed.sum()
        boundary_gradient[tile.rows] = (pushed.sum(dim=1) - pulled.sum(dim=1))[:, None]
        slopes = torch.zeros_like(distance).scatter_add_(1, tile.positives, pulled).scatter_add_(1, drawn, -pushed)
        pairs.push(tile, slopes)
    terms.clamp_min_(1)
    by_x, by_gallery = pairs.gradients(terms)
    by_boundary = torch.empty_like(boundary).index_copy_(0, order, boundary_gradient / terms).squeeze(1)
    return value / terms, by_x, by_boundary, by_gallery


def draw_negatives(distance: Tensor, tile: Tile, size: int, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Draw negatives for each query, as many as it has positives.

    Args:
        distance: Between unit vectors (B, M); overwritten.
        tile: Who is whose positive.
        size: D, on which the density of distances depends.
        chance: Uniform random numbers in [0, 1) (B, P or more), which decide.

    Returns:
        Columns (B, P), and which of them count (B, P): as many as there are positives, none without negatives.
    """
    # log 1 / q is (2 - D) log d + (3 - D) / 2 log(1 - d² / 4) but for a constant: -log d, plus the logarithm of one
    # product. At D = 512 the weights of a row span hundreds of powers of ten.
    near = distance.clamp(NEAREST, FARTHEST)
    square = near.square()
    logits = square.addcmul_(square, square, value=-0.25).log_().mul_((3 - size) / 2)
    too_far = distance.neg_().add_(FARTHEST).clamp_max_(0).sign_()  # -1 and 0
    logits.add_(too_far, alpha=-lowest(logits))  # if none is within, they all weigh equally
    peak = tile.set_members_(logits, -torch.inf).amax(dim=1, keepdim=True).clamp_min_(lowest(logits))
    weight = logits.sub_(peak).clamp_min_(-80).exp_().div_(near)
    reached = torch.threshold_(weight, 1e-34, 0.0).cumsum(dim=1)  # (B, M); e^-80 is 2e-35
    target = chance[:, : tile.positives.shape[1]] * reached[:, -1:]  # below the last, as chance is below 1
    # The first beyond the target: never one of weight 0.
    drawn = torch.searchsorted(reached, target, right=True).clamp_(max=distance.shape[1] - 1)
    return drawn, tile.valid & (tile.negatives > 0)
