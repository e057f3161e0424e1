import itertools
import math
from collections import Counter

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from nearkin.losses.facility_location import FacilityLocationLoss

LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 5])


def entropy(groups):
    return -sum(n / len(groups) * math.log(n / len(groups)) for n in Counter(groups).values())


def nmi(a, b):
    if len(set(a)) == 1 or len(set(b)) == 1:
        return float(len(set(a)) == len(set(b)))
    information = entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))
    return information / math.sqrt(entropy(a) * entropy(b))


class Reference:
    """One grouping at a time, each scored from scratch. Scores equal to nine digits of the largest distance tie."""

    def __init__(self, x, y, gamma):
        self.all, self.y, self.gamma = range(len(x)), y.tolist(), gamma
        self.distance = (x[:, None] - x).square().sum(dim=2).clamp_min(1e-12).sqrt() * (1 - torch.eye(len(x)))
        self.d = self.distance.tolist()
        self.tolerance = 1e-9 * max((d for row in self.d for d in row), default=0.0)
        self.rank = {}  # the samples nearest to all others first, then in batch order
        while len(self.rank) < len(x):
            left = [i for i in self.all if i not in self.rank]
            self.rank[self.best(left, [-sum(self.d[i]) for i in left])] = len(self.rank)

    def best(self, candidates, scores):
        return next(c for c, s in zip(candidates, scores, strict=True) if s >= max(scores) - self.tolerance)

    def ranked(self, samples):
        return sorted(samples, key=self.rank.get)

    def members(self, grouping, group):
        return self.ranked(i for i in self.all if grouping[i] == group)

    def assign(self, medoids):
        medoids = self.ranked(medoids)
        return [i if i in medoids else self.best(medoids, [-self.d[i][m] for m in medoids]) for i in self.all]

    def margin(self, medoids):
        return self.gamma * (1 - nmi(self.y, self.assign(medoids)))

    def score(self, medoids):
        return self.margin(medoids) - sum(self.d[i][m] for i, m in enumerate(self.assign(medoids)))

    def spread(self, medoid, members):
        return sum(self.d[medoid][i] for i in members)

    def greedy(self):
        medoids = []
        while len(medoids) < len(set(self.y)):
            left = self.ranked(set(self.all) - set(medoids))
            medoids.append(self.best(left, [self.score([*medoids, j]) for j in left]))
        return medoids

    def refined(self, medoids):
        for _ in range(5):
            grouping = self.assign(medoids)
            clusters = [self.members(grouping, m) for m in medoids]
            for k, members in enumerate(clusters):
                swapped = [[*medoids[:k], j, *medoids[k + 1 :]] for j in members]
                scores = [self.margin(s) - self.spread(j, members) for s, j in zip(swapped, members, strict=True)]
                medoids = swapped[members.index(self.best(members, scores))]
        return medoids

    def of_class(self):
        medoids = {}
        for c in set(self.y):
            members = self.members(self.y, c)
            medoids[c] = self.best(members, [-self.spread(m, members) for m in members])
        return [medoids[c] for c in self.y]

    def loss(self, medoids=None):
        if not self.y:
            return 0.0
        medoids = medoids or self.refined(self.greedy())
        true, found = self.distance[self.all, self.of_class()], self.distance[self.all, self.assign(medoids)]
        return ((true - found).sum() + self.margin(medoids)).relu()


