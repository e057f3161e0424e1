import math

import pytest
import torch

from nearkin.losses import AngularLoss, NPairAngularLoss, NPairLoss


def reference(x, y, alpha, weight):
    t2 = math.tan(math.radians(alpha)) ** 2
    npair, angular, pairs = 0.0, 0.0, 0
    for a in range(len(x)):
        for p in range(len(x)):
            if a != p and y[a] == y[p]:
                negatives = [x[n] for n in range(len(x)) if y[n] != y[a]]
                g = [x[a] @ n - x[a] @ x[p] for n in negatives]
                f = [4 * t2 * (x[a] + x[p]) @ n - 2 * (1 + t2) * x[a] @ x[p] for n in negatives]
                npair = npair + torch.stack([x.new_zeros(()), *g]).logsumexp(0)
                angular = angular + torch.stack([x.new_zeros(()), *f]).logsumexp(0)
                pairs += 1
    return (npair + weight * angular) / max(pairs, 1)


@pytest.mark.parametrize(("alpha", "weight", "normalize"), [(45.0, 2.0, False), (36.0, 0.5, False), (45.0, 2.0, True)])
def test_matches_the_equation(batch, agrees, alpha, weight, normalize):
    loss = NPairAngularLoss(alpha, weight, normalize)
    agrees(loss, lambda x, y: reference(x, y, alpha, weight), *batch)


def test_is_the_weighted_sum_of_its_parts(ordinary):
    x, y = ordinary
    parts = NPairLoss()(x, y) + 3 * AngularLoss(40, normalize=False)(x, y)
    torch.testing.assert_close(NPairAngularLoss(40, 3)(x, y), parts)


def test_rejects_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 90\) degrees, got 90"):
        NPairAngularLoss(alpha=90)
    with pytest.raises(ValueError, match="weight must be at least 0 and finite, got -1"):
        NPairAngularLoss(weight=-1)
