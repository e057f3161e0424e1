import math

import pytest
import torch

from nearkin.losses import AngularHingeLoss


def reference(x, y, alpha):
    t2 = math.tan(math.radians(alpha)) ** 2
    terms = [
        ((x[a] - x[p]).square().sum() - 4 * t2 * (x[n] - (x[a] + x[p]) / 2).square().sum()).relu()
        for a in range(len(x))
        for p in range(len(x))
        for n in range(len(x))
        if a != p and y[a] == y[p] and y[a] != y[n]
    ]
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize(
    ("alpha", "normalize"), [(45.0, True), (36.0, True), (15.0, True), (45.0, False), (20.0, False)]
)
def test_matches_the_equation(batch, agrees, alpha, normalize):
    agrees(AngularHingeLoss(alpha, normalize), lambda x, y: reference(x, y, alpha), *batch)


def test_the_gradient_is_equation_7():
    a, p, n = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    x = torch.stack([a, p, n]).requires_grad_()
    AngularHingeLoss(45.0, normalize=False)(x, torch.tensor([0, 0, 1])).backward()
    center = (a + p) / 2
    t2 = 1.0
    expected = [2 * (a - p) - 4 * t2 * (a + p - 2 * n), 2 * (p - a) - 4 * t2 * (a + p - 2 * n), 8 * t2 * (center - n)]
    # With t² = 1: d/da of |a - p|² - 4 |n - c|², c = (a + p) / 2, is 2 (a - p) + 4 (n - c).
    expected[0], expected[1] = 2 * (a - p) + 4 * t2 * (n - center), 2 * (p - a) + 4 * t2 * (n - center)
    torch.testing.assert_close(x.grad, torch.stack(expected))


def test_the_gradient_is_0_at_the_kink():
    x = torch.ones(4, 3, requires_grad=True)  # every hinge is exactly 0
    AngularHingeLoss()(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("alpha", [0.0, 90.0, -45.0])
def test_rejects_an_angle_outside_0_and_90(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 90\) degrees, got"):
        AngularHingeLoss(alpha)
