import copy
import pickle

import pytest
import torch

from nearkin.checkpoint import load_checkpoint, save_checkpoint
from nearkin.losses.daml import DAMLLoss

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 0])  # thirds of (anchor, positive, negative)


def make(dim=6, pretraining=0, dtype=torch.float32, strong=True, **arguments):
    torch.manual_seed(0)
    loss = DAMLLoss(dim, pretraining=pretraining, **arguments).to(dtype)
    if strong:  # as it starts, what the generator makes is near 0, and J_adv never active
        for weight in loss.generator.parameters():
            weight.data *= 2
    return loss


def points(dtype=torch.float32, n=12, dim=6):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0)).to(dtype)


def d2(a, b):
    return (a - b).square().sum()


def generate(weights, a, p, n):
    w1, b1, w2, b2, w3, b3 = weights
    hidden = (w1 @ torch.cat([a, p, n]) + b1).relu()
    return w3 @ (w2 @ hidden + b2).relu() + b3


def triplets(x):
    n = len(x) // 3
    return [(x[i], x[n + i], x[2 * n + i]) for i in range(n)]


def mean(terms):
    return sum(terms) / max(len(terms), 1)


def generators_part(x, weights, margin, of_reg, of_adv):
    """J_hard + λ₁ J_reg + λ₂ J_adv."""
    made = [(a, p, n, generate(weights, a, p, n)) for a, p, n in triplets(x)]
    hard = mean([d2(s, a) for a, p, n, s in made])
    reg = mean([d2(s, n) for a, p, n, s in made])
    adv = mean([(d2(s, a) - d2(p, a) - margin).relu() for a, p, n, s in made])
    return hard + of_reg * reg + of_adv * adv


def metric_part(x, weights, margin):
    """J_m."""
    return mean([(d2(p, a) - d2(generate(weights, a, p, n), a) + margin).relu() for a, p, n in triplets(x)])


def gradients(value, inputs):
    return torch.autograd.grad(value + sum(0 * each.sum() for each in inputs), inputs)


def close(actual, expected):
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * scale + 1e-12)


X = {
    "ordinary": points(torch.float64),
    "norm 1e3": 1e3 * points(torch.float64),
    "norm 1e-4": 1e-4 * points(torch.float64),
    "far from the origin": points(torch.float64) + 1e3,
    "duplicates": points(torch.float64)[torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 4, 5])],
    "near duplicates": points(torch.float64)[torch.arange(12) % 4] + 1e-6 * points(torch.float64),
    "all equal": points(torch.float64)[:1].repeat(12, 1),
    "one triplet": points(torch.float64, 3),
    "empty": points(torch.float64, 0),
}


def labels_of(x):
    return LABELS[:: 4 if len(x) == 3 else 1][: len(x)]


@pytest.mark.parametrize("x", X.values(), ids=X.keys())
@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize(
    ("margin", "weights"), [(1.0, (1.0, 1.0, 1.0)), (0.2, (1.0, 1.0, 50.0)), (0.0, (2.0, 0.5, 3.0)), (3.0, (0, 0, 0))]
)
def test_each_player_follows_its_own_terms(x, strong, margin, weights):
    loss = make(dtype=torch.float64, strong=strong, margin=margin, weights=weights)
    y = labels_of(x)
    x = x.clone().requires_grad_()
    unit = x / x.norm(dim=1, keepdim=True)
    generator = list(loss.generator.parameters())
    constant = [weight.detach() for weight in generator]
    of_metric, of_reg, of_adv = weights

    made = generators_part(unit.detach(), generator, margin, of_reg, of_adv)
    learned = of_metric * metric_part(unit, constant, margin)
    value = loss(x, y)
    torch.testing.assert_close(value, torch.as_tensor(made + learned, dtype=torch.float64), rtol=1e-6, atol=1e-11)
    actual = torch.autograd.grad(value, [x, *generator])
    for each, expected in zip(actual, (*gradients(learned, [x]), *gradients(made, generator)), strict=True):
        close(each, expected)


