"""Decoded pictures in a memory-mapped file: decoded once, for all runs.

For every side and fit that pictures are brought to, the folder holds two files, named by both and by a hash of the
decoder's version:

- `.pictures`: uint8 (rows, 3, side, side). Rows are only ever added: what another process has mapped stays as it is.
- `.json`: of each row the SHA-256 of the file that it was decoded from, of each absolute path its size, the time of
  its last change, and its row. It is written, whole or not at all, when its rows are on the disk: rows behind the last
  one that it names were left by a process that was killed, and the next one that adds rows writes over them.

A file with the path, size and time (in ns) of before is taken for the same; any other is read again, and decoded if no
row has its SHA-256. Rows of pictures that are gone stay until the folder is removed, which is safe between runs.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray

from nearkin.data.images import Picture, UnreadableImage, unreadable
from nearkin.data.preprocessing import Preprocessing
from nearkin.errors import InputError
from nearkin.files import write_file

log = logging.getLogger("nearkin")

LAYOUT = 1
"""Number of the form of the two files, and of the pixels that `nearkin.data.images` makes."""

BYTES_AT_ONCE = 2**26
"""How far decoding may be ahead of the disk."""


def key(path: Path) -> str:
    """Path as the index has it: the same from whatever folder the command was started."""
    return os.path.abspath(path)


@dataclass
class Index:
    """What the `.json` holds: the row of each SHA-256; of each path [size, time of change in ns, row]."""

    rows: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def holds(self, path: Path) -> bool:
        """Whether a file has a row, and is as it was."""
        if key(path) not in self.files:
            return False
        try:
            now = path.stat()
        except OSError:
            return False
        return [now.st_size, now.st_mtime_ns] == list(self.files[key(path)][:2])


@dataclass(frozen=True)
class Read:
    """A file that was read; `picture` is None if there is a row of this content."""

    path: Path
    size: int
    changed: int
    sha256: str
    picture: Picture | None


class Cache:
    """The decoded pictures of a folder, for one preprocessing.

    Args:
        folder: Where its files are; made if it is not there.
        preprocessing: What pictures are decoded to.
    """

    def __init__(self, folder: Path, preprocessing: Preprocessing) -> None:
        self.folder, self.preprocessing = folder, preprocessing
        self.shape = (3, preprocessing.side, preprocessing.side)
        self.row_bytes = 3 * preprocessing.side**2
        decoder = f"{LAYOUT} {simplejpeg.__version__} {PIL.__version__} {torch.__version__}"
        name = f"{preprocessing.side}-{preprocessing.fit}-{hashlib.sha256(decoder.encode()).hexdigest()[:8]}"
        self.pictures, self.json = folder / f"{name}.pictures", folder / f"{name}.json"

    def fill(self, paths: Sequence[Path]) -> Iterator[UnreadableImage | None]:
        """Decode what has no row yet; yield for each picture, in order, why it can have none, or None.

        Raises:
            InputError: The folder cannot be made or written to.
            OSError: The disk is full. Nothing was added.
        """
        index = self.load()
        if all(map(index.holds, paths)):
            yield from (None for _ in paths)
            return
        with self.claimed():
            index = self.load()  # with what another process has added while this one waited
            if not index.rows:
                self.pictures.unlink(missing_ok=True)  # not emptied: another process may have it mapped
            before = len(index.rows) * self.row_bytes
            at_once = max(16, BYTES_AT_ONCE // self.row_bytes)
            with ThreadPoolExecutor(os.cpu_count()) as threads, open(self.pictures, "ab", buffering=0) as file:
                file.truncate(before)
                try:
                    for start in range(0, len(paths), at_once):
                        some = paths[start : start + at_once]
                        for result in threads.map(lambda path: self.read(path, index), some):
                            if isinstance(result, Read):
                                self.add(result, index, file)
                            yield result if isinstance(result, UnreadableImage) else None
                    os.fsync(file.fileno())
                    write_file(self.json, json.dumps(asdict(index)).encode())
                except BaseException as error:
                    file.truncate(before)
                    if isinstance(error, OSError):  # a failed write does not know its file
                        raise OSError(error.errno, error.strerror, str(self.pictures)) from error
                    raise

    def mapped(self) -> NDArray[np.uint8]:
        """All rows (rows, 3, side, side), read from the disk as they are used."""
        return np.asarray(np.memmap(self.pictures, np.uint8, "r", shape=(len(self.load().rows), *self.shape)))

    def rows(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        """The row of each of these pictures, which have one."""
        files = self.load().files
        return np.array([files[key(path)][2] for path in paths], dtype=np.int64)

    def load(self) -> Index:
        """The index; an empty one where there is none, or where it and the rows do not belong together."""
        try:
            index = Index(**json.loads(self.json.read_bytes()))
            whole = self.pictures.stat().st_size >= len(index.rows) * self.row_bytes
        except (OSError, ValueError, TypeError):
            return Index()
        return index if whole else Index()

    def read(self, path: Path, index: Index) -> Read | UnreadableImage | None:
        """Read a file, and decode it unless there is a row of its content; None if the index holds it."""
        if index.holds(path):
            return None
        try:
            with open(path, "rb") as file:
                stat = os.fstat(file.fileno())  # before the content: a change in between shows the next time
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                picture = None if sha256 in index.rows else self.preprocessing.decode(file)
        except UnreadableImage as error:
            return error
        except OSError as error:
            return unreadable(path, error)
        return Read(path, stat.st_size, stat.st_mtime_ns, sha256, picture)

    def add(self, read: Read, index: Index, file: BinaryIO) -> None:
        """Note a file that was read, and write its row if it is a new one."""
        new = read.sha256 not in index.rows  # as yet: copies of one file may be decoded side by side
        row = index.rows.setdefault(read.sha256, len(index.rows))
        if new:
            assert read.picture is not None
            rest = memoryview(read.picture.transpose(2, 0, 1).tobytes())
            while rest:
                rest = rest[file.write(rest) :]
        index.files[key(read.path)] = (read.size, read.changed, row)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and wait until no other process adds rows."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
            handle = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"data.cache expects a folder that can be written to, but {self.folder} cannot be ({error.strerror}); "
                "name another, or leave it out"
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
            except BlockingIOError:
                log.warning("%s: another process is decoding into it; waiting for that", self.folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
