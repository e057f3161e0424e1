"""Decoded pictures, all of one size, by index."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearkin.data.folder import ImageList, count, names
from nearkin.data.images import Source, UnreadableImage, read_image, to_square
from nearkin.errors import InputError

log = logging.getLogger("nearkin")

KEEP_BYTES = 4 * 2**30
"""Decoded pictures are kept in memory up to this size; larger sets are decoded again whenever they are needed."""

MOST_UNREADABLE = 0.1
"""More than this share of unreadable files stops the run: the folder is probably not what the user thinks."""


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

    def decode(self, source: Source) -> NDArray[np.uint8]:
        """Read anything that `read_image` reads to (side, side, 3)."""
        return to_square(read_image(source, at_least=self.side), self.side, self.fit)


class Pictures:
    """The pictures of many files: `pictures[indices]` is a uint8 tensor (n, 3, side, side).

    Decoding runs in threads (the decoder releases Python's lock), and what has been decoded stays in memory while
    the whole set fits into `KEEP_BYTES`.
    """

    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.preprocessing = preprocessing
        self.threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        shape = (len(paths), 3, preprocessing.side, preprocessing.side)
        self.kept = torch.empty(shape, dtype=torch.uint8) if np.prod(shape, dtype=float) <= KEEP_BYTES else None
        self.decoded = np.zeros(len(paths), dtype=bool)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: NDArray[np.int64] | list[int]) -> Tensor:
        indices = np.asarray(indices, dtype=np.int64)
        if self.kept is None:
            return torch.stack(list(self.threads.map(self.decode, indices)))
        for _ in self.threads.map(self.decode, indices[~self.decoded[indices]]):
            pass
        return self.kept[torch.from_numpy(indices)]

    def decode(self, index: int) -> Tensor:
        """One picture (3, side, side).

        Raises:
            UnreadableImage: The file is no picture that can be read.
        """
        picture = torch.from_numpy(self.preprocessing.decode(self.paths[index])).permute(2, 0, 1)
        if self.kept is not None:
            self.kept[index] = picture
            self.decoded[index] = True
        return picture

    def problem(self, index: int) -> UnreadableImage | None:
        """Why a picture cannot be read, or None where it can."""
        try:
            self.decode(index)
        except UnreadableImage as error:
            return error
        except OSError as error:  # gone, or not ours to read
            return UnreadableImage(f"{self.paths[index]}: {error.strerror or error}")
        return None

    def select(self, indices: NDArray[np.int64]) -> "Pictures":
        """Only these pictures, in this order; what has been decoded stays decoded."""
        chosen = Pictures([self.paths[i] for i in indices], self.preprocessing)
        if chosen.kept is not None and self.kept is not None:
            chosen.kept.copy_(self.kept[torch.from_numpy(indices)])
            chosen.decoded = self.decoded[indices]
        return chosen


Progress = Callable[[Iterable[UnreadableImage | None]], Iterable[UnreadableImage | None]]


def read_all(
    images: ImageList, preprocessing: Preprocessing, progress: Progress = iter, of: int | None = None
) -> tuple[ImageList, Pictures]:
    """Decode every picture once, before anything is learnt from any of them, and leave out what cannot be read.

    Each unreadable file is named in the log.

    Args:
        images: The pictures.
        preprocessing: What they are decoded to.
        progress: Wraps the iteration over the results, to show it to a person.
        of: Number of pictures in the whole that these are a part of, if they are.

    Returns:
        The readable pictures and their list. A class whose pictures are all unreadable keeps its id and its name.

    Raises:
        InputError: The files that cannot be read are more than a tenth of the whole, or all.
    """
    pictures = Pictures(images.paths, preprocessing)
    results = pictures.threads.map(pictures.problem, range(len(pictures)))
    problems = list(progress(results))
    broken = [str(problem) for problem in problems if problem]
    if not broken:
        return images, pictures
    found = f"{count(len(broken), 'file')} of {len(problems):,} cannot be read as pictures"
    if len(broken) > MOST_UNREADABLE * (of or len(problems)):
        raise InputError(
            f"{found} ({names(broken, 3)}); more than a tenth is taken for a wrong folder: repair or remove them"
        )
    if len(broken) == len(problems):
        raise InputError(f"none of {count(len(problems), 'file')} can be read as a picture ({names(broken, 3)})")
    for line in broken:
        log.warning("skipped %s", line)
    log.warning("%s: skipped", found)
    keep = np.flatnonzero([problem is None for problem in problems])
    kept = pictures.select(keep)
    return ImageList(kept.paths, images.labels[keep], images.classes), kept


def prefetch(pictures: Pictures, batches: Iterable[NDArray[np.int64]], ahead: int = 2) -> Iterator[Tensor]:
    """Yield `pictures[batch]` for each batch in order, decoding the next ones in the background."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as background:
        pending = []
        for batch in batches:
            pending.append(background.submit(pictures.__getitem__, batch))
            if len(pending) > ahead:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()
