"""The state of a run in the middle of training: the last checkpoint and the one before, each whole or not at all.

A file is the SHA-256 of what follows, 32 bytes, and that is what `torch.save` makes of the state.
"""

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from nearkin.errors import InputError
from nearkin.files import write_file
from nearkin.models.weights import read_saved

log = logging.getLogger("nearkin")

BEFORE = "previous.ckpt"
"""Name that a checkpoint takes when the next one is written."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a dictionary of plain values, tensors, and things with a `state_dict`; keep the file that was there."""
    file = io.BytesIO()  # in memory first: torch reports a full disk as something else than an OSError
    torch.save({k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}, file)
    content = file.getvalue()
    write_file(path, hashlib.sha256(content).digest() + content, keep=path.with_name(BEFORE))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote last; no code in the file can run.

    Where that is damaged, the one before takes its place.

    Returns:
        The state; None if there is neither file.

    Raises:
        InputError: There are files, and all are damaged, or the one that is whole is not what a training writes.
    """
    damaged = None
    for file in (path, path.with_name(BEFORE)):
        try:
            content = memoryview(file.read_bytes())
        except FileNotFoundError:
            continue
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            damaged = damaged or file
            continue
        try:
            state = read_saved(io.BytesIO(content[32:]))
            if not isinstance(state, dict):
                raise ValueError(f"it holds {type(state).__name__}")
        except ValueError as error:  # whole, and made by somebody else
            raise InputError(
                f"{file} is no checkpoint of a training ({error}); "
                "bring it back, or begin the run anew with --overwrite"
            ) from error
        if damaged:
            log.warning("%s is damaged; going on from the one before it, of step %s", damaged, state.get("step"))
            os.replace(file, path)  # else the next one would be kept beside the damaged one
        return state
    if damaged:
        raise InputError(
            f"{damaged} is damaged, and there is no whole one before it; remove it to begin the run anew with --resume"
        )
    return None
