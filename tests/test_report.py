"""The report's plain parts. What happens in a browser is in test_report_browser.py."""

import base64
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from nearkin import report
from nearkin.metrics.retrieval import retrieval
from nearkin.plots.curves import MOST_POINTS, charts, smooth
from nearkin.plots.embedding_map import embedding_map, map_sample
from nearkin.plots.neighbours import best_first, confused_pairs, find_neighbours, one_per_class
from nearkin.plots.page import page, plain, script_json
from nearkin.plots.thumbnails import GREY, pictures, sprites
from nearkin.plots.words import Score, facts, summary
from nearkin.report import report_page

HOSTILE = "<img src=x onerror=alert(1)></script><!--\"'&\u2028ü"


@pytest.fixture
def run(tmp_path):
    """Arguments of report_page: 4 classes of 6 pictures, well apart but for one picture in the wrong place."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    embeddings = (3 * np.eye(4, 8)[labels] + 0.3 * rng.normal(size=(24, 8))).astype(np.float32)
    embeddings[5] = embeddings[7] + 0.01
    paths = [tmp_path / f"class {label}" / f"{i}.png" for i, label in enumerate(labels)]
    for i, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), (10 * i, 60 * int(labels[i]), 90)).save(path)
    return {
        "name": "a run",
        "config": {"loss": {"class_path": "nearkin.losses.RankedListLoss"}, "steps": 40},
        "history": [{"step": s, "loss": 1 / s, "lr": 0.1, "seconds": s * 3.0} for s in (10, 20, 30, 40)],
        "result": {"untrained": {"recall@1": 0.25, "nmi": 0.5}, "trained": {"recall@1": 0.958, "nmi": 0.9}},
        "embeddings": embeddings,
        "labels": labels,
        "classes": ["apple", "pear", "plum", "fig"],
        "paths": paths,
    }


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


# Neighbours


def naive(x, y, k):
    """Query by query, with every number spelled out."""
    rows = []
    for i in range(len(x)):
        distance = [float(np.sqrt(sum((a - b) ** 2 for a, b in zip(x[i], other, strict=True)))) for other in x]
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: (distance[j], j))
        mates = sum(y[j] == y[i] for j in others)
        hits, total = 0, 0.0
        for rank, j in enumerate(others[:mates], start=1):
            if y[j] == y[i]:
                hits += 1
                total += hits / rank
        own = min((distance[j] for j in others if y[j] == y[i]), default=np.inf)
        other = min((distance[j] for j in others if y[j] != y[i]), default=np.inf)
        precision = total / mates if mates else np.nan
        rows.append((others[:k], [distance[j] for j in others[:k]], precision, other - own))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("n", "classes", "values", "k"), [(60, 7, 3, 8), (40, 30, 2, 39), (25, 1, 4, 3), (2, 2, 9, 8)])
def test_neighbours_equal_a_loop_with_ties_to_the_lower_index(n, classes, values, k):
    rng = np.random.default_rng(n)
    x = rng.integers(values, size=(n, 3)).astype(np.float32)  # few values: many copies and ties
    y = rng.integers(classes, size=n)
    found = find_neighbours(x, y, k)
    for ours, theirs in zip(vars(found).values(), naive(x, y, k), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_neighbours_agree_with_the_scores(run):
    found = find_neighbours(run["embeddings"], run["labels"])
    scores = retrieval(run["embeddings"], run["labels"])
    assert np.mean(run["labels"][found.indices[:, 0]] == run["labels"]) == scores["recall@1"]
    assert np.mean(found.precision) == pytest.approx(scores["map@r"])


def test_neighbours_in_chunks_equal_those_in_one(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(9, size=50)
    whole = find_neighbours(x, y)
    monkeypatch.setattr("nearkin.metrics.ranking.CHUNK", 150)  # 3 queries at a time
    for one, other in zip(vars(whole).values(), vars(find_neighbours(x, y)).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_neighbours_of_a_single_picture():
    found = find_neighbours(np.ones((1, 4), dtype=np.float32), np.array([3]))
    assert found.indices.shape == found.distances.shape == (1, 0)
    assert np.isnan(found.precision).all()


def test_best_queries_come_first_and_one_of_each_class():
    x = np.array([[0.0], [1], [10], [10.5], [11.5], [12], [40]], dtype=np.float32)
    y = np.array([0, 0, 1, 1, 2, 1, 3])
    found = find_neighbours(x, y)
    # Within R = 2, queries 2 and 3 hit first and then miss 4; query 5 misses 4 first.
    assert found.precision[[0, 1, 2, 3, 5]] == pytest.approx([1, 1, 0.5, 0.5, 0.25])
    order = best_first(found)
    # Of equal precision, 0 and 2 have the wider margins (9 against 8, 1 against 0.5); 4 and 6 are alone.
    assert order.tolist() == [0, 1, 2, 3, 5]
    assert one_per_class(order, y, 6) == [0, 2]
    assert one_per_class(order[::-1], y, 1) == [5]


def test_margin_looks_beyond_the_neighbours_shown():
    x = np.array([[0.0], [1], [3], [20], [21]], dtype=np.float32)
    found = find_neighbours(x, np.array([0, 0, 0, 1, 1]), k=1)
    assert found.margin.tolist() == [20 - 1, 19 - 1, 17 - 2, 17 - 1, 18 - 1]


def test_confused_pairs_equal_a_count():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 2)).astype(np.float32), rng.integers(5, size=80)
    found = find_neighbours(x, y)
    nearest = found.indices[:, 0]
    expected = []
    for a in range(5):
        for b in range(a + 1, 5):
            of_a = [i for i in range(80) if y[i] == a and y[nearest[i]] == b]
            of_b = [i for i in range(80) if y[i] == b and y[nearest[i]] == a]
            closest = sorted(of_a + of_b, key=lambda i: (found.distances[i, 0], i))
            if closest:
                expected.append(((a, b), (len(of_a), len(of_b)), closest[:3]))
    expected.sort(key=lambda pair: (-sum(pair[1]), pair[0]))

    pairs = confused_pairs(found, y, limit=4, examples=3)
    assert [(pair.classes, pair.counts, pair.queries) for pair in pairs] == expected[:4]
    assert len(confused_pairs(found, y, limit=99)) == len(expected)


def test_no_pairs_where_nothing_is_confused():
    x = np.array([[0.0], [0.1], [9], [9.1]], dtype=np.float32)
    assert confused_pairs(find_neighbours(x, np.array([0, 0, 1, 1])), np.array([0, 0, 1, 1])) == []
    assert confused_pairs(find_neighbours(x[:1], np.array([0])), np.array([0])) == []


# Map


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 30])
@pytest.mark.parametrize("kind", ["random", "identical", "copies", "line", "one number"])
def test_map_of_few_or_degenerate_points(n, kind):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    if kind == "identical":
        x[:] = x[0]
    elif kind == "copies":
        x[n // 2 :] = x[0]
    elif kind == "line":
        x = np.arange(n, dtype=np.float32)[:, None] * np.ones(6, dtype=np.float32)
    elif kind == "one number":
        x = x[:, :1]
    layout = embedding_map(x)
    assert layout.shape == (n, 2)
    assert np.isfinite(layout).all()
    apart = len(np.unique(x, axis=0)) > 1
    assert np.abs(layout).max() == pytest.approx(1 if apart else 0)


def test_map_of_too_few_for_neighbourhoods_keeps_distances():
    layout = embedding_map(np.array([[0.0, 0], [1, 1], [4, 4]], dtype=np.float32))
    np.testing.assert_allclose(layout * np.sign(layout[2, 0]), [[-1, 0], [-0.5, 0], [1, 0]], atol=1e-9)


def test_map_keeps_neighbours_and_repeats():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    x = (5 * np.eye(4, 16)[y] + 0.5 * rng.normal(size=(120, 16))).astype(np.float32)
    layout = embedding_map(x, seed=3)
    nearest = find_neighbours(layout.astype(np.float32), y, 1).indices[:, 0]
    assert (y[nearest] == y).mean() > 0.95
    np.testing.assert_array_equal(layout, embedding_map(x, seed=3))


def test_map_sample():
    np.testing.assert_array_equal(map_sample(np.zeros(7, dtype=int), limit=7), np.arange(7))

    many = np.repeat(np.arange(1_000), 5)  # more classes than can be shown: some, whole
    chosen = map_sample(many, limit=500, seed=1)
    assert len(chosen) == len(set(chosen.tolist())) == 500
    assert np.unique(many[chosen], return_counts=True)[1].tolist() == [5] * 100
    np.testing.assert_array_equal(chosen, map_sample(many, limit=500, seed=1))
    assert not np.array_equal(chosen, map_sample(many, limit=500, seed=2))

    large = np.repeat([4, 9], [900, 100])  # two classes: a share each, the rest from the larger
    assert np.unique(large[map_sample(large, limit=400)], return_counts=True)[1].tolist() == [300, 100]


# Curves


def test_charts_group_order_and_last_word():
    history = [
        {"step": 20, "lr": 0.1, "loss": 3.0, "seconds": 1.0, "note": "text", "flag": True},
        {"step": 10, "lr": 0.1, "loss": 2.0},
        {"step": 20, "loss": 1.0},  # again, after a resume
        {"step": 20, "validation/recall@1": 0.5, "validation/map@r": 0.25, "grad/norm": 7},
    ]
    found = {chart.name: chart for chart in charts(history)}
    assert list(found) == ["loss", "validation", "lr", "grad"]
    assert (found["loss"].series[0].steps, found["loss"].series[0].values) == ([10, 20], [2.0, 1.0])
    assert [series.name for series in found["validation"].series] == ["recall@1", "map@r"]
    assert [chart.percent for chart in found.values()] == [False, True, False, False]
    assert charts([]) == []


def test_charts_say_where_a_curve_breaks():
    [chart] = charts([{"step": s, "loss": v} for s, v in [(1, 2.0), (2, np.nan), (3, np.inf), (4, 1.0)]])
    assert chart.series[0].values == [2.0, 1.0]
    assert chart.series[0].broken_at == 2
    [chart] = charts([{"step": 1, "loss": np.nan}])
    assert chart.series[0].values == []


@pytest.mark.parametrize(
    ("values", "log"), [([1, 99], False), ([0.001, 0.1], True), ([0, 500], False), ([-1, 500], False)]
)
def test_logarithmic_axis_only_for_a_wide_positive_range(values, log):
    [chart] = charts([{"step": i, "lr": value} for i, value in enumerate(values)])
    assert chart.log is log


def test_long_curves_are_averaged_not_cut():
    n = 10 * MOST_POINTS
    [chart] = charts([{"step": i, "loss": float(i % 10)} for i in range(n)])
    [series] = chart.series
    assert len(series.steps) == len(series.values) == len(series.smooth) == MOST_POINTS
    assert series.values == [4.5] * MOST_POINTS
    assert series.steps[0] == 4.5


def test_smooth_equals_a_loop():
    values = np.random.default_rng(0).normal(size=40)
    reach = 4
    for i, ours in enumerate(smooth(values, reach)):
        near = range(max(0, i - reach), min(40, i + reach + 1))
        weights = [0.5 + 0.5 * np.cos(np.pi * (j - i) / (reach + 1)) for j in near]
        expected = sum(w * values[j] for w, j in zip(weights, near, strict=True)) / sum(weights)
        assert ours == pytest.approx(expected)


# Thumbnails


def decode(uri):
    assert uri.startswith("data:image/webp;base64,")
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)


def test_sprites_lie_in_order_and_broken_files_are_grey(tmp_path):
    colours = [(40 * i, 255 - 40 * i, 100) for i in range(6)]
    paths = []
    for i, colour in enumerate(colours):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (50, 9), colour).save(paths[-1])
    paths[2].write_bytes(b"no picture")
    paths[4].unlink()

    made = sprites(paths, tile=16, columns=2, rows=2)
    sheets = [decode(sheet) for sheet in made.sheets]
    assert [sheet.shape for sheet in sheets] == [(32, 32, 3), (16, 32, 3)]
    for i, colour in enumerate(colours):
        top, left = i % 4 // 2 * 16, i % 2 * 16
        middle = sheets[i // 4][top + 4 : top + 12, left + 4 : left + 12].mean(axis=(0, 1))
        expected = (GREY, GREY, GREY) if i in (2, 4) else colour
        np.testing.assert_allclose(middle, expected, atol=8)

    large = [decode(uri) for uri in pictures(paths, size=40)]
    assert [image.shape for image in large] == [(40, 40, 3)] * 6
    np.testing.assert_allclose(large[5].mean(axis=(0, 1)), colours[5], atol=8)


# Words


@pytest.mark.parametrize(
    ("untrained", "trained", "sentence"),
    [
        (0.367, 0.78, "Recall@1 on 121 unseen classes: 78.0%, 41 points above the untrained network."),
        (0.5, 0.512, "Recall@1 on 121 unseen classes: 51.2%, 1.2 points above the untrained network."),
        (0.5, 0.49, "Recall@1 on 121 unseen classes: 49.0%, 1.0 point below the untrained network."),
        (0.5, 0.5003, "Recall@1 on 121 unseen classes: 50.0%, the same as the untrained network."),
        (None, 0.5, "Recall@1 on 121 unseen classes: 50.0%."),
        (0.5, None, "No score on 121 unseen classes."),
    ],
)
def test_summary(untrained, trained, sentence):
    assert summary(Score("Recall@1", "", untrained, trained), 121) == sentence


def test_facts(run):
    config = {"data": {"root": "/home/me/birds/"}, "loss": run["config"]["loss"], "backbone": {"name": "timm:resnet50"}}
    assert facts(config, run["history"], run["embeddings"], run["labels"]) == [
        ("Data", "birds"),
        ("Loss", "RankedListLoss"),
        ("Backbone", "timm:resnet50"),
        ("Unseen classes", "4"),
        ("Their pictures", "24"),
        ("Embedding", "8 numbers"),
        ("Training", "40 steps"),
        ("Time", "2 min"),
    ]


# Page


def test_script_json_cannot_end_its_element():
    text = script_json({"a": HOSTILE})
    assert "<" not in text
    assert json.loads(text) == {"a": HOSTILE}
    with pytest.raises(ValueError, match="JSON"):
        script_json({"a": float("nan")})


def test_plain():
    value = {1: (np.float32(0.5), np.int64(3), None, True), "path": io, "inf": float("inf"), "nan": np.float64("nan")}
    found = plain(value)
    assert found["1"] == [0.5, 3, None, True]
    assert (found["inf"], found["nan"]) == ("inf", "nan")
    assert isinstance(found["path"], str)


def test_page_policy_admits_its_own_script_and_style_only():
    html = page("t", {})
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, directive in [("style", "style-src"), ("script", "script-src")]:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert "unsafe" not in policy


def test_title_is_escaped_and_always_encodable():
    html = page(HOSTILE + "\udcff", {"name": HOSTILE + "\udcff"})
    html.encode("utf-8")
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_report_holds_no_markup_of_the_users_and_no_address(run, tmp_path):
    strange = tmp_path / "class 0" / "<b>&'ü.png"
    run["paths"][0].rename(strange)
    run["paths"][0] = strange
    run["classes"][0] = run["name"] = HOSTILE
    run["config"][HOSTILE] = HOSTILE
    html = report_page(**run)
    assert "<img" not in html
    assert "<b>" not in html
    assert len(re.findall("<script", html)) == len(re.findall("</script>", html)) == 2
    data = data_of(html)
    assert data["classes"]["names"][0] == data["name"] == data["config"][HOSTILE] == HOSTILE
    assert data["pictures"]["paths"][0] == "class 0/<b>&'ü.png"

    assert not re.search(r"https?:", html)
    assert not re.search(r"""(src|href|action|data|url\()\s*=?\s*["']?//""", html)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,", "#content"]
    assert "@import" not in html
    assert str(tmp_path) not in html


def test_report_says_what_it_was_given(run):
    data = data_of(report_page(**run))
    assert data["summary"] == "Recall@1 on 4 unseen classes: 95.8%, 71 points above the untrained network."
    assert data["scores"][0]["trained"] == 0.958
    assert data["pictures"]["classes"] == run["labels"].tolist()
    assert len(data["map"]["x"]) == len(data["map"]["y"]) == len(data["map"]["pictures"]) == 24
    assert data["classes"]["sizes"] == [6, 6, 6, 6]
    assert data["classes"]["right"] == [5, 5, 6, 6]  # 5 lies beside 7, and each is the other's nearest

    expected = find_neighbours(run["embeddings"], run["labels"])
    assert [section["title"] for section in data["sections"]] == [
        "A random sample",
        "The best queries",
        "The worst queries",
    ]
    for section in data["sections"]:
        for row in section["rows"]:
            assert row["neighbours"] == expected.indices[row["query"]].tolist()
            assert row["distances"] == pytest.approx(expected.distances[row["query"]].tolist())
            assert {str(picture) for picture in (row["query"], *row["neighbours"])} <= data["pictures"]["large"].keys()
    assert data["sections"][2]["rows"][0]["query"] == 5
    assert data["confused"] == [{"classes": [0, 1], "counts": [1, 1], "examples": [[5, 7], [7, 5]]}]


def test_report_of_a_subset_numbers_pictures_anew(run, monkeypatch):
    monkeypatch.setattr(report, "MAP_POINTS", 4)
    monkeypatch.setattr(report, "QUERIES", 1)
    monkeypatch.setattr(report, "NEIGHBOURS", 2)
    data = data_of(report_page(**run))
    held = [int(path.rsplit("/", 1)[1].removesuffix(".png")) for path in data["pictures"]["paths"]]
    assert len(held) < 24
    assert data["pictures"]["classes"] == run["labels"][held].tolist()
    expected = find_neighbours(run["embeddings"], run["labels"], k=2)
    for section in data["sections"]:
        [row] = section["rows"]
        assert [held[i] for i in row["neighbours"]] == expected.indices[held[row["query"]]].tolist()
    assert [[held[i] for i in example] for example in data["confused"][0]["examples"]] == [[5, 7], [7, 5]]
    on_map = [held[i] for i in data["map"]["pictures"]]
    assert on_map == map_sample(run["labels"], 4).tolist()
    assert data["map"]["note"].startswith("A random 4 of the 24 pictures, from ")


def test_report_repeats(run):
    assert report_page(**run) == report_page(**run)


@pytest.mark.parametrize("keep", [[0], [0, 6], [0, 6, 12], [0, 1, 2]])
def test_report_of_very_few(run, keep):
    run |= {key: run[key][keep] for key in ("embeddings", "labels")}
    run["paths"] = [run["paths"][i] for i in keep]
    run |= {"history": [], "result": {}, "config": {}}
    data = data_of(report_page(**run))
    assert len(data["map"]["x"]) == len(keep)
    assert data["charts"] == data["scores"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": []}, "one path for each of the 24 embeddings, got 0"),
        ({"labels": np.zeros(3, dtype=int)}, "24 embeddings, got 3"),
        ({"classes": ["apple"]}, r"labels must be in \[0, 1\), got 0 to 3"),
        ({"embeddings": np.full((24, 2), np.nan, dtype=np.float32)}, "finite"),
        ({"embeddings": np.zeros((0, 2), dtype=np.float32)}, "at least 1"),
    ],
)
def test_report_refuses(run, change, message):
    with pytest.raises(ValueError, match=message):
        report_page(**run | change)
