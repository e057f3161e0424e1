import pytest
import torch

from nearkin.losses.pairs import (
    Batch,
    add_transpose_,
    centered,
    check_chunk_size,
    check_classes,
    check_pairs,
    distances,
    exponentials_,
    inner_products,
    known_gradient,
)
from nearkin.losses.tiles import Pairs


def squared_distances(x):
    pairs = Pairs(Batch(x, torch.zeros(len(x)).long(), None, None), "squared distances")
    return torch.cat([tile.matrix.clone() for tile in pairs.tiles()])


def direct(x):
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()


def relative_error(x):
    """Largest relative error of the squared distances off the diagonal, duplicates left out."""
    exact = direct(x.double())
    error = (squared_distances(x).double() - exact).abs() / exact
    return float(error[exact > 0].max())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-4), (torch.float64, 2e-8)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("gap", [1e-6, 1e-4, 1e-2, 1e-1])
def test_squared_distances_are_precise_at_any_distance(dtype, limit, offset, scale, gap):
    x = torch.nn.functional.normalize(torch.randn(64, 128, dtype=torch.float64))
    x[32:] = x[:32] + gap * torch.nn.functional.normalize(torch.randn(32, 128, dtype=torch.float64))
    assert relative_error((scale * (x + offset)).to(dtype)) < limit


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-4), (torch.float64, 2e-8)])
@pytest.mark.parametrize("gap", [1e-6, 1e-3, 1e-1])
def test_what_a_gpu_does_is_as_precise(dtype, limit, gap, monkeypatch):
    monkeypatch.setattr("nearkin.losses.pairs.may_look", lambda tensor: False)
    x = torch.nn.functional.normalize(torch.randn(64, 128, dtype=torch.float64))
    x[32:] = x[:32] + gap * torch.nn.functional.normalize(torch.randn(32, 128, dtype=torch.float64))
    x[5] = x[4] = x[3]
    assert relative_error(x.to(dtype)) < limit
    assert distances(x.to(dtype)).diagonal().eq(0).all()


def test_a_gpu_takes_a_gallery_smaller_than_the_near_it_looks_for(monkeypatch):
    monkeypatch.setattr("nearkin.losses.pairs.may_look", lambda tensor: False)
    x, gallery = torch.randn(12, 4), torch.randn(3, 4)
    pairs = Pairs(Batch(x, torch.arange(12), gallery, torch.arange(3)), "squared distances")
    (tile,) = pairs.tiles()
    torch.testing.assert_close(tile.matrix, (x[:, None] - gallery).square().sum(dim=2))


def test_no_squared_distance_is_below_0_on_a_gpu(monkeypatch):
    monkeypatch.setattr("nearkin.losses.pairs.may_look", lambda tensor: False)
    x = torch.randn(64, 64)
    x[:40] = x[0] + 1e-7 * torch.randn(40, 64)  # more near duplicates than a GPU takes from differences
    assert squared_distances(x).min() == 0


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
def test_an_offset_costs_no_precision(dtype, limit):
    x = torch.nn.functional.normalize(torch.randn(64, 128, dtype=torch.float64))
    assert relative_error((x + 0.5).to(dtype)) < limit


def test_equal_rows_are_centered_at_exactly_0():
    # Rounding noise would look like 2 million near duplicates in a batch of 2,048.
    assert centered(same := torch.rand(1, 9).repeat(7, 1), same)[0].eq(0).all()


