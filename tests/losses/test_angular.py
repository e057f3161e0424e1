import math

import pytest
import torch

from nearkin.losses import AngularLoss


def reference(x, y, alpha):
    t2 = math.tan(math.radians(alpha)) ** 2
    total, pairs = 0.0, 0
    for a in range(len(x)):
        for p in range(a):
            if y[a] == y[p]:
                f = [4 * t2 * (x[a] + x[p]) @ x[n] - 2 * (1 + t2) * x[a] @ x[p] for n in range(len(x)) if y[n] != y[a]]
                total = total + torch.stack([x.new_zeros(()), *f]).logsumexp(0)  # log(1 + Σ exp f)
                pairs += 1
    return total / max(pairs, 1)


@pytest.mark.parametrize(
    ("alpha", "normalize"),
    [(45.0, True), (36.0, True), (80.0, True), (45.0, False), (10.0, False), (0.5, True), (89.5, False)],
)
def test_matches_the_equation(batch, agrees, alpha, normalize):
    agrees(AngularLoss(alpha, normalize), lambda x, y: reference(x, y, alpha), *batch)


def test_exact_where_the_rows_of_a_pair_peak_at_different_negatives():
    # exp(u_an) exp(u_pn) underflows for every n once both rows are scaled by their maxima.
    x = torch.tensor([[40.0, -40.0], [-40.0, 40.0], [40.0, -40.0], [-40.0, 40.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 2])
    torch.testing.assert_close(AngularLoss(normalize=False)(x, y), reference(x, y, 45.0))


@pytest.mark.parametrize("alpha", [0.0, 90.0, -45.0, 135.0, float("nan")])
def test_rejects_an_angle_outside_0_and_90(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 90\) degrees, got"):
        AngularLoss(alpha)