def test_the_generator_has_the_layers_of_the_paper():
    assert [tuple(each.shape) for each in make(6).generator.parameters() if each.ndim == 2] == [
        (512, 18),
        (512, 512),
        (6, 512),
    ]


@pytest.mark.parametrize("x", X.values(), ids=X.keys())
def test_the_first_phase_is_the_triplet_loss_without_a_generator(x):
    loss = make(pretraining=1, dtype=torch.float64, margin=0.7)
    x = x.clone().requires_grad_()
    unit = x / x.norm(dim=1, keepdim=True)
    expected = mean([(d2(a, p) - d2(a, n) + 0.7).relu() for a, p, n in triplets(unit)])
    value = loss(x, labels_of(x))
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-11)
    value.backward()
    close(x.grad, *gradients(expected, [x]))
    # No gradient rather than 0: an optimizer that decays weights or counts steps leaves the generator alone.
    assert all(weight.grad is None for weight in loss.generator.parameters())


def test_both_hinges_are_at_work_in_these_tests():
    loss = make(dtype=torch.float64)
    anchor, positive, negative = torch.nn.functional.normalize(X["ordinary"]).reshape(3, 4, 6)
    made = loss._generate(anchor, positive, negative)
    too_far = (made - anchor).square().sum(dim=1) - (positive - anchor).square().sum(dim=1) - loss.margin
    assert (too_far > 0).tolist() == [False, True, False, False]


def test_the_common_minimum_of_the_paper_would_be_one_point():
    # Why the players are kept apart: with weights of 1 the anchor's distance to what is made cancels.
    x = X["ordinary"] / X["ordinary"].norm(dim=1, keepdim=True)
    weights = [weight.detach() for weight in make(dtype=torch.float64, strong=False).generator.parameters()]
    together = generators_part(x, weights, 1.0, 1.0, 1.0) + metric_part(x, weights, 1.0)
    without_the_negative = mean([d2(generate(weights, a, p, n), n) + d2(p, a) + 1 for a, p, n in triplets(x)])
    torch.testing.assert_close(together, without_the_negative)


def test_the_phase_is_counted_by_forward_passes_in_training():
    loss, alone, together = make(pretraining=3), make(pretraining=10**6), make()
    expected = [alone(points(), LABELS)] * 3 + [together(points(), LABELS)] * 3
    loss.eval()
    assert loss(points(), LABELS) == expected[0]
    loss.train()
    for step, value in enumerate(expected):
        assert loss.state_dict()["steps"] == step
        assert loss(points(), LABELS) == value
    loss.eval()
    assert loss(points(), LABELS) == expected[-1]
    assert loss.state_dict()["steps"] == 6


