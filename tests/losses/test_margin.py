import math

import pytest
import torch

from nearkin.losses import MarginLoss
from nearkin.losses.margin import draw_negatives
from nearkin.losses.pairs import Batch
from nearkin.losses.tiles import Pairs


def unit_distances(x):
    unit = torch.nn.functional.normalize(x)
    return torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")


def draw(x, y, seed=0):
    """Draws of a loss that is called behind the same seed: how many times each anchor (row) drew each other."""
    torch.manual_seed(seed)
    if not len(x):
        return torch.zeros(0, 0)
    unit = torch.nn.functional.normalize(x.detach())
    pairs = Pairs(Batch(unit, y, None, None), "distances")
    chance = torch.rand(len(x), pairs.largest).to(x.dtype)
    times = torch.zeros(len(x), len(x), dtype=x.dtype)
    for tile in pairs.tiles():
        drawn, counts = draw_negatives(tile.matrix.clone(), tile, x.shape[1], chance[tile.rows])
        times[tile.rows] = times[tile.rows].scatter_add(1, drawn, counts.to(x.dtype))
    back = pairs.order.argsort()
    return times[back][:, back]


def reference(x, y, draws, alpha, beta):
    """The margin loss for these draws (N, N), with the boundary beta(a) of anchor a."""
    total, terms = 0.0, 0
    for a in range(len(x)):
        for other in range(len(x)):
            d = (x[a] - x[other]).square().sum().clamp_min(1e-12).sqrt()
            if y[a] != y[other]:
                times, term = int(draws[a, other]), (beta(a) - d + alpha).relu()
            else:
                times, term = int(a != other), (d - beta(a) + alpha).relu()
            total = total + times * term
            terms += times * int(term > 0)
    return total / max(terms, 1)


@pytest.mark.parametrize(
    ("alpha", "beta", "normalize"),
    [(0.2, 1.2, True), (0.0, 0.7, True), (1.0, 1.5, True), (0.2, 1.2, False), (5.0, 30.0, False)],
)
def test_matches_the_equation_for_the_drawn_negatives(batch, agrees, alpha, beta, normalize):
    draws = draw(*batch)
    torch.manual_seed(0)
    loss = MarginLoss(alpha, beta, normalize=normalize)
    agrees(loss, lambda x, y: reference(x, y, draws, alpha, lambda a: beta), *batch)


@pytest.mark.parametrize("normalize", [True, False])
def test_learns_a_boundary_for_each_class(batch, agrees, normalize):
    x, y = batch
    y = y.unique(return_inverse=True)[1]
    classes = len(y.unique()) + 2  # two of them not in the batch
    loss = MarginLoss(num_classes=classes, normalize=normalize).double()
    torch.testing.assert_close(loss.beta.detach(), torch.full((classes,), 1.2).double())
    betas = torch.linspace(0.6, 1.6, classes, dtype=torch.float64)
    loss.beta.data.copy_(betas)
    betas.requires_grad_()
    draws = draw(x, y)
    torch.manual_seed(0)
    agrees(loss, lambda x, y: reference(x, y, draws, 0.2, lambda a: betas[y[a]]), x, y)

    unit = x / x.norm(dim=1, keepdim=True) if normalize else x
    (reference(unit, y, draws, 0.2, lambda a: betas[y[a]]) + 0 * betas.sum()).backward()
    torch.manual_seed(0)
    loss(x, y).backward()
    torch.testing.assert_close(loss.beta.grad, betas.grad)


def test_an_anchor_draws_as_many_negatives_as_it_has_positives(batch):
    x, y = batch
    draws = draw(x, y)
    distance = unit_distances(x)
    for a in range(len(x)):
        others = y != y[a]
        assert draws[a].sum() == (int((y == y[a]).sum()) - 1 if others.any() else 0)
        assert not draws[a][~others].any()
        if (distance[a][others] <= 1.4).any():
            assert not draws[a][distance[a] > 1.4].any()


