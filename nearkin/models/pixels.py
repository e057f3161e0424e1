"""From the pixels of a picture to those that a backbone was made for.

Shape key: N = batch size, S = side of the pictures.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """Subtract a backbone's `mean` and divide by its `std`, one number per colour (red, green, blue).

    Args:
        backbone: Module with `mean` and `std`, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        for name in ("mean", "std"):  # fixed numbers of the architecture: not part of the weights
            colours = 255 * torch.tensor(cast(Any, getattr(backbone, name))).view(1, 3, 1, 1)
            self.register_buffer(name, colours, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures (N, 3, S, S), RGB in 0 to 255, to normalised pixels of the same shape, channels last."""
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
