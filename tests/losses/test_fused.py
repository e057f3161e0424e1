"""Fused kernels in Triton's interpreter on a CPU, against the losses in float64, which have references of their own.

Triton must be told before it is imported that it shall interpret, so that one other process computes all cases.
"""

import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import BATCHES, with_copies

from nearkin.losses import AngularLoss, RankedListLoss

if importlib.util.find_spec("triton") is None:
    pytest.skip("the fused kernels need triton, which is not installed", allow_module_level=True)

INTERPRET = """
import sys, numpy as np, torch, triton.language as tl
from triton.runtime import interpreter
from nearkin.losses import fused

dot = interpreter.InterpreterBuilder.create_dot

def widened(factor):  # the interpreter holds bfloat16 as integers, and multiplies those
    if factor.dtype.scalar != tl.bfloat16:
        return factor
    return interpreter.TensorHandle((factor.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
cases = torch.load(sys.argv[1])
torch.save({name: getattr(fused, loss)(*arguments) for name, (loss, *arguments) in cases.items()}, sys.argv[1])
"""
RANKED_LIST = {
    "as published": (1.2, 0.4, 10.0, 1.0),
    "every positive": (1.2, 1.2, 0.0, 0.5),
    "hard negatives": (1.9, 0.4, 100.0, 2.0),
    "nothing to learn": (0.01, 0.0, 10.0, 1.0),
}
ANGULAR = {"45 degrees": (1.0,), "80 degrees": (32.0,)}


def straddling(n, size, dim, seed=0):
    """Unit vectors in weak classes of one size, some of which lie in two blocks, mixed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) // size
    x = torch.randn(n, dim, dtype=torch.float64, generator=generator)
    x = F.normalize(x + x[labels * size])
    order = torch.randperm(n, generator=generator)
    return x[order], labels[order]


def unit(name):
    x, labels = BATCHES[name]()
    return F.normalize(x), labels


BATCH = {
    **{f"classes of {size}": straddling(70 + size, size, dim) for size, dim in ((1, 16), (2, 5), (3, 40), (5, 33))},
    "one block": straddling(64, 4, 16),
    "large classes": straddling(96, 33, 24),
    "classes of many sizes": (straddling(100, 1, 8)[0], (torch.arange(100) ** 0.5).long() * 7 - 30),
    "not of unit length": BATCHES["unbalanced"](),
    **{name: unit(name) for name in BATCHES if name != "empty" and "norm" not in name},
}
LONG = {
    "norm 1e3": BATCHES["norm 1e3"](),
    "duplicates, norm 1e3": (with_copies(0.0, scale=1e3), BATCHES["duplicates"]()[1]),
    "norm 1e-4": BATCHES["norm 1e-4"](),
    "as they came, far from the origin": BATCHES["far from the origin"](),
}
CASES = {
    f"{loss}, {setting}, {batch}, {dtype}": (loss, x.to(dtype), y, *numbers)
    for loss, settings, batches in (("ranked_list", RANKED_LIST, BATCH | LONG), ("angular", ANGULAR, BATCH))
    for setting, numbers in settings.items()
    for batch, (x, y) in batches.items()
    for dtype in (torch.float32, torch.bfloat16)
    if dtype == torch.float32 or numbers == next(iter(settings.values()))
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("fused") / "cases.pt"
    torch.save(CASES, file)
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", INTERPRET, str(file)], check=True, env=environment)
    return torch.load(file)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_loss_in_float64(name, found):
    loss, x, y, *numbers = CASES[name]
    exact = x.double().requires_grad_()
    if loss == "ranked_list":
        expected = RankedListLoss(*numbers, normalize=False)(exact, y)
    else:
        expected = AngularLoss(math.degrees(math.atan(numbers[0] ** 0.5)), normalize=False)(exact, y)
    (by_x,) = torch.autograd.grad(expected, exact)
    value, gradient = found[name]
    assert value.dtype == gradient.dtype == torch.float32
    near = "near duplicates" in name
    tolerance = 1e-2 if x.dtype == torch.bfloat16 else 1e-5
    if loss == "angular":
        tolerance *= numbers[0]  # the exponents are as much larger, and their rounding
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-3 if near else tolerance / 10, atol=1e-6)
    if loss == "ranked_list" and near:  # too near for float32: they have no direction
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= by_x.abs().max() * 2
    else:
        torch.testing.assert_close(gradient.double(), by_x, rtol=0, atol=tolerance * float(by_x.abs().max()))


@pytest.mark.parametrize(
    "x", [torch.zeros(3, 4).double(), torch.zeros(3, 513), torch.zeros(0, 4), torch.zeros(3, 4).half(), torch.zeros(3)]
)
def test_other_embeddings_are_refused(x):
    from nearkin.losses import fused

    labels = torch.arange(len(x))
    for loss, numbers in ((fused.angular, [1.0]), (fused.ranked_list, [1.2, 0.4, 10.0, 1.0])):
        with pytest.raises(ValueError, match=r"float32 or bfloat16, with N at least 1 and D at most 512, got"):
            loss(x, labels, *numbers)
