"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write beside the file and rename: a reader, or a crash at any moment, finds the old content or the new.

    Raises:
        OSError: The disk is full, or the folder cannot be written to; the old content is untouched.
    """
    beside = path.with_name(f".{path.name}.tmp")  # what a killed process left of it is overwritten here
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not know its file
