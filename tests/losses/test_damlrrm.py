import copy
from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize as normalize_rows

from nearkin.losses.damlrrm import DAMLRRMLoss

VARIANTS = [
    {"positives": "tree", "streams": "both"},
    {"positives": "all", "streams": "both"},
    {"positives": "tree", "streams": "neat"},
    {"positives": "all", "streams": "neat"},
    {"streams": "shuffled"},
]
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 0, 2, 3, 1, 1, 4])


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join(v.values()))
def variant(request):
    return request.param


def d(a, b):
    return (a - b).square().sum().clamp_min(1e-12).sqrt()


def kruskal(members, x):
    """The edges of a minimum spanning tree: the shortest first, unless its ends are connected already."""
    component = {i: i for i in members}
    for i, j in sorted(combinations(members, 2), key=lambda pair: float(d(*x.detach()[list(pair)]))):
        if component[i] != component[j]:
            yield i, j
            gone = component[j]
            component = {k: component[i] if c == gone else c for k, c in component.items()}


def over_violating(terms):
    return sum(terms) / max(sum(1 for term in terms if term > 0), 1)


def reference(x, y, alpha, beta, positives="tree", streams="both"):
    half = len(x) // 2
    neat, shuffled = range(half), range(half, len(x))

    def pull(i, j):
        return (d(x[i], x[j]) - alpha + beta).relu() ** 2

    def push(i, j):
        return (-d(x[i], x[j]) + alpha + beta).relu() ** 2

    total = x.new_zeros(())
    if streams != "shuffled":
        terms = [push(i, j) for i, j in combinations(neat, 2) if y[i] != y[j]]
        for c in set(y[:half].tolist()):
            members = [i for i in neat if y[i] == c]
            pairs = kruskal(members, x) if positives == "tree" else combinations(members, 2)
            terms += [pull(i, j) for i, j in pairs]
        total = total + over_violating(terms)
    if streams != "neat":
        terms = [push(s, g) for s in shuffled for g in neat if y[s] != y[g]]
        for s in shuffled:
            classmates = [g for g in neat if y[g] == y[s]]
            if classmates:
                terms.append(pull(s, min(classmates, key=lambda g: float(d(x[s], x[g]).detach()))))
        total = total + over_violating(terms)
    return total


