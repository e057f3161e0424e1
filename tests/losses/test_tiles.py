"""Losses over pairs: in chunks as at once, and against a gallery as the equations say."""

import sys

import pytest
import torch
import torch.nn.functional as F

from nearkin import losses
from nearkin.losses import npair, pairs, tiles
from nearkin.losses.pairs import Batch
from nearkin.losses.tiles import Pairs

LOSSES = {
    "contrastive": losses.ContrastiveLoss,
    "DDML": losses.DDMLLoss,
    "triplet": losses.TripletLoss,
    "semihard": losses.SemihardTripletLoss,
    "margin": losses.MarginLoss,
    "N-pair": losses.NPairLoss,
    "ranked list": losses.RankedListLoss,
    "ranked list, symmetric": lambda **kwargs: losses.RankedListLoss(symmetric=True, **kwargs),
    "angular": losses.AngularLoss,
    "angular hinge": losses.AngularHingeLoss,
    "N-pair & angular": losses.NPairAngularLoss,
    "lifted structure": losses.LiftedStructureLoss,
}
WITH_GALLERY = [name for name in LOSSES if not any(word in name for word in ("angular", "lifted"))]
MIXED = torch.tensor([0, 3, 0, 1, 0, 2, 2, 0, 4, 1, 0, 5, 2, 3, 3, 3, 3])


def points(n=17, size=6, seed=0, dtype=torch.float64):
    return torch.randn(n, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def value_and_gradients(loss, *inputs):
    moving = [each.detach().clone().requires_grad_() if each.is_floating_point() else each for each in inputs]
    torch.manual_seed(0)  # the margin loss draws its negatives
    value = loss(*moving)
    moving = [each for each in moving if each.requires_grad]
    return value.detach(), *torch.autograd.grad(value, moving, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("in_cache", [1, 60, 10**9])
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 16, 17, 1000])
@pytest.mark.parametrize("name", LOSSES)
def test_chunks_change_nothing(name, chunk_size, in_cache, monkeypatch):
    expected = value_and_gradients(LOSSES[name](), points(), MIXED)
    monkeypatch.setattr(tiles, "IN_CACHE", in_cache)
    found = value_and_gradients(LOSSES[name](chunk_size=chunk_size), points(), MIXED)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


# Not the margin loss: it draws K random numbers for each query, and other negatives with another K.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "margin"])
def test_a_larger_k_changes_nothing(name, monkeypatch):
    expected = value_and_gradients(LOSSES[name](), points(), MIXED)
    against = points(9, seed=1), MIXED[:9]
    with_gallery = name in WITH_GALLERY and value_and_gradients(LOSSES[name](), points(), MIXED, *against)
    monkeypatch.setattr(tiles, "largest_class", lambda size, most: most)
    torch.testing.assert_close(value_and_gradients(LOSSES[name](), points(), MIXED), expected)
    if name in WITH_GALLERY:
        found = value_and_gradients(LOSSES[name](), points(), MIXED, *against)
        torch.testing.assert_close(found, with_gallery)


def assert_near(found, exact, tolerance):
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_change_a_float32_by_rounding_alone(name):
    x, y = F.normalize(points(600, 32, dtype=torch.float32)), torch.arange(600) % 150
    found = value_and_gradients(LOSSES[name](chunk_size=64), x, y)
    assert_near(found, value_and_gradients(LOSSES[name](), x, y), 1e-5)


