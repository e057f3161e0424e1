"""The pictures that a page holds: small ones for a map, large ones for rows."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearkin.plots.thumbnails import pictures, sprites


@dataclass(frozen=True)
class Album:
    """Some of the n pictures of a data set. The page numbers those that it holds from 0.

    Args:
        number: (n,) the number of each picture that is held.
        pictures: What the page's scripts know of the pictures: paths, classes, and the large ones.
        sprites: Thumbnails of those on the map.
    """

    number: NDArray[np.int64]
    pictures: dict[str, Any]
    sprites: dict[str, Any]


def album(paths: Sequence[Path], labels: NDArray[np.int64], on_map: NDArray[np.int64], in_rows: Iterable[int]) -> Album:
    """Make thumbnails of the pictures on the map, ascending indices, and large copies of those in rows."""
    large = np.unique(np.fromiter(in_rows, dtype=np.int64))
    held = np.union1d(on_map, large)
    number = np.zeros(len(labels), dtype=np.int64)
    number[held] = np.arange(len(held))
    known = {
        "paths": below_their_folder([paths[i] for i in held]),
        "classes": labels[held].tolist(),
        "large": dict(zip(number[large].tolist(), pictures([paths[i] for i in large]), strict=True)),
    }
    return Album(number, known, asdict(sprites([paths[i] for i in on_map])))


def below_their_folder(paths: Sequence[Path]) -> list[str]:
    """Shorten paths by the folder they share: whom the page is sent to need not know whose disk it was."""
    try:
        shared = os.path.commonpath([path.parent for path in paths])
    except ValueError:  # absolute and relative ones, or two drives
        return [path.as_posix() for path in paths]
    return [Path(os.path.relpath(path, shared)).as_posix() for path in paths]
