"""Decoded pictures in a memory-mapped file: decoded once, for all runs.

For every side and fit that pictures are brought to, the folder holds three files, named by both and by a hash of the
decoder's version:

- `.pictures`: uint8 (rows, 3, side, side). Rows are only ever added: what another process has mapped stays as it is.
- `.json`: of each row the SHA-256 of the file that it was decoded from, of each absolute path its size, its two times,
  and its row or why it cannot be read. It is written, whole or not at all, when its rows are on the disk: rows behind
  the last one that it names were left by a process that was killed, and the next one that adds rows writes over them.
- `.lock`, hidden and empty: whoever adds rows has it locked.

A file with the path, size and times of before is taken for the same; any other is read again, and decoded if no row has
its SHA-256. The times, in ns, are those of the last change of the content (mtime) and of anything about the file, its
name included (ctime): archives and copies set the first as they like, the second is the system's own. Rows of pictures
that are gone stay until the folder is removed, which is safe between runs.
"""

import errno
import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray

from nearkin.data.images import Picture, UnreadableImage, open_picture, refusal, unreadable
from nearkin.data.preprocessing import Preprocessing
from nearkin.errors import InputError
from nearkin.files import locked, write_file

log = logging.getLogger("nearkin")

LAYOUT = 2
"""Number of the form of the files, and of the pixels that `nearkin.data.images` makes."""

BYTES_AT_ONCE = 2**26
"""How far decoding may be ahead of the disk."""


DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What an index raises that is not there, no JSON, or JSON of something else."""


class UnusableCache(InputError):  # noqa: N818
    """The folder of a cache cannot be made or written to."""


def key(path: Path) -> str:
    """Path as the index has it: the same from whatever folder the command was started.

    `..` stays: behind a link it leads elsewhere than it seems.
    """
    return str(path.absolute())


def state(stat: os.stat_result) -> tuple[int, int, int]:
    """What tells whether a file has changed."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class Entry(NamedTuple):
    """A file in the index: its state when it was read, and the row of its picture, or why it has none."""

    size: int
    modified: int
    changed: int
    row: int | str


@dataclass
class Index:
    """What the `.json` holds: the row of each SHA-256, and an entry for each path."""

    rows: dict[str, int] = field(default_factory=dict)
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> "Index":
        """From the content of the `.json`; raises one of `DAMAGED` if it is none of ours."""
        tree = json.loads(content)
        index = cls(tree["rows"], {path: Entry(*entry) for path, entry in tree["files"].items()})
        number = len(index.rows)
        whole = list(index.rows.values()) == list(range(number))
        for entry in index.files.values():
            whole &= isinstance(entry.row, str) or (isinstance(entry.row, int) and 0 <= entry.row < number)
        if not whole:
            raise ValueError("rows that there are not")
        return index

    def find(self, path: Path) -> int | UnreadableImage | None:
        """The row of a file that is as it was, or why it has none; None if it has to be read."""
        try:
            now = state(path.stat())
        except OSError as error:
            return unreadable(path, error)
        entry = self.files.get(key(path))
        if entry is None or entry[:3] != now:
            return None
        return entry.row if isinstance(entry.row, int) else refusal(path, entry.row)


class Content(io.BytesIO):
    """The bytes of a file, and its name for messages."""

    name = ""


