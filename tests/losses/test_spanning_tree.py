from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

from nearkin.losses.spanning_tree import spanning_trees

RAGGED = torch.tensor([3, 0, 1, 0, 3, 2, 0, 1, 3, 0, 4, 3, 0])  # classes of 5, 2, 1, 4 and 1, mixed
LABELS = {
    "ragged": RAGGED,
    "huge and negative ids": torch.tensor([-5, 2**62, 7, -(2**63), 2**62])[RAGGED],
    "one class": torch.zeros(9, dtype=torch.long),
    "every sample alone": torch.arange(6),
    "one sample": torch.zeros(1, dtype=torch.long),
    "pairs": torch.arange(12) % 6,
    "booleans": RAGGED > 1,
    "large": torch.randint(0, 9, (150,), generator=torch.Generator().manual_seed(0)),
}


def points(n, dim=3):
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def clustered(n):
    """Three places, each with several samples: most distances are 0."""
    return points(3)[torch.arange(n) % 3]


DISTANCES = {
    "random": lambda n: torch.cdist(points(n), points(n)),
    "duplicates": lambda n: torch.cdist(clustered(n), clustered(n)),
    "all equal": lambda n: torch.zeros(n, n, dtype=torch.float64),
    "many ties": lambda n: (3 * torch.cdist(points(n), points(n))).round(),
    "float32": lambda n: torch.cdist(points(n), points(n)).float(),
}


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]


@pytest.fixture(params=DISTANCES)
def distance(request, labels):
    d = DISTANCES[request.param](len(labels))
    return (d + d.T) / 2


def edges(parent):
    return [(i, int(p)) for i, p in enumerate(parent) if i != p]


def test_the_weight_is_that_of_scipy(distance, labels):
    tree = edges(spanning_trees(distance, labels))
    for c in labels.unique():
        of_class = (labels == c).nonzero().squeeze(1)
        # SciPy reads 0 as no edge; 1 more on each of the k - 1 edges leaves the tree as it is.
        shifted = distance[of_class][:, of_class].double().numpy() + 1
        expected = minimum_spanning_tree(shifted).sum() - (len(of_class) - 1)
        weight = sum(float(distance[i, j]) for i, j in tree if labels[i] == c)
        assert weight == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_every_class_is_one_tree_with_its_first_sample_as_the_root(distance, labels):
    parent = spanning_trees(distance, labels)
    for i in range(len(labels)):
        first = int((labels == labels[i]).nonzero()[0])
        assert (parent[i] == i) == (i == first)
        at, steps = i, 0
        while parent[at] != at:  # upwards, always within the class, without going in circles
            at, steps = int(parent[at]), steps + 1
            assert labels[at] == labels[i]
            assert steps < len(labels)
        assert at == first


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(5))
def test_no_tree_of_a_few_points_is_lighter(k, seed):
    d = np.random.default_rng(seed).integers(0, 4, (k, k)).astype(float)
    d = np.triu(d, 1) + np.triu(d, 1).T

    def connects(chosen):
        reached = {0}
        for _ in range(k):
            reached |= {i for edge in chosen if reached & set(edge) for i in edge}
        return len(reached) == k

    trees = [chosen for chosen in combinations(combinations(range(k), 2), k - 1) if connects(chosen)]
    lightest = min(sum(d[i, j] for i, j in chosen) for chosen in trees)
    tree = edges(spanning_trees(torch.tensor(d), torch.zeros(k, dtype=torch.long)))
    assert len(tree) == k - 1
    assert sum(d[i, j] for i, j in tree) == lightest


def test_distances_between_classes_are_not_looked_at():
    distance = DISTANCES["random"](len(RAGGED))
    expected = spanning_trees(distance, RAGGED)
    between = RAGGED[:, None] != RAGGED[None, :]
    for filler in (0.0, float("nan")):
        assert spanning_trees(distance.masked_fill(between, filler), RAGGED).equal(expected)
