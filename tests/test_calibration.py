"""How near is near enough: against a loop, and by whether the chosen rate of false matches comes true."""

import json

import numpy as np
import pytest
import torch

from nearkin.calibration import TAIL, TILE, Calibration, calibrate
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model, create_embedder, load
from nearkin.models import Backbone


def slowly(embeddings, labels):
    """Distances to the nearest of another class, ascending, and the mean number of others."""
    distances, strangers = [], []
    for one, own in zip(embeddings.astype(np.float64), labels, strict=True):
        others = embeddings[labels != own].astype(np.float64)
        distances.append(min(np.sqrt(((one - other) ** 2).sum()) for other in others))
        strangers.append(len(others))
    return sorted(distances), np.mean(strangers)


class Kinds:
    """Kinds of pictures as a network sees them: centres at random in a few dimensions, bent into unit vectors of 32."""

    def __init__(self, seed, dimensions=6):
        self.random, self.dimensions = np.random.default_rng(seed), dimensions
        self.layers = self.random.normal(size=(dimensions, 64)), self.random.normal(size=(64, 32))

    def draw(self, classes, each):
        """Embeddings (classes * each, 32) of kinds that were not there before, and their labels."""
        labels = np.repeat(np.arange(classes), each)
        centres = self.random.normal(size=(classes, self.dimensions))
        points = centres[labels] + 0.35 * self.random.normal(size=(len(labels), self.dimensions))
        vectors = np.maximum(points @ self.layers[0], 0) @ self.layers[1]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def nearest(queries, gallery):
    return np.sqrt(np.maximum(((queries**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * queries @ gallery.T).min(1), 0))


@pytest.mark.parametrize("sizes", [[5] * 8, [1, 2, 30, 7], [1, 1]])
def test_distances_are_those_to_the_nearest_stranger(sizes):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    embeddings = Kinds(0).draw(len(labels), 1)[0]
    found = calibrate(embeddings, labels, held_out=True)
    distances, strangers = slowly(embeddings, labels)
    assert found.distances == pytest.approx(distances, rel=1e-5)
    assert found.strangers == pytest.approx(strangers, abs=0.5)
    assert (found.classes, found.held_out) == (len(sizes), True)


def test_of_many_pictures_a_thousand_distances_are_kept():
    embeddings, labels = Kinds(0).draw(30, 36)  # more than one tile
    found = calibrate(embeddings, labels, held_out=False)
    distances, _ = slowly(embeddings, labels)
    assert len(found.distances) == 1000 < TILE < len(distances)
    assert (found.distances[0], found.distances[-1]) == pytest.approx((distances[0], distances[-1]), rel=1e-5)
    for rate in (0.3, 0.5, 0.9):
        assert found.threshold(rate, found.strangers) == pytest.approx(np.quantile(distances, rate), rel=0.01)
    assert found.held_out is False


def test_near_pictures_keep_their_distances():
    embeddings, labels = Kinds(0).draw(4, 3)
    embeddings[1:3] = embeddings[0]
    labels[:2] = 0, 1
    embeddings[1] += np.float32(1e-5)  # a product of matrices would lose this
    distance = np.linalg.norm(embeddings[0].astype(np.float64) - embeddings[1])
    assert calibrate(embeddings, labels, True).distances[0] == pytest.approx(distance, rel=1e-3)


def test_copies_under_two_names_say_nothing():
    embeddings, labels = Kinds(0).draw(60, 1)
    clean = calibrate(embeddings, labels, True)
    twice = calibrate(np.concatenate([embeddings, embeddings[:2]]), np.append(labels, [60, 61]), True)
    assert min(twice.distances) > 0
    assert len(twice.distances) == 60 - 2
    assert twice.threshold(0.05, 1000) == pytest.approx(clean.threshold(0.05, 1000), rel=0.1)
    assert calibrate(np.ones((4, 8), np.float32), np.array([0, 0, 1, 1]), True) is None


@pytest.mark.parametrize("labels", [[], [3], [3, 3, 3]])
def test_one_kind_has_no_strangers(labels):
    assert calibrate(Kinds(0).draw(len(labels), 1)[0], np.array(labels, dtype=np.int64), True) is None


def test_the_threshold_is_the_quantile_where_there_are_pictures_to_tell():
    distances = [float(value) for value in np.arange(1, 102) / 100]
    calibration = Calibration(distances, strangers=500, classes=10, held_out=True)
    for percent in (20, 25, 50, 99):
        assert calibration.threshold(percent / 100 + 1e-9, 500) == distances[percent]


@pytest.mark.parametrize("dimensions", [1, 4, 16])
def test_below_it_follows_the_power_law_of_the_distances(dimensions):
    shares = (np.arange(1000) + 0.5) / 1000
    calibration = Calibration((shares ** (1 / dimensions)).tolist(), strangers=1000, classes=10, held_out=True)
    for rate in (0.1, 0.01, 0.001, 0.0001):
        assert calibration.threshold(rate, 1000) == pytest.approx(rate ** (1 / dimensions), rel=0.05)
    # Of the nearest of 20 times as many, by the law itself.
    assert calibration.threshold(0.1, 20_000) == pytest.approx((1 - 0.9 ** (1 / 20)) ** (1 / dimensions), rel=0.05)


def test_the_threshold_rises_with_the_rate_and_falls_with_the_catalogue():
    calibration = calibrate(*Kinds(1).draw(20, 10), held_out=True)
    rates = np.concatenate([[1e-6, 1e-4], np.linspace(0.001, 0.999, 200)])
    sizes = [0, 1, 2, 10, 100, 190, 1000, 10_000, 10**6, 10**9]
    table = np.array([[calibration.threshold(rate, size) for size in sizes] for rate in rates])
    assert np.isfinite(table).all()
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) <= 0).all()
    assert table.min() > 0
    below = rates < TAIL
    assert (np.diff(table[below][:, 5:], axis=1) < 0).all(), "also beyond what any picture tells of"


