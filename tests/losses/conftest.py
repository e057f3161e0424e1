"""Batches for every loss, and the comparison with a slow loop over the paper's equations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]

THREE_OF_FOUR = torch.arange(12) // 4
PAIRS = torch.arange(10) // 2
UNBALANCED = torch.tensor([0, 3, 0, 1, 0, 2, 2, 0, 4, 1, 0, 5])  # 5, 2, 2 and three singletons, mixed
HUGE_IDS = torch.tensor([-5, 2**62, 7, -(2**63), 2**62, -5, 7, -(2**63), -5])


def points(seed: int, n: int, dim: int) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def of_norm(norm: float) -> Tensor:
    return norm * torch.nn.functional.normalize(points(5, 12, 6))


def with_copies(offset: float, scale: float = 1.0) -> Tensor:
    """Rows 1, 2 and 4 are copies of row 0 moved by offset: within its class, and of other classes, in UNBALANCED."""
    x = scale * of_norm(1.0)
    x[[1, 2, 4]] = x[0] + scale * offset * points(6, 3, 6)
    return x


BATCHES: dict[str, Callable[[], Batch]] = {
    "four per class": lambda: (points(0, 12, 5), THREE_OF_FOUR),
    "N-pair": lambda: (points(1, 10, 8), PAIRS),
    "unbalanced": lambda: (points(2, 12, 3), UNBALANCED),
    "huge and negative ids": lambda: (points(3, 9, 4), HUGE_IDS),
    "two classes": lambda: (points(4, 9, 4), torch.arange(9) % 2),
    "one dimension": lambda: (points(0, 9, 1), torch.arange(9) % 3),
    "norm 1e3": lambda: (of_norm(1e3), UNBALANCED),
    "norm 1e-4": lambda: (of_norm(1e-4), UNBALANCED),
    "mixed norms": lambda: (
        of_norm(1.0) * torch.logspace(-3, 3, 12, dtype=torch.float64)[:, None],
        UNBALANCED,
    ),
    "far from the origin": lambda: (of_norm(1.0) + 1e3, UNBALANCED),
    "duplicates": lambda: (with_copies(0.0), UNBALANCED),
    "near duplicates": lambda: (with_copies(1e-5), UNBALANCED),
    "near duplicates, norm 1e3": lambda: (with_copies(1e-7, scale=1e3), UNBALANCED),
    "all equal": lambda: (points(7, 1, 6).repeat(12, 1), UNBALANCED),
    "one class": lambda: (points(8, 5, 4), torch.zeros(5, dtype=torch.long)),
    "no positives": lambda: (points(9, 5, 4), torch.arange(5)),
    "two samples": lambda: (points(10, 2, 4), torch.zeros(2, dtype=torch.long)),
    "one sample": lambda: (points(11, 1, 4), torch.zeros(1, dtype=torch.long)),
    "empty": lambda: (torch.zeros(0, 4, dtype=torch.float64), torch.zeros(0, dtype=torch.long)),
}


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return BATCHES[request.param]()


@pytest.fixture
def ordinary() -> Batch:
    return BATCHES["unbalanced"]()


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Compare value and gradient of a loss with those of a reference, which sees unit vectors if the loss does.

    With unique=False the gradient is not unique in that batch, and must only be finite.
    """

    def agrees(
        loss: Any, reference: Callable[[Tensor, Tensor], Any], x: Tensor, y: Tensor, unique: bool = True
    ) -> None:
        x = x.clone().requires_grad_()
        unit = x / x.norm(dim=1, keepdim=True) if loss.normalize else x
        expected = reference(unit, y) + 0 * x.sum()
        value = loss(x, y)
        # A sum of terms that cancel is as exact as its terms: those of this batch are of the size of |x|².
        size = float(unit.detach().square().max()) if len(x) else 0.0
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=min(1e-11, 1e-6 * size))

        (expected_gradient,) = torch.autograd.grad(expected, x)
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.isfinite().all()
        if not unique:
            return
        scale = float(expected_gradient.abs().max()) if len(x) else 0.0
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6 * scale + 1e-12)

    return agrees
