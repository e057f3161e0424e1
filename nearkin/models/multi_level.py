"""Embeddings from several depths of one backbone, each depth with a head of its own.

Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019: three heads L, M, H on the outputs of inception
3c, 4e and 5b of BN-Inception. What the paper leaves open follows the authors' own network
(https://github.com/XinshaoAmosWang/Ranked-List-Loss-for-DML): pooling windows that reach over the edge count, since
Caffe rounds sizes up, and convolutions of the heads have no bias either.

Shape key: N = batch size, S = side of the pictures, L = number of levels, C = channels and h = side of the feature map
at a level, D = embedding size of one level.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nearkin.errors import InputError, nearest
from nearkin.models.embedder import Pool
from nearkin.models.modes import evaluating
from nearkin.models.pixels import Pixels


class MultiLevelEmbedder(nn.Module):
    """Pictures to the raw embeddings of L depths, side by side.

    The backbone's last stage has the head H, global pooling and one linear layer; every earlier one has the head that
    the paper gives L and M. Heads share no weights.

    Args:
        backbone: Module with `mean` and `std`, the names of its `stages`, shallow to deep, and
            `features(pixels, stages)`, which maps normalised pixels (N, 3, S, S) to the feature maps (N, C, h, h) of
            the stages asked for, in that order.
        levels: Stages that get a head, in the order of their embeddings.
        embedding_size: D.
        side: S; the heads of earlier stages fit this size alone.
        pool: How the last stage's feature map becomes one vector.

    Raises:
        InputError: No level, one named twice, or one that the backbone does not have.
    """

    def __init__(
        self, backbone: nn.Module, levels: Sequence[str], embedding_size: int, side: int, pool: Pool = "avg"
    ) -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {embedding_size}")
        stages: tuple[str, ...] = cast(Any, backbone).stages
        for level in levels:
            if level not in stages:
                raise InputError(f"levels: the backbone has no stage {level!r}; {nearest(level, stages)}")
        if not levels or len(set(levels)) < len(levels):
            raise InputError(f"levels should name one or more stages, each once, got {', '.join(levels) or 'none'}")
        self.pixels = Pixels(backbone)
        self.backbone = backbone
        self.levels = tuple(levels)
        with evaluating(backbone):
            maps = cast(Any, backbone).features(torch.zeros(1, 3, side, side), self.levels)
        self.head = nn.ModuleList(
            final_head(found.shape[1], embedding_size, pool)
            if level == stages[-1]
            else intermediate_head(found.shape[1], found.shape[2], embedding_size)
            for level, found in zip(self.levels, maps, strict=True)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (N, 3, S, S), RGB in 0 to 255, to embeddings (N, L · D), level by level."""
        return self.embed_maps(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature maps (N, C, h, h) of the levels, in their order, of pictures (N, 3, S, S)."""
        return list(cast(Any, self.backbone).features(self.pixels(images), self.levels))

    def embed_maps(self, maps: list[Tensor]) -> Tensor:
        """Map what `maps` returns to embeddings (N, L · D)."""
        return torch.cat([head(found) for head, found in zip(self.head, maps, strict=True)], dim=1)


def final_head(channels: int, embedding_size: int, pool: Pool) -> nn.Sequential:
    """H: (N, C, h, h) -> (N, D)."""
    pooling = nn.AdaptiveAvgPool2d(1) if pool == "avg" else nn.AdaptiveMaxPool2d(1)
    return nn.Sequential(pooling, nn.Flatten(), nn.Linear(channels, embedding_size, bias=False))


def intermediate_head(channels: int, side: int, embedding_size: int) -> nn.Sequential:
    """L and M: (N, C, h, h) -> (N, D)."""
    window = min(5, side)  # a map smaller than the window is averaged whole
    pooled = 1 + -(-(side - window) // 3)  # windows along a side, rounded up
    return nn.Sequential(
        nn.AvgPool2d(window, stride=3, ceil_mode=True),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(128 * pooled**2, 1024, bias=False),
        nn.BatchNorm1d(1024),
        nn.ReLU(inplace=True),
        nn.Linear(1024, embedding_size, bias=False),
    )