def groups(seed, n, classes, dim, spread):
    """Classes of about equal size around random centers, in random order."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % classes)[torch.randperm(n, generator=generator)]
    centers = torch.randn(classes, dim, dtype=torch.float64, generator=generator)
    return centers[y] + spread * torch.randn(n, dim, dtype=torch.float64, generator=generator), y


def points(dtype=torch.float32, n=12, dim=6):
    return torch.randn(n, dim, dtype=dtype, generator=torch.Generator().manual_seed(0))


def value_and_gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = loss(x, y)
    value.backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 20.0])
def test_matches_a_search_one_grouping_at_a_time(batch, agrees, gamma, normalize):
    agrees(FacilityLocationLoss(gamma, normalize), lambda x, y: Reference(x, y, gamma).loss(), *batch)


# Batches in which a second sweep moves medoids, a sweep that renewed its members would end elsewhere, or the grouping
# found scores below the classes and the hinge holds.
SECOND_SWEEP = [(20, 37), (20, 44), (20, 64)]
KEPT_MEMBERS = [(20, 305), (24, 174), (24, 379)]
BELOW = [(20, 171), (20, 370), (24, 115)]


@pytest.mark.parametrize(("n", "seed"), [(20, seed) for seed in range(12)] + SECOND_SWEEP + KEPT_MEMBERS + BELOW)
def test_matches_on_larger_batches(agrees, n, seed):
    gamma = (0.5, 2.0, 8.0)[seed % 3]
    x, y = groups(seed, n, classes=3 + seed % 8, dim=2 + seed % 4, spread=0.3 + 0.2 * (seed % 5))
    agrees(FacilityLocationLoss(gamma), lambda x, y: Reference(x, y, gamma).loss(), x, y)


def test_matches_where_five_sweeps_move_medoids(agrees):
    x, y = groups(6, n=60, classes=8, dim=2, spread=0.6)
    agrees(FacilityLocationLoss(8.0), lambda x, y: Reference(x, y, 8.0).loss(), x, y)


def test_the_nmi_of_the_reference_is_geometric():
    generator = torch.Generator().manual_seed(0)
    for a, b in itertools.product([1, 2, 4, 9], repeat=2):
        y, z = (torch.randint(k, (15,), generator=generator).tolist() for k in (a, b))
        assert nmi(y, z) == pytest.approx(normalized_mutual_info_score(y, z, average_method="geometric"), abs=1e-12)


def test_the_search_finds_the_best_grouping_of_small_batches():
    found = 0
    for seed in range(20):
        x, y = groups(seed, n=8, classes=3, dim=2, spread=0.8)
        reference = Reference(x, y, 0.5)
        best = max(float(reference.loss(medoids)) for medoids in itertools.combinations(range(8), 3))
        loss = float(FacilityLocationLoss(0.5, normalize=False)(x, y))
        assert loss <= best + 1e-12
        found += loss >= best - 1e-12
    assert found >= 10, found


def test_two_pairs_across_two_classes():
    # Grouped by place the distances are 1 + 1 and the NMI is 0; grouped by class the distances are 10 + 10.
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]], requires_grad=True)
    value = FacilityLocationLoss(gamma=3.0, normalize=False)(x, torch.tensor([0, 1, 0, 1]))
    value.backward()
    assert value == 21
    torch.testing.assert_close(x.grad, torch.tensor([[0.0], [-2.0], [2.0], [0.0]]))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1e3])
def test_classes_far_apart_cost_exactly_nothing(gamma):
    for seed in range(40):
        centers, order = groups(seed, n=10, classes=10, dim=5, spread=1e4)
        y = torch.arange(1, 10).repeat_interleave(torch.arange(1, 10))  # sizes 1 to 9
        x, y = centers[y] + points(torch.float64, 45, 5), order[y]
        value, gradient = value_and_gradient(FacilityLocationLoss(gamma, normalize=False), x, y)
        assert value == 0
        assert gradient.eq(0).all()


def test_a_medoid_belongs_to_itself_even_where_another_lies_on_it():
    x = torch.tensor([[0.0], [0.0], [0.0], [1e6]])
    assert FacilityLocationLoss(normalize=False)(x, torch.arange(4)) == 0  # the grouping found is the classes


@pytest.mark.parametrize("seed", range(5))
def test_ties_between_the_ends_of_a_pair_do_not_depend_on_the_order(seed):
    x, y = groups(seed, n=40, classes=20, dim=6, spread=1.0)
    loss = FacilityLocationLoss()
    value, gradient = value_and_gradient(loss, x, y)
    for order in (torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(5)):
        permuted, permuted_gradient = value_and_gradient(loss, x[order], (100 - 7 * y)[order])
        torch.testing.assert_close(permuted, value)
        torch.testing.assert_close(permuted_gradient, gradient[order])


def test_float32_differs_by_its_rounding_alone():
    for seed in range(20):
        x, y = groups(seed, n=24, classes=8, dim=4, spread=0.6)
        value, gradient = value_and_gradient(FacilityLocationLoss(), x.float(), y)
        exact, exact_gradient = value_and_gradient(FacilityLocationLoss(), x.float().double(), y)
        assert (value.dtype, gradient.dtype) == (torch.float32, torch.float32)
        torch.testing.assert_close(value, exact.float(), rtol=1e-7, atol=0)
        torch.testing.assert_close(gradient, exact_gradient.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("labels", [[0] * 4, [0, 1, 2, 3], [5], []])
@pytest.mark.parametrize("normalize", [True, False])
def test_nothing_to_learn_is_a_differentiable_0(labels, normalize):
    loss = FacilityLocationLoss(normalize=normalize)
    value, gradient = value_and_gradient(loss, 1e3 * points(n=len(labels)), torch.tensor(labels).long())
    assert value == 0
    assert gradient.eq(0).all()


@pytest.mark.parametrize("point", [torch.zeros(6), torch.ones(6), 1e3 * torch.arange(6.0), torch.full((6,), 1e-30)])
def test_finite_where_all_points_are_equal(point):
    value, gradient = value_and_gradient(FacilityLocationLoss(), point.repeat(12, 1), LABELS)
    assert 0 < value < 1
    assert gradient.eq(0).all()  # no distance has a direction


@pytest.mark.parametrize("gamma", [-1.0, math.inf, math.nan])
def test_rejects_a_gamma_that_is_no_weight(gamma):
    with pytest.raises(ValueError, match=f"gamma must be at least 0 and finite, got {gamma}"):
        FacilityLocationLoss(gamma)
