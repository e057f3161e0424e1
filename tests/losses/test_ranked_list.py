import pytest
import torch

from nearkin.losses import RankedListLoss


def reference(x, y, alpha, margin, temperature, negative_weight, symmetric):
    total = 0.0
    for i in range(len(x)):
        pulls, pushes = [], []
        for j in range(len(x)):
            if j == i:
                continue
            other = x[j] if symmetric else x[j].detach()
            d = (x[i] - other).square().sum().clamp_min(1e-12).sqrt()
            if y[j] == y[i] and d > alpha - margin:
                pulls.append(d - (alpha - margin))
            if y[j] != y[i] and d < alpha:
                pushes.append(alpha - d)
        if pulls:
            total = total + sum(pulls) / len(pulls)
        if pushes:
            weights = (temperature * torch.stack(pushes).detach()).softmax(0)
            total = total + negative_weight * sum(w * push for w, push in zip(weights, pushes, strict=True))
    return total / max(len(x), 1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("alpha", "margin", "temperature", "negative_weight", "normalize"),
    [
        (1.2, 0.4, 10.0, 1.0, True),
        (1.8, 0.0, 0.0, 0.5, True),
        (0.1, 0.05, 1.0, 2.0, True),
        (1.2, 0.4, 1e4, 1.0, True),
        (3.0, 2.0, 3.0, 1.0, False),
        (1.2, 1.2, 10.0, 1.0, True),
    ],
)
def test_matches_the_equations(batch, agrees, alpha, margin, temperature, negative_weight, normalize, symmetric):
    loss = RankedListLoss(alpha, margin, temperature, negative_weight, symmetric, normalize)
    args = (alpha, margin, temperature, negative_weight, symmetric)
    agrees(loss, lambda x, y: reference(x, y, *args), *batch)


def test_a_negative_at_distance_0_is_the_hardest():
    # Its weight is 1 / (1 + e^-12) beside a negative at the boundary of 1.2, and its cost all of alpha.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(RankedListLoss()(x, torch.tensor([0, 1])), torch.tensor(1.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 1.3}, r"margin must be in \[0, alpha=1.2\], and alpha finite, got 1.3"),
        ({"margin": -0.1}, r"margin must be in \[0, alpha=1.2\], and alpha finite, got -0.1"),
        ({"temperature": -1}, "temperature must be at least 0 and finite, got -1"),
        ({"negative_weight": -1}, "negative_weight must be at least 0 and finite, got -1"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RankedListLoss(**arguments)
