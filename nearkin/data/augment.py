"""Random crops and small distortions of whole batches, on the device where the batch is."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from nearkin.errors import InputError

VALUES_AT_ONCE = 2**18
"""Values of float pixels that stay in the caches of a processor: 1 MB."""


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

    def __call__(
        self, images: Tensor, size: int, random: Generator, part: slice = slice(None), of: int | None = None
    ) -> Tensor:
        """Vary a batch, or a part of one.

        Args:
            images: uint8 (n, 3, S, S) with S >= size.
            size: Side of the crop.
            random: CPU generator; the same state gives the same batch on every device, however it is divided.
            part: Where in the batch these pictures are; they are all of it unless given.
            of: N, pictures in the batch; n unless given.

        Returns:
            uint8 (n, 3, size, size).

        Raises:
            ValueError: The pictures are of another type or shape, or smaller than the crop.
        """
        check(images, size)
        n, whole = len(images), of or len(images)
        top, left = random_places(whole, images.shape[-1] - size, random)[:, part].tolist()
        if not n:
            return images[..., :size, :size]
        images = crop(images, size, top, left)
        if self.mirror:
            images = mirror(images, torch.rand(whole, generator=random)[part].lt(0.5).tolist())
        moves = self.affine(whole, random)[part].to(images.device) if self.rotate or self.zoom or self.shift else None
        colours = self.colours(whole, random)[part].to(images.device) if self.contrast else None
        if moves is None and colours is None:
            return images
        # On a CPU a few at a time: what stays in its caches takes a third of the time, or less.
        at_once = max(1, VALUES_AT_ONCE // images[0].numel()) if images.device.type == "cpu" else n
        views = []
        for start in range(0, n, at_once):
            few = slice(start, start + at_once)
            pixels = images[few].float()
            if moves is not None:
                pixels = warp(pixels, moves[few])
            if colours is not None:
                pixels = recolour(pixels, colours[few])
            views.append(pixels.round_().clamp_(0, 255).to(torch.uint8))
        return torch.cat(views)

    def affine(self, n: int, random: Generator) -> Tensor:
        """Rotations, changes of scale and shifts about the centre (n, 2, 3), as `affine_grid` takes them."""
        angle = uniform(n, math.radians(self.rotate), random)
        scale = (uniform(n, math.log1p(self.zoom), random)).exp()
        shift = uniform(2 * n, 2 * self.shift, random).view(n, 2, 1)  # a side is 2 long in grid coordinates
        cos, sin = angle.cos() / scale, angle.sin() / scale
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
        return torch.cat([rotation, shift], dim=2)

    def colours(self, n: int, random: Generator) -> Tensor:
        """Factors of contrast, then what is added to red, green and blue (n, 4)."""
        factor = 1 + uniform(n, self.contrast, random)
        change = uniform(n, self.contrast, random)[:, None] + uniform(3 * n, self.contrast / 3, random).view(n, 3)
        return torch.cat([factor[:, None], 128 * change], dim=1)


def random_places(n: int, room: int, random: Generator) -> Tensor:
    """Tops and left sides (2, n) of n crops, from 0 to `room`; nothing is drawn where there is none."""
    return torch.randint(room + 1, (2, n), generator=random) if room else torch.zeros(2, n, dtype=torch.long)


def crop(images: Tensor, size: int, top: list[int], left: list[int]) -> Tensor:
    """A square of `size` at a place of its own in each picture: (N, C, S, S) -> (N, C, size, size)."""
    if images.shape[-1] == size:
        return images
    return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in zip(images, top, left, strict=True)])


def mirror(images: Tensor, flips: list[bool]) -> Tensor:
    """Flip some pictures left and right: (N, C, S, S) of the same shape."""
    # One by one: a whole batch, turned round, is far larger than a processor's caches.
    return torch.stack([image.flip(2) if flip else image for image, flip in zip(images, flips, strict=True)])


def warp(pixels: Tensor, moves: Tensor) -> Tensor:
    """Move pictures (N, C, S, S) by affine maps (N, 2, 3); what comes in from outside repeats the border."""
    grid = F.affine_grid(moves, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def recolour(pixels: Tensor, colours: Tensor) -> Tensor:
    """Scale the contrast of each picture (N, 3, S, S) about its mean by a factor, and add to its colours (N, 4)."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return (pixels - mean) * colours[:, :1, None, None] + mean + colours[:, 1:, None, None]


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle square of `size`: uint8 (N, 3, S, S) -> (N, 3, size, size).

    Raises:
        ValueError: The pictures are of another type or shape, or smaller than the square.
    """
    check(images, size)
    start = (images.shape[-1] - size) // 2
    return images[..., start : start + size, start : start + size]


def check(images: Tensor, size: int) -> None:
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if images.dtype != torch.uint8 or not square:
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"pictures must be uint8 (n, 3, S, S), got {kind} {tuple(images.shape)}")
    if not 1 <= size <= images.shape[-1]:
        raise ValueError(f"a crop of pictures of {images.shape[-1]} pixels must be 1 to as many, got {size}")


def uniform(n: int, most: float, random: Generator) -> Tensor:
    """n draws from [-most, most)."""
    return (2 * torch.rand(n, generator=random) - 1) * most
