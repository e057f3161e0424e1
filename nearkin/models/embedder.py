"""The network that is trained: backbone, pooling, embedding head.

Shape key: N = batch size, S = side of the pictures, C = channels of the backbone, D = embedding size.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Pool = Literal["avg", "max"]


class Embedder(nn.Module):
    """Pictures to raw embeddings; whether those are put on the unit sphere is for the loss and the search to say.

    Args:
        backbone: Module from normalised pixels (N, 3, S, S) to features (N, C, h, w), with `channels`, `mean`, `std`.
        embedding_size: D.
        pool: How a feature map becomes one vector.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, embedding_size: int, pool: Pool = "avg") -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {embedding_size}")
        self.backbone = backbone
        self.pool = pool
        self.head = nn.Linear(int(backbone.channels), embedding_size)  # type: ignore[arg-type]
        for name in ("mean", "std"):  # fixed numbers of the architecture: not part of the weights
            pixels = 255 * torch.tensor(getattr(backbone, name)).view(1, 3, 1, 1)
            self.register_buffer(name, pixels, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (N, 3, S, S), RGB in 0 to 255, to embeddings (N, D)."""
        pixels = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.backbone(pixels)  # (N, C, h, w)
        pooled = features.mean(dim=(2, 3)) if self.pool == "avg" else features.amax(dim=(2, 3))
        embeddings: Tensor = self.head(pooled)
        return embeddings


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep the statistics of every batch norm as they are; call it after each `module.train()`."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
