import math

import numpy as np
import pytest
from scipy import stats

from nearkin.statistics import Estimate, difference, estimate


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100])
def test_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(0.7, 0.1, n).tolist()
    found = estimate(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.n == n


def test_interval_by_hand():
    # Mean 3, variance (4 + 1 + 0 + 1 + 4) / 4 = 2.5; t(0.975, 4) = 2.7764 from a table.
    found = estimate([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3, 5)
    assert found.half == pytest.approx(2.7764451 * math.sqrt(2.5 / 5))
    # Of two values, half the distance between them times t(0.975, 1) = 12.706.
    assert estimate([0.8, 0.9]).half == pytest.approx(12.7062047 * 0.05)


def test_one_value_has_no_interval():
    found = estimate([0.4])
    assert found == Estimate(0.4, None, 1)
    assert (found.low, found.high, found.excludes_zero) == (None, None, False)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf, 0.2]])
def test_no_value_or_none_that_counts_is_refused(values):
    with pytest.raises(ValueError, match="finite values, at least one"):
        estimate(values)


def test_excludes_zero():
    assert estimate([0.1, 0.11, 0.12]).excludes_zero
    assert estimate([-0.1, -0.11, -0.12]).excludes_zero
    assert not estimate([-0.1, 0.11, 0.12]).excludes_zero
    assert not estimate([0.0, 0.0]).excludes_zero


def test_equal_values_have_no_width():
    assert estimate([0.3] * 4).half == 0


def test_difference_is_scipys_paired_test_on_the_runs_that_both_have():
    rng = np.random.default_rng(0)
    a = {(seed, None): value for seed, value in enumerate(rng.normal(0.8, 0.1, 6))}
    b = {(seed, None): value for seed, value in enumerate(rng.normal(0.7, 0.1, 7)) if seed != 2}
    shared = [0, 1, 3, 4, 5]
    one, other = [[side[seed, None] for seed in shared] for side in (a, b)]
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    found = difference(a, dict(reversed(b.items())))
    assert found.n == 5
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert difference(b, a).mean == pytest.approx(-found.mean)
    assert difference({1: 0.5}, {2: 0.5}) is None
    assert difference({1: 0.5}, {}) is None


def test_what_a_seed_does_to_both_cancels():
    seeds = np.random.default_rng(1).normal(0, 0.2, 5)
    a = {seed: 0.5 + luck + 0.001 * seed for seed, luck in enumerate(seeds)}
    b = {seed: 0.47 + luck for seed, luck in enumerate(seeds)}
    assert estimate(list(a.values())).half > 0.1
    assert difference(a, b).excludes_zero


@pytest.mark.parametrize(("n", "shape"), [(3, "normal"), (5, "normal"), (5, "uniform"), (10, "laplace")])
def test_the_interval_covers_the_mean_in_95_of_100(n, shape):
    draws = getattr(np.random.default_rng(n), shape)(size=(4_000, n))
    mean = 0.5 if shape == "uniform" else 0.0
    covered = [abs(found.mean - mean) <= found.half for found in map(estimate, draws.tolist())]
    # Four standard errors of a share of 4,000 are 1.4 points; heavy tails make the interval a little wide.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.014 if shape != "laplace" else 0.02)


def test_overlap_by_hand():
    values = [1, 2, 3, 4, 5]
    assert estimate(values, overlap=1 / 4).half == pytest.approx(2.7764451 * math.sqrt(2.5 * (1 / 5 + 1 / 4)))


def test_folds_taken_for_independent_cover_too_little_and_corrected_enough():
    """Classes of different difficulty, drawn anew each time, cut into folds by every seed: only the classes vary."""
    rng = np.random.default_rng(0)
    folds, seeds, classes = 4, 5, 40
    covered = {0.0: 0, 1 / (folds - 1): 0}
    repeats = 1_000
    for _ in range(repeats):
        difficulty = rng.normal(size=classes)
        values = [difficulty[part].mean() for _ in range(seeds) for part in np.split(rng.permutation(classes), folds)]
        for overlap in covered:
            found = estimate(values, overlap)
            covered[overlap] += abs(found.mean) <= found.half
    assert covered[0.0] / repeats < 0.75
    assert covered[1 / (folds - 1)] / repeats > 0.95
