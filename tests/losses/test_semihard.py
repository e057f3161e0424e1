import math

import pytest
import torch

from nearkin.losses import SemihardTripletLoss


def reference(x, y, margin):
    total, pairs = 0.0, 0
    for a in range(len(x)):
        d2 = [(x[a] - other).square().sum() for other in x]
        negatives = [d2[n] for n in range(len(x)) if y[n] != y[a]]
        for p in range(len(x)):
            if p == a or y[p] != y[a]:
                continue
            pairs += 1
            if negatives:
                farther = [d for d in negatives if d > d2[p]]
                chosen = min(farther) if farther else max(negatives)
                total = total + (d2[p] - chosen + margin).relu()
    return total / max(pairs, 1)


@pytest.mark.parametrize(("margin", "normalize"), [(0.2, True), (0.0, True), (3.0, True), (0.2, False)])
def test_matches_the_definition(request, batch, agrees, margin, normalize):
    # Of negatives at one distance any may receive the gradient; in one dimension unit vectors are 1 and -1.
    unique = "[duplicates-" not in request.node.name and not (normalize and "[one dimension-" in request.node.name)
    agrees(SemihardTripletLoss(margin, normalize), lambda x, y: reference(x, y, margin), *batch, unique)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [3, 100])
def test_a_duplicate_of_the_positive_is_not_beyond_it(dtype, dim):
    # Each positive has a negative on top of it, which the strict inequality leaves out.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, dim, dtype=dtype, generator=generator).repeat(2, 1).requires_grad_()
    y = torch.cat([torch.arange(40) // 4, torch.arange(40) // 4 + 10])
    unit = torch.nn.functional.normalize(x.detach().double())
    exact = torch.cdist(unit[:40], unit[:40], compute_mode="donot_use_mm_for_euclid_dist").square()
    exact = exact.repeat(2, 2)  # the same number for duplicates
    total, pairs = 0.0, 0
    for a in range(80):
        for p in ((y == y[a]) & (torch.arange(80) != a)).nonzero():
            beyond = exact[a][(y != y[a]) & (exact[a] > exact[a, p])]
            chosen = beyond.min() if len(beyond) else exact[a][y != y[a]].max()
            total, pairs = total + (exact[a, p] - chosen + 0.2).relu(), pairs + 1
    value = SemihardTripletLoss()(x, y)
    torch.testing.assert_close(
        value.double(), (total / pairs)[0], rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=0
    )
    value.backward()
    assert x.grad.isfinite().all()


def four_squares(n):
    """Four integers whose squares add up to n."""
    for a in range(math.isqrt(n), -1, -1):
        for b in range(math.isqrt(n - a * a), -1, -1):
            rest = n - a * a - b * b
            c = math.isqrt(rest)
            if math.isqrt(rest - c * c) ** 2 == rest - c * c:
                return a, b, c, math.isqrt(rest - c * c)
    raise AssertionError


@pytest.mark.parametrize(
    ("positive", "gaps", "chosen"),
    [
        (2**21, [4, 5], 5),  # four epsilons of the largest, 2^23, are 4
        (1500, [2, 3], 3),  # or what a near pair is known to, where that is less: 2.07
        (2048, [2, 3, 9], 3),  # 2.83
    ],
)
def test_beyond_is_by_more_than_rounding(positive, gaps, chosen):
    # Integers, all of whose distances float32 holds: an anchor at 0, its positive, negatives just beyond it, one far.
    p, *negatives, far = (torch.tensor(four_squares(d2)) for d2 in (positive, *(positive + gap for gap in gaps), 2**23))
    x = torch.zeros(4 + len(gaps), 8)
    x[1, :4], x[2, :4] = p, far
    x[3:-1, 4:] = torch.stack(negatives)
    x = torch.cat([x[:-1], -x[1:-1]])  # about 0
    y = torch.tensor([0, 0, *range(1, len(x) - 1)])
    value = SemihardTripletLoss(margin=100, normalize=False)(x, y)
    torch.testing.assert_close(value, torch.tensor((100.0 - chosen) / 2))  # the positive's own negatives are beyond 100


@pytest.mark.parametrize("n", [512, 1024])
def test_float32_chooses_the_negatives_of_float64(n):
    y = torch.arange(n) // 4
    x = torch.randn(n, 512, generator=torch.Generator().manual_seed(0)) / 512**0.5
    x = torch.nn.functional.normalize(x + 0.3 * x[y * 4])

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(SemihardTripletLoss(normalize=False)(x, y), x)[0].double()

    exact = gradient(x.double())
    differs = (gradient(x) - exact).norm(dim=1) > 0.01 * exact.norm(dim=1)
    assert differs.double().mean() < 0.01  # 0.006 and 0.009, a row for each end of a pair


def test_the_gradient_is_0_at_the_kink():
    x = torch.ones(4, 3, requires_grad=True)  # every hinge is exactly 0
    SemihardTripletLoss(margin=0.0)(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.eq(0).all()


def test_rejects_a_negative_margin():
    with pytest.raises(ValueError, match=r"margin must be at least 0 and finite, got -0\.1"):
        SemihardTripletLoss(margin=-0.1)
