"""The state of a run in the middle of training, in one file that is there whole or not at all."""

import io
from pathlib import Path
from typing import Any

import torch

from nearkin.errors import InputError
from nearkin.files import write_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a dictionary of plain values, tensors, and things with a `state_dict`."""
    content = io.BytesIO()  # in memory first: torch reports a full disk as something else than an OSError
    torch.save({k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}, content)
    write_file(path, content.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; no code in the file can run.

    Raises:
        InputError: The file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive shows itself in many ways
        raise InputError(
            f"{path} is damaged ({str(error).splitlines()[0]}); remove it to begin the run anew with --resume"
        ) from error
    return state
