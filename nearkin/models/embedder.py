"""The network that is trained: backbone, pooling, embedding head.

Shape key: N = batch size, S = side of the pictures, C = channels of the backbone, D = embedding size.
"""

from typing import Literal

from torch import Tensor, nn

from nearkin.models.pixels import Pixels

Pool = Literal["avg", "max"]


class Embedder(nn.Module):
    """Pictures to raw embeddings; whether those are put on the unit sphere is for the loss and the search to say.

    Args:
        backbone: Module from normalised pixels (N, 3, S, S) to features (N, C, h, w), with `channels`, `mean`, `std`.
        embedding_size: D.
        pool: How a feature map becomes one vector.
    """

    def __init__(self, backbone: nn.Module, embedding_size: int, pool: Pool = "avg") -> None:
        super().__init__()
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {embedding_size}")
        self.pixels = Pixels(backbone)
        self.backbone = backbone
        self.pool = pool
        self.head = nn.Linear(int(backbone.channels), embedding_size)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (N, 3, S, S), RGB in 0 to 255, to embeddings (N, D)."""
        return self.embed_maps(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The last feature map (N, C, h, w) of pictures (N, 3, S, S), alone in a list."""
        return [self.backbone(self.pixels(images))]

    def embed_maps(self, maps: list[Tensor]) -> Tensor:
        """Map what `maps` returns to embeddings (N, D)."""
        (features,) = maps
        pooled = features.mean(dim=(2, 3)) if self.pool == "avg" else features.amax(dim=(2, 3))
        embeddings: Tensor = self.head(pooled)
        return embeddings
