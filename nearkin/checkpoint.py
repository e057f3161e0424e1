"""The state of a run in the middle of training: the last checkpoint and the one before, each whole or not at all."""

import io
import logging
from pathlib import Path
from typing import Any

import torch

from nearkin.errors import InputError
from nearkin.files import write_file

log = logging.getLogger("nearkin")

BEFORE = "previous.ckpt"
"""Name that a checkpoint takes when the next one is written."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a dictionary of plain values, tensors, and things with a `state_dict`; keep the file that was there."""
    content = io.BytesIO()  # in memory first: torch reports a full disk as something else than an OSError
    torch.save({k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}, content)
    write_file(path, content.getvalue(), keep=path.with_name(BEFORE))


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote last, or, where that is damaged, before; no code in the file can run.

    Returns:
        The state; None if there is neither file.

    Raises:
        InputError: There are files, and all are damaged.
    """
    damage = None
    for file in (path, path.with_name(BEFORE)):
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged archive shows itself in many ways
            damage = damage or f"{file} is damaged ({str(error).splitlines()[0]})"
            continue
        if damage:
            log.warning("%s; going on from the one before it, of step %d", damage, state["step"])
        return state
    if damage:
        raise InputError(f"{damage}, and there is none before it; remove it to begin the run anew with --resume")
    return None
