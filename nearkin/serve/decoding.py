"""Pictures are decoded by processes of their own, with as much memory and time as any sound picture needs.

A file of some kilobytes can keep a decoder busy for minutes or ask for more memory than there is, in more ways than can
be looked for in it, and decoders are written in C. Whatever becomes of one, the answer is one line, and another process
takes its place.
"""

import io
import math
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

import torch
from PIL import AvifImagePlugin, Image

from nearkin.catalog.catalog import Crop, cropped
from nearkin.data.images import (
    MAX_PIXELS,
    Picture,
    UnreadableImage,
    open_picture,
    picture_size,
    read_image,
    to_square,
)
from nearkin.data.preprocessing import Preprocessing

T = TypeVar("T")

SECONDS = 10
"""Of a processor, for each step. The slowest sound pictures of 50 megapixels take about two."""

ROOM = 200 * 2**20
"""Bytes for whatever the size of a picture."""

PER_PIXEL = 22
"""Bytes: WebP needs most, 21 for each pixel."""

LARGE = 12_000_000
"""Pixels above which pictures are decoded one at a time."""

SHOWN = 1024
"""Longer side, in pixels, of a picture that is shown whole."""


class File(NamedTuple):
    """A picture's file, which was looked at: its content or its path, and how large the picture is when upright."""

    source: bytes | Path
    width: int
    height: int


class Decoders:
    """Processes that read pictures, one each for every processor; all methods may be called from any thread.

    They raise UnreadableImage for whatever cannot be decoded, or not within the limits, and OSError for a path that
    cannot be opened.

    Args:
        context: What starts them.
        seconds: As `SECONDS`.
    """

    def __init__(self, context: ForkServerContext, seconds: int = SECONDS) -> None:
        self.context, self.seconds = context, seconds
        self.idle: LifoQueue[Decoder | None] = LifoQueue()
        for _ in range(os.cpu_count() or 1):
            self.idle.put(None)  # the place of one that is not running
        self.large = Lock()

    def look(self, source: bytes | Path) -> File:
        """Read the header."""
        return File(source, *self._run(_size, source, pixels=webp_pixels(source)))

    def square(self, file: File, image: Preprocessing, crop: Crop | None = None) -> Picture:
        """What a model sees of a picture, or of a part of it: (side, side, 3).

        Raises:
            InputError: The part is empty or not inside.
        """
        return self._run(_square, file.source, image, crop, pixels=file.width * file.height)

    def shown(self, file: File) -> bytes:
        """A JPEG of the picture, upright, of at most `SHOWN` pixels."""
        return self._run(_shown, file.source, pixels=file.width * file.height)

    def close(self) -> None:
        """End those that are idle; the others end with this process."""
        for decoder in [self.idle.get() for _ in range(self.idle.qsize())]:
            if decoder is not None:
                decoder.end()
            self.idle.put(None)

    def _run(self, task: Callable[..., T], *arguments: object, pixels: int) -> T:
        with self.large if pixels > LARGE else nullcontext():
            decoder = self.idle.get()
            try:
                if decoder is None or not decoder.process.is_alive():
                    decoder = Decoder(self.context)
                memory = ROOM + PER_PIXEL * min(pixels, MAX_PIXELS)
                done: T | Exception = decoder.run(task, arguments, memory, self.seconds)
            finally:
                self.idle.put(decoder)
        if isinstance(done, Exception):
            raise done
        return done


class Decoder:
    """One of the processes."""

    def __init__(self, context: ForkServerContext) -> None:
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end,), daemon=True, name="decoder")
        self.process.start()
        end.close()
        self.pipe.recv()  # it is there: from now on what ends it is a picture

    def run(self, task: Callable[..., T], arguments: tuple[object, ...], memory: int, seconds: int) -> T | Exception:
        """What a task returns or raises, or how the process has ended over it."""
        try:
            self.pipe.send((task, arguments, memory, seconds))
            return cast("T | Exception", self.pipe.recv())
        except (EOFError, ConnectionError):
            self.end()
            late = self.process.exitcode == -signal.SIGXCPU
            return UnreadableImage("image: takes too long to decode" if late else "image: breaks its decoder")

    def end(self) -> None:
        self.pipe.close()  # which is how it learns of it
        self.process.join()


def webp_pixels(source: bytes | Path) -> int:
    """Pixels that Pillow makes room for as it looks at a WebP; 0 for others, of which it reads the header alone.

    Raises:
        OSError: The file cannot be opened.
    """
    if isinstance(source, bytes):
        start = source[:30]
    else:
        with open_picture(source) as file:
            start = file.read(30)
    if len(start) < 30 or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return 0
    if start[12:16] == b"VP8 ":  # lossy
        return (int.from_bytes(start[26:28], "little") & 0x3FFF) * (int.from_bytes(start[28:30], "little") & 0x3FFF)
    if start[12:16] == b"VP8L":  # lossless
        sides = int.from_bytes(start[21:25], "little")
        return ((sides & 0x3FFF) + 1) * ((sides >> 14 & 0x3FFF) + 1)
    return (int.from_bytes(start[24:27], "little") + 1) * (int.from_bytes(start[27:30], "little") + 1)


def _serve(pipe: "Connection[Any, Any]") -> None:
    """What a process does until the other end of its pipe is gone, however that went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # Pillow's, of what clients send, who then could fill a disk
    torch.set_num_threads(1)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pipe.send(None)
    while True:
        try:
            task, arguments, memory, seconds = pipe.recv()
        except EOFError:
            return
        done: Any
        try:
            with _within(memory, seconds):
                done = task(*arguments)
        except MemoryError:
            done = UnreadableImage("image: needs too much memory to decode")
        except Exception as error:
            done = error
        pipe.send(done)


@contextmanager
def _within(memory: int, seconds: int) -> Iterator[None]:
    """Limit what this process may take more than it has: memory in bytes, and seconds, after which it dies."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
    if sys.platform == "linux":  # others do not keep to it
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)
    try:
        yield
    finally:
        _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)


def _limit(what: int, soft: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
        soft = hard
    resource.setrlimit(what, (soft, hard))


def _content(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    with open_picture(source) as file:
        return file.read()


def _size(source: bytes | Path) -> tuple[int, int]:
    return picture_size(_content(source))


def _square(source: bytes | Path, image: Preprocessing, crop: Crop | None) -> Picture:
    content = _content(source)
    if crop is None:
        return image.decode(content)
    return to_square(cropped(read_image(content), crop), image.side, image.fit)


def _shown(source: bytes | Path) -> bytes:
    image = Image.fromarray(read_image(_content(source), at_least=SHOWN))
    image.thumbnail((SHOWN, SHOWN), reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