def train(embedder, loss, optimizer, steps):
    for step in steps:
        x = torch.randn(12, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss(embedder(x), LABELS).backward()
        optimizer.step()


@pytest.mark.parametrize("stop", [0, 2, 3, 4, 6])
def test_a_resumed_run_ends_where_one_that_never_stopped_does(tmp_path, stop):
    def start():
        torch.manual_seed(0)
        parts = {"embedder": torch.nn.Linear(5, 6), "loss": DAMLLoss(6, pretraining=3)}
        parameters = [*parts["embedder"].parameters(), *parts["loss"].parameters()]
        return {**parts, "optimizer": torch.optim.AdamW(parameters, lr=0.01)}

    whole, stopped, resumed = start(), start(), start()
    train(*whole.values(), range(8))
    train(*stopped.values(), range(stop))
    save_checkpoint(tmp_path / "last.ckpt", stopped)
    for part, state in load_checkpoint(tmp_path / "last.ckpt").items():
        resumed[part].load_state_dict(state)
    train(*resumed.values(), range(stop, 8))
    for part in ("embedder", "loss"):
        expected, actual = whole[part].state_dict(), resumed[part].state_dict()
        assert all(expected[key].equal(actual[key]) for key in expected)
    assert resumed["loss"].steps == 8


def test_the_generator_learns_to_make_negatives_that_are_near_both():
    loss = make(strong=False)
    optimizer = torch.optim.Adam(loss.generator.parameters(), lr=0.003)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(points(), LABELS)
        value.backward()
        optimizer.step()
        values.append(value.item())
    x = torch.nn.functional.normalize(points())
    for (a, _, n), made in zip(triplets(x), loss._generate(*x.reshape(3, 4, 6)), strict=True):
        assert d2(made, (a + n) / 2) < 0.01  # the middle, as long as that is within the margin of the positive
    assert values[-1] < values[0]


def value_and_gradients(loss, x, y=LABELS):
    x = x.detach().clone().requires_grad_()
    loss.zero_grad()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad, *(weight.grad for weight in loss.parameters() if weight.grad is not None)


@pytest.fixture(params=[0, 10**6], ids=["together", "alone"])
def loss(request):
    return make(pretraining=request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_a_scalar_of_the_input_type(loss, dtype):
    value, gradient, *others = value_and_gradients(loss, points(dtype))
    assert (value.shape, value.dtype, gradient.dtype) == ((), dtype, dtype)
    assert all(each.dtype == torch.float32 for each in others)
    assert value > 0
    assert gradient.abs().max() > 0


def test_float64_embeddings_are_computed_in_float64(loss):
    exact = copy.deepcopy(loss).double()
    for actual, expected in zip(
        value_and_gradients(loss, points(torch.float64)), value_and_gradients(exact, points(torch.float64)), strict=True
    ):
        torch.testing.assert_close(actual, expected.to(actual.dtype))
    assert loss(points(torch.float64), LABELS) == exact(points(torch.float64), LABELS)


@pytest.mark.parametrize("point", [torch.zeros(6), torch.ones(6), 1e3 * torch.arange(6.0), torch.full((6,), 1e-30)])
def test_finite_where_all_points_are_equal(loss, point):
    assert all(each.isfinite().all() for each in value_and_gradients(loss, point.repeat(12, 1)))


def test_takes_an_empty_batch(loss):
    value, gradient, *_ = value_and_gradients(loss, points(n=0), LABELS[:0])
    assert value == 0
    assert gradient.shape == (0, 6)


def test_compiles_without_a_break_for_both_phases():
    loss = make(pretraining=2)
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    for _ in range(4):
        value, gradient, *_ = value_and_gradients(compiled, points())
        expected, expected_gradient, *_ = value_and_gradients(loss, points())
        torch.testing.assert_close((value, gradient), (expected, expected_gradient))


def test_a_copy_is_the_same_loss(loss):
    loss(points(), LABELS)
    copied = pickle.loads(pickle.dumps(loss))
    assert copied.steps == 1
    torch.testing.assert_close(copied(points(), LABELS), loss(points(), LABELS))


def test_embeddings_are_compared_on_the_unit_sphere(loss):
    assert loss.normalize
    torch.testing.assert_close(loss(points() * torch.arange(1.0, 13.0)[:, None], LABELS), loss(points(), LABELS))


def test_rejects_a_batch_it_cannot_use(loss):
    with pytest.raises(ValueError, match="equal thirds, got 11 samples: pass a multiple of 3"):
        loss(points()[:11], LABELS[:11])
    with pytest.raises(ValueError, match="got 1 of 4 triplets otherwise"):
        loss(points(), LABELS.roll(1))
    with pytest.raises(ValueError, match="embeddings must be of embedding_size=6, got 5"):
        loss(points(dim=5), LABELS)
    assert loss.steps == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"margin": -0.1}, "margin must be at least 0 and finite, got -0.1"),
        ({"weights": (1, 1)}, r"weights must be three finite numbers of at least 0, .* got \(1, 1\)"),
        ({"weights": (1, -1, 1)}, r"weights must be three finite numbers of at least 0, .* got \(1, -1, 1\)"),
        ({"weights": (1, 1, float("inf"))}, r"weights must be three finite numbers .* got \(1, 1, inf\)"),
        ({"pretraining": -1}, "pretraining must be at least 0 steps, got -1"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        DAMLLoss(**{"embedding_size": 6, **arguments})
