"""Against scikit-learn, and by hand where it warns or answers otherwise."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from nearkin.metrics import nmi, pairwise_f1

GENERATOR = np.random.default_rng(0)

PAIRS = {
    "unrelated": (GENERATOR.integers(0, 10, 500), GENERATOR.integers(0, 7, 500)),
    "related": (np.arange(600) // 30, (np.arange(600) + 7) // 40),
    "relabelled": (np.arange(100) // 9, 50 - 3 * (np.arange(100) // 9)),
    "more clusters than classes": (np.arange(100) // 50, np.arange(100) // 2),
    "one cluster": (np.arange(60) // 6, np.zeros(60, dtype=int)),
    "all alone": (np.arange(60) // 6, np.arange(60)),
    "names far apart": (GENERATOR.integers(0, 3, 99) * 2**60, GENERATOR.integers(0, 3, 99) - 2**62),
    "independent": (np.arange(36) // 6, np.arange(36) % 6),
}


def sklearn_f1(labels, clusters):
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(labels, clusters)
    precision = true_positive / (true_positive + false_positive) if true_positive else 0.0
    recall = true_positive / (true_positive + false_negative) if true_positive else 0.0
    return 2 * precision * recall / (precision + recall) if true_positive else 0.0


@pytest.mark.parametrize("case", PAIRS)
def test_equals_scikit_learn(case):
    labels, clusters = PAIRS[case]
    for a, b in ((labels, clusters), (clusters, labels), (torch.from_numpy(labels), torch.from_numpy(clusters))):
        assert nmi(a, b) == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)
        assert pairwise_f1(a, b) == pytest.approx(sklearn_f1(labels, clusters), abs=1e-12)


def test_definitions_by_hand():
    labels, clusters = [0, 0, 0, 1, 1], [5, 5, 6, 6, 6]
    # Pairs in one class: 4; in one cluster: 4; in both: {0, 1} and {3, 4}.
    assert pairwise_f1(labels, clusters) == 2 / 4
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    information = 0.4 * np.log(0.4 / 0.24) + 0.2 * np.log(0.2 / 0.36) + 0.4 * np.log(0.4 / 0.24)
    assert nmi(labels, clusters) == pytest.approx(information / entropy)


def test_at_the_size_of_stanford_online_products():
    generator = np.random.default_rng(0)
    labels, clusters = np.arange(60_502) % 11_316, generator.integers(0, 11_316, 60_502)
    clusters[:30_000] = labels[:30_000]
    assert nmi(labels, clusters) == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)
    assert pairwise_f1(labels, clusters) == pytest.approx(sklearn_f1(labels, clusters), abs=1e-12)


def test_pairs_beyond_32_bits_are_counted():
    labels = np.zeros(200_000, dtype=np.int32)
    assert pairwise_f1(labels, labels) == 1
    half = np.arange(200_000) // 100_000
    assert pairwise_f1(labels, half) == pytest.approx(2 / 3, abs=1e-5)


@pytest.mark.parametrize("agreeing", [[7], [7, 7, 7], [1, 2, 3]])
def test_equal_partitions_agree_even_where_there_is_nothing_to_share(agreeing):
    assert nmi(agreeing, agreeing) == pytest.approx(1)
    assert pairwise_f1(agreeing, agreeing) == 1


def test_one_group_against_all_alone_agrees_on_nothing():
    assert nmi([0, 0, 0], [0, 1, 2]) == 0
    assert pairwise_f1([0, 0, 0], [0, 1, 2]) == 0


@pytest.mark.parametrize("metric", [nmi, pairwise_f1])
@pytest.mark.parametrize(
    ("labels", "clusters", "message"),
    [
        ([0, 1], [0], "clusters must have one entry for each of the 2 .* got 1"),
        ([], [], r"labels must be \(N,\) with N at least 1, got shape \(0,\)"),
        ([0.5, 1.0], [0, 1], "labels must be integers, got float64"),
        ([0, 1], [0.0, 1.0], "clusters must be integers, got float64"),
        ([[0, 1]], [0, 1], r"labels must be \(N,\) .* got shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused(metric, labels, clusters, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(labels), np.array(clusters))
