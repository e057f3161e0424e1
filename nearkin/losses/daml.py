"""DAML: deep adversarial metric learning, over triplets with a synthetic negative.

Duan et al., "Deep Adversarial Metric Learning", CVPR 2018; "AML" in the tables of DAMLRRM (CVPR 2019).

Shape key: N = batch size, T = N / 3 = number of triplets, D = embedding size.
"""

import math

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch, inner_products, on_sphere
from nearkin.losses.triplet import disjoint_triplets, thirds

HIDDEN = 512  # units of the generator's two hidden layers


class DAMLLoss(nn.Module):
    """Learn from negatives that a generator makes hard, and make the generator hard for what is learned.

    The batch is triplets as for `TripletLoss(disjoint=True)`: anchors a, then positives p, then negatives n, on the
    unit sphere as in the authors' code. The generator, a network of three layers, maps (a, p, n) to a synthetic
    negative s. With d² squared distances and means over the T triplets, the loss is
    J_hard + λ₁ J_reg + λ₂ J_adv + λ J_m:

    - J_hard = mean d²(s, a): near the anchor;
    - J_reg = mean d²(s, n): yet of the negative's class;
    - J_adv = mean max(0, d²(s, a) - d²(p, a) - margin): misplaced by the embedding as it is;
    - J_m = mean max(0, d²(p, a) - d²(s, a) + margin): the triplet loss, with s for n.

    One backward serves both players. The first three terms move the generator, with the embeddings held constant; J_m
    moves the embeddings, also through what the generator makes of them, with the generator held constant. The paper
    minimizes the sum over both; the authors' code makes s of features and measures J_adv and J_m behind two further
    layers. Here there is one embedding, and in it that minimum is none worth having: with weights of 1, J_hard + J_m
    is mean (d²(p, a) + margin) wherever J_m is active, which falls as all embeddings meet in one point.

    In the first `pretraining` steps there is no generator: the loss is the triplet loss on the real negatives. Steps
    are counted in a buffer, which the loss's state_dict holds, by the forward passes in training mode.

    Args:
        embedding_size: D.
        margin: Gap between squared distances, at least 0. On the unit sphere they end at 4.
        weights: (λ, λ₁, λ₂) of J_m, J_reg and J_adv, each at least 0. All 1 in the authors' code; the paper is
            said to have (1, 1, 50), which could not be checked.
        pretraining: Steps of the first phase. The authors' code spends a fifth of its 6,000 steps on it, and 200 is a
            fifth of a run of 1,000.

    Raises:
        ValueError: embedding_size is below 1, pretraining negative, margin or a weight negative or not finite, or there
            are not three weights; the batch is not made of thirds, or its embeddings are not of embedding_size.
    """

    steps: Tensor

    def __init__(
        self,
        embedding_size: int,
        margin: float = 1.0,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        pretraining: int = 200,
    ) -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {embedding_size}")
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin must be at least 0 and finite, got {margin}")
        if len(weights) != 3 or not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(
                f"weights must be three finite numbers of at least 0, of J_m, J_reg and J_adv, got {weights}"
            )
        if pretraining < 0:
            raise ValueError(f"pretraining must be at least 0 steps, got {pretraining}")
        self.embedding_size = embedding_size
        self.margin = margin
        self.weights = weights
        self.pretraining = pretraining
        self.normalize = True
        self.generator = nn.Sequential(
            nn.Linear(3 * embedding_size, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, embedding_size),
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,), in thirds, to a scalar, 0 for an empty batch."""
        x = check_batch(embeddings, labels)
        if x.shape[1] != self.embedding_size:
            raise ValueError(
                f"embeddings must be of embedding_size={self.embedding_size}, got {x.shape[1]}: "
                "set embedding_size to the length of the embeddings"
            )
        triplets = thirds(on_sphere(x), labels)
        alone = self.steps < self.pretraining
        if self.training:
            self.steps += 1
        # One graph for both phases: it cannot branch on a count.
        if torch.compiler.is_compiling():  # pragma: no cover - torch.compile reads it, Python does not run it
            return torch.where(alone, disjoint_triplets(*triplets, self.margin), self._adversarial(*triplets))
        return disjoint_triplets(*triplets, self.margin) if alone else self._adversarial(*triplets)

    def _adversarial(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        of_metric, of_reg, of_adv = self.weights
        synthetic = self._generate(anchor, positive, negative, constant=True)
        metric = disjoint_triplets(anchor, positive, synthetic, self.margin)  # J_m

        anchor, positive, negative = anchor.detach(), positive.detach(), negative.detach()
        synthetic = self._generate(anchor, positive, negative)
        hard = squared_distance(synthetic, anchor)
        reg = squared_distance(synthetic, negative)
        adv = (hard - squared_distance(positive, anchor) - self.margin).relu()
        generator = (hard + of_reg * reg + of_adv * adv).sum() / max(len(anchor), 1)
        return generator + of_metric * metric

    def _generate(self, anchor: Tensor, positive: Tensor, negative: Tensor, constant: bool = False) -> Tensor:
        """Return the synthetic negatives (T, D), in the precision of the embeddings."""
        x = torch.cat([anchor, positive, negative], dim=1)  # (T, 3 D)
        for layer in self.generator:
            if isinstance(layer, nn.Linear):
                weight, bias = (each.detach() if constant else each for each in (layer.weight, layer.bias))
                x = inner_products(x, weight.to(x.dtype)) + bias.to(x.dtype)
            else:
                x = layer(x)
        return x


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared Euclidean distances (T,) between the rows of x and y (T, D)."""
    return (x - y).square().sum(dim=1)
