"""Is this installation sound: what it is made of, what is repeatable here, and a self-test of some seconds.

The self-test computes every loss and metric on a small batch, on every device and in every precision, and compares with
`doctor.json`: float64 values of the slow loops that the tests have for the papers' equations, and a picture in every
format. `python tests/doctor_values.py` writes that file.
"""

import base64
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearkin import losses
from nearkin.data.images import FORMATS, read_image
from nearkin.errors import InputError
from nearkin.metrics import kmeans, nmi, pairwise_f1, retrieval

Facts = dict[str, str]

STORED = Path(__file__).with_name("doctor.json")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of a loss and its slope, relative to them or to 1
METRICS = 1e-9  # exact ranks on points that are rounded to a grid, in every precision
LOSSY = {"JPEG": 12, "WEBP": 12, "AVIF": 12}  # levels of 255 that these formats may be off in a smooth picture


class Check(NamedTuple):
    """One line of the self-test."""

    name: str
    right: bool
    expected: str
    actual: str

    def __str__(self) -> str:
        if self.right:
            return f"  ok     {self.name}"
        return f"  WRONG  {self.name}: expected {self.expected}, got {self.actual}"


def examine(folder: Path) -> dict[str, Facts]:
    """What the installation is made of: facts by section; `folder` is where the free disk is looked at.

    Raises:
        InputError: There is no such folder, or nearkin is not installed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one to see how much is free there")
    disk = shutil.disk_usage(folder)
    return {
        "versions": versions(),
        "devices": {str(device): describe(device) for device in devices()},
        "threads": {
            "torch": f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} operations at once",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        },
        "pictures": {
            "JPEG": f"simplejpeg {importlib.metadata.version('simplejpeg')}, libjpeg-turbo",
            "others": f"Pillow {importlib.metadata.version('pillow')}: {', '.join(FORMATS[1:])}",
        },
        "repeatable": {
            "seed": "--seed, 0 unless given: initial weights, order of pictures, augmentation, dropout",
            "cpu": "training, bit for bit, with these versions and as many threads; resumed after a stop too",
            "cuda": "initial weights and order of pictures; not the trained weights, for sums come in no fixed order",
            "metrics": "Recall@K, MAP@R and R-precision of given embeddings, on every machine: ranks are exact",
        },
        "disk": {str(folder.resolve()): f"{disk.free / 1e9:.1f} GB free of {disk.total / 1e9:.1f}"},
    }


def as_text(facts: dict[str, Facts]) -> str:
    """The facts, one a line, and the title of the self-test."""
    lines = []
    for section, known in facts.items():
        width = max(map(len, known))
        lines += [section, *(f"  {name:{width}}  {fact}" for name, fact in known.items())]
    return "\n".join([*lines, "self-test"])


def versions() -> Facts:
    """Python, nearkin, and every package that it needs or that an extra of it brings."""
    found = {"python": platform.python_version()}
    try:
        requirements = importlib.metadata.requires("nearkin") or []
        found["nearkin"] = importlib.metadata.version("nearkin")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("nearkin is not installed, so what it needs is not known: pip install -e .") from error
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == .(\w+)", requirement)
        try:
            present = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            present = "not installed"
        if extra is None or extra[1] not in ("dev", "mutation"):
            found[name] = present if extra is None else f"{present} (extra: {extra[1]})"
    return found


def devices() -> list[torch.device]:
    """The CPU, then every GPU that PyTorch can use."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [torch.device(name) for name in [*names, *(["mps"] if torch.backends.mps.is_available() else [])]]


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return (
            f"{gpu.name}, {gpu.total_memory / 1e9:.1f} GB, compute {gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}"
        )
    if device.type == "mps":
        return "Apple GPU; it has no float64, on which metrics rest: they run on the CPU"
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    name = model[1] if model else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {usable} for this process, {memory:.1f} GB"


def self_test() -> Iterator[Check]:
    """Check every loss, metric and picture format, one at a time."""
    stored = json.loads(STORED.read_text())
    for device in devices():
        for dtype, tolerance in TOLERANCE.items():
            if (device.type, dtype) == ("mps", torch.float64):
                continue
            where = f"{device} {str(dtype).removeprefix('torch.')}"
            x, direction = (torch.tensor(stored[key]).to(device, dtype) for key in ("embeddings", "direction"))
            for name, case in stored["losses"].items():
                expected = [case["value"], case["slope"]]
                yield check(f"{where} {name}", expected, tolerance, partial(loss_of, x, direction, case))
            for name, expected in stored["metrics"].items():
                yield check(f"{where} {name}", expected, METRICS, partial(metric_of, x, stored, name))
    for kind, content in stored["pictures"].items():
        yield check(f"reading {kind}", [0], LOSSY.get(kind, 0), partial(farthest, base64.b64decode(content)))


def check(name: str, expected: list[float], tolerance: float, compute: Callable[[], list[float]]) -> Check:
    """Compare numbers; an error in computing them is a wrong answer too."""
    try:
        found = compute()
    except Exception as error:  # whatever it is, the other checks go on
        return Check(name, False, shown(expected), f"{type(error).__name__}: {' '.join(str(error).split())}")
    pairs = zip(found, expected, strict=True)
    right = all(abs(actual - wanted) <= tolerance * max(1, abs(wanted)) for actual, wanted in pairs)
    return Check(name, right, f"{shown(expected)} ± {tolerance:g}", shown(found))


def shown(numbers: list[float]) -> str:
    return " ".join(f"{number:.12g}" for number in numbers)


def loss_of(x: Tensor, direction: Tensor, case: dict[str, Any]) -> list[float]:
    """The value of a loss, and its slope where the embeddings (N, D) move in a direction (N, D)."""
    loss = getattr(losses, case["class"])(**case["arguments"])
    for parameter in loss.parameters():
        parameter.data = parameter_values(parameter.shape)
    x = x.clone().requires_grad_()
    value = loss.to(x.device, x.dtype)(x, torch.tensor(case["labels"], device=x.device))
    (gradient,) = torch.autograd.grad(value, x)
    return [value.item(), (gradient * direction).sum().item()]


def parameter_values(shape: torch.Size) -> Tensor:
    """What a loss is taken to have learned, in float64: random numbers would not be the same in every version."""
    numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).sin()
    return numbers.view(shape).mul_((6 / shape[-1]) ** 0.5)


def metric_of(x: Tensor, stored: dict[str, Any], name: str) -> list[float]:
    labels, clusters = np.array(stored["labels"]), np.array(stored["clusters"])
    if name == "nmi and pairwise_f1":
        return [nmi(labels, clusters), pairwise_f1(labels, clusters)]
    if name == "retrieval":
        return list(retrieval(x, labels).values())
    return [kmeans(apart(x), 2).objective]


def apart(x: Tensor) -> Tensor:
    """The points (N, D), every other moved so far away that there is one best way to make two clusters of them."""
    return x + 64 * (torch.arange(len(x), device=x.device)[:, None] % 2)


def picture() -> NDArray[np.uint8]:
    """The picture (16, 16, 3) that `doctor.json` has in every format: two ramps and their mean."""
    down, right = np.indices((16, 16)) * 12 + 30
    return np.stack([down, right, (down + right) // 2], axis=2).astype(np.uint8)


def farthest(content: bytes) -> list[float]:
    """By how much of 255, at most, a picture read from a file's content differs from `picture`."""
    return [float(np.abs(read_image(content).astype(int) - picture()).max())]
