import pytest
import torch

from nearkin.losses import ContrastiveLoss


def reference(x, y, margin):
    total, pairs = 0.0, 0
    for i in range(len(x)):
        for j in range(i):
            d = (x[i] - x[j]).square().sum().clamp_min(1e-12).sqrt()
            total = total + (d**2 if y[i] == y[j] else (margin - d).relu() ** 2)
            pairs += 1
    return total / (2 * max(pairs, 1))


@pytest.mark.parametrize(("margin", "normalize"), [(1.0, True), (0.3, True), (1.0, False), (30.0, False)])
def test_matches_the_equation(batch, agrees, margin, normalize):
    agrees(ContrastiveLoss(margin, normalize), lambda x, y: reference(x, y, margin), *batch)


def test_a_negative_at_distance_0_costs_most():
    x = torch.ones(2, 3, requires_grad=True)
    value = ContrastiveLoss(margin=0.5)(x, torch.tensor([0, 1]))
    assert value.item() == pytest.approx(0.5**2 / 2, rel=1e-5)
    value.backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_rejects_a_margin_not_above_0(margin):
    with pytest.raises(ValueError, match="margin must be above 0 and finite, got"):
        ContrastiveLoss(margin)
