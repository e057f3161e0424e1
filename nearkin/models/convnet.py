"""A small convolutional network for pictures of 28 to 96 pixels, trained from random weights."""

from collections.abc import Sequence

from torch import Tensor, nn

LAYERS = 4
"""Of a block: convolution, pooling, batch norm, ReLU."""


class ConvNet(nn.Module):
    """Four blocks of 3 x 3 convolution, batch norm and ReLU; all but the last halve the picture.

    Maps normalised pixels (N, 3, S, S) to features (N, 256, S // 8, S // 8). The halving comes before the batch norm:
    three quarters of its work fall away, and the ReLU gives the same on either side. Stages: `block1` to `block4`.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.channels = widths[-1]
        self.stages = tuple(f"block{depth}" for depth in range(1, len(widths) + 1))
        blocks: list[nn.Module] = []
        before = 3
        for depth, width in enumerate(widths):
            last = depth == len(widths) - 1
            blocks += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.Identity() if last else nn.MaxPool2d(2),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.blocks(pixels)
        return features

    def features(self, pixels: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """The outputs (N, C, h, h) of some blocks, in the order asked for."""
        found = {}
        for depth, name in enumerate(self.stages):
            pixels = found[name] = self.blocks[LAYERS * depth : LAYERS * (depth + 1)](pixels)
        return [found[name] for name in stages]