def at_distances(given, size):
    """300 copies of one point in class 0, and one point of its own class at each of the given distances of it."""
    angles = torch.tensor([0.0] * 300 + [2 * math.asin(d / 2) for d in given], dtype=torch.float64)
    x = torch.zeros(len(angles), size, dtype=torch.float64)
    x[:, 0], x[:, 1] = angles.cos(), angles.sin()
    return x, torch.tensor([0] * 300 + list(range(1, len(given) + 1)))


def probabilities(given, size):
    """Of drawing each of the given distances: one over their density, between 0.5 and 1.4."""
    density = []
    for d in given:
        d = max(d, 0.5)
        density.append((size - 2) * math.log(d) + (size - 3) / 2 * math.log(1 - d * d / 4))
    rarest = min(v for v, d in zip(density, given, strict=True) if d <= 1.4)
    weights = [math.exp(rarest - v) if d <= 1.4 else 0.0 for v, d in zip(density, given, strict=True)]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("size", "given"),
    [
        (2, [0.1, 0.45, 0.6, 0.9, 1.2, 1.35, 1.39, 1.41, 1.99]),
        (3, [0.1, 0.45, 0.6, 0.9, 1.2, 1.35, 1.39, 1.41, 1.99]),
        (8, [0.3, 0.6, 0.7, 0.8, 1.0, 1.3, 1.41, 1.6]),
        (64, [0.1, 0.2, 0.49, 0.501, 0.51, 0.55]),
        (64, [1.2, 1.21, 1.25, 1.3, 1.39, 1.41]),
        (512, [0.1, 0.3, 0.501, 0.503, 0.52, 1.39]),
        (512, [1.2, 1.202, 1.205, 1.21, 1.39, 1.41]),
        (512, [1.381, 1.385, 1.39, 1.395, 1.399]),
        (4, [1.41, 1.5, 1.9, 2.0]),  # none within 1.4
    ],
)
def test_negatives_are_drawn_with_one_over_the_density_of_their_distance(size, given, dtype):
    x, y = at_distances(given, size)
    observed = draw(x.to(dtype), y)[:300, 300:].sum(dim=0).double()
    assert observed.sum() == 300 * 299
    expected = probabilities(given, size) if min(given) <= 1.4 else [1 / len(given)] * len(given)
    expected = observed.sum() * torch.tensor(expected, dtype=torch.float64)
    assert not observed[expected == 0].any()
    rare = (expected > 0) & (expected < 10)
    assert observed[rare].sum() <= 10 + 5 * math.sqrt(10 * max(int(rare.sum()), 1))
    common = expected >= 10
    chi2 = float(((observed - expected)[common].square() / expected[common]).sum())
    freedom = int(common.sum()) - 1
    assert chi2 <= freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 200])