def near_duplicates(gap):
    """Unit vectors in float32, each with a partner of another class, and each with another of its own."""
    x = F.normalize(points(96, 64))
    x[32:] = F.normalize(x[:32].repeat(2, 1) + gap * F.normalize(points(64, 64, seed=1)))
    return x.float(), torch.cat([torch.arange(32) // 4, torch.arange(32) // 4, torch.arange(32) // 4 + 8])


UNSQUARED = ["contrastive", "ranked list", "ranked list, symmetric", "margin", "lifted structure"]


# At a gap of 0.03 a squared distance is not near enough to be taken from a difference: it may be off by 1e-3 of itself.
@pytest.mark.parametrize(("gap", "tolerance"), [(3e-2, 5e-4), (1e-2, 2e-6), (1e-3, 2e-6), (1e-5, 2e-6), (2e-6, 2e-6)])
@pytest.mark.parametrize("looks", [True, False])  # on a CPU, on a GPU
@pytest.mark.parametrize("name", UNSQUARED)
def test_near_duplicates_lose_no_digits_of_the_gradient(name, gap, tolerance, looks, monkeypatch):
    x, y = near_duplicates(gap)
    exact = value_and_gradients(LOSSES[name](normalize=False), x.double(), y)
    if not looks:
        monkeypatch.setattr("nearkin.losses.pairs.may_look", lambda tensor: False)
    dense, chunked = (value_and_gradients(LOSSES[name](normalize=False, chunk_size=n), x, y) for n in (None, 10))
    assert_near(dense, exact, tolerance)
    assert_near(chunked, exact, tolerance)
    assert_near(chunked, dense, max(1e-5, tolerance))


@pytest.mark.parametrize("name", [name for name in UNSQUARED if name in WITH_GALLERY])
@pytest.mark.parametrize("chunk_size", [None, 10])
def test_near_duplicates_in_a_gallery_lose_none_either(name, chunk_size):
    x, y = near_duplicates(1e-5)
    inputs = x[:40], y[:40], x[40:], y[40:]
    exact = value_and_gradients(LOSSES[name](normalize=False), x[:40].double(), y[:40], x[40:].double(), y[40:])
    assert_near(value_and_gradients(LOSSES[name](normalize=False, chunk_size=chunk_size), *inputs), exact, 2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_change_near_duplicates_by_rounding_alone(name):
    x, y = near_duplicates(1e-3)
    dense, chunked = (value_and_gradients(LOSSES[name](normalize=False, chunk_size=n), x, y) for n in (None, 10))
    assert_near(chunked, dense, 1e-5)


@pytest.mark.parametrize("name", WITH_GALLERY)
@pytest.mark.parametrize("chunk_size", [1, 5, None])
def test_chunks_change_nothing_against_a_gallery(name, chunk_size):
    inputs = points(), MIXED, points(9, seed=1), MIXED[:9]
    found = value_and_gradients(LOSSES[name](chunk_size=chunk_size), *inputs)
    torch.testing.assert_close(found, value_and_gradients(LOSSES[name](), *inputs), rtol=1e-9, atol=1e-12)


def hinge(value):
    return value.clamp_min(0)


def terms(name, x, same, gallery):
    """One query's terms against a gallery: their sum and number."""
    d2 = (gallery - x).square().sum(dim=1)
    d = d2.sqrt()
    if name == "contrastive":
        return (torch.where(same, d, hinge(1 - d)).square() / 2).sum(), len(gallery)
    if name == "DDML":
        sign = torch.where(same, 1.0, -1.0)
        return (F.softplus(10 * (1 - sign * (3 - d2))) / 20).sum(), len(gallery)
    if name == "triplet":
        return hinge(d2[same][:, None] - d2[~same] + 0.2).sum(), int(same.sum()) * int((~same).sum())
    if name == "semihard":
        total = torch.zeros((), dtype=x.dtype)
        for positive in d2[same]:
            beyond = d2[~same][d2[~same] > positive]
            if len(d2[~same]):
                total = total + hinge(positive - (beyond.min() if len(beyond) else d2[~same].max()) + 0.2)
        return total, int(same.sum())
    if name == "N-pair":
        products = gallery @ x
        negatives = products[~same].logsumexp(dim=0) if (~same).any() else -torch.inf
        return F.softplus(negatives - products[same]).sum() if (~same).any() else x.sum() * 0, int(same.sum())
    if name.startswith("ranked list"):
        pull, push = hinge(d[same] - 0.8), hinge(1.2 - d[~same])
        pull, push = pull[pull > 0], push[push > 0]
        weights = (10 * push.detach()).softmax(dim=0)
        return (pull.mean() if len(pull) else 0) + (weights * push).sum(), 1
    raise NotImplementedError(name)


@pytest.mark.parametrize("name", [name for name in WITH_GALLERY if name != "margin"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_gallery_is_searched_as_the_equations_say(name, normalize):
    x, gallery = points().requires_grad_(), points(9, seed=1).requires_grad_()
    gallery_labels = torch.tensor([0, 7, 2, 2, 9, 3, 0, 0, 7])  # three classes of the batch, and two others
    a, b = (F.normalize(each) for each in (x, gallery)) if normalize else (x, gallery)
    if name == "ranked list":
        b = b.detach()
    each = [terms(name, a[i], gallery_labels == MIXED[i], b) for i in range(len(x))]
    expected = sum(value for value, _ in each) / sum(count for _, count in each)
    by_x, by_gallery = torch.autograd.grad(expected, (x, gallery), allow_unused=True)
    found = value_and_gradients(LOSSES[name](normalize=normalize), x, MIXED, gallery, gallery_labels)
    by_gallery = torch.zeros_like(gallery) if by_gallery is None else by_gallery
    torch.testing.assert_close(found, (expected.detach(), by_x, by_gallery), rtol=1e-8, atol=1e-10)
    assert found[0] > 0


def test_the_margin_loss_draws_from_the_gallery():
    x, y = F.normalize(points(4, 3)), torch.tensor([0, 0, 1, 1])
    gallery, gallery_labels = F.normalize(points(5, 3, seed=1)), torch.tensor([0, 1, 1, 1, 1])
    d = torch.cdist(x, gallery)
    torch.manual_seed(0)
    value = losses.MarginLoss(alpha=0.2, beta=1.2)(x, y, gallery, gallery_labels)
    # Queries of class 1 have four positives and one negative, which they draw four times, wherever it is.
    pulls = [d[0, 0] - 1.0, d[1, 0] - 1.0, *(d[2:, 1:] - 1.0).flatten()]
    pushes = [1.4 - d[i, 0] for i in (2, 3) for _ in range(4)]
    totals = set()
    for first in range(1, 5):
        for second in range(1, 5):
            every = torch.stack([*pulls, *pushes, 1.4 - d[0, first], 1.4 - d[1, second]])
            totals.add(round(float(hinge(every).sum() / (every > 0).sum()), 9))
    assert round(float(value), 9) in totals


@pytest.mark.parametrize("name", WITH_GALLERY)
def test_a_gallery_without_gradient_is_left_constant(name):
    x, gallery = points().requires_grad_(), points(9, seed=1)
    torch.manual_seed(0)
    LOSSES[name]()(x, MIXED, gallery, MIXED[:9]).backward()
    _, by_x, _ = value_and_gradients(LOSSES[name](), x, MIXED, gallery, MIXED[:9])
    torch.testing.assert_close(x.grad, by_x)


@pytest.mark.parametrize("name", WITH_GALLERY)
def test_an_empty_gallery_has_nothing_to_teach(name):
    value, by_x = value_and_gradients(
        lambda x, y: LOSSES[name]()(x, y, x.detach()[:0], y[:0]), points(dtype=torch.float32), MIXED
    )
    assert value == 0
    assert by_x.eq(0).all()


def test_a_gallery_comes_with_its_labels_and_in_the_size_of_the_embeddings():
    loss = losses.ContrastiveLoss()
    with pytest.raises(ValueError, match="gallery and gallery_labels must be given together"):
        loss(points(), MIXED, points(3))
    with pytest.raises(ValueError, match="one size D, got 6 and 5: pass a gallery of the same model"):
        loss(points(), MIXED, points(3, 5), MIXED[:3])
    with pytest.raises(ValueError, match=r"labels must have shape \(3,\), one class id per row of the gallery"):
        loss(points(), MIXED, points(3), MIXED[:2])
    for structured in (losses.NPairLoss("mc"), losses.TripletLoss(disjoint=True)):
        with pytest.raises(ValueError, match="got a gallery"):
            structured(points(), MIXED, points(3), MIXED[:3])


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_a_chunk_has_at_least_one_row(chunk_size):
    for make in LOSSES.values():
        with pytest.raises(ValueError, match=f"chunk_size must be at least 1 row at a time, .* got {chunk_size}"):
            make(chunk_size=chunk_size)


@pytest.mark.parametrize(
    "labels", [[0], [4, 4], [1, 2, 3], [0, 3, 0, 1, 0, 2, 2, 0, 4, 1], [7] * 5, [True, False, True]]
)
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("whole_classes", [False, True])
def test_positives_are_every_ordered_pair_and_once_every_unordered(labels, chunk_size, whole_classes):
    labels = torch.tensor(labels)
    n = range(len(labels))
    ordered = sorted((i, j) for i in n for j in n if i != j and labels[i] == labels[j])
    batch = Batch(points(len(labels)), labels, None, None)
    all_pairs = Pairs(batch, "inner products", whole_classes=whole_classes)
    found, count = [], dict.fromkeys(ordered, 0.0)
    for tile in all_pairs.tiles(chunk_size):
        query, members = all_pairs.order[tile.rows], all_pairs.order[tile.members]
        assert members[:, 0].equal(query)
        assert (labels[members] == labels[query, None]).all()
        positives = all_pairs.order[tile.positives]
        found += [(int(query[i]), int(positives[i, k])) for i, k in tile.valid.nonzero().tolist()]
        assert whole_classes or chunk_size is None or len(query) <= chunk_size
        if whole_classes:
            local, weights = tile.once
            assert query[local].equal(positives[:, : local.shape[1]])
            for i, k in weights.nonzero().tolist():
                count[int(query[i]), int(positives[i, k])] += float(weights[i, k])
        all_pairs.push(tile, torch.zeros_like(tile.matrix))
    assert sorted(found) == ordered
    assert all(count[i, j] + count[j, i] == whole_classes for i, j in ordered)


def test_unsquared_distances_end_at_the_floor():
    x = points(5).repeat(2, 1)
    x[7] += 1e-5 / 6**0.5
    tile = next(Pairs(Batch(x, torch.arange(10), None, None), "distances").tiles())
    assert tile.matrix.diagonal().eq(0).all()
    torch.testing.assert_close(tile.matrix.diagonal(5), torch.tensor([1e-6, 1e-6, 1e-5, 1e-6, 1e-6], dtype=x.dtype))


@pytest.fixture
def asked(monkeypatch):
    """As on a GPU, with the names of the functions in which Python asks for what is in a tensor: each waits for it."""
    for module in (pairs, tiles, npair):
        monkeypatch.setattr(module, "may_look", lambda tensor: False)
    monkeypatch.setattr(tiles, "IN_CACHE", 10**9)
    asked = []

    def asking(original):
        def ask(*args, **kwargs):
            asked.append(sys._getframe(1).f_code.co_name)
            return original(*args, **kwargs)

        return ask

    reads = ["__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy"]
    of_their_size = ["nonzero", "unique", "masked_select", "argwhere"]
    places = [(torch.Tensor, name) for name in reads + of_their_size] + [(torch, name) for name in of_their_size]
    for place, name in places:
        monkeypatch.setattr(place, name, asking(getattr(place, name)))
    return asked


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_a_gpu_is_asked_for_the_size_of_the_largest_class_alone(name, chunk_size, asked):
    x, loss = points().requires_grad_(), LOSSES[name](chunk_size=chunk_size)
    loss(x, MIXED).backward()
    whole_classes = name not in WITH_GALLERY and chunk_size is not None  # these ask where the labels are
    assert asked == ["largest_class", "_cut"][: 1 + whole_classes]
    if name in WITH_GALLERY:
        loss(x, MIXED, points(9, seed=1).requires_grad_(), MIXED[:9]).backward()
        assert asked == ["largest_class"] * 2


def test_a_gpu_is_asked_for_no_more_by_the_mc_form_nor_by_a_memory(asked):
    losses.NPairLoss("mc")(points(8).requires_grad_(), torch.arange(8) // 2).backward()
    assert asked == ["largest_class"]
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), 6)
    asked.clear()
    for _ in range(2):
        memory(points().requires_grad_(), MIXED).backward()
    assert asked == ["largest_class"] * 3


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_break_in_chunks(name):
    loss = LOSSES[name](chunk_size=4)
    compiled = torch.compile(LOSSES[name](chunk_size=4), fullgraph=True, backend="aot_eager")
    expected = value_and_gradients(loss, points(), MIXED)
    torch.testing.assert_close(value_and_gradients(compiled, points(), MIXED), expected)


@pytest.mark.parametrize("name", WITH_GALLERY)
def test_compiles_without_a_break_against_a_gallery(name):
    inputs = points(), MIXED, points(9, seed=1), MIXED[:9]
    compiled = torch.compile(LOSSES[name](), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(value_and_gradients(compiled, *inputs), value_and_gradients(LOSSES[name](), *inputs))
