"""How a picture of any size becomes the square that a model sees."""

from dataclasses import dataclass
from typing import get_args

from nearkin.data.images import Fit, Picture, Source, read_image, to_square
from nearkin.errors import InputError

MOST = 2**12
"""Of a side in pixels: 32 squares of it are 6 GB of float pixels, before the first layer."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of any size becomes the square that a model sees.

    Args:
        size: Side in pixels of what the model sees: a random crop in training, the centre at test time.
        resize: Side in pixels that pictures are brought to before the crop; None means `size`: nothing is cut away.
        fit: `squash` ignores the aspect ratio (the papers' way), `crop` cuts the longer side, `pad` adds white.
    """

    size: int = 64
    resize: int | None = None
    fit: Fit = "squash"

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise InputError(f"image.fit is one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        if not 1 <= self.size <= MOST:
            raise InputError(f"image.size is a side in pixels, 1 to {MOST}, got {self.size}")
        if self.resize is not None and not self.size <= self.resize <= MOST:
            raise InputError(f"image.resize must be image.size={self.size} to {MOST}, got {self.resize}")

    @property
    def side(self) -> int:
        """Side in pixels before the crop."""
        return self.size if self.resize is None else self.resize

    def decode(self, source: Source) -> Picture:
        """Read anything that `read_image` reads to (side, side, 3)."""
        return to_square(read_image(source, at_least=self.side), self.side, self.fit)
