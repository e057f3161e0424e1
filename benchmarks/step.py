"""Time of a training step of `nearkin train`, beside the same step written out in plain PyTorch.

    python benchmarks/step.py CONFIG.yaml --data PHOTOS [--key value ...] [--steps 100] [--rounds 5] [--threads 1]

Bare: forward, loss, backward, optimiser and schedule on batches that lie in memory, cropped. nearkin: the whole loop of
`nearkin.train`, once with nothing to augment and once as configured. The three take turns in one process; a step is
clocked from one call of the loss to the next. CPU time is of all threads.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearkin import config
from nearkin.data import Augmentation, read_all
from nearkin.embed import create_embedder
from nearkin.losses.per_level import PerLevelLoss
from nearkin.train import parameter_groups, train, with_warmup

WARM = 10


class Clocked(nn.Module):
    """A loss that notes when it is called: (wall, CPU) seconds."""

    def __init__(self, loss: nn.Module, times: list[tuple[float, float]]) -> None:
        super().__init__()
        self.loss, self.times = loss, times
        self.normalize = getattr(loss, "normalize", False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        self.times.append((time.perf_counter(), time.process_time()))
        return self.loss(embeddings, labels)


def per_step(times: list[tuple[float, float]], steps: int, levels: int) -> tuple[float, float]:
    """Wall and CPU milliseconds of a step, the first few left out; each step calls the loss once per level."""
    firsts = times[-steps * levels :: levels][WARM:]
    return tuple(1e3 * (firsts[-1][k] - firsts[0][k]) / (len(firsts) - 1) for k in (0, 1))


def bare(settings: dict[str, Any], batches: list[tuple[Tensor, Tensor]], device: str) -> None:
    """Train on these batches."""
    image, levels = settings["image"], settings["levels"]
    torch.manual_seed(0)
    embedder = create_embedder(
        settings["backbone"].build(), settings["embedding_size"], settings["pool"], levels, image.size
    )
    loss = settings["loss"]() if levels is None else PerLevelLoss(settings["loss"]() for _ in levels)
    optimizer = settings["optimizer"](parameter_groups(embedder, loss))
    rates = with_warmup(optimizer, settings["schedule"], settings["warmup"])
    embedder.to(device, memory_format=torch.channels_last)
    loss.to(device)
    embedder.train()
    for images, labels in batches:
        value = loss(embedder(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rates.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args, rest = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    settings = config.read([*rest, "--steps", str(args.steps)])
    times: list[tuple[float, float]] = []
    built = settings.build()
    make = built["loss"]
    built["loss"] = lambda: Clocked(make(), times)
    plain = Augmentation(mirror=False)
    levels = len(built["levels"] or [None])

    listed, split = built["data"].open(0)
    number = np.full(len(listed.classes), -1)
    number[split.train] = np.arange(len(split.train))
    train_set = listed.only(split.train)
    images, pictures = read_all(train_set, built["image"])
    sampler, batches = built["sampler"](number[images.labels], seed=0), []
    while len(batches) < args.steps:
        for chosen in sampler:
            views = plain(pictures[chosen], built["image"].size, torch.default_generator)
            batches.append((views, torch.from_numpy(number[images.labels[chosen]])))
    batches = batches[: args.steps]

    kinds = ("bare", "nearkin", "augmented")
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null:
        for turn in range(args.rounds):
            for kind in kinds:
                if kind == "bare":
                    bare(built, batches, device)
                else:
                    augment = plain if kind == "nearkin" else built["augment"]
                    run = {**built, "augment": augment, "out": Path(folder) / f"{kind}-{turn}"}
                    with contextlib.redirect_stderr(null):
                        train(**run)
                found[kind].append(per_step(times, args.steps, levels))
    print(f"{'':12}{'wall ms':>9}{'/ bare':>8}{'CPU ms':>9}{'/ bare':>8}   median of {args.rounds}, on {device}")
    for kind in kinds:
        line = f"{kind:12}"
        for k in (0, 1):
            ratios = [each[k] / floor[k] for each, floor in zip(found[kind], found["bare"], strict=True)]
            line += f"{statistics.median(each[k] for each in found[kind]):9.2f}{statistics.median(ratios):8.3f}"
        print(line)


if __name__ == "__main__":
    main()
