import math

import pytest
import torch

from nearkin.losses import AngularHingeLoss


def reference(x, y, alpha):
    t2 = math.tan(math.radians(alpha)) ** 2
    terms = []
    for a in range(len(x)):
        for p in range(a):  # the same for (p, a)
            if y[a] == y[p]:
                d2_ap, center = (x[a] - x[p]).square().sum(), (x[a] + x[p]) / 2
                negatives = [x[n] for n in range(len(x)) if y[n] != y[a]]
                terms += [(d2_ap - 4 * t2 * (n - center).square().sum()).relu() for n in negatives]
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize(("alpha", "normalize"), [(45.0, True), (36.0, True), (45.0, False), (20.0, False)])
def test_matches_the_equation(request, batch, agrees, alpha, normalize):
    # For 45° a negative on its positive is at the kink, where rounding decides the gradient.
    unique = not (alpha == 45 and "[duplicates-" in request.node.name)
    agrees(AngularHingeLoss(alpha, normalize), lambda x, y: reference(x, y, alpha), *batch, unique)


def test_the_gradient_is_equation_7():
    a, p, n = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    x = torch.stack([a, p, n]).requires_grad_()
    AngularHingeLoss(45.0, normalize=False)(x, torch.tensor([0, 0, 1])).backward()
    # tan² 45° = 1
    expected = [2 * (a - p) - 2 * (a + p - 2 * n), 2 * (p - a) - 2 * (a + p - 2 * n), 4 * (a + p - 2 * n)]
    torch.testing.assert_close(x.grad, torch.stack(expected))


def test_the_gradient_is_0_at_the_kink():
    x = torch.ones(4, 3, requires_grad=True)  # every hinge is exactly 0
    AngularHingeLoss()(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("alpha", [0.0, 90.0, -45.0])
def test_rejects_an_angle_outside_0_and_90(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 90\) degrees, got"):
        AngularHingeLoss(alpha)
