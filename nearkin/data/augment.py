"""Random crops and small distortions of whole batches, on the device where the batch is."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from nearkin.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """What is varied between two looks at one picture in training, beside the random crop.

    Every picture of a batch draws its own values, uniformly.

    Args:
        mirror: Flip left and right with probability 1/2. Wrong for letters and whatever else has a handedness.
        rotate: Largest rotation, in degrees, to either side.
        zoom: Largest relative change of scale: 0.2 draws factors from 1/1.2 to 1.2.
        shift: Largest shift as a fraction of the side, both ways.
        contrast: Largest relative change of contrast, and largest change of brightness, each colour on its own by a
            third of it: 0.3 draws factors from 0.7 to 1.3.
    """

    mirror: bool = True
    rotate: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for key, most in (("rotate", 180), ("zoom", 4), ("shift", 1), ("contrast", 1)):
            if not 0 <= getattr(self, key) <= most:
                raise InputError(f"augment.{key} must be in [0, {most}], got {getattr(self, key)}")

    def __call__(self, images: Tensor, size: int, random: Generator) -> Tensor:
        """Vary a batch.

        Args:
            images: uint8 (N, 3, S, S) with S >= size.
            size: Side of the crop.
            random: CPU generator; the same state gives the same batch on every device.

        Returns:
            uint8 (N, 3, size, size).
        """
        images = random_crop(images, size, random)
        if self.mirror:
            flip = torch.rand(len(images), generator=random).lt(0.5).to(images.device)
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        if not (self.rotate or self.zoom or self.shift or self.contrast):
            return images
        pixels = images.float()
        if self.rotate or self.zoom or self.shift:
            pixels = self.warp(pixels, random)
        if self.contrast:
            pixels = self.recolour(pixels, random)
        return pixels.round_().clamp_(0, 255).to(torch.uint8)

    def warp(self, pixels: Tensor, random: Generator) -> Tensor:
        """Rotate, scale and shift about the centre; what comes in from outside repeats the border."""
        n = len(pixels)
        angle = uniform(n, math.radians(self.rotate), random)
        scale = (uniform(n, math.log1p(self.zoom), random)).exp()
        shift = uniform(2 * n, 2 * self.shift, random).view(n, 2, 1)  # a side is 2 long in grid coordinates
        cos, sin = angle.cos() / scale, angle.sin() / scale
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
        affine = torch.cat([rotation, shift], dim=2).to(pixels.device)  # (N, 2, 3)
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)

    def recolour(self, pixels: Tensor, random: Generator) -> Tensor:
        """Scale each picture's contrast about its mean and move its brightness and, less, its single colours."""
        n = len(pixels)
        factor = (1 + uniform(n, self.contrast, random)).view(n, 1, 1, 1).to(pixels.device)
        change = uniform(n, self.contrast, random)[:, None] + uniform(3 * n, self.contrast / 3, random).view(n, 3)
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        return (pixels - mean) * factor + mean + 128 * change[:, :, None, None].to(pixels.device)


def random_crop(images: Tensor, size: int, random: Generator) -> Tensor:
    """A square of `size` at a random place of each picture: (N, C, S, S) -> (N, C, size, size)."""
    n, _, _, side = images.shape
    if side == size:
        return images
    places = side - size + 1
    top, left = torch.randint(places, (2, n), generator=random).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in zip(images, top, left, strict=True)])


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle square of `size`: (N, C, S, S) -> (N, C, size, size)."""
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def uniform(n: int, most: float, random: Generator) -> Tensor:
    """n draws from [-most, most)."""
    return (2 * torch.rand(n, generator=random) - 1) * most
