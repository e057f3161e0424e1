"""What can be told before a training begins: whether its parts fit each other, and what its pictures lack."""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nearkin.data import ClassSplit, ImageList
from nearkin.data.folder import count, names
from nearkin.errors import InputError
from nearkin.losses import DAMLRRMLoss
from nearkin.models import AnyEmbedder, freeze_batch_norm

log = logging.getLogger("nearkin")


def rehearse(embedder: AnyEmbedder, criterion: nn.Module, size: int, labels: NDArray[np.int64], classes: int) -> None:
    """Send a blank picture through the network and a batch of noise through the loss: what does not fit shows here.

    Raises:
        InputError: The backbone does not take pictures of this size, or the loss not the sampler's batches, or not the
            last of so many training classes.
    """
    embedder.eval()
    criterion.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        with blame(f"backbone, given pictures of image.size {size}"):
            embeddings = embedder(torch.zeros(1, 3, size, size))
        with blame("loss, given a batch of the sampler"):
            noise = torch.randn(len(labels), embeddings.shape[1])
            criterion(noise, torch.from_numpy(labels))
        # No batch may hold the last class for a while: the same one again, with its classes moved up to the last.
        with blame(f"loss, given a batch of the {classes} training classes"):
            criterion(noise, torch.from_numpy(labels + (classes - 1 - labels.max())))
    criterion.train()


def rehearse_parts(embedder: AnyEmbedder, size: int, batch: int, micro_batch: int, frozen_batch_norm: bool) -> None:
    """Send a blank picture alone through the network in training, if a batch in parts will have such a part.

    Raises:
        InputError: A batch norm wants more than one.
    """
    if batch // math.ceil(batch / micro_batch) > 1:
        return
    network = copy.deepcopy(embedder).train()  # whose statistics move
    if frozen_batch_norm:
        freeze_batch_norm(network.backbone)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), blame("micro_batch leaves a picture alone, raise it"):
        network(torch.zeros(1, 3, size, size))


def report_singles(images: ImageList, split: ClassSplit) -> None:
    """Name the classes that have one picture: nothing in them can be compared with its own kind."""
    sizes = np.bincount(images.labels, minlength=len(images.classes))
    for part, classes, what in (
        ("training", split.train, "left out of the batches"),
        ("validation", split.validation, "their pictures count as misses"),
        ("test", split.test, "their pictures count as misses"),
    ):
        single = [images.classes[c] for c in classes if sizes[c] == 1]
        if single:
            log.warning("%s with one picture, %s: %s", count(len(single), f"{part} class"), what, names(single))


def report_halves(criterion: nn.Module, labels: NDArray[np.int64]) -> None:
    """Say so where a loss of two streams is given a batch whose halves have no class in common."""
    two_streams = any(isinstance(each, DAMLRRMLoss) and each.streams != "neat" for each in criterion.modules())
    half = len(labels) // 2
    if two_streams and not np.isin(labels[half:], labels[:half]).any():
        log.warning(
            "DAMLRRMLoss compares a shuffled half of the batch with a neat one, but in the first batch no picture of "
            "the second half has a classmate in the first; give it the batches it is for: --sampler TwoStreamSampler"
        )


@contextmanager
def blame(part: str) -> Iterator[None]:
    """What a constructor does not accept is the user's to put right: one line, naming the part of the configuration."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{part}: {reason}") from error
