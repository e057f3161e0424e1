"""What a training run cost, and fingerprints of what it began with and was shown.

Two runs whose fingerprints agree started from the same weights and saw the same pictures in the same order: that is
how `nearkin compare` checks what it says it holds equal.
"""

import hashlib
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MB = 2**20


class TrainingRecord:
    """Kept along a run, saved in its checkpoints: a resumed run has the same fingerprints as one never stopped.

    Args:
        embedder: The network with its initial weights.
        device: Where it will be trained.

    Attributes:
        pictures: Pictures learnt from so far, each counted as often as it was seen.
        initial_weights: SHA-256 of the initial weights.
        data_order: SHA-256 over the indices of every batch so far.
        peak: Most memory used so far, in bytes, by whichever process used the most.
    """

    def __init__(self, embedder: nn.Module, device: torch.device) -> None:
        self.device = device
        self.pictures = 0
        self.initial_weights = fingerprint(embedder.state_dict())
        self.data_order = hashlib.sha256().hexdigest()
        self.peak = 0

    def count(self, indices: NDArray[np.int64]) -> None:
        """Note one batch (n,) of pictures. The hash is chained: it holds the order and the borders of the batches."""
        self.pictures += len(indices)
        link = bytes.fromhex(self.data_order) + np.asarray(indices, dtype="<i8").tobytes()
        self.data_order = hashlib.sha256(link).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        self.peak = max(self.peak, peak_memory(self.device))
        return {key: getattr(self, key) for key in ("pictures", "initial_weights", "data_order", "peak")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, value)

    def summary(self, steps: int, seconds: float) -> dict[str, Any]:
        """What `result.json` says of the training."""
        self.peak = max(self.peak, peak_memory(self.device))
        return {
            "seconds": round(seconds, 3),
            "steps": steps,
            "pictures": self.pictures,
            "peak_memory_mb": round(self.peak / MB, 1),
            "peak_memory_of": "GPU, tensors" if self.device.type == "cuda" else "process, resident",
            "initial_weights": self.initial_weights,
            "data_order": self.data_order,
        }


def peak_memory(device: torch.device) -> int:
    """The most memory so far in bytes: of tensors on a GPU; elsewhere of the process, its libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows keeps no such account
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 over the name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
