"""Archives of unknown origin -> one folder that is there whole or not at all."""

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nearkin.data.download import MB, Progress
from nearkin.errors import InputError

# RuntimeError: encrypted. The last three: one name stands for a file and a folder.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


class Hostile(ValueError):  # noqa: N818
    """A member of an archive that no picture needs and that could write elsewhere; the message says which."""


def unpack(archive: Path, folder: str, progress: Progress) -> Path:
    """Unpack a .tgz or .zip and keep the one folder in it that is wanted, beside the archive.

    Everything goes into a hidden folder first, and what is wanted is renamed once all of it is written: a reader, or a
    crash at any moment, finds a whole folder or none.

    Args:
        archive: The file.
        folder: Name, at the archive's top level, of the folder to keep; it must not exist yet.
        progress: Shows how far the archive has been read.

    Returns:
        The folder.

    Raises:
        InputError: The archive is damaged, lacks the folder, or holds anything but plain files and folders below it:
            an absolute name, `..`, a link, a device. Nothing is left of it then.
        OSError: The disk is full.
    """
    target = archive.parent / folder
    scratch = archive.parent / f".{folder}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
    try:
        with progress(f"unpacking {archive.name}, MB", archive.stat().st_size // MB, 0) as counter:
            for name, content, position in members(archive):
                write(scratch / name, content)
                counter.advance(position // MB - counter.done)
        if not (scratch / folder).is_dir():
            raise InputError(f"{archive} holds no folder {folder}; bring the original archive")
        return (scratch / folder).rename(target)
    except Hostile as error:
        raise InputError(f"{archive} {error}; nothing was unpacked, bring the original archive") from error
    except DAMAGE as error:
        raise InputError(f"{archive} is truncated or damaged ({error}); bring it again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


Member = tuple[str, IO[bytes] | None, int]
"""Name, content (None for a folder), and how many bytes of the archive have been read."""


def members(archive: Path) -> Iterator[Member]:
    """Everything in an archive, in order."""
    yield from from_zip(archive) if archive.suffix == ".zip" else from_tar(archive)


def from_tar(archive: Path) -> Iterator[Member]:
    with open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as tar:
        for member in tar:
            check_name(member.name)
            if member.isdir():
                yield member.name, None, raw.tell()
            elif member.isreg():
                yield member.name, tar.extractfile(member), raw.tell()
            else:
                raise Hostile(f"holds a link or device, {member.name!r}, in place of a file")
        while tar.fileobj and tar.fileobj.read(MB):  # a tar ends at a block of zeros, the checksum lies behind it
            pass


def from_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        position = 0
        for member in file.infolist():
            check_name(member.filename)
            position += member.compress_size
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
            if member.is_dir():
                yield member.filename, None, position
            elif kind in (0, stat.S_IFREG):
                with file.open(member) as content:
                    yield member.filename, content, position
            else:
                raise Hostile(f"holds a link or device, {member.filename!r}, in place of a file")


def check_name(name: str) -> None:
    """Refuse a name that leads out of the folder it is unpacked into, on any system."""
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise Hostile(f"holds a file that would be written elsewhere, {name!r}")


def write(path: Path, content: IO[bytes] | None) -> None:
    """Write a member with the permissions of any new file: the archive's own owner and mode count for nothing."""
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file, 2**20)