def test_duplicates_are_at_distance_0_in_squared_form_and_at_the_floor_otherwise():
    x = torch.randn(9, 33).repeat(3, 1)
    duplicates = torch.eye(9).repeat(3, 3).bool()
    assert squared_distances(x)[duplicates].eq(0).all()
    off_diagonal = duplicates & ~torch.eye(27, dtype=torch.bool)
    assert distances(x)[off_diagonal].eq(1e-6).all()
    assert distances(x).diagonal().eq(0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_distances_of_a_few_rows(n):
    x = torch.randn(n, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(distances(x), direct(x).sqrt())
    assert torch.autograd.grad(distances(x).sum(), x)[0].shape == (n, 4)
    assert n < 2 or torch.autograd.gradcheck(distances, x)


def test_gradients_of_distances():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(distances, x)


@pytest.mark.parametrize("looks", [True, False])  # on a CPU, on a GPU
def test_gradients_of_distances_between_near_duplicates(looks, monkeypatch):
    x = torch.nn.functional.normalize(torch.randn(64, 128, dtype=torch.float64))
    x[32:] = x[:32] + 1e-5 * torch.randn(32, 128, dtype=torch.float64)
    x, weight = x.float(), torch.rand(64, 64)

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad((distances(x) * weight.to(x.dtype)).sum(), x)[0].double()

    exact = gradient(x.double())
    monkeypatch.setattr("nearkin.losses.pairs.may_look", lambda tensor: looks)
    torch.testing.assert_close(gradient(x), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("n", [1, 5, 128, 129, 300])
def test_a_matrix_plus_its_transpose(n):
    matrix = torch.randn(n, n)
    expected = matrix + matrix.T
    assert add_transpose_(matrix).equal(expected)
    assert matrix.equal(expected)


def test_gradients_of_inner_products():
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (7, 4))
    torch.testing.assert_close(inner_products(x, y), (x[:, None] * y).sum(dim=2))
    assert torch.autograd.gradcheck(inner_products, (x, y))
    assert torch.autograd.gradgradcheck(inner_products, (x, y))


X, Y = torch.randn(4, 3), torch.arange(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[None], Y), r"embeddings must be .* \(N, D\), .* got torch.float32 of shape \(1, 4, 3\)"),
        ((X.long(), Y), "embeddings must be a floating-point matrix .* got torch.int64"),
        ((X, Y[:3]), r"labels must have shape \(4,\), .* of the embeddings, got \(3,\)"),
        ((X, Y.float()), "labels must be integer class ids, got torch.float32"),
        ((X, Y * 1j), "labels must be integer class ids, got torch.complex64"),
        ((X / 0, Y), "embeddings must be finite, got NaN or infinity in 4 of 4 rows"),
        ((X, Y, X, None), "gallery and gallery_labels must be given together"),
        ((X, Y, None, Y), "gallery and gallery_labels must be given together"),
        ((X, Y, X, Y[:3]), r"labels must have shape \(4,\), .* of the gallery, got \(3,\)"),
        ((X, Y, X[:, :2], Y), "embeddings and gallery must have one size D, got 3 and 2"),
    ],
)
def test_rejects_what_is_no_batch(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_pairs(*arguments, normalize=True)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_batch_and_its_gallery_come_in_one_precision(normalize):
    unit = torch.nn.functional.normalize if normalize else torch.Tensor.clone
    batch = check_pairs(X.half(), Y, 2 * X.double(), Y + 1, normalize=normalize)
    torch.testing.assert_close(batch.x, unit(X.half().float()), rtol=0, atol=0)
    torch.testing.assert_close(batch.gallery, unit(2 * X), rtol=0, atol=0)
    assert batch.gallery_labels.equal(Y + 1)
    assert check_pairs(X.double(), Y, normalize=normalize).gallery is None


def test_classes_are_counted_from_0():
    check_classes(torch.tensor([0, 3]), 4)
    check_classes(torch.tensor([], dtype=torch.long), 4)
    for labels, range_ in (([0, 4], "from 0 to 4"), ([-1, 3], "from -1 to 3")):
        with pytest.raises(ValueError, match=f"got num_classes=4 and labels {range_}"):
            check_classes(torch.tensor(labels), 4)


def test_a_chunk_has_at_least_one_row():
    assert [check_chunk_size(each) for each in (None, 1, 512)] == [None, 1, 512]
    with pytest.raises(ValueError, match=r"chunk_size must be at least 1 row at a time, .* got 0"):
        check_chunk_size(0)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_softmax_at_any_scale(scale):
    logits = scale * torch.randn(5, 9)
    terms, total, logsumexp = exponentials_(logits.clone())
    torch.testing.assert_close(terms / total, logits.softmax(dim=1))
    torch.testing.assert_close(logsumexp, logits.logsumexp(dim=1, keepdim=True))


def test_a_second_gradient_is_an_error_not_a_wrong_number():
    def half_square(matrix: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return matrix.square().sum() / 2, matrix.clone()

    x = torch.randn(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(known_gradient(half_square)(x, torch.arange(2)), x, create_graph=True)
    torch.testing.assert_close(gradient, x)
    with pytest.raises(RuntimeError, match="half_square is differentiable once"):
        gradient.sum().backward()
