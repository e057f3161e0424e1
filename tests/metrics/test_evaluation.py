import inspect

import numpy as np
import pytest
import torch

from nearkin import metrics
from nearkin.metrics import evaluate, kmeans, nmi, pairwise_f1, retrieval


def clusters(n=120, classes=6, size=5):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    x = torch.randn(classes, size, generator=generator)[labels] + 0.7 * torch.randn(n, size, generator=generator)
    return x * (0.1 + torch.rand(n, 1, generator=generator)), labels + 100


GALLERY = {"gallery": None, "gallery_labels": None}
SEARCH = {**GALLERY, "ks": (1, 2, 4, 8), "normalize": False}
START = {"init": "k-means++", "restarts": 1, "seed": 0}
DEFAULTS = {
    "evaluate": {**SEARCH, "clustering": True, **START, "progress": iter},
    "kmeans": {"normalize": False, **START, "iterations": 100, "progress": iter},
    "map_at_r": {**GALLERY, "normalize": False},
    "nmi": {},
    "pairwise_f1": {},
    "r_precision": {**GALLERY, "normalize": False},
    "recall_at_k": SEARCH,
    "retrieval": {**SEARCH, "progress": iter},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_protocol(name):
    parameters = inspect.signature(getattr(metrics, name)).parameters.values()
    assert {each.name: each.default for each in parameters if each.default is not each.empty} == DEFAULTS[name]
    by_name = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert by_name == DEFAULTS[name].keys() - GALLERY.keys()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("start", [{}, {"init": "random", "restarts": 3, "seed": 5}])
def test_composes_retrieval_with_clustering_of_the_same_points(normalize, start):
    x, labels = clusters()
    points = torch.nn.functional.normalize(x.double()) if normalize else x
    found = kmeans(points, 6, **start).assignments
    assert evaluate(x, labels, normalize=normalize, **start) == {
        **retrieval(x, labels, normalize=normalize),
        "nmi": nmi(labels, found),
        "f1": pairwise_f1(labels, found),
    }


def test_keys_in_order():
    x, labels = clusters()
    assert list(evaluate(x, labels)) == [
        "recall@1",
        "recall@2",
        "recall@4",
        "recall@8",
        "map@r",
        "r_precision",
        "nmi",
        "f1",
    ]
    assert list(evaluate(x, labels, ks=(10, 1), clustering=False)) == ["recall@10", "recall@1", "map@r", "r_precision"]
    assert all(type(value) is float for value in evaluate(x.numpy(), labels.numpy()).values())


def test_perfect_and_collapsed_embeddings():
    labels = np.arange(40) % 4
    assert set(evaluate(np.eye(4)[labels] * 10, labels).values()) == {1.0}
    collapsed = evaluate(np.ones((40, 3)), labels)
    assert collapsed["nmi"] == 0
    assert collapsed["f1"] == pytest.approx(2 * 180 / (780 + 180))
    assert collapsed["recall@1"] == pytest.approx(9 / 40)  # all find image 0 but itself, which finds 1: of class 0, 9


def test_with_a_gallery_the_queries_are_clustered():
    x, labels = clusters()
    queries, query_labels, gallery, gallery_labels = x[:50], labels[:50], x[50:], labels[50:]
    found = evaluate(queries, query_labels, gallery, gallery_labels)
    alone = evaluate(queries, query_labels)
    assert {key: found[key] for key in ("nmi", "f1")} == {key: alone[key] for key in ("nmi", "f1")}
    assert found["recall@1"] == retrieval(queries, query_labels, gallery, gallery_labels)["recall@1"]
    assert found["recall@1"] != alone["recall@1"]


def test_one_image():
    scores = evaluate(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int32), ks=(1, 100))
    assert scores == {"recall@1": 0, "recall@100": 0, "map@r": 0, "r_precision": 0, "nmi": 1, "f1": 1}


def test_runs_in_half_precision_and_under_autocast():
    x, labels = clusters()
    expected = evaluate(x.half().float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert evaluate(x.half(), labels) == expected


def test_bad_input_is_refused_before_the_slow_part():
    x, labels = clusters()

    def progress(_):
        raise AssertionError("work has begun")

    for arguments, message in (
        ({"labels": labels[:-1]}, "labels must have one entry for each of the 120 embeddings, got 119"),
        ({"init": "kmeans"}, "init must be one of"),
        ({"restarts": 0}, "restarts and iterations must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 2**70}, "seed must be from 0 to"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(**{"embeddings": x, "labels": labels, "progress": progress, **arguments})


def test_progress_sees_every_piece_of_work():
    x, labels = clusters()
    searched, rounds = [], []

    def progress(work):
        seen = rounds if isinstance(work, range) else searched
        for piece in work:
            seen.append(piece)
            yield piece

    assert evaluate(x, labels, progress=progress) == evaluate(x, labels)
    assert sorted(int(row) for piece in searched for row in piece) == list(range(len(x)))
    assert rounds[:6] == [1, 2, 3, 4, 5, 0]  # the start, then the updates
