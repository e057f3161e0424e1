"""DAMLRRM: asymmetric metric learning between a neat and a shuffled stream.

Xu et al., "Deep Asymmetric Metric Learning via Rich Relationship Mining", CVPR 2019.

Shape key: N = batch size, B = N / 2 = size of a stream's half, D = embedding size, M = B or N.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, distances, known_gradient, on_sphere, same_class
from nearkin.losses.spanning_tree import spanning_trees


class DAMLRRMLoss(nn.Module):
    """Keep positives within alpha - beta and negatives beyond alpha + beta, in one stream and between two.

    The batch is two halves: the neat stream, several pictures of each of a few classes, then the shuffled stream,
    random pictures. No picture may be in it twice (`TwoStreamSampler` sees to that): the loss, which sees embeddings
    alone, would take a picture for its own nearest positive.

    With d the Euclidean distance, a positive pair costs max(0, d - (alpha - beta))² and a negative pair
    max(0, alpha + beta - d)². The loss is L_g + L_s, each the sum over its pairs divided by the number of those that
    cost anything, or by 1 where none does:

    - L_g: the neat half's negative pairs, and of its positive pairs the edges of a minimum spanning tree of each class.
    - L_s: all negative pairs of a shuffled and a neat sample, and each shuffled sample with the nearest neat one of its
      class, if there is one. Shuffled samples are not compared with each other.

    Which pairs are edges or nearest is held constant. A negative at d = 0 costs most, and its gradient is 0 for want
    of a direction. O(N² D) time and O(N²) memory.

    Args:
        alpha: Middle of the gap, as a distance. The paper's 30 belongs to the distances of its network.
        beta: Half the width of the gap, in [0, alpha).
        positives: "tree", or "all" for all positive pairs of the neat half (the paper's Full PPs).
        streams: "both"; "neat" for L_g alone (the paper's OURS2); "shuffled" for L_s alone (OURS1). The batch is two
            halves in any case.
        normalize: Put the embeddings on the unit sphere first, where distances end at 2. The paper does not.
        relative: For networks of other distances. alpha and beta are multiples of the mean distance between negatives
            in the first batch that has any, as 1 and 0.02; the loss's state_dict holds it.

    Raises:
        ValueError: beta is outside [0, alpha), or alpha not finite; alpha is at least 2 with normalize, as a distance,
            which with relative shows when it is measured; positives or streams is unknown; the batch is odd.
    """

    unit: Tensor

    def __init__(
        self,
        alpha: float = 30.0,
        beta: float = 0.5,
        positives: Literal["tree", "all"] = "tree",
        streams: Literal["both", "neat", "shuffled"] = "both",
        normalize: bool = False,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= beta < alpha < math.inf:
            raise ValueError(f"beta must be in [0, alpha={alpha}), and alpha finite, got {beta}")
        if normalize and not relative and alpha >= 2:
            raise ValueError(
                f"alpha must be below 2 with normalize=True, for distances on the unit sphere end at 2, got {alpha}: "
                "lower alpha, or leave the embeddings as they are with normalize=False"
            )
        if positives not in ("tree", "all"):
            raise ValueError(f'positives must be "tree" or "all", got {positives!r}')
        if streams not in ("both", "neat", "shuffled"):
            raise ValueError(f'streams must be "both", "neat" or "shuffled", got {streams!r}')
        self.alpha, self.beta = alpha, beta
        self.positives, self.streams = positives, streams
        self.normalize = normalize
        self.relative = relative
        self._checked = not (normalize and relative)  # whether alpha is known to be a distance on the unit sphere
        self.register_buffer("unit", torch.zeros(()) if relative else None)  # 0 until it is measured

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,), neat half first, to a scalar, 0 where nothing is out of place."""
        x = check_batch(embeddings, labels)
        if len(x) % 2:
            raise ValueError(
                "the batch must be two equal halves, the neat stream and then the shuffled one, "
                f"got {len(x)} samples: pass an even number"
            )
        if self.normalize:
            x = on_sphere(x)
        if self.streams == "neat":
            x = x[: len(x) // 2]
        distance = distances(x)  # (M, M)
        if not self.relative:
            return self._compare(distance, labels)
        unit = self._measure(distance.detach(), labels)
        return self._compare(distance / unit, labels) * unit**2  # as alpha * unit and beta * unit would give

    def _compare(self, distance: Tensor, labels: Tensor) -> Tensor:
        half = len(labels) // 2
        loss = distance.new_zeros(())
        if self.streams != "shuffled":
            within = distance[:half, :half]
            loss = loss + neat(within, labels[:half], self.alpha, self.beta, self.positives == "tree")
        if self.streams != "neat":
            across = distance[half:, :half]
            loss = loss + shuffled(across, labels, self.alpha, self.beta)
        return loss

    def _measure(self, distance: Tensor, labels: Tensor) -> Tensor:
        negative = ~same_class(labels[: len(distance)])
        mean = (distance * negative).sum() / negative.sum().clamp_min(1)
        unit = torch.where(self.unit > 0, self.unit, mean.to(self.unit.dtype))
        if self.training:
            if not self._checked and not torch.compiler.is_compiling():
                self._check(float(unit))  # waits for the device, until there was a negative
            self.unit.copy_(unit)
        return torch.where(unit > 0, unit, 1).to(distance.dtype)  # 1 as long as there was no negative

    def _check(self, unit: float) -> None:
        if self.alpha * unit >= 2:
            raise ValueError(
                "alpha must be below 2 with normalize=True, for distances on the unit sphere end at 2, "
                f"got {self.alpha} times {unit:.4g}, the mean distance between negatives in the first batch: "
                f"lower alpha to less than {2 / unit:.4g}"
            )
        self._checked = unit > 0


@known_gradient
def neat(distance: Tensor, labels: Tensor, alpha: float, beta: float, tree: bool) -> tuple[Tensor, Tensor]:
    """Return L_g, and its gradient by the distances (B, B) within the neat half."""
    same = same_class(labels)
    once = torch.ones_like(same).triu_(diagonal=1)  # every pair from one end
    if tree:
        parent = spanning_trees(distance, labels)[:, None]
        positive = torch.zeros_like(same).scatter_(1, parent, True)  # a root's with itself, at 0, costs nothing
    else:
        positive = same & once
    return squared_hinges(distance, positive, ~same & once, alpha, beta)


@known_gradient
def shuffled(distance: Tensor, labels: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return L_s, and its gradient by the distances (B, B) from the shuffled samples to the neat ones.

    The labels (N,) are those of the whole batch.
    """
    same = same_class(labels)[len(distance) :, : len(distance)]
    nearest = distance.masked_fill(~same, torch.inf).argmin(dim=1, keepdim=True)
    positive = torch.zeros_like(same).scatter_(1, nearest, True) & same  # none without a classmate
    return squared_hinges(distance, positive, ~same, alpha, beta)


def squared_hinges(
    distance: Tensor, positive: Tensor, negative: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Return the mean cost of the pairs that cost anything, and its gradient by the distances.

    `positive` and `negative` say which pairs are looked at, booleans of the distances' shape.
    """
    # How far a positive is too far (above 0), a negative too near (below 0).
    too_far = (distance - (alpha - beta)).relu_().mul_(positive)
    excess = too_far.sub_((alpha + beta - distance).relu_().mul_(negative))
    violating = excess.count_nonzero().clamp_min(1)
    return excess.square().sum() / violating, excess.mul_(2).div_(violating)
