"""Float32 products in float32, whatever the user has set for training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Have float32 products on a device neither computed in TF32 or bfloat16 nor cast by autocast."""
    backends = (torch.backends.mkldnn, torch.backends.cuda)
    before = [backend.matmul.fp32_precision for backend in backends]
    for backend in backends:
        backend.matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.matmul.fp32_precision = precision
