import warnings

import numpy as np
import pytest
import torch

from nearkin.losses.spectral_clustering import SpectralClusteringLoss

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 5])

pytestmark = pytest.mark.filterwarnings("ignore:SpectralClusteringLoss takes more samples")


def reference(x, y):
    """Gram-Schmidt over the columns of x, each twice; then every class's unit vector less its projection."""
    basis = []
    for column in x.T:
        rest = column
        for _ in range(2):
            for q in basis:
                rest = rest - (q @ rest) * q
        if rest.norm() > 1e-10 * column.norm():
            basis.append(rest / rest.norm())
    total = 0.0
    for c in set(y.tolist()):
        members = (y == c).to(x.dtype)
        members = members / members.sum().sqrt()
        total = total + 1 - sum((q @ members) ** 2 for q in basis)
    return total


def least_squares(x, y):
    """The squared residuals of C regressions of the members of a class, 1 / sqrt(their number) each, on x."""
    total = 0.0
    for c in np.unique(y):
        target = (y == c) / np.sqrt((y == c).sum())
        total += np.sum((target - x @ np.linalg.lstsq(x, target, rcond=1e-10)[0]) ** 2)
    return total


def differences(function, x):
    """Central differences of fourth order."""
    h = 1e-3 * np.abs(x).max()
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = h
        near, far = function(x + step) - function(x - step), function(x + 2 * step) - function(x - 2 * step)
        gradient[index] = (8 * near - far) / (12 * h)
    return gradient


