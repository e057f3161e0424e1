"""Random numbers that depend on a key, such as seed and step, and on nothing that was drawn before."""

import numpy as np
import torch


def step_seed(*key: int) -> int:
    """A seed of its own for every key, such as (seed, step)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def reseed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and one device; that one looks for every kind there is, which takes 1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
