import math

import pytest
import torch

from nearkin.losses import DDMLLoss


def reference(x, y, beta, tau):
    total, pairs = 0.0, 0
    for j in range(len(x)):
        for i in range(j):
            sign = 1 if y[i] == y[j] else -1
            z = 1 - sign * (tau - (x[i] - x[j]).square().sum())
            total = total + torch.stack([x.new_zeros(()), beta * z]).logsumexp(0) / beta  # log(1 + exp(beta z)) / beta
            pairs += 1
    return total / 2 / max(pairs, 1)


@pytest.mark.parametrize(
    ("beta", "tau", "normalize"), [(10.0, 3.0, True), (1.0, 1.5, True), (1e4, 2.0, True), (10.0, 3.0, False)]
)
def test_matches_the_equation(batch, agrees, beta, tau, normalize):
    agrees(DDMLLoss(beta, tau, normalize), lambda x, y: reference(x, y, beta, tau), *batch)


def test_a_pair_on_its_boundary_costs_log_2_over_beta():
    x = torch.tensor([[0.0], [math.sqrt(1.5)], [math.sqrt(1.5) + 2]], dtype=torch.float64)
    # d² = 1.5 = tau - 1 for the positive pair; 4 and 11.9 against tau + 1 = 3.5 for the negatives.
    value = DDMLLoss(beta=50.0, tau=2.5, normalize=False)(x, torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx(math.log(2) / 50 / 2 / 3, rel=1e-6)


@pytest.mark.parametrize("norm", [1e6, 1e15])
def test_finite_at_any_norm(norm):
    x = (norm * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    y = torch.arange(8) // 2
    value = DDMLLoss(normalize=False)(x, y)
    value.backward()
    # Only the positives are out of place, by d² - 2 each.
    expected = sum((x[i] - x[i + 1]).detach().square().sum() for i in range(0, 8, 2)) / 2 / 28
    torch.testing.assert_close(value.detach(), expected)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, r"beta must be above 0 and finite, got 0\.0"),
        ({"beta": float("nan")}, "beta must be above 0 and finite, got nan"),
        ({"tau": 1.0}, r"tau must be above 1 and finite: .*, got 1\.0"),
        ({"tau": float("nan")}, "tau must be above 1 and finite: .*, got nan"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        DDMLLoss(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_little_that_pairs_in_place_cost_is_not_rounded_off(dtype):
    # Negatives at d² = 16 against tau + 1 = 3.5: log(1 + e^-25) is less than float32 tells from 1.
    x = torch.tensor([[0.0], [4.0]], dtype=dtype)
    value = DDMLLoss(beta=2.0, tau=2.5, normalize=False)(x, torch.arange(2))
    assert value.item() == pytest.approx(math.log1p(math.exp(-25)) / 2 / 2, rel=1e-5)
