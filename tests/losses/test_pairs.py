import pytest
import torch

from nearkin.losses.pairs import (
    _centered,
    classmates,
    classmates_once,
    distances,
    gram,
    inner_products,
    known_gradient,
    softmax_,
    squared_distances,
)


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


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-14)])
def test_an_offset_costs_no_precision(dtype, limit):
    x = torch.nn.functional.normalize(torch.randn(64, 128, dtype=torch.float64))
    assert relative_error((x + 0.5).to(dtype)) < limit


def test_equal_rows_are_centered_at_exactly_0():
    # Rounding noise would look like 2 million near duplicates in a batch of 2,048.
    assert _centered(torch.rand(1, 9).repeat(7, 1)).eq(0).all()


def test_duplicates_are_at_distance_0_in_squared_form_and_at_the_floor_otherwise():
    x = torch.randn(9, 33).repeat(3, 1)
    duplicates = torch.eye(9).repeat(3, 3).bool()
    assert squared_distances(x)[duplicates].eq(0).all()
    off_diagonal = duplicates & ~torch.eye(27, dtype=torch.bool)
    assert distances(x)[off_diagonal].eq(1e-6).all()
    assert distances(x).diagonal().eq(0).all()


@pytest.mark.parametrize("function", [gram, squared_distances, distances])
def test_gradients(function):
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(lambda x: function(x)[0], x) or function is distances


def test_gradients_of_inner_products():
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (7, 4))
    torch.testing.assert_close(inner_products(x, y), (x[:, None] * y).sum(dim=2))
    assert torch.autograd.gradcheck(inner_products, (x, y))
    assert torch.autograd.gradgradcheck(inner_products, (x, y))


def test_a_constant_gallery_receives_no_gradient():
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(7, 7, dtype=torch.float64).fill_diagonal_(0)
    (gradient,) = torch.autograd.grad((weight * distances(x, constant_gallery=True)).sum(), x)
    rows = torch.cdist(x, x.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(gradient, torch.autograd.grad((weight * rows).sum(), x)[0])


@pytest.mark.parametrize(
    "labels", [[0], [4, 4], [1, 2, 3], [0, 3, 0, 1, 0, 2, 2, 0, 4, 1], [7] * 5, [True, False, True]]
)
def test_classmates_are_every_ordered_pair_and_once_every_unordered(labels):
    labels = torch.tensor(labels)
    n = range(len(labels))
    ordered = sorted((i, j) for i in n for j in n if i != j and labels[i] == labels[j])

    positives, valid = classmates(labels)
    assert sorted((i, int(positives[i, k])) for i, k in valid.nonzero().tolist()) == ordered
    assert all(sorted(column) == list(n) for column in positives.T.tolist())

    positives, weights = classmates_once(labels)
    count = dict.fromkeys(ordered, 0.0)
    for i, k in weights.nonzero().tolist():
        count[i, int(positives[i, k])] += float(weights[i, k])
    assert all(count[i, j] + count[j, i] == 1 for i, j in ordered)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_softmax_at_any_scale(scale):
    logits = scale * torch.randn(5, 9)
    softmax, logsumexp = softmax_(logits.clone())
    torch.testing.assert_close(softmax, logits.softmax(dim=1))
    torch.testing.assert_close(logsumexp, logits.logsumexp(dim=1, keepdim=True))


def test_a_second_gradient_is_an_error_not_a_wrong_number():
    def half_square(matrix: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return matrix.square().sum() / 2, matrix.clone()

    x = torch.randn(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(known_gradient(half_square)(x, torch.arange(2)), x, create_graph=True)
    torch.testing.assert_close(gradient, x)
    with pytest.raises(RuntimeError, match="half_square is differentiable once"):
        gradient.sum().backward()
