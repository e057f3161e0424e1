"""The loss of an embedding that is made of several.

Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019: each level of the network has a loss of its own.

Shape key: N = batch size, L = number of levels, D = embedding size of one level.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class PerLevelLoss(nn.Module):
    """The sum of L losses, each of one level's embeddings.

    Args:
        losses: One for each level, in the order of the levels, at least one; they share nothing.

    Attributes:
        normalize: Whether the first puts its embeddings on the unit sphere.

    Raises:
        ValueError: There are no losses; the embeddings are not of L levels of one size.
    """

    def __init__(self, losses: Iterable[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        if not len(self.losses):
            raise ValueError("losses must be one for each level, at least one, got none")
        self.normalize = bool(getattr(self.losses[0], "normalize", False))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, L · D), level by level, and class ids (N,) to a scalar."""
        if embeddings.ndim != 2 or embeddings.shape[1] % len(self.losses):
            raise ValueError(
                f"embeddings must be (N, L · D) of {len(self.losses)} levels of one size, "
                f"got shape {tuple(embeddings.shape)}: give one loss for each level"
            )
        levels = embeddings.chunk(len(self.losses), dim=1)
        return torch.stack([loss(level, labels) for loss, level in zip(self.losses, levels, strict=True)]).sum()
