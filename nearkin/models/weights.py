"""Weights in files: read without running what is in them, checked against the network, put into it."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nearkin.errors import InputError


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a state dict saved by torch; no code in it can run.

    Raises:
        InputError: The file is missing, cannot be read, or holds something else.
    """
    if not file.is_file():
        raise InputError(f"backbone.weights expects none, imagenet or a file of weights, but there is no file {file}")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return only_tensors(read_saved(file))
    except Exception as error:  # every reader has its own errors for a damaged file
        raise InputError(f"{file} cannot be read as a safetensors or torch state dict: {first_line(error)}") from error


def only_tensors(state: object) -> dict[str, Tensor]:
    """The tensors among what a file holds, bare or, as training scripts save them, under the key `state_dict`.

    Raises:
        ValueError: It is no dictionary of tensors; the message says what it is.
    """
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping):
        raise ValueError(f"expected a dictionary of tensors, found {type(state).__name__}; save module.state_dict()")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    inner = [key for key, value in state.items() if isinstance(value, Mapping) and count(value) > len(tensors)]
    if inner:  # whatever lies beside it, the network is in there
        raise ValueError(
            f"expected tensors, found a dictionary under {some(inner)}; save the one that is the network by itself"
        )
    if not tensors:
        raise ValueError(f"expected a dictionary of tensors, found none under its keys ({some(list(state))})")
    return tensors


def count(state: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in state.values())


def read_saved(file: Path | IO[bytes]) -> Any:
    """What `torch.save` wrote, on the CPU; no code in it can run.

    Raises:
        ValueError: It is something else; the message says what in a few words.
        OSError, MemoryError: The file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickles, which are read or refused in a moment
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever bytes do to an unpickler
        if "allocate memory" in str(error):
            raise MemoryError(first_line(error)) from error
        raise ValueError(reason(error)) from error


def reason(error: Exception) -> str:
    """Why a file cannot be read. Torch wraps it into advice on how to run the code in a file."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"expected tensors and plain values, as in a state_dict, found an object of {refused[1]}"
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    if inner and not inner[1].startswith("Unsupported operand"):
        return inner[1]
    if inner or isinstance(error, EOFError | LookupError):
        return "expected what torch.save writes, found something else"
    return first_line(error)


def fill(module: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Set every tensor of `module`.

    What the module lacks is passed over if it is the published model's classifier (`module.classifier`: how the names
    of those tensors begin) or a buffer that the module computes for itself. Batch norms may lack their count of
    batches, and their vectors may be (1, C), as in the converted Caffe weights of bn_inception.

    Raises:
        InputError: Tensors are missing, left over, of another shape, whole numbers, NaN or infinite: one line that
            lists them.
    """
    target: nn.Module = getattr(module, "model", module)  # a wrapper's own prefix is in nobody's file
    wanted = target.state_dict()
    computed = dict(target.named_buffers()).keys() - wanted.keys()
    classifier: tuple[str, ...] = cast(Any, getattr(module, "classifier", ()))

    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    extra = [key for key in found if key not in wanted and key not in computed and not key.startswith(classifier)]
    shared = {key: found[key] for key in wanted if key in found}
    for key, tensor in shared.items():
        if tensor.shape == (1, *wanted[key].shape):
            shared[key] = tensor[0]
    misshapen = [
        f"{key} is {tuple(tensor.shape)}, should be {tuple(wanted[key].shape)}"
        for key, tensor in shared.items()
        if tensor.shape != wanted[key].shape
    ]
    whole = [  # would be cut off to whole numbers, or were scaled by something that the module does not know
        f"{key} is {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in shared.items()
        if wanted[key].is_floating_point() and not tensor.is_floating_point()
    ]
    unbounded = [key for key, tensor in shared.items() if not tensor.to(wanted[key].dtype).isfinite().all()]
    faults = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (
            ("missing", missing),
            ("unknown", extra),
            ("of another shape", misshapen),
            ("not of floating point", whole),
            ("NaN or infinite", unbounded),
        )
        if names
    ]
    if faults:
        raise InputError(
            f"{source} does not fit the network, which has {len(wanted)} tensors: {', '.join(faults)}; "
            "bring weights of the same model"
        )
    target.load_state_dict({**wanted, **shared})


def some(names: Sequence[object], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
