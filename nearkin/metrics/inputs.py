"""What the metrics accept: embeddings and labels, from NumPy or PyTorch, checked once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Rows at a time.
TILE = 2**12

Array: TypeAlias = npt.NDArray[Any] | Tensor

Progress: TypeAlias = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps the iteration over pieces of work, to show it to a person."""


def as_embeddings(embeddings: Array, name: str = "embeddings") -> Tensor:
    """Return embeddings (N, D) as a detached tensor of their own precision, on their own device.

    Raises:
        ValueError: Unless they are real numbers of shape (N, D), N and D at least 1, all of them finite in float32.
    """
    if not isinstance(embeddings, Tensor):
        # PyTorch shares memory with NumPy only where it may write; it never does here.
        embeddings = torch.from_numpy(np.require(embeddings, requirements=["C", "W"]))
    if embeddings.ndim != 2 or embeddings.numel() == 0:
        raise ValueError(f"{name} must be (N, D) with N and D at least 1, got shape {tuple(embeddings.shape)}")
    if embeddings.is_complex():
        raise ValueError(f"{name} must be real numbers, got {embeddings.dtype}")
    limit = torch.finfo(torch.float32).max
    # False for NaN as well.
    usable = torch.cat([tile.abs().amax(dim=1) <= limit for tile in torch.split(embeddings.detach(), TILE)])
    if not usable.all():
        row = int((~usable).nonzero()[0])
        raise ValueError(f"{name} must be finite in float32, got NaN or infinity in row {row}")
    # Apple's GPUs have no float64, on which exact ranking rests.
    return embeddings.detach().cpu() if embeddings.device.type == "mps" else embeddings.detach()


def as_labels(labels: Array, count: int | None = None, name: str = "labels") -> npt.NDArray[np.int64]:
    """Return integer labels (N,) as int64.

    Raises:
        ValueError: Unless they are integers of shape (N,), N at least 1, and N = `count` where that is given.
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be (N,) with N at least 1, got shape {values.shape}")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} embeddings, got {len(values)}")
    return values.astype(np.int64)
