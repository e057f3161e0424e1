"""How a picture of any size becomes the square that a model sees."""

from dataclasses import dataclass
from typing import Literal

from nearkin.data.images import Picture, Source, read_image, to_square
from nearkin.errors import InputError


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
    fit: Literal["squash", "crop", "pad"] = "squash"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"image.size is a side in pixels, at least 1, got {self.size}")
        if self.resize is not None and self.resize < self.size:
            raise InputError(f"image.resize must be at least image.size={self.size}, got {self.resize}")

    @property
    def side(self) -> int:
        """Side in pixels before the crop."""
        return self.size if self.resize is None else self.resize

    def decode(self, source: Source) -> Picture:
        """Read anything that `read_image` reads to (side, side, 3)."""
        return to_square(read_image(source, at_least=self.side), self.side, self.fit)
