"""Files that are there whole or not at all, or that one process has alone; what small ones hold; names of places."""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nearkin.errors import InputError

log = logging.getLogger("nearkin")


def write_file(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Write beside the file and rename: a reader, or a crash at any moment, finds the old content or the new.

    Args:
        path: The file.
        content: All of it.
        keep: Name that the old content gets, if it shall stay; a crash may leave it under this one alone.

    Raises:
        OSError: The disk is full, or the folder cannot be written to; the old content is untouched.
    """
    beside = path.with_name(f".{path.name}.tmp")  # what a killed process left of it is overwritten here
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not know its file


def read_mapping(file: Path, parse: Callable[[bytes], Any], remedy: str) -> dict[str, Any]:
    """What a small file of JSON or YAML holds, as `mapping`.

    Raises:
        InputError: It is damaged.
        OSError: It cannot be read.
    """
    return mapping(file.read_bytes(), parse, str(file), remedy)


def mapping(content: bytes, parse: Callable[[bytes], Any], where: str, remedy: str) -> dict[str, Any]:
    """The keys and values of some JSON or YAML.

    Args:
        content: The text.
        parse: `json.loads` or `yaml.safe_load`.
        where: It was found, as a person calls that.
        remedy: What a person can do where it is damaged.

    Raises:
        InputError: It is damaged.
    """
    try:
        found = parse(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where} is damaged ({reason}); {remedy}") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} is damaged (it holds no keys and values); {remedy}")
    return found


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Be the only process that has a file, made if it is not there; while another has it, log `busy` once and wait.

    Raises:
        OSError: The file cannot be made or written to.
    """
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
        except BlockingIOError:
            log.warning("%s", busy)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def absolute(key: str, said: object) -> Path:
    """The absolute path that a person means; `~` is a home.

    Args:
        key: Of what it was said.
        said: The name.

    Raises:
        InputError: It is empty, no name at all, or one that leads nowhere, such as the home of a user who is not there.
    """
    expected = f"{key} expects the name of a folder"
    if not isinstance(said, str | Path) or said == "":
        raise InputError(f"{expected}, got {said!r}; name one")
    try:
        return Path(said).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{expected}, got {str(said)!r} ({str(error).rstrip('.')}); name another") from error
