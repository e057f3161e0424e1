"""What the metrics accept: embeddings and labels, from NumPy or PyTorch, checked once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Rows at a time.
TILE = 2**12
# Of embeddings: what PyTorch can compute with, of either library, in the byte order of the machine.
TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")

Array: TypeAlias = npt.NDArray[Any] | Tensor

Progress: TypeAlias = Callable[[Sequence[Any]], Iterable[Any]]
"""Wraps the iteration over pieces of work, to show it to a person."""


def as_embeddings(embeddings: Array, name: str = "embeddings") -> Tensor:
    """Return embeddings (N, D) as a detached tensor of their own precision, on their own device.

    Raises:
        ValueError: Unless they are numbers of one of the TYPES, of shape (N, D), N and D at least 1, not sparse, all of
            them finite in float32.
    """
    values = embeddings if isinstance(embeddings, Tensor) else np.asarray(embeddings)
    kind = str(values.dtype).removeprefix("torch.")
    if kind not in TYPES:
        raise ValueError(f"{name} must be of one of the types {', '.join(TYPES)}, got {kind}")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must be (N, D) with N and D at least 1, got shape {tuple(values.shape)}")
    if not isinstance(values, Tensor):
        # PyTorch shares memory with NumPy only where it may write; it never does here.
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    if values.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {values.layout}")
    if values.device.type == "meta":
        raise ValueError(f"{name} must have values, got a tensor on the device meta")
    values = values.detach()
    # In float64, where the limit is not itself infinite as in float16. False for NaN as well.
    limit = torch.finfo(torch.float32).max
    usable = torch.cat([tile.abs().amax(dim=1).double() <= limit for tile in torch.split(values, TILE)])
    if not usable.all():
        row = int((~usable).nonzero()[0])
        raise ValueError(f"{name} must be finite in float32, got NaN or infinity in row {row}")
    # Apple's GPUs have no float64, on which exact ranking rests.
    return values.cpu() if values.device.type == "mps" else values


def as_labels(labels: Array, count: int | None = None, name: str = "labels") -> npt.NDArray[np.int64]:
    """Return integer labels (N,) as int64.

    Raises:
        ValueError: Unless they are integers of shape (N,), N at least 1, not sparse, and N = `count` where that is
            given.
    """
    if isinstance(labels, Tensor):  # NumPy has neither
        if labels.layout != torch.strided:
            raise ValueError(f"{name} must be dense, got {labels.layout}")
        if labels.device.type == "meta":
            raise ValueError(f"{name} must have values, got a tensor on the device meta")
        if labels.is_floating_point():
            raise ValueError(f"{name} must be integers, got {str(labels.dtype).removeprefix('torch.')}")
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be (N,) with N at least 1, got shape {values.shape}")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} embeddings, got {len(values)}")
    return values.astype(np.int64)
