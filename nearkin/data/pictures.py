"""Decoded pictures, all of one size, by index."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearkin.data.cache import Cache, UnusableCache
from nearkin.data.folder import ImageList, count, names
from nearkin.data.images import UnreadableImage, unreadable
from nearkin.data.preprocessing import Preprocessing
from nearkin.errors import InputError
from nearkin.processes import collect, share, world_size

log = logging.getLogger("nearkin")

KEEP_BYTES = 4 * 2**30
"""Decoded pictures are kept in memory up to this size; larger sets are decoded again whenever they are needed."""

MOST_UNREADABLE = 0.1
"""More than this share of unreadable files stops the run: the folder is probably not what the user thinks."""


class Pictures:
    """The pictures of many files: `pictures[indices]` is a uint8 tensor (n, 3, side, side).

    They come from the mapped file of a cache that holds them; or are decoded, in threads (the decoder releases Python's
    lock), and stay in memory while the whole set fits into `KEEP_BYTES`.
    """

    def __init__(self, paths: list[Path], preprocessing: Preprocessing, cache: Cache | None = None) -> None:
        self.paths = paths
        self.preprocessing = preprocessing
        self.threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self.kept: NDArray[np.uint8] | None = None  # (rows, 3, side, side)
        self.rows = np.arange(len(paths))  # where each picture is in `kept`
        self.decoded = np.full(len(paths), cache is not None)
        if cache is not None:
            self.kept, self.rows = cache.held(paths)
        elif 3 * preprocessing.side**2 * len(paths) <= KEEP_BYTES:
            self.kept = np.empty((len(paths), 3, preprocessing.side, preprocessing.side), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: NDArray[np.int64] | list[int]) -> Tensor:
        indices = np.asarray(indices, dtype=np.int64)
        if self.kept is None:
            return torch.from_numpy(np.stack(list(self.threads.map(self.decode, indices))))
        for _ in self.threads.map(self.decode, indices[~self.decoded[indices]]):
            pass
        return torch.from_numpy(self.kept.take(self.rows[indices], axis=0))

    def decode(self, index: int) -> NDArray[np.uint8]:
        """One picture (3, side, side).

        Raises:
            UnreadableImage: The file is no picture that can be read, or is gone.
        """
        try:
            picture = self.preprocessing.decode(self.paths[index]).transpose(2, 0, 1)
        except OSError as error:
            raise unreadable(self.paths[index], error) from error
        if self.kept is not None:
            self.kept[self.rows[index]] = picture
            self.decoded[index] = True
        return picture

    def problems(self, part: slice = slice(None)) -> Iterator[UnreadableImage | None]:
        """Decode every picture, or a part of them; for each, in order, as `problem`."""
        return self.threads.map(self.problem, range(len(self))[part])

    def problem(self, index: int) -> UnreadableImage | None:
        """Why a picture cannot be read, or None where it can."""
        try:
            self.decode(index)
        except UnreadableImage as error:
            return error
        return None

    def select(self, indices: NDArray[np.int64]) -> "Pictures":
        """Only these pictures, in this order; what has been decoded stays decoded."""
        chosen = copy(self)
        chosen.paths = [self.paths[i] for i in indices]
        chosen.rows, chosen.decoded = self.rows[indices], self.decoded[indices]
        return chosen


READING = "reading pictures"

Progress = Callable[[Iterable[UnreadableImage | None], str, int], Iterable[UnreadableImage | None]]


def read_all(
    images: ImageList,
    preprocessing: Preprocessing,
    progress: Progress = lambda results, what, total: results,
    of: int | None = None,
    cache: Path | None = None,
) -> tuple[ImageList, Pictures]:
    """Decode every picture once, before anything is learnt from any of them, and leave out what cannot be read.

    Each unreadable file is named in the log. Of several processes each tries its share, and all leave out what any of
    them found.

    Args:
        images: The pictures.
        preprocessing: What they are decoded to.
        progress: Wraps the iteration over the results, with what is done and how often, as `track` does.
        of: Number of pictures in the whole that these are a part of, if they are.
        cache: Folder where decoded pictures are kept for other runs, and found.

    Returns:
        The readable pictures and their list. A class whose pictures are all unreadable keeps its id and its name.

    Raises:
        InputError: The files that cannot be read are more than a tenth of the whole, or all; or the folder of the cache
            cannot be used.
    """
    store = None if cache is None else Cache(cache, preprocessing)
    pictures = Pictures(images.paths, preprocessing)
    total = len(images.paths)
    if world_size() > 1:
        listed = hashlib.sha256(repr((images.paths, images.labels.tolist())).encode(errors="surrogateescape"))
        if len(set(collect(listed.digest()))) > 1:
            raise InputError("the processes do not find the same pictures; name a folder that all machines share")
    if store is None:
        part = share(total)
        tried = list(progress(pictures.problems(part), READING, part.stop - part.start))
        problems = [problem for some in collect(tried) for problem in some]
    else:  # of several processes one decodes, and the others find the rows
        filled: list[UnreadableImage | None] = []
        failure = None
        try:
            filled = list(progress(store.fill(images.paths), READING, total))
        except (OSError, UnusableCache) as error:
            failure = error
        for fault in filter(None, collect(failure)):
            raise fault
        problems = [next(filter(None, some), None) for some in zip(*collect(filled), strict=True)]
    broken = [str(problem) for problem in problems if problem]
    keep = np.flatnonzero([problem is None for problem in problems])
    found = f"{count(len(broken), 'file')} of {len(problems):,} cannot be read as pictures"
    if len(broken) > MOST_UNREADABLE * (of or len(problems)):
        raise InputError(
            f"{found} ({names(broken, 3)}); more than a tenth is taken for a wrong folder: repair or remove them"
        )
    if len(broken) == len(problems):
        raise InputError(f"none of {count(len(problems), 'file')} can be read as a picture ({names(broken, 3)})")
    for line in broken:
        log.warning("skipped %s", line)
    if broken:
        log.warning("%s: skipped", found)
    kept = [images.paths[i] for i in keep]
    pictures = Pictures(kept, preprocessing, store) if store else pictures.select(keep)
    return ImageList(kept, images.labels[keep], images.classes), pictures


Batch = TypeVar("Batch")
Loaded = TypeVar("Loaded")


def prefetch(load: Callable[[Batch], Loaded], batches: Iterable[Batch], ahead: int = 2) -> Iterator[Loaded]:
    """Yield `load(batch)` for each batch in order, loading the next ones in the background."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as background:
        pending = []
        for batch in batches:
            pending.append(background.submit(load, batch))
            if len(pending) > ahead:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()
