"""What a comparison says, of runs that are made up; test_compare.py has real ones."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nearkin.compare_table import long_csv, markdown, signed, summary_csv, table
from nearkin.comparison import Comparison, Method, Run
from nearkin.statistics import Estimate

CONFIG = {
    "backbone": {"name": "convnet", "weights": "none"},
    "embedding_size": 64,
    "sampler": {"class_path": "nearkin.data.ClassBalancedSampler", "init_args": {"classes": 32, "images": 4}},
    "steps": 200,
}
ARCHITECTURE = {"backbone": "convnet", "embedding_size": 64, "pool": "max", "normalize": True, "image": {"size": 28}}
PROTOCOL = {
    "kmeans_init": "k-means++",
    "kmeans_restarts": 1,
    "kmeans_seed": 0,
    "classes": "test",
    "test_classes": 121,
    "test_images": 2420,
}


def run(method, seed, recall, *, fold=None, untrained=0.3, architecture=ARCHITECTURE, protocol=PROTOCOL, **training):
    record = {
        "seconds": 20.0 + seed,
        "pictures": 25_600,
        "peak_memory_mb": 700.0 + seed,
        "peak_memory_of": "process, resident",
        "initial_weights": f"weights {seed}",
        "data_order": f"order {seed}",
    }
    scores = {
        when: {"recall@1": value, "map@r": value / 2, "nmi": value / 3}
        for when, value in (("untrained", untrained + seed / 100), ("trained", recall))
    }
    result = {**scores, "protocol": protocol, "training": record | training}
    return Run(method, seed, fold, Path(f"{method}/{seed}"), result, architecture)


def failed(method, seed):
    return Run(method, seed, None, Path(f"{method}/{seed}"), failure="X became NaN or infinite at step 7; use | less")


def comparison(*runs, papers=None, notes=None, **changes):
    names = list(dict.fromkeys(each.method for each in runs))
    papers, notes = papers or {}, notes or {}
    methods = [Method(name, dict(CONFIG), Path(name), papers.get(name), notes.get(name)) for name in names]
    seeds = len({each.seed for each in runs})
    return Comparison(
        **{"methods": methods, "runs": list(runs), "baseline": names[0] if names else "", "seeds": seeds} | changes
    )


BASE, BETTER = [0.70, 0.74, 0.72], [0.79, 0.82, 0.83]


@pytest.fixture
def two():
    return [run("base", s, v) for s, v in enumerate(BASE)] + [run("better", s, v) for s, v in enumerate(BETTER)]


def cells(made):
    heads = [column.title for column in made.columns]
    return {row[0].text: dict(zip(heads, (cell.text for cell in row), strict=True)) for row in made.rows}


def interval(values):
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return f"{100 * np.mean(values):.1f} ± {100 * (high - low) / 2:.1f}"


def test_rows_are_untrained_then_methods_with_means_and_differences(two):
    made = table(comparison(*two))
    assert [column.title for column in made.columns] == [
        *("Method", "Runs", "Recall@1", "Δ Recall@1", "MAP@R", "Δ MAP@R", "NMI", "Training", "Memory"),
    ]
    assert [row[0].text for row in made.rows] == ["untrained", "base (baseline)", "better"]
    by_name = cells(made)
    assert by_name["better"]["Recall@1"] == interval(BETTER)
    gains = np.subtract(BETTER, BASE)
    assert by_name["better"]["Δ Recall@1"] == f"+{interval(gains)} ▲"
    assert by_name["better"]["Δ MAP@R"] == f"+{interval(gains / 2)} ▲"
    assert by_name["better"]["NMI"] == interval(np.divide(BETTER, 3))
    assert by_name["base (baseline)"]["Δ Recall@1"] == "–"
    assert (by_name["better"]["Runs"], by_name["better"]["Training"], by_name["better"]["Memory"]) == (
        "3",
        "21 s",
        "702 MB",
    )
    untrained = [0.30, 0.31, 0.32]
    assert by_name["untrained"]["Recall@1"] == interval(untrained)
    assert by_name["untrained"]["Δ Recall@1"] == f"−{interval(np.subtract(BASE, untrained))} ▼"
    assert (by_name["untrained"]["Runs"], by_name["untrained"]["Training"]) == ("", "–")
    assert made.rows[2][2].value == pytest.approx(np.mean(BETTER))


def test_another_baseline_turns_the_differences_round(two):
    by_name = cells(table(comparison(*two, baseline="better")))
    assert by_name["base"]["Δ Recall@1"] == f"−{interval(np.subtract(BETTER, BASE))} ▼"
    assert by_name["better (baseline)"]["Δ Recall@1"] == "–"


def test_one_seed_pretends_nothing():
    made = table(comparison(run("base", 0, 0.7), run("better", 0, 0.8)))
    by_name = cells(made)
    assert (by_name["better"]["Recall@1"], by_name["better"]["Δ Recall@1"]) == ("80.0", "+10.0")
    assert made.notes[2] == "One run of each method: no interval can be given, and a difference may be luck."
    assert not any("±" in note or "▲" in note for note in made.notes)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.031, 0.009, 3), "+3.1 ± 0.9 ▲"),
        (Estimate(-0.031, 0.009, 3), "−3.1 ± 0.9 ▼"),
        (Estimate(-0.031, 0.05, 3), "−3.1 ± 5.0"),
        (Estimate(0.0, 0.0, 3), "+0.0 ± 0.0"),
        (Estimate(0.2, None, 1), "+20.0"),
        (None, "–"),
    ],
)
def test_signed(estimate, text):
    assert signed(estimate) == text


def test_the_papers_figure_stands_beside_ours(two):
    made = table(comparison(*two, papers={"better": {"recall@1": 0.547, "f1": 0.3}}))
    by_name = cells(made)
    assert by_name["better"]["Recall@1"] == f"{interval(BETTER)} (54.7)"
    assert "(" not in by_name["better"]["MAP@R"]
    assert "(" not in by_name["base (baseline)"]["Recall@1"]
    assert "In brackets: what the paper reports for this cell." in made.notes
    assert not any("brackets" in note for note in table(comparison(*two)).notes)


def test_what_was_held_equal_is_said(two):
    said = table(comparison(*two)).notes[-1]
    assert said == (
        "With the same seed, all methods started from the same weights, saw the same pictures in the same order and "
        "learnt from the same number of pictures."
    )


def test_what_was_not_held_equal_is_said_and_who_it_was(two):
    third = [run("third", s, 0.8, data_order=f"other {s}", pictures=12_800) for s in range(3)]
    fourth = [
        run("fourth", s, 0.8, initial_weights=f"other {s}", architecture={**ARCHITECTURE, "pool": "avg"})
        for s in range(3)
    ]
    made = comparison(*two, *third, *fourth)
    made.methods[2].config["sampler"] = {"class_path": "nearkin.data.NPairSampler", "init_args": {"batch_size": 64}}
    made.methods[3].config["embedding_size"] = 128
    assert table(made).notes[-3:] == [
        "Not the same initial weights: base, better, third: convnet from random weights, embedding of 64; "
        "fourth: convnet from random weights, embedding of 128.",
        "Not the same order of pictures: base, better, fourth: ClassBalancedSampler (classes 32, images 4), 200 steps; "
        "third: NPairSampler (batch_size 64), 200 steps.",
        "Not the same budget: base, better, fourth: 25,600 pictures in 200 steps; third: 12,800 pictures in 200 steps.",
    ]


def test_one_seed_that_began_otherwise_is_enough_to_tell(two):
    two[4] = run("better", 1, 0.82, data_order="another")
    assert any("Not the same order of pictures: base:" in note for note in table(comparison(*two)).notes)


def test_untrained_rows_by_how_embeddings_are_compared(two):
    raw = {**ARCHITECTURE, "normalize": False}
    third = [run("third", s, 0.8, untrained=0.25, architecture=raw) for s in range(3)]
    rows = [row[0].text for row in table(comparison(*two, *third)).rows]
    assert rows[:2] == ["untrained, on the unit sphere", "untrained, as they are"]
    by_name = cells(table(comparison(*two, *third)))
    assert by_name["untrained, as they are"]["Recall@1"].startswith("26.0 ±")


def test_untrained_rows_of_different_networks_name_their_methods(two):
    large = {**ARCHITECTURE, "embedding_size": 128}
    third = [run("third", s, 0.8, architecture=large, initial_weights=f"large {s}") for s in range(3)]
    rows = [row[0].text for row in table(comparison(*two, *third)).rows]
    assert rows[:2] == ["untrained network of base, better", "untrained network of third"]


def test_a_failed_run_is_a_row_and_pairs_are_those_that_are_left(two):
    two[4] = failed("better", 1)
    made = table(comparison(*two))
    by_name = cells(made)
    assert by_name["better"]["Runs"] == "2 of 3"
    assert by_name["better"]["Recall@1"] == interval([BETTER[0], BETTER[2]])
    assert by_name["better"]["Δ Recall@1"] == f"+{interval([BETTER[0] - BASE[0], BETTER[2] - BASE[2]])}"
    assert by_name["better, seed 1"]["Runs"] == "failed"
    assert set(by_name["better, seed 1"].values()) == {"better, seed 1", "failed", "–"}
    assert made.notes[-1] == "better, seed 1 failed: X became NaN or infinite at step 7; use | less."


def test_a_method_of_which_nothing_is_left(two):
    made = table(comparison(*two[:3], *(failed("lost", s) for s in range(3))))
    assert cells(made)["lost"] == {
        **{column.title: "–" for column in made.columns},
        **{"Method": "lost", "Runs": "0 of 3"},
    }


def test_a_baseline_of_which_nothing_is_left(two):
    made = table(comparison(*(failed("lost", s) for s in range(3)), *two[3:]))
    assert cells(made)["better"]["Δ Recall@1"] == "–"
    assert cells(made)["better"]["Recall@1"] == interval(BETTER)


def test_nothing_at_all_is_left():
    made = table(comparison(failed("lost", 0)))
    assert [row[0].text for row in made.rows] == ["lost (baseline)", "lost, seed 0"]
    assert "lost, seed 0" in markdown(made)


def test_folds_widen_the_interval_and_are_said():
    held = {**PROTOCOL, "classes": "validation"}
    values = np.random.default_rng(0).normal(0.7, 0.05, (2, 4))
    runs = [run("base", seed, values[seed, fold], fold=fold, protocol=held) for seed in range(2) for fold in range(4)]
    made = table(comparison(*runs, seeds=2, folds=4))
    half = stats.t.ppf(0.975, 7) * values.std(ddof=1) * np.sqrt(1 / 8 + 1 / 3)
    assert cells(made)["base (baseline)"]["Recall@1"] == f"{100 * values.mean():.1f} ± {100 * half:.1f}"
    assert cells(made)["base (baseline)"]["Runs"] == "8"
    assert "one of 4 folds of the training classes" in made.notes[0]
    assert "Test classes were not looked at." in made.notes[0]
    assert any("Nadeau and Bengio" in note for note in made.notes)


def test_markdown_has_a_cell_for_every_column_and_no_more(two):
    two[4] = failed("better | and | worse", 1)
    text = markdown(table(comparison(*two, notes={"base": "what was found"})))
    lines = text.split("\n\n")[0].splitlines()
    split = [line.replace("\\|", "/").split("|") for line in lines]
    assert {len(parts) for parts in split} == {9 + 2}
    assert len({len(line) for line in lines}) == 1, "padded, to be read as it is"
    assert set(lines[1]) == set("|-:")
    assert "- base: what was found.\n" in text


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_long_csv_has_every_score_in_full(two):
    two[4] = failed("better", 1)
    rows = rows_of(long_csv(comparison(*two)))
    assert len(rows) == 5 * 3
    assert rows[0] == {
        "method": "base",
        "seed": "0",
        "fold": "",
        "metric": "recall@1",
        "untrained": "0.3",
        "trained": "0.7",
    }
    assert {(row["method"], row["seed"]) for row in rows} == {
        *(("base", str(s)) for s in range(3)),
        ("better", "0"),
        ("better", "2"),
    }


def test_summary_csv_has_the_difference_of_every_metric(two):
    rows = {
        (row["method"], row["metric"]): row
        for row in rows_of(summary_csv(comparison(*two, papers={"better": {"nmi": 0.6}})))
    }
    assert rows.keys() == {(m, k) for m in ("untrained", "base", "better") for k in ("recall@1", "map@r", "nmi")}
    nmi = rows["better", "nmi"]
    gains = np.subtract(BETTER, BASE) / 3
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert [float(nmi[key]) for key in ("difference", "difference_low", "difference_high")] == pytest.approx(
        [gains.mean(), low, high]
    )
    assert (nmi["excludes_zero"], nmi["pairs"], nmi["runs"], nmi["papers"]) == ("True", "3", "3", "0.6")
    assert rows["base", "nmi"]["difference"] == rows["base", "nmi"]["papers"] == ""
    assert (rows["better", "nmi"]["training_seconds"], rows["better", "nmi"]["peak_memory_mb"]) == ("21.0", "702.0")
    before = rows["untrained", "recall@1"]
    assert float(before["mean"]) == pytest.approx(0.31)
    assert float(before["difference"]) == pytest.approx(0.31 - np.mean(BASE))
    assert before["training_seconds"] == before["papers"] == ""


def test_methods_without_a_common_seed_are_not_said_to_be_alike():
    apart = comparison(run("a", 0, 0.7), run("b", 1, 0.7), seeds=2)
    assert len(apart.untrained()) == 2
    assert not any("all methods" in note for note in table(apart).notes)
    # a speaks for seed 0 alone: that b and c differ in seed 1 shows between the two
    three = comparison(
        *(run(name, 0, 0.7) for name in ("a", "b", "c")), run("b", 1, 0.7), run("c", 1, 0.7, initial_weights="others")
    )
    assert three.alike(lambda each: each.result["training"]["initial_weights"]) == [["a", "b"], ["c"]]


def test_a_tuned_method_is_named_once_beside_itself():
    pairs = {"data_order": "pairs"}
    runs = [run("a", 0, 0.7), run("a, tuned", 0, 0.8), run("b", 0, 0.7, **pairs), run("b, tuned", 0, 0.7)]
    (note,) = [note for note in table(comparison(*runs)).notes if note.startswith("Not the same order")]
    assert note.startswith("Not the same order of pictures: a, b, tuned: ")