def points(dtype=torch.float32, n=12, dim=6, seed=0):
    return torch.randn(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("normalize", [False, True])
def test_matches_the_projection_column_by_column(request, batch, agrees, normalize):
    # Where all points are equal, the rank is 1: the loss has a gradient at constant rank only.
    agrees(SpectralClusteringLoss(normalize), reference, *batch, unique="[all equal-" not in request.node.name)


@pytest.mark.parametrize(("n", "dim", "classes"), [(12, 5, 3), (12, 11, 4), (15, 2, 6), (9, 4, 1), (9, 4, 9)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_matches_least_squares_and_differences(n, dim, classes, scale):
    x, y = scale * points(torch.float64, n, dim), torch.arange(n) % classes
    value, gradient = value_and_gradient(SpectralClusteringLoss(), x, y)
    expected = differences(lambda x: least_squares(x, y.numpy()), x.numpy())
    assert float(value) == pytest.approx(least_squares(x.numpy(), y.numpy()), rel=1e-9)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max() + 1e-9 / scale)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dim", [6, 12, 40])
def test_at_low_rank_the_gradient_is_that_of_the_factors(rank, dim):
    # The columns of x = left @ right span those of left, whatever right is.
    left, right = points(torch.float64, 12, rank), points(torch.float64, rank, dim, seed=1)
    x = left @ right
    value, gradient = value_and_gradient(SpectralClusteringLoss(), x, LABELS)
    assert float(value) == pytest.approx(least_squares(left.numpy(), LABELS.numpy()), rel=1e-9)
    expected = differences(lambda left: least_squares(left, LABELS.numpy()), left.numpy())
    np.testing.assert_allclose(gradient @ right.T, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    torch.testing.assert_close(left.T @ gradient, torch.zeros(rank, dim, dtype=torch.float64))
    torch.testing.assert_close(gradient @ torch.linalg.pinv(right) @ right, gradient)  # nothing beside the rows of x


def test_the_rounding_of_float32_adds_no_rank():
    left, right = points(torch.float64, 40, 3), points(torch.float64, 3, 8, seed=1)
    y = torch.arange(40) % 5
    exact, exact_gradient = value_and_gradient(SpectralClusteringLoss(), left @ right, y)
    value, gradient = value_and_gradient(SpectralClusteringLoss(), (left @ right).float(), y)
    assert torch.linalg.matrix_rank((left @ right).float().double()) == 8
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-5 * float(exact_gradient.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rank_counts_singular_values_above_the_cutoff(dtype):
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=dtype)
    x = torch.kron(torch.kron(signs, signs), torch.kron(signs, signs))[:, 1:4]  # 16 by 3, orthogonal
    eps = torch.finfo(dtype).eps
    y = (x[:, 2] > 0).long() + 2 * (x[:, 0] > 0).long()
    kept, dropped = (x * torch.tensor([1.0, 1.0, scale * 16 * eps], dtype=dtype) for scale in (2.0, 0.5))
    torch.testing.assert_close(SpectralClusteringLoss()(kept, y), SpectralClusteringLoss()(x, y))
    torch.testing.assert_close(SpectralClusteringLoss()(dropped, y), SpectralClusteringLoss()(x[:, :2], y))
    assert SpectralClusteringLoss()(x[:, :2], y) > SpectralClusteringLoss()(x, y) + 0.5


def test_the_gradient_has_the_closed_form():
    x, y = points(torch.float64, 30, 4), torch.arange(30) % 7
    indicator = torch.nn.functional.one_hot(y).double()
    j = indicator @ torch.diag(indicator.sum(dim=0).rsqrt())
    inverse = torch.linalg.inv(x.T @ x) @ x.T
    value, gradient = value_and_gradient(SpectralClusteringLoss(), x, y)
    torch.testing.assert_close(gradient, 2 * (x @ inverse @ j - j) @ (inverse @ j).T)
    torch.testing.assert_close(value, 7 - torch.trace(j.T @ x @ inverse @ j))


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e3, 1e15])
def test_a_scale_divides_the_gradient_alone(scale):
    value, gradient = value_and_gradient(SpectralClusteringLoss(), points(), LABELS)
    scaled, scaled_gradient = value_and_gradient(SpectralClusteringLoss(), scale * points(), LABELS)
    torch.testing.assert_close(scaled, value)
    torch.testing.assert_close(scaled_gradient * scale, gradient, rtol=1e-5, atol=1e-6)


def test_descent_makes_the_classes_a_linear_function_of_the_embeddings():
    y = torch.arange(40) % 4
    x = torch.nn.Parameter(points(torch.float64, 40, 6))
    optimizer = torch.optim.SGD([x], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        SpectralClusteringLoss()(x, y).backward()
        optimizer.step()
    assert SpectralClusteringLoss()(x, y) < 1e-6
    fitted = x @ torch.linalg.lstsq(x, torch.nn.functional.one_hot(y).double())[0]
    assert fitted.argmax(dim=1).equal(y)


@pytest.mark.parametrize(("n", "dim"), [(6, 6), (4, 6), (12, 64), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_more_samples_than_dimensions_is_a_differentiable_0(n, dim, dtype):
    value, gradient = value_and_gradient(SpectralClusteringLoss(), 1e3 * points(dtype, n, dim), torch.arange(n) % 3)
    assert value == 0
    assert gradient.eq(0).all()


def test_no_more_samples_than_dimensions_warns_once_per_module():
    loss, other = SpectralClusteringLoss(), SpectralClusteringLoss()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss(points(), LABELS)  # 12 samples of 6
        assert not caught
        loss(points(n=6), LABELS[:6])
        loss(points(n=4), LABELS[:4])
        other(points(n=4), LABELS[:4])
    assert [str(w.message).split(":")[0] for w in caught] == [
        "SpectralClusteringLoss takes more samples than dimensions, got 6 samples of 6",
        "SpectralClusteringLoss takes more samples than dimensions, got 4 samples of 6",
    ]
    assert {w.filename for w in caught} == {__file__}


def test_copies_in_several_classes_cost_even_in_a_large_dimension():
    x, y = points(n=3, dim=64).repeat_interleave(2, dim=0), torch.arange(6) % 2
    value, gradient = value_and_gradient(SpectralClusteringLoss(), x, y)
    # The embeddings span the three pairs, with (1, 1) of a pair halved over both classes: C - |Qᵀ J|² = 2 - 1.
    torch.testing.assert_close(value, torch.tensor(1.0))
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("point", [torch.zeros(6), torch.ones(6), 1e3 * torch.arange(6.0), torch.full((6,), 1e-30)])
@pytest.mark.parametrize("normalize", [False, True])
def test_finite_where_all_points_are_equal(point, normalize):
    value, gradient = value_and_gradient(SpectralClusteringLoss(normalize), point.repeat(12, 1), LABELS)
    # Q is one constant column, or none: C - Σ_c (size of c) / N, or C. Those of 1e-30 have no place on the sphere.
    there = point.norm() > 1e-12 if normalize else point.any()
    torch.testing.assert_close(value, torch.tensor(5.0 if there else 6.0))
    assert gradient.isfinite().all()


def test_float32_is_close_to_float64():
    value, gradient = value_and_gradient(SpectralClusteringLoss(), points(), LABELS)
    exact, exact_gradient = value_and_gradient(SpectralClusteringLoss(), points().double(), LABELS)
    assert (value.dtype, gradient.dtype, exact.dtype) == (torch.float32, torch.float32, torch.float64)
    torch.testing.assert_close(value, exact.float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(gradient, exact_gradient.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n", [12, 6])
def test_compiles_without_a_break_or_a_warning(n):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = torch.compile(SpectralClusteringLoss(), fullgraph=True, backend="aot_eager")
        results = [value_and_gradient(compiled, x, LABELS[:n]) for x in (points(n=n), points(n=n).T.contiguous().T)]
    assert not [w for w in caught if "SpectralClusteringLoss" in str(w.message)]
    for result in results:
        torch.testing.assert_close(result, value_and_gradient(SpectralClusteringLoss(), points(n=n), LABELS[:n]))