@dataclass(frozen=True)
class Read:
    """A file that was read; `picture` is None if there is a row of this content."""

    path: Path
    state: tuple[int, int, int]
    sha256: str
    picture: Picture | UnreadableImage | None


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
        self.lock = folder / f".{name}.lock"  # not the folder itself: a run that is kept there locks that

    def fill(self, paths: Sequence[Path]) -> Iterator[UnreadableImage | None]:
        """Decode what has no row yet; yield for each picture, in order, why it can have none, or None.

        Raises:
            UnusableCache: The folder cannot be made or written to.
            OSError: The disk is full. Nothing was added.
        """
        index = self.load()
        found = [index.find(path) for path in paths]
        if None not in found:  # then the folder need not be writable
            yield from (each if isinstance(each, UnreadableImage) else None for each in found)
            return
        with self.claimed():
            index = self.load()  # with what another process has added while this one waited
            if not index.rows:
                self.pictures.unlink(missing_ok=True)  # not emptied: another process may have it mapped
            before = named = len(index.rows) * self.row_bytes
            changed = False
            at_once = max(16, BYTES_AT_ONCE // self.row_bytes)
            with ThreadPoolExecutor(os.cpu_count()) as threads, open(self.pictures, "ab", buffering=0) as file:
                file.truncate(before)
                try:
                    for start in range(0, len(paths), at_once):
                        some = paths[start : start + at_once]
                        for result in threads.map(lambda path: self.read(path, index), some):
                            changed |= isinstance(result, Read)
                            outcome = self.add(result, index, file) if isinstance(result, Read) else result
                            yield outcome if isinstance(outcome, UnreadableImage) else None
                    if changed:
                        os.fsync(file.fileno())
                        named = len(index.rows) * self.row_bytes
                        write_file(self.json, json.dumps(asdict(index)).encode())
                except OSError as error:  # the index is the old one
                    file.truncate(before)
                    # A failed write does not know its file.
                    raise OSError(error.errno, error.strerror, error.filename or str(self.pictures)) from error
                except BaseException:  # Ctrl-C: the index may be the new one already
                    file.truncate(named)
                    raise

    def held(self, paths: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All rows (rows, 3, side, side), read from the disk as they are used, and the numbers of these pictures'."""
        index = self.load()
        pictures = np.memmap(self.pictures, np.uint8, "r", shape=(len(index.rows), *self.shape))
        return np.asarray(pictures), np.array([index.files[key(path)].row for path in paths], dtype=np.int64)

    def load(self) -> Index:
        """The index; an empty one where there is none, or where it and the rows do not belong together."""
        try:
            index = Index.parse(self.json.read_bytes())
            whole = self.pictures.stat().st_size >= len(index.rows) * self.row_bytes
        except DAMAGED:
            return Index()
        return index if whole else Index()

    def read(self, path: Path, index: Index) -> Read | UnreadableImage | int:
        """Read a file that the index does not hold as it is now, and decode it unless there is a row of its content."""
        found = index.find(path)
        if found is not None:
            return found
        try:
            with open_picture(path) as file:
                now = state(os.fstat(file.fileno()))  # before the content: a change in between shows the next time
                content = Content(file.read())
        except OSError as error:
            return unreadable(path, error)
        content.name = str(path)
        sha256 = hashlib.sha256(content.getbuffer()).hexdigest()
        try:
            return Read(path, now, sha256, None if sha256 in index.rows else self.preprocessing.decode(content))
        except UnreadableImage as error:
            if isinstance(error.__cause__, MemoryError):  # not the file's fault: nothing to remember
                return error
            return Read(path, now, sha256, error)

    def add(self, read: Read, index: Index, file: BinaryIO) -> UnreadableImage | None:
        """Note a file that was read, and write its row if it is a new one; the answer is why it can have none."""
        if isinstance(read.picture, UnreadableImage):
            reason = str(read.picture).removeprefix(str(refusal(read.path, "")))
            index.files[key(read.path)] = Entry(*read.state, reason)
            return read.picture
        new = read.sha256 not in index.rows  # as yet: copies of one file may be decoded side by side
        row = index.rows.setdefault(read.sha256, len(index.rows))
        if new:
            assert read.picture is not None
            rest = memoryview(read.picture.transpose(2, 0, 1).tobytes())
            while rest:
                rest = rest[file.write(rest) :]
        index.files[key(read.path)] = Entry(*read.state, row)
        return None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and wait until no other process adds rows."""
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.folder).close()
                for each in (self.pictures, self.json, self.lock):
                    if each.is_dir():
                        raise UnusableCache(
                            f"data.cache expects a file {each}, but that is a folder; remove it, or name another cache"
                        )
                busy = f"{self.folder}: another process is decoding into it; waiting for that"
                held.enter_context(locked(self.lock, busy))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise UnusableCache(
                    f"data.cache expects a folder that can be written to, but {self.folder} cannot be "
                    f"({error.strerror}); name another, or leave it out"
                ) from error
            yield