def test_no_chance_draws_what_weighs_nothing(dtype, n):
    # Classmates stand first and last in the row, and so does a negative too far: chances at the ends would meet them.
    x = torch.nn.functional.normalize(torch.randn(n, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    x[1] = -x[0]
    y = torch.tensor([0, 1, *range(2, n - 1), 0])
    unit = unit_distances(x)
    tile = next(Pairs(Batch(x, y, None, None), "distances").tiles())
    order = torch.tensor([0, n - 1, *range(1, n - 1)])  # as sorted by class
    allowed = (unit[0][order] <= 1.4) & (torch.arange(n) > 1)
    most = 1 - torch.finfo(dtype).eps / 2
    for chance in (0.0, most):
        drawn, counts = draw_negatives(
            tile.matrix.clone(), tile, 3, torch.full((n, 2), chance, dtype=dtype)[: len(tile.matrix)]
        )
        assert counts[0].all()
        assert allowed[drawn[0]].all()


def test_weights_are_taken_to_the_largest_of_their_own_row():
    # At D = 512 a negative at 0.5 weighs 10^160 times one at 1.3: the second anchor must not be left with zeros only.
    x, y = at_distances([1.3, 1.32], 512)
    pair = torch.zeros(3, 512, dtype=torch.float64)
    pair[:, 2] = 1.0  # in the middle of nowhere, on each other
    draws = draw(torch.cat([x, pair]).float(), torch.cat([y, torch.tensor([7, 7, 8])]))
    near, far = draws[:300, 300:302].sum(dim=0).tolist()
    expected = probabilities([1.3, 1.32], 512)
    assert near / (near + far) == pytest.approx(expected[0], abs=0.01)
    assert expected[0] > 0.8  # and half if only zeros were left
    assert draws[302:304, 304].eq(1).all()


def test_distances_on_the_sphere_are_drawn_alike():
    # The density is seen here, not computed: there are four times as many from 1.1 to 1.4 as from 0.5 to 0.8.
    x = torch.randn(1600, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:100] = x[0]
    y = torch.cat([torch.zeros(100), torch.arange(1, 1501)]).long()
    distance, draws = unit_distances(x)[0, 100:], draw(x, y)[:100, 100:].sum(dim=0)
    parts = [(distance > low) & (distance <= low + 0.3) for low in (0.5, 0.8, 1.1)]
    assert parts[2].sum() > 3 * parts[0].sum()
    drawn = torch.stack([draws[part].sum() for part in parts])
    torch.testing.assert_close(drawn, drawn.mean().expand(3), rtol=0.15, atol=0)


@pytest.mark.parametrize("size", [1, 2, 3, 512, 4096])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("normalize", [True, False])
def test_finite_at_any_size_and_scale(size, scale, normalize):
    x = (scale * torch.randn(24, size, generator=torch.Generator().manual_seed(0))).requires_grad_()
    x.data[1] = x.data[5] = x.data[0]
    value = MarginLoss(normalize=normalize)(x, torch.arange(24) // 4)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_the_generator_decides():
    x, y = torch.randn(64, 8), torch.arange(64) // 4
    loss = MarginLoss(beta=2.0)
    torch.manual_seed(3)
    first, second = loss(x, y), loss(x, y)
    torch.manual_seed(3)
    torch.testing.assert_close((loss(x, y), loss(x, y)), (first, second), rtol=0, atol=0)
    assert first != second


def test_one_class_only_pulls_and_without_positives_there_is_no_pull_nor_push():
    x = torch.nn.functional.normalize(torch.randn(4, 8, dtype=torch.float64))
    pulls = (torch.nn.functional.pdist(x) - (0.5 - 0.2)).relu()
    expected = pulls.sum() / (pulls > 0).sum()
    torch.testing.assert_close(MarginLoss(beta=0.5)(x, torch.zeros(4).long()), expected)
    assert MarginLoss(beta=0.5)(x, torch.arange(4)) == 0


def test_a_negative_at_distance_0_costs_most():
    x = torch.ones(4, 3, requires_grad=True)
    value = MarginLoss(alpha=0.2, beta=1.2)(x, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(value.detach(), torch.tensor(1.4))
    value.backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize(("labels", "range_"), [([0, 0, 3, 1], "from 0 to 3"), ([0, 0, -1, 1], "from -1 to 1")])
def test_rejects_labels_beyond_num_classes(labels, range_):
    with pytest.raises(ValueError, match=f"got num_classes=3 and labels {range_}: set num_classes"):
        MarginLoss(num_classes=3)(torch.randn(4, 2), torch.tensor(labels))
    MarginLoss()(torch.randn(4, 2), torch.tensor(labels))  # names of classes do not matter here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -0.1}, r"alpha must be at least 0 and finite, got -0\.1"),
        ({"beta": 0.0}, r"beta must be above 0 and finite, got 0\.0"),
        ({"beta": float("nan")}, "beta must be above 0 and finite, got nan"),
        ({"num_classes": 0}, "num_classes must be at least 1, or None for one fixed beta, got 0"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MarginLoss(**arguments)


def test_against_nobody_it_is_a_differentiable_0():
    loss = MarginLoss(num_classes=3)
    x = torch.randn(4, 5, requires_grad=True)
    value = loss(x, torch.tensor([0, 1, 2, 2]), torch.zeros(0, 5), torch.zeros(0).long())
    value.backward()
    assert value == 0
    assert x.grad.eq(0).all()
    assert loss.beta.grad.eq(0).all()
