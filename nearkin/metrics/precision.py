"""Float32 products in float32, whatever the user has set for training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Have float32 products on a device neither computed in TF32 or bfloat16 nor cast by autocast.

    The precision of matrix products is set again to what it was. Where that came from a wider setting
    (`torch.backends.fp32_precision`), it no longer follows it: PyTorch does not say which of the two it was.
    """
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