def two_streams(seed, norm, near=0.0, classes=4, images=3, dim=16):
    """Classes × images, then as many of random classes, some of classes without a neat sample, all about one norm.

    With near, the shuffled half has near duplicates of neat samples, and the neat half one of its own in each class.
    """
    random = torch.Generator().manual_seed(seed)

    def noise(n):
        return torch.randn(n, dim, dtype=torch.float64, generator=random)

    half = classes * images
    y = torch.cat([torch.arange(half) // images, torch.randint(0, classes + 2, (half,), generator=random)])
    x = normalize_rows(noise(classes + 2)[y] + noise(2 * half))
    if near:
        copies = torch.arange(half, half + 8)
        originals = torch.arange(8) * 2
        x[copies] = x[originals] + near * noise(8)
        y[copies[:4]] = y[originals[:4]]  # of the same class and of others
        x[1:half:images] = x[0:half:images] + near * noise(classes)
    return norm * x, y


@pytest.mark.parametrize(
    ("alpha", "beta", "normalize"),
    [(30.0, 0.5, False), (1.5, 1.0, False), (0.8, 0.0, True), (0.01, 0.005, False)],
)
def test_matches_the_equations(request, batch, agrees, variant, alpha, beta, normalize):
    x, y = (each[: len(each) // 2 * 2] for each in batch)
    loss = DAMLRRMLoss(alpha, beta, **variant, normalize=normalize)
    # Of two classmates at one place, either may be the nearest.
    unique = request.node.callspec.params["batch"] != "duplicates"
    agrees(loss, lambda x, y: reference(x, y, alpha, beta, **variant), x, y, unique)


@pytest.mark.parametrize("near", [0.0, 1e-2, 1e-5])
@pytest.mark.parametrize(("alpha", "beta"), [(30.0, 0.5), (34.0, 5.0), (0.5, 0.4999), (1e-4, 9e-5)])
def test_matches_the_equations_at_the_papers_norms(agrees, variant, alpha, beta, near):
    loss = DAMLRRMLoss(alpha, beta, **variant)
    agrees(loss, lambda x, y: reference(x, y, alpha, beta, **variant), *two_streams(0, 30.0, near))


@pytest.mark.parametrize(("alpha", "beta"), [(30.0, 0.5), (0.5, 0.4999), (0.05, 0.04)])
def test_near_duplicates_at_the_papers_norms_are_precise_in_float32(variant, alpha, beta):
    # In the Gram form of the squared distance, 900 + 900 - 2 · 899.99..., float32 has nothing left of them.
    x, y = two_streams(1, 30.0, near=1e-3, dim=512)
    loss = DAMLRRMLoss(alpha, beta, **variant)
    x = x.float().double()
    value, gradient = value_and_gradient(loss, x.float(), y)
    exact, exact_gradient = value_and_gradient(loss, x, y)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-3 * float(exact_gradient.abs().max()))


def test_by_hand():
    # On a line: neat 0, 3 and 7 of one class and 4 of another, shuffled 5 and 1 of the one, 8 of the other, 2 of none.
    x = torch.tensor([[0.0], [3.0], [7.0], [4.0], [5.0], [1.0], [8.0], [2.0]])
    y = torch.tensor([0, 0, 0, 1, 0, 0, 1, 2])
    # Positives within 2, negatives beyond 3. Tree: 0-3 is 1 too long, 3-7 is 2 too long. Negatives of 4: 3 is 2 too
    # near; 7 and 0 are far enough.
    neat = (1 + 4 + 4) / 3
    # All positives: 0-7 too, 5 too long.
    everyone = (1 + 4 + 25 + 4) / 4
    # 5 has 3 and 7 at 2, 1 has 0 at 1: none too long; 8 has 4 at 4, 2 too long. Negatives: 5-4 by 2, 1-4 by 0; 8-7 by
    # 2; 2 is too near to 0 by 1, to 3 by 2, to 4 by 1, to 7 not.
    shuffled = (4 + 4 + 4 + 1 + 4 + 1) / 6
    values = {"neat": neat, "shuffled": shuffled, "both": neat + shuffled}
    for streams, value in values.items():
        torch.testing.assert_close(DAMLRRMLoss(2.5, 0.5, streams=streams)(x, y), torch.tensor(value))
    torch.testing.assert_close(DAMLRRMLoss(2.5, 0.5, "all", "neat")(x, y), torch.tensor(everyone))


def test_one_half_does_not_change_what_the_other_alone_costs():
    x, y = two_streams(2, 30.0)
    half = len(x) // 2
    moved, renamed = x.clone(), y.clone()
    moved[half:] += 1
    renamed[half:] = 7
    loss = DAMLRRMLoss(streams="neat")
    torch.testing.assert_close(loss(moved, renamed), loss(x, y), rtol=0, atol=0)

    moved = x.clone().requires_grad_()
    loss(moved, y).backward()
    assert moved.grad[half:].eq(0).all()


def test_shuffled_samples_are_not_compared_with_each_other():
    # All shuffled samples at one place, of different classes: nothing pushes them apart.
    x = torch.cat([torch.eye(3), torch.full((3, 3), 100.0)]).requires_grad_()
    loss = DAMLRRMLoss(5.0, 0.5, streams="shuffled")(x, torch.tensor([0, 1, 2, 3, 4, 5]))
    assert loss == 0


def test_the_gradient_has_the_precision_of_the_embeddings(variant):
    x = points(torch.float64).requires_grad_()
    expected = torch.autograd.grad(reference(x, LABELS, 2.5, 0.5, **variant), x)
    found = torch.autograd.grad(DAMLRRMLoss(2.5, 0.5, **variant)(x, LABELS), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_shuffled_sample_without_a_neat_classmate_has_negatives_only():
    x = torch.tensor([[0.0], [0.0], [1.0], [50.0]])
    y = torch.tensor([0, 0, 1, 2])
    # 1 is within 3.5 of both neat samples; 50 is beyond, and of no class that could pull it.
    torch.testing.assert_close(DAMLRRMLoss(3.0, 0.5, streams="shuffled")(x, y), torch.tensor(2.5**2))


def mean_negative(x, y):
    return torch.stack([d(x[i], x[j]) for i, j in combinations(range(len(x)), 2) if y[i] != y[j]]).mean()


@pytest.mark.parametrize(("norm", "normalize"), [(30.0, False), (0.1, False), (30.0, True)])
def test_relative_lengths_are_multiples_of_the_first_mean_distance_between_negatives(variant, norm, normalize):
    loss = DAMLRRMLoss(0.9, 0.2, **variant, normalize=normalize, relative=True).double()
    batches = [two_streams(seed, norm * (1 + seed / 30)) for seed in range(3)]
    x, y = batches[0]
    x = normalize_rows(x) if normalize else x
    used = len(x) // 2 if loss.streams == "neat" else len(x)
    unit = float(mean_negative(x[:used], y[:used]))
    absolute = DAMLRRMLoss(0.9 * unit, 0.2 * unit, **variant, normalize=normalize)
    for batch in batches:
        torch.testing.assert_close(value_and_gradient(loss, *batch), value_and_gradient(absolute, *batch))

    resumed = DAMLRRMLoss(0.9, 0.2, **variant, normalize=normalize, relative=True).double()
    resumed.load_state_dict(loss.state_dict())
    torch.testing.assert_close(resumed(*batches[2]), loss(*batches[2]), rtol=0, atol=0)


def test_the_unit_is_measured_in_training_where_there_are_negatives():
    loss = DAMLRRMLoss(0.9, 0.2, relative=True)
    x, y = points(), LABELS
    one_class = torch.zeros_like(y)
    torch.testing.assert_close(loss(x, one_class), DAMLRRMLoss(0.9, 0.2)(x, one_class))
    assert loss.unit == 0
    loss.eval()
    value = loss(x, y)
    assert loss.unit == 0
    assert value > 0
    loss.train()
    assert loss(x, y) == value
    torch.testing.assert_close(loss.unit, mean_negative(x, y))
    assert loss(10 * x, y) != value


def test_on_the_sphere_a_multiple_is_too_large_only_where_the_distance_is():
    x = normalize_rows(points()) + 10  # all within a tenth of the sphere
    unit = float(mean_negative(normalize_rows(x), LABELS))
    loss = DAMLRRMLoss(1.9 / unit, 0.2 / unit, normalize=True, relative=True)
    torch.testing.assert_close(loss(x, LABELS), DAMLRRMLoss(1.9, 0.2, normalize=True)(x, LABELS))
    loss(points(), LABELS)  # the first batch counts

    loss = DAMLRRMLoss(2.1 / unit, 0.2, normalize=True, relative=True)
    loss(x, torch.zeros_like(LABELS))
    loss.eval()
    loss(x, LABELS)
    loss.train()
    with pytest.raises(
        ValueError, match=r"alpha must be below 2 .* got [\d.]+ times [\d.]+, .*: lower alpha to less"
    ) as e:
        loss(x, LABELS)
    assert float(str(e.value).split()[-1]) == pytest.approx(2 / unit, rel=1e-3)
    assert loss.unit == 0


def test_the_only_negatives_are_as_far_as_can_be():
    """The unit is 2, so that an alpha of 1 of it is never reached."""
    x, labels = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"got 1.0 times 2, .*: lower alpha to less than 1$"):
        DAMLRRMLoss(1.0, 0.2, normalize=True, relative=True)(x, labels)
    loss = DAMLRRMLoss(0.9, 0.2, normalize=True, relative=True)
    loss(x, labels)
    assert loss.unit == 2


@pytest.mark.parametrize("normalize", [False, True])
def test_relative_compiles_without_a_break(normalize):
    loss = DAMLRRMLoss(0.9, 0.2, normalize=normalize, relative=True)
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    for scale in (1, 2):
        x = scale * points()
        torch.testing.assert_close(value_and_gradient(compiled, x, LABELS), value_and_gradient(loss, x, LABELS))


def value_and_gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad


@pytest.fixture
def loss(variant):
    return DAMLRRMLoss(3.0, 0.5, **variant)


def points(dtype=torch.float32):
    return torch.randn(12, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("point", [torch.zeros(6), torch.ones(6), 1e3 * torch.arange(6.0), torch.full((6,), 1e-30)])
def test_finite_where_all_points_are_equal(variant, point, normalize):
    loss = DAMLRRMLoss(1.0, 0.5, **variant, normalize=normalize)
    value, gradient = value_and_gradient(loss, point.repeat(12, 1), LABELS)
    torch.testing.assert_close(value, torch.tensor(2.25 * (1 + (loss.streams == "both"))))  # every negative, at 0
    assert gradient.eq(0).all()


@pytest.mark.parametrize("labels", [[0] * 4, [], [0, 0], [1] * 8])
def test_nothing_to_learn_is_a_differentiable_0(loss, labels):
    x = 1e-3 * points()[: len(labels)]  # one class, near together
    value, gradient = value_and_gradient(loss, x, torch.tensor(labels).long())
    assert value == 0
    assert gradient.eq(0).all()


def test_keeps_memory_of_a_few_matrices_for_the_backward(loss):
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(torch.randn(96, 4).requires_grad_(), torch.arange(96) % 3)
    assert sum(saved.values()) < 2 * 4 * 96**2


def test_rejects_a_batch_that_is_not_two_halves(loss):
    with pytest.raises(ValueError, match=r"two equal halves, .* got 11 samples: pass an even number"):
        loss(points()[:11], LABELS[:11])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": -0.1}, r"beta must be in \[0, alpha=30.0\), and alpha finite, got -0.1"),
        ({"alpha": 0.5}, r"beta must be in \[0, alpha=0.5\), and alpha finite, got 0.5"),
        ({"alpha": float("nan")}, r"beta must be in \[0, alpha=nan\)"),
        ({"normalize": True}, "alpha must be below 2 with normalize=True, .* got 30.0"),
        ({"alpha": 2.0, "normalize": True}, "alpha must be below 2 with normalize=True, .* got 2.0"),
        ({"positives": "some"}, 'positives must be "tree" or "all", got \'some\''),
        ({"streams": "loud"}, "streams must be .* got 'loud'"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        DAMLRRMLoss(**arguments)
