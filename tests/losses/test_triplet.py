import pytest
import torch

from nearkin.losses import TripletLoss


def d2(a, b):
    return (a - b).square().sum()


def all_triplets(x, y, margin):
    d2_of = [[d2(a, b) for b in x] for a in x]
    terms = [
        (d2_of[a][p] - d2_of[a][n] + margin).relu()
        for a in range(len(x))
        for p in range(len(x))
        for n in range(len(x))
        if a != p and y[a] == y[p] and y[a] != y[n]
    ]
    return sum(terms) / max(len(terms), 1)


def thirds(x, margin):
    n = len(x) // 3
    terms = [(d2(x[i], x[n + i]) - d2(x[i], x[2 * n + i]) + margin).relu() for i in range(n)]
    return sum(terms) / max(n, 1)


@pytest.mark.parametrize(("margin", "normalize"), [(0.2, True), (0.0, True), (3.0, True), (0.2, False)])
def test_all_triplets_match_the_equation(batch, agrees, margin, normalize):
    agrees(TripletLoss(margin, normalize), lambda x, y: all_triplets(x, y, margin), *batch)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("triplets", [0, 1, 5])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_disjoint_triplets_match_the_equation(agrees, triplets, normalize, scale):
    x = scale * torch.randn(3 * triplets, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.cat([torch.arange(triplets), torch.arange(triplets), torch.arange(triplets) + 1])
    loss = TripletLoss(0.2, normalize, disjoint=True)
    agrees(loss, lambda x, y: thirds(x, 0.2), x, y)


def test_the_gradient_is_0_at_the_kink():
    x = torch.ones(4, 3, requires_grad=True)  # every hinge is exactly 0
    TripletLoss(margin=0.0)(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.eq(0).all()


def test_all_negatives_at_distance_0_are_active():
    x = torch.ones(4, 3)
    torch.testing.assert_close(TripletLoss(margin=0.2)(x, torch.tensor([0, 0, 1, 1])), torch.tensor(0.2))


def test_rejects_a_negative_margin():
    with pytest.raises(ValueError, match=r"margin must be at least 0 and finite, got -0\.1"):
        TripletLoss(margin=-0.1)


def test_disjoint_rejects_a_batch_not_in_thirds():
    with pytest.raises(ValueError, match="equal thirds, got 4 samples: pass a multiple of 3"):
        TripletLoss(disjoint=True)(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 1, 1], [0, 1, 2, 1, 3, 0]])
def test_disjoint_rejects_thirds_of_the_wrong_classes(labels):
    with pytest.raises(ValueError, match="got 1 of 2 triplets otherwise"):
        TripletLoss(disjoint=True)(torch.randn(6, 2), torch.tensor(labels))
