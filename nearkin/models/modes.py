"""Modes of a module: evaluating for a moment, batch norms frozen."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the mode that was."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep the statistics of every batch norm as they are; call it after each `module.train()`."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
