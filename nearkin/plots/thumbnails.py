"""Small square copies of pictures as data URIs, to carry inside a page."""

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nearkin.data.images import UnreadableImage, read_image, to_square

GREY = 128  # stands in for a picture that cannot be read


@dataclass(frozen=True)
class Sprites:
    """Many thumbnails in few images: picture i is tile i, counted along rows and from sheet to sheet.

    Args:
        sheets: WebP images as data URIs; the last has as few rows as it needs.
        tile: Side of a tile in pixels.
        columns: Tiles in a row.
        rows: Tiles in a column of a full sheet.
    """

    sheets: list[str]
    tile: int
    columns: int
    rows: int


def sprites(paths: Sequence[Path], tile: int = 64, columns: int = 32, rows: int = 32, quality: int = 70) -> Sprites:
    """Put the central square of each picture on sheets of thumbnails; one that cannot be read is grey.

    A full sheet of 2,048 pixels a side compresses well, and any phone can decode it.
    """
    squares = _squares(paths, tile)
    sheets = []
    for start in range(0, len(paths), columns * rows):
        count = min(columns * rows, len(paths) - start)
        sheet = np.full((-(-count // columns) * tile, columns * tile, 3), GREY, dtype=np.uint8)
        for place in range(count):
            top, left = place // columns * tile, place % columns * tile
            sheet[top : top + tile, left : left + tile] = next(squares)
        sheets.append(_data_uri(sheet, quality))
    return Sprites(sheets, tile, columns, rows)


def pictures(paths: Sequence[Path], size: int = 128, quality: int = 75) -> list[str]:
    """Turn the central square of each picture into a data URI; one that cannot be read is grey."""
    return [_data_uri(square, quality) for square in _squares(paths, size)]


def _squares(paths: Sequence[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    def read(path: Path) -> NDArray[np.uint8]:
        try:
            return to_square(read_image(path, at_least=size), size, fit="crop")
        except (UnreadableImage, OSError):  # moved or damaged since: the page is still worth having
            return np.full((size, size, 3), GREY, dtype=np.uint8)

    with ThreadPoolExecutor() as threads:  # decoding releases Python's lock
        yield from threads.map(read, paths)


def _data_uri(image: NDArray[np.uint8], quality: int) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