@pytest.mark.parametrize("size", [3, 6, 11, 60])
def test_few_pictures_give_a_threshold(size):
    calibration = calibrate(*Kinds(2).draw(size, 1), held_out=True)
    assert 0 < calibration.threshold(0.01, 1000) < calibration.threshold(0.05, 1000) < calibration.distances[-1]


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="share in"):
        Calibration([0.1, 0.2], 1, 2, True).threshold(rate, 10)


@pytest.mark.parametrize(("dimensions", "rate"), [(3, 0.05), (6, 0.05), (6, 0.2), (16, 0.05)])
def test_the_chosen_rate_of_false_matches_comes_true(dimensions, rate):
    """Over 12 draws of 100 kinds of 5 pictures each, queries of unknown kinds find a match in catalogues of as many,
    4, 16 and 64 times as many other kinds at 0.4 to 1.5 times the chosen rate on average: less where the law is
    stricter than the truth, more as thresholds of few pictures err to both sides. The lowest quantile alone let 2 to 4
    times the rate through in the largest."""
    shares = {1: [], 4: [], 16: [], 64: []}
    for seed in range(12):
        kinds = Kinds(seed, dimensions)
        calibration = calibrate(*kinds.draw(100, 5), held_out=True)
        queries = kinds.draw(300, 1)[0]
        gallery = kinds.draw(6400, 5)[0]
        for growth, found in shares.items():
            catalogue = gallery[: 500 * growth]
            found.append(np.mean(nearest(queries, catalogue) <= calibration.threshold(rate, len(catalogue))))
    for growth, found in shares.items():
        assert 0.4 * rate <= np.mean(found) <= 1.5 * rate, (growth, found)


def test_a_small_catalogue_makes_nothing_easier():
    """It may hold as many kinds, one picture of each."""
    calibration = calibrate(*Kinds(0, 6).draw(50, 20), held_out=True)
    assert calibration.threshold(0.05, 50) == calibration.threshold(0.05, calibration.strangers)
    shares = []
    for seed in range(8):
        kinds = Kinds(seed, 6)
        threshold = calibrate(*kinds.draw(50, 20), held_out=True).threshold(0.05, 50)
        shares.append(np.mean(nearest(kinds.draw(300, 1)[0], kinds.draw(50, 1)[0]) <= threshold))
    assert np.mean(shares) <= 0.06


def test_it_is_kept_with_the_model(tmp_path):
    torch.manual_seed(0)
    embedder = create_embedder(Backbone().build(), 8, "avg", None, 16).eval()
    calibration = calibrate(*Kinds(0).draw(5, 4), held_out=True)
    for kept in (calibration, None):
        Model(embedder, Architecture("convnet", 8, "avg", True, Preprocessing(16)), calibration=kept).save(tmp_path)
        assert load(tmp_path).calibration == kept
    description = json.loads((tmp_path / "model.json").read_text())
    del description["calibration"]  # as of before there was any
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert load(tmp_path).calibration is None


@pytest.mark.parametrize("validation", [0.0, 0.4])
def test_a_training_says_whether_its_kinds_were_held_out(nearkin, make_folder, tmp_path, validation):
    root = make_folder([5] * 10)
    options = ["--image.size", "16", "--embedding_size", "8", "--sampler.classes", "3", "--sampler.images", "3"]
    status, _, err = nearkin(
        *("train", "--data", root, "--out", tmp_path / "run", *options, "--steps", "2"),
        *("--data.validation", validation),
    )
    assert status == 0, err
    model = load(tmp_path / "run")
    found = model.calibration
    assert (found.held_out, found.classes) == ((True, 2) if validation else (False, 5))
    kinds = [f"class-{number:02d}" for number in range(5)]
    if validation:  # those the weights were not learnt from
        split = json.loads((tmp_path / "run" / "model.json").read_text())["trained_classes"]
        assert set(split) <= set(kinds)
    assert len(found.distances) == 5 * found.classes
