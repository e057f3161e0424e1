from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import kmeans_plusplus

from nearkin.metrics import kmeans, nmi
from nearkin.metrics.kmeans import _lloyd, _random_start, _settle_empty, _spread_start
from nearkin.metrics.ranking import to_grid
from nearkin.metrics.screening import LARGEST


def blobs(n=300, k=6, size=4, noise=0.1, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centers = generator.standard_normal((k, size)) * 3
    return (centers[labels] + noise * generator.standard_normal((n, size))).astype(np.float32), labels


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_result_is_a_fixed_point_of_its_own_description(init):
    """Every point at its nearest centroid, every centroid the mean of its points, the objective what they add to."""
    x, _ = blobs(noise=1.0)
    found = kmeans(x, 6, init=init)
    assert found.assignments.shape == (300,)
    assert found.assignments.dtype == np.int64
    assert found.centroids.shape == (6, 4)
    squared = ((x[:, None] - found.centroids) ** 2).sum(axis=2)
    assert (found.assignments == squared.argmin(axis=1)).all()
    assert found.objective == pytest.approx(squared.min(axis=1).sum(), rel=1e-5)
    for cluster in range(6):
        np.testing.assert_allclose(found.centroids[cluster], x[found.assignments == cluster].mean(axis=0), atol=1e-5)


def two_groups(far):
    """Fifty blobs twice, so far from each other: from afar float32 takes the points of a blob for one."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((50, 16))
    x = centers[np.arange(2000) % 50] + 0.05 * generator.standard_normal((2000, 16))
    return torch.from_numpy(x + far * (np.arange(2000)[:, None] % 100 < 50))


@pytest.fixture
def objectives(monkeypatch):
    """Objective after each round from a start, and at the end; every round is looked at."""

    def run(points, centroids):
        found = []

        def check(points, centroids, assignments):
            """In integers below 2**53, which float64 holds."""
            squared = ((points.double()[:, None] - centroids.double()) ** 2).sum(dim=2).numpy()
            assert (assignments.numpy() == squared.argmin(axis=1)).all()  # of equals, the lower
            assert torch.equal(centroids, centroids.round())
            found.append(squared.min(axis=1).sum())
            _settle_empty(points, centroids, assignments)

        monkeypatch.setitem(kmeans.__globals__, "_settle_empty", check)
        rounds = iter(range(1000))
        check(points, *reversed(_lloyd(points, centroids, rounds)))
        assert next(rounds) == len(found) - 1 < 100  # ended by itself
        assert found[-1] == found[-2]
        return found[:-1]

    return run


@pytest.mark.parametrize("start", [_random_start, _spread_start])
@pytest.mark.parametrize("far", [3, 30, 300, 3e4])
def test_every_round_ends_at_the_nearest_centroids_and_a_lower_objective(start, far, objectives):
    points, _ = to_grid(two_groups(far), two_groups(far))
    found = objectives(points, points[start(points, 100, torch.Generator().manual_seed(0))])
    assert all(later < earlier for earlier, later in pairwise(found))


@pytest.mark.parametrize("start", [_random_start, _spread_start])
@pytest.mark.parametrize("places", [3, 40])
def test_every_round_ends_at_the_lowest_of_the_nearest_centroids(start, places, objectives):
    """On a lattice so small that most points are as far from several."""
    points = torch.randint(places, (2000, 2), generator=torch.Generator().manual_seed(0)).float()
    found = objectives(points, points[start(points, 100, torch.Generator().manual_seed(0))])
    assert found == sorted(found, reverse=True)


def test_of_equally_near_centroids_the_lower_is_taken():
    points = torch.tensor([[0.0], [2.0], [2.0], [4.0]])
    assert _lloyd(points, points[[3, 0, 2, 1]], [])[0].tolist() == [1, 2, 2, 0]
    assert _lloyd(points, points[[3, 0]], [])[0].tolist() == [1, 0, 0, 0]


def test_empty_clusters_are_given_the_farthest_points_once_each():
    points = torch.tensor([[5.0], [10], [10], [3], [7], [7], [0], [8]])
    centroids = torch.tensor([[0.0], [90], [91], [92], [5]])
    assignments = torch.tensor([4, 0, 0, 0, 4, 4, 0, 0])
    _settle_empty(points, centroids, assignments)
    assert assignments.tolist() == [4, 1, 0, 3, 4, 4, 0, 2]

    points, centroids = torch.tensor([[0.0], [0], [1]]), torch.tensor([[0.0], [5], [6], [7]])
    assignments = torch.tensor([0, 0, 0])
    _settle_empty(points, centroids, assignments)
    assert assignments.tolist() == [0, 0, 1]  # those at their centroid stay


@pytest.mark.parametrize("k", [300, 1000])
def test_copies_take_one_cluster(k):
    x = np.tile(np.random.default_rng(0).standard_normal((300, 8)), (10, 1))
    found = kmeans(x, k, init="random")
    assert found.objective == 0
    assert (found.assignments == np.tile(found.assignments[:300], 10)).all()
    assert len(set(found.assignments)) == 300


def test_points_too_long_for_a_bound_on_rounding_are_compared_exactly():
    x = np.zeros((4, LARGEST + 1), dtype=np.float32)
    x[:, 0] = 0, 1, 10, 11
    found = kmeans(x, 2)
    assert found.assignments[0] == found.assignments[1] != found.assignments[2] == found.assignments[3]
    assert found.objective == 1


def test_finds_well_separated_classes():
    x, labels = blobs()
    assert nmi(labels, kmeans(x, 6, restarts=5).assignments) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_k_means_plus_plus_starts_as_scikit_learn_does(noise):
    """Mean over 100 starts of the sum of squared distances, which other ways of drawing or trying points change."""
    x, _ = blobs(n=600, k=30, noise=noise)

    def left(start):
        return ((x[:, None] - start) ** 2).sum(axis=2).min(axis=1).sum()

    points = torch.from_numpy(x)
    ours = [left(x[_spread_start(points, 30, torch.Generator().manual_seed(seed))]) for seed in range(100)]
    theirs = [left(kmeans_plusplus(x, 30, random_state=seed)[0]) for seed in range(100)]
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(100)
    assert abs(np.mean(ours) - np.mean(theirs)) < 2.5 * error < 0.05 * np.mean(theirs)


def test_from_the_same_start_ends_where_scikit_learn_does():
    x, _ = blobs(noise=1.0)
    start = x[torch.randperm(300, generator=torch.Generator().manual_seed(7))[:6]]
    theirs = SklearnKMeans(6, init=start, n_init=1, tol=0).fit(x)
    ours = kmeans(x, 6, init="random", seed=7)
    assert (ours.assignments == theirs.labels_).all()
    assert ours.objective == pytest.approx(theirs.inertia_, rel=1e-5)


def test_k_means_plus_plus_takes_no_point_twice_and_reaches_every_clump():
    x = np.repeat(blobs(n=30, k=30)[0], 10, axis=0)
    for seed in range(5):
        assert kmeans(x, 30, seed=seed, iterations=1).objective == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_seed_decides_the_start(init):
    x, _ = blobs(n=500, k=40, noise=1.0)
    first, again, other = (kmeans(x, 40, init=init, seed=seed) for seed in (3, 3, 4))
    assert (first.assignments == again.assignments).all()
    assert (first.centroids == again.centroids).all()
    assert first.objective == again.objective != other.objective


def test_restarts_go_on_and_keep_the_best():
    x, _ = blobs(n=500, k=40, noise=0.3)
    objectives = [kmeans(x, 40, init="random", restarts=restarts).objective for restarts in range(1, 10)]
    assert objectives == sorted(objectives, reverse=True)
    assert len(set(objectives)) > 1


def test_of_equals_the_first_restart_is_kept():
    x, _ = blobs()
    first, best = (kmeans(x, 6, seed=2, restarts=restarts) for restarts in (1, 5))
    others = [kmeans(x, 6, seed=seed).assignments for seed in range(10)]
    assert any((each != first.assignments).any() for each in others), "clusters have other numbers from other starts"
    assert best.objective == first.objective
    assert (best.assignments == first.assignments).all()


def test_the_largest_seed():
    x, _ = blobs()
    assert kmeans(x, 6, seed=2**64 - 1).objective > 0


def test_iterations_lower_the_objective():
    x, _ = blobs(n=500, k=40, noise=1.0)
    objectives = [kmeans(x, 40, init="random", iterations=iterations).objective for iterations in (1, 3, 50)]
    assert objectives == sorted(objectives, reverse=True)


def test_no_point_is_left_out_of_training():
    """A mean of all 4,000, not of a sample."""
    x, _ = blobs(n=4000, noise=1.0)
    np.testing.assert_allclose(kmeans(x, 1).centroids[0], x.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize(("distinct", "n", "k"), [(1, 1, 1), (1, 10, 5), (1, 10, 10), (3, 15, 7), (3, 15, 14)])
def test_fewer_distinct_points_than_clusters(init, distinct, n, k):
    x = np.eye(distinct, 4, dtype=np.float32)[np.arange(n) % distinct]
    found = kmeans(x, k, init=init, restarts=2)
    assert found.objective == pytest.approx(0, abs=1e-4)
    assert np.isfinite(found.centroids).all()
    assert set(found.assignments) <= set(range(k))
    np.testing.assert_allclose(found.centroids[found.assignments], x, atol=1e-2)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 1e4), (1e-25, 0.0), (1e-150, 0.0), (1e-170, 0.0), (1e25, 0.0)])
def test_where_the_points_lie_and_their_scale_do_not_matter(scale, offset):
    x, _ = blobs(noise=1.0)
    expected = kmeans(x, 6)
    found = kmeans(x.astype(np.float64) * scale + offset, 6)
    assert nmi(expected.assignments, found.assignments) > 0.99
    assert found.objective == pytest.approx(expected.objective * scale**2, rel=1e-3, abs=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_floating_type(dtype):
    x = torch.from_numpy(blobs(noise=1.0)[0]).to(dtype)
    found = kmeans(x.requires_grad_(), 6)
    assert (found.assignments == kmeans(x.detach().float().numpy(), 6).assignments).all()


def test_normalize_clusters_directions():
    x = blobs(noise=1.0)[0].astype(np.float64)
    x[::2] *= 1e-20
    found = kmeans(x, 6, normalize=True)
    expected = kmeans(x / np.linalg.norm(x, axis=1, keepdims=True), 6)
    assert (found.assignments == expected.assignments).all()
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_precision_set_for_training_is_neither_used_nor_lost(init, monkeypatch):
    used = []
    product = torch.addmm

    def settings():
        return [backend.matmul.fp32_precision for backend in (torch.backends.mkldnn, torch.backends.cuda)]

    def spy(*args, **kwargs):
        used.append((*settings(), torch.is_autocast_enabled("cpu")))
        return product(*args, **kwargs)

    x, _ = blobs(noise=1.0)
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "addmm", spy)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            kmeans(x, 6, init=init)
        assert set(used) == {("ieee", "ieee", False)}
        assert settings() == ["bf16", "tf32"]
    finally:
        torch.set_float32_matmul_precision(before)


def test_progress_sees_every_start_and_only_the_updates_made():
    x, _ = blobs(noise=1.0)
    seen = []

    def progress(work):
        seen.append([len(work), 0])
        for piece in work:
            seen[-1][1] += 1
            yield piece

    kmeans(x, 6, restarts=2, iterations=1000, progress=progress)
    assert [total for total, _ in seen] == [5, 1000, 5, 1000]
    assert seen[0][1] == seen[2][1] == 5
    assert max(seen[1][1], seen[3][1]) < 100


def test_nothing_is_printed(capfd):
    kmeans(blobs(n=100)[0], 50)
    assert capfd.readouterr() == ("", "")


def test_points_are_not_changed():
    x = blobs()[0].astype(np.float64)
    before = x.copy()
    kmeans(x, 6)
    assert (x == before).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_is_found_in_every_type(dtype, value):
    x = torch.from_numpy(blobs()[0])
    x[7, 1] = value
    with pytest.raises(ValueError, match=r"x must be finite .* row 7"):
        kmeans(x.to(dtype), 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be from 1 to the number of points, 4, got 0"),
        ({"k": 5}, "k must be from 1 to the number of points, 4, got 5"),
        ({"init": "kmeans"}, r"init must be one of k-means\+\+, random, got 'kmeans'"),
        ({"restarts": 0}, "at least 1, got 0 and 100"),
        ({"iterations": 0}, "at least 1, got 1 and 0"),
        ({"seed": -1}, r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        ({"seed": 2**64}, "seed must be from 0 to"),
        ({"x": np.zeros(4)}, r"x must be \(N, D\) .* got shape \(4,\)"),
        ({"x": np.full((4, 2), np.nan)}, "x must be finite"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmeans(**{"x": np.zeros((4, 2)), "k": 2, **arguments})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("far", [3, 3e4])
def test_cuda_agrees(far):
    x = two_groups(far)
    expected, found = kmeans(x, 100, init="random"), kmeans(x.cuda(), 100, init="random")
    assert (found.assignments == expected.assignments).all()
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
