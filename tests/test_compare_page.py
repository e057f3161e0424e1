"""The page of a comparison: its plain parts. What happens in a browser is in test_compare_page_browser.py."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from test_compare_table import comparison, run

from nearkin.compare_page import (
    Shown,
    Side,
    comparison_page,
    default_pair,
    differences,
    drawn,
    most,
    shared_runs,
    side_by_side,
    summary,
)
from nearkin.compare_table import table
from nearkin.data import ImageList

HOSTILE = "<img src=x onerror=alert(1)></script><!--\"'&\u2028ü"


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture
def two():
    return comparison(*(run(name, s, v + s / 50) for name, v in (("base", 0.7), ("better", 0.8)) for s in range(3)))


@pytest.fixture
def shown(tmp_path):
    """Two embeddings of 5 classes of 6 pictures and one alone, the second of them less mixed."""
    rng = np.random.default_rng(0)
    labels = np.array([*np.repeat(np.arange(5), 6), 5])
    paths = [tmp_path / f"class {label}" / f"{i}.png" for i, label in enumerate(labels)]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (8 * i, 40 * int(labels[i]), 90)).save(path)
    embeddings = [(scale * np.eye(6, 8)[labels] + rng.normal(size=(31, 8))).astype(np.float32) for scale in (1.0, 2.0)]
    images = ImageList(paths, labels, ["apple", "pear", "plum", "fig", "kiwi", "lone"])
    return Shown((Side("base", embeddings[0]), Side("better", embeddings[1])), images, "seed 0", {})


def average_precision(x, y, i):
    """Of one query, by definition: precision at each hit within the first R, over R."""
    others = sorted((j for j in range(len(x)) if j != i), key=lambda j: (np.linalg.norm(x[i] - x[j]), j))
    mates = [j for j in others if y[j] == y[i]]
    hits = [y[j] == y[i] for j in others[: len(mates)]]
    return sum(np.mean(hits[: k + 1]) for k, hit in enumerate(hits) if hit) / len(mates) if mates else np.nan


def test_queries_are_those_where_the_methods_differ_most_both_ways(shown):
    labels, paths = shown.images.labels, shown.images.paths
    precision = [[average_precision(side.embeddings, labels, i) for i in range(31)] for side in shown.sides]
    data = side_by_side(shown)
    assert [section["title"] for section in data["sections"]] == [
        *("Where better finds more", "Where base finds more", "A random sample"),
    ]
    names = data["pictures"]["paths"]
    index = {f"class {label}/{i}.png": i for i, label in enumerate(labels)}
    gains = np.subtract(precision[1], precision[0])
    for section, gain in zip(data["sections"][:2], (gains, -gains), strict=True):
        best = {}
        for i in sorted((i for i in range(31) if gain[i] > 0), key=lambda i: (-gain[i], i)):
            best.setdefault(labels[i], i)
        assert [index[names[row["query"]]] for row in section["rows"]] == list(best.values())[:6]
        assert section["rows"], "both ways"
    assert len(data["sections"][2]["rows"]) == 6

    for row in (row for section in data["sections"] for row in section["rows"]):
        query = index[names[row["query"]]]
        for side, found, all_precision in zip(shown.sides, row["found"], precision, strict=True):
            distance = np.linalg.norm(side.embeddings - side.embeddings[query], axis=1)
            nearest = sorted((j for j in range(31) if j != query), key=lambda j: distance[j])[:8]
            assert [index[names[picture]] for picture in found["neighbours"]] == nearest
            assert found["distances"] == pytest.approx(sorted(distance[nearest]), rel=1e-5)
            if labels[query] == 5:
                assert found["precision"] is None
            else:
                assert found["precision"] == pytest.approx(all_precision[query])
        assert {row["query"], *row["found"][0]["neighbours"]} <= data["pictures"]["large"].keys()
    assert data["pictures"]["classes"] == [labels[index[name]] for name in names]
    assert len(paths) == len(names) == 31


def test_maps_show_the_same_pictures_in_the_same_order(shown):
    data = side_by_side(shown)
    assert [len(layout[axis]) for layout in data["map"]["layouts"] for axis in "xy"] == [31] * 4
    assert data["map"]["pictures"] == list(range(31))
    assert data["map"]["layouts"][0] != data["map"]["layouts"][1]
    assert data["shown"] == {"names": ["base", "better"], "note": "Both models are those of seed 0."}


def test_most_leaves_out_what_is_no_gain_and_who_is_alone():
    gain = np.array([0.1, 0.3, 0.0, np.nan, -0.2, 0.3, 0.2])
    labels = np.array([0, 0, 1, 2, 3, 4, 5])
    assert most(gain, labels) == [1, 5, 6]
    assert most(-gain, labels) == [4]


@pytest.mark.parametrize("n", [1, 4, 100])
def test_a_sample_is_drawn_once_and_for_all(n):
    assert drawn(n) == drawn(n)
    assert len(set(drawn(n))) == len(drawn(n)) == min(n, 6)
    assert max(drawn(n)) < n


def test_summary_names_the_best_and_what_it_gains(two):
    assert summary(two) == "Highest Recall@1: better with 82.0 ± 5.0 %, +10.0 ± 0.0 ▲ against base."
    assert summary(comparison(*two.runs, baseline="better")).endswith(
        "better with 82.0 ± 5.0 %, which is the baseline."
    )
    assert summary(comparison(run("only", 0, 0.5))) == "Highest Recall@1: only with 50.0 %."


def test_the_pair_is_the_baseline_and_the_best_of_the_others(two):
    third = [run("third", s, 0.75) for s in range(3)]
    assert default_pair(comparison(*two.runs, *third)) == ("base", "better")
    assert default_pair(comparison(*two.runs, *third, baseline="better")) == ("better", "third")
    assert default_pair(comparison(run("only", 0, 0.5))) is None


def test_the_models_are_of_the_lowest_seed_that_both_finished(two):
    chosen = shared_runs(two, ("better", "base"))
    assert [(each.method, each.seed) for each in chosen] == [("better", 0), ("base", 0)]
    left = comparison(*(each for each in two.runs if each.title not in ("base, seed 0", "better, seed 1")))
    assert [each.seed for each in shared_runs(left, ("base", "better"))] == [2, 2]
    assert shared_runs(comparison(two.runs[0], two.runs[4]), ("base", "better")) is None


def test_differences_are_of_every_metric_and_without_the_baseline(two):
    charts = differences(two)
    assert [chart["title"] for chart in charts] == ["Recall@1", "MAP@R", "NMI"]
    [row] = charts[1]["rows"]
    assert row["name"] == "better"
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.05, 0.05, 0.05))
    assert (row["text"], row["apart"]) == ("+5.0 ± 0.0 ▲", True)
    assert differences(comparison(run("only", 0, 0.5))) == []
    single = differences(comparison(run("a", 0, 0.5), run("b", 0, 0.4)))[0]["rows"][0]
    assert (single["low"], single["high"], single["apart"]) == (None, None, False)


def test_the_page_holds_the_table_and_no_markup_of_the_users(two, shown, tmp_path):
    hostile = [HOSTILE if name == "apple" else name for name in shown.images.classes]
    images = ImageList(shown.images.paths, shown.images.labels, hostile)
    sides = (Side(HOSTILE, shown.sides[0].embeddings), shown.sides[1])
    runs = [run(HOSTILE if each.method == "base" else each.method, each.seed, 0.7) for each in two.runs]
    made = table(comparison(*runs))
    html = comparison_page(HOSTILE, comparison(*runs), made, Shown(sides, images, "seed 0", {}))
    assert "<img" not in html
    assert len(re.findall("<script", html)) == len(re.findall("</script>", html)) == 2
    data = data_of(html)
    assert data["name"] == data["baseline"] == data["classes"]["names"][0] == data["shown"]["names"][0] == HOSTILE
    assert [[cell["text"] for cell in row] for row in data["rows"]] == [[c.text for c in row] for row in made.rows]
    assert data["notes"] == made.notes
    assert not re.search(r"https?:", html)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,", "#content"]
    assert str(tmp_path) not in html
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_repeats(two, shown):
    pages = [comparison_page("a", two, table(two), shown) for _ in range(2)]
    assert pages[0] == pages[1]


def test_the_page_without_two_methods_to_show():
    only = comparison(run("only", 0, 0.5))
    data = data_of(comparison_page("one", only, table(only)))
    assert data["shown"] is None
    assert data["differences"] == []
    assert len(data["rows"]) == 2


def test_the_page_of_nothing():
    nothing = comparison(baseline="lost", seeds=1, methods=[], runs=[])
    data = data_of(comparison_page("none", nothing, table(nothing)))
    assert data["summary"] == "No run was finished."
