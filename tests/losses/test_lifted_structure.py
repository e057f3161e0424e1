import pytest
import torch

from nearkin.losses import LiftedStructureLoss


def reference(x, y, margin):
    def d(i, j):
        return (x[i] - x[j]).square().sum().clamp_min(1e-12).sqrt()

    total, pairs = 0.0, 0
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if y[i] == y[j]:
                pairs += 1
                negatives = [n for n in range(len(x)) if y[n] != y[i]]
                if negatives:
                    terms = [margin - d(i, k) for k in negatives] + [margin - d(j, k) for k in negatives]
                    total = total + (d(i, j) + torch.stack(terms).logsumexp(0)).relu() ** 2
    return total / (2 * max(pairs, 1))


@pytest.mark.parametrize(("margin", "normalize"), [(1.0, False), (1.0, True), (0.2, True), (-3.0, False)])
def test_matches_the_equation(batch, agrees, margin, normalize):
    agrees(LiftedStructureLoss(margin, normalize), lambda x, y: reference(x, y, margin), *batch)
