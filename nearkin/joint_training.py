"""What a training needs where torchrun started several processes: the steps of one, taken by all of them."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nearkin.data.folder import count
from nearkin.errors import InputError
from nearkin.models import AnyEmbedder
from nearkin.processes import gather, world_size
from nearkin.seeds import reseed


def devices(accelerator: str) -> dict[str, Any]:
    """What Fabric has to know of the processes that torchrun started, if it did.

    Raises:
        InputError: They are more than there are GPUs.
    """
    if world_size() == 1:
        return {"devices": 1}
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if accelerator != "cpu" and 0 < gpus < here:
        raise InputError(
            f"torchrun started {here} processes on a machine with {count(gpus, 'GPU')}; start as many as there are "
            "GPUs, or add --accelerator cpu"
        )
    return {"devices": here, "num_nodes": world_size() // here, "strategy": "ddp"}


def freeze_unused(embedder: AnyEmbedder, size: int) -> None:
    """Freeze parameters that get no gradient, such as those of layers behind the last level: DDP would wait for it."""
    embedder.eval()
    embedder(torch.zeros(1, 3, size, size)).sum().backward()
    for parameter in embedder.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def jointly(
    compare: Callable[[Tensor], Tensor], total: int, own_seed: int, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Compare the embeddings of all processes, with the same random numbers on each, those of now.

    Until then every process has its own: dropout in their networks differs.
    """
    generators = [torch.default_generator]
    if device.type != "cpu":
        generators.append(torch.cuda.default_generators[device.index or 0])
    states = [each.get_state() for each in generators]
    reseed(own_seed, device)

    def compare_all(embeddings: Tensor) -> Tensor:
        own = [each.get_state() for each in generators]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        value = compare(gather(embeddings, total))
        for generator, state in zip(generators, own, strict=True):
            generator.set_state(state)
        return value

    return compare_all
