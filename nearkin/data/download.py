"""Files of a data set: those that the user has brought, or downloads that go on where they broke off; md5 checked."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from nearkin.errors import InputError

CHUNK = 2**16  # what a broken connection loses at most
MB = 10**6

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""


class Counter(Protocol):
    """Counts units of work."""

    done: int

    def advance(self, units: int = 1, note: str = "") -> None: ...


Progress = Callable[[str, int, int], AbstractContextManager[Counter]]
"""Shows long work: (what, total units, units done before now) -> a counter; `nearkin.progress.Bar` is one."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: Of the file.
        md5: Of its content, in hexadecimal.
        source: Where a person finds it, to follow "from".
        urls: Where a program finds it, the first choice first; none if nobody offers it any more.
        folder: What it unpacks to; empty for a file that is used as it is.
    """

    name: str
    md5: str
    source: str
    urls: tuple[str, ...] = ()
    folder: str = ""


class BrokenTransfer(Exception):  # noqa: N818
    """A server cannot be reached, refuses, or stops sending; the message says which."""


def fetch(file: RemoteFile, root: Path, progress: Progress) -> Path:
    """The file in `root`: the one that lies there already, or else a download.

    A download grows in `<name>.part`, goes on where an earlier one stopped, and takes the file's name once it is whole
    and its md5 is right.

    Args:
        file: What to get.
        root: Existing folder.
        progress: Shows the download, in units of 1 MB.

    Returns:
        The file, its md5 verified.

    Raises:
        InputError: The file that lies there has another md5 (it is left alone), or no address gave the right one.
        OSError: The folder cannot be written to, or the disk is full; what has been received stays.
    """
    path = root / file.name
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, where the file of that name is expected; move it away and run the command again"
        )
    if path.exists():
        found = md5(path)
        if found != file.md5:
            raise InputError(
                f"{path}: expected md5 {file.md5}, found {found} ({length(path):,} bytes): truncated, or another "
                f"edition; move it away and run the command again, or bring the one from {file.source}"
            )
        return path
    part = root / f"{file.name}.part"
    failures: list[str] = []
    for url in file.urls:
        try:
            receive(url, part, progress)
        except BrokenTransfer as error:
            failures.append(f"{url}: {error}")
            continue
        found = md5(part)
        if found == file.md5:
            return part.rename(path)
        part.unlink()  # going on from wrong bytes would never end well
        failures.append(f"{url}: expected md5 {file.md5}, found {found}; removed")
    raise InputError(
        f"{file.name} cannot be downloaded ({'; '.join(failures)}): run the command again to go on where it stopped, "
        f"or bring {file.name} (md5 {file.md5}) from {file.source} into {root}"
    )


def receive(url: str, part: Path, progress: Progress) -> None:
    """Append to `part` until the server has sent everything; connect again as long as each connection brings some.

    Raises:
        BrokenTransfer: A connection brought nothing, and the file is not complete.
    """
    before = length(part)
    while not transfer(url, part, progress):
        now = length(part)
        if now <= before:  # this also ends a server that begins anew each time and never comes further
            raise BrokenTransfer(f"the connection broke off after {now:,} bytes")
        before = now


def transfer(url: str, part: Path, progress: Progress) -> bool:
    """One connection: ask for what is missing from `part` and append it.

    Returns:
        Whether the server has sent all that it announced.
    """
    have = length(part)
    request = Request(url, headers={"User-Agent": "nearkin"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response: HTTPResponse = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing lies behind what we have: the md5 tells whether it is the file
            return True
        raise BrokenTransfer(f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise BrokenTransfer(str(getattr(error, "reason", error)) or type(error).__name__) from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise BrokenTransfer("the server sends a web page in place of the file")
        resumed = response.status == 206
        if resumed and first_byte(response) != have:
            raise BrokenTransfer(f"the server was asked for the bytes from {have:,} on and sends others")
        announced = response.length  # None where the server does not say
        done = have if resumed else 0
        total = done + (announced or 0)
        with open(part, "ab" if resumed else "wb") as out, progress(f"{part.stem}, MB", total // MB, done // MB) as bar:
            while chunk := read(response):
                out.write(chunk)
                done += len(chunk)
                bar.advance(done // MB - bar.done)
    return chunk is not None and (announced is None or done == total)


def read(response: HTTPResponse) -> bytes | None:
    """The next bytes, none at the end; None from a connection that broke."""
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException):
        return None


def first_byte(response: HTTPResponse) -> int | None:
    """Where the part begins that `Content-Range: bytes 500-999/1000` announces."""
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    start = span.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def md5(path: Path) -> str:
    """The md5 of a file in hexadecimal: what these archives are published with, a check against accidents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
