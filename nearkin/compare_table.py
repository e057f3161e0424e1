"""A comparison as one table: for the terminal, for Markdown, for a page; and as numbers, in CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nearkin.comparison import TUNED, Comparison, Method, Scores, of_training
from nearkin.plots.words import counted, duration, meaning
from nearkin.statistics import Estimate

DIFFERENCES = ("recall@1", "map@r")
"""Metrics whose difference to the baseline stands in the table; those of all are in `summary.csv`."""

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number to sort by where it is not a text."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading, and what it means."""

    title: str
    meaning: str = ""


@dataclass(frozen=True)
class Table:
    """Lines of cells below their headings, and what has to be said of them.

    Args:
        columns: The first one names the rows.
        rows: As many cells each as there are columns.
        notes: Sentences.
    """

    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str]


def table(comparison: Comparison) -> Table:
    """Untrained networks first, then every method, then every run that came to nothing."""
    columns = [Column("Method"), Column("Runs", "finished, of those asked for")]
    for metric in comparison.metrics:
        columns.append(Column(*meaning(metric)))
        if metric in DIFFERENCES:
            columns.append(Column(f"Δ {meaning(metric)[0]}", f"less that of {comparison.baseline}, seed by seed"))
    columns += [Column("Training", "mean time of a run's steps"), Column("Memory", "peak of any run")]

    rows = []
    for untrained in comparison.untrained():
        scores = {metric: comparison.untrained_scores(untrained, metric) for metric in comparison.metrics}
        rows.append([Cell(untrained.title), Cell(""), *_score_cells(comparison, scores), Cell(NONE), Cell(NONE)])
    for method in comparison.methods:
        scores = {metric: comparison.scores(method.name, metric) for metric in comparison.metrics}
        rows.append(
            [
                Cell(method.name + (" (baseline)" if method.name == comparison.baseline else "")),
                _runs(comparison, method),
                *_score_cells(comparison, scores, method),
                *_cost_cells(comparison, method),
            ]
        )
    for run in comparison.failed:
        rows.append([Cell(run.title), Cell("failed"), *[Cell(NONE)] * (len(columns) - 2)])
    return Table(columns, rows, notes(comparison))


def notes(comparison: Comparison) -> list[str]:
    """What the table is of, what its signs mean, what was held equal and what was not."""
    return [
        *_subject(comparison),
        *_signs(comparison),
        *_held_equal(comparison),
        *(f"{method.name}: {method.note}." for method in comparison.methods if method.note),
        *(f"{run.title} failed: {run.failure}." for run in comparison.failed),
    ]


def markdown(made: Table) -> str:
    """The table and its notes; columns are padded, so that it reads as well where Markdown is not rendered."""
    lines = [[column.title for column in made.columns], *([cell.text for cell in row] for row in made.rows)]
    lines = [[text.replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]

    def line(texts: list[str]) -> str:
        first, *rest = (
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = (
        "|" + "|".join(("-" * (width + 1) + ":") if i else ("-" * (width + 2)) for i, width in enumerate(widths)) + "|"
    )
    head, *body = map(line, lines)
    return "\n".join([head, rule, *body, "", *(f"- {note}" for note in made.notes), ""])


def long_csv(comparison: Comparison) -> str:
    """Every score of every finished run, one a line."""
    rows = [
        (run.method, run.seed, run.fold, metric, run.result["untrained"][metric], score)
        for run in comparison.runs
        if run.result is not None
        for metric, score in run.result["trained"].items()
    ]
    return as_csv(("method", "seed", "fold", "metric", "untrained", "trained"), rows)


def summary_csv(comparison: Comparison) -> str:
    """The table as numbers, one method and metric a line, untrained networks first; the difference of every metric."""
    head = ["method", "metric", "runs", "mean", "low", "high", "papers"]
    head += ["pairs", "difference", "difference_low", "difference_high", "excludes_zero"]
    head += ["training_seconds", "peak_memory_mb"]
    rows = []

    def add(name: str, metric: str, scores: Scores, papers: float | None, costs: Sequence[float | None]) -> None:
        mean, less = comparison.mean(scores), comparison.against_baseline(scores, metric)
        row: list[Any] = [name, metric, len(scores)]
        row += [mean.mean, mean.low, mean.high] if mean else [None] * 3
        row += [papers]
        if less and name != comparison.baseline:
            row += [less.n, less.mean, less.low, less.high, less.excludes_zero if less.half is not None else None]
        else:
            row += [None] * 5
        rows.append([*row, *costs])

    for untrained in comparison.untrained():
        for metric in comparison.metrics:
            add(untrained.title, metric, comparison.untrained_scores(untrained, metric), None, (None, None))
    for method in comparison.methods:
        costs = comparison.costs(method.name) or (None, None)
        for metric in comparison.metrics:
            add(method.name, metric, comparison.scores(method.name, metric), (method.papers or {}).get(metric), costs)
    return as_csv(head, rows)


def as_csv(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Lines of comma-separated values; None is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue()


def points(estimate: Estimate | None) -> str:
    """`82.1 ± 0.9`, in percent; without the second where there is one value."""
    if estimate is None:
        return NONE
    return f"{100 * estimate.mean:.1f}" + ("" if estimate.half is None else f" ± {100 * estimate.half:.1f}")


def signed(estimate: Estimate | None) -> str:
    """`+3.1 ± 0.9 ▲`: the triangle where the interval excludes 0."""
    if estimate is None:
        return NONE
    text = ("−" if estimate.mean < 0 else "+") + points(Estimate(abs(estimate.mean), estimate.half, estimate.n))
    return text + (" " + "▼▲"[estimate.mean > 0] if estimate.excludes_zero else "")


def _score_cells(comparison: Comparison, scores: Mapping[str, Scores], method: Method | None = None) -> list[Cell]:
    cells = []
    for metric, by_run in scores.items():
        mean = comparison.mean(by_run)
        text = points(mean)
        if method and method.papers and metric in method.papers:
            text += f" ({100 * method.papers[metric]:.1f})"
        cells.append(Cell(text, mean.mean if mean else None))
        if metric in DIFFERENCES:
            less = comparison.against_baseline(by_run, metric)
            is_baseline = method is not None and method.name == comparison.baseline
            cells.append(Cell(NONE) if is_baseline or not less else Cell(signed(less), less.mean))
    return cells


def _runs(comparison: Comparison, method: Method) -> Cell:
    done, asked = len(comparison.finished(method.name)), comparison.seeds * (comparison.folds or 1)
    return Cell(f"{done}" if done == asked else f"{done} of {asked}", done)


def _cost_cells(comparison: Comparison, method: Method) -> list[Cell]:
    costs = comparison.costs(method.name)
    if costs is None:
        return [Cell(NONE), Cell(NONE)]
    seconds, memory = costs
    return [Cell(duration(seconds), seconds), Cell(f"{memory:,.0f} MB", memory)]


def _subject(comparison: Comparison) -> list[str]:
    """Which pictures, and how many runs."""
    result = next((run.result for run in comparison.runs if run.result is not None), None)
    if result is None:
        return []
    how = result["protocol"]
    seeds = counted(comparison.seeds, "seed", "seeds")
    pictures = f"{how['test_images']:,} pictures of {how['test_classes']:,}"
    clusters = (
        f"k-means for NMI and F1: {how['kmeans_init']} start, {counted(how['kmeans_restarts'], 'run', 'runs')}, "
        f"seed {how['kmeans_seed']}."
    )
    if comparison.folds:
        return [
            f"In %. Every run trains without one of {comparison.folds} folds of the training classes and is scored on "
            f"it ({pictures} classes in the first run); {seeds}, each with folds of its own. Test classes were not "
            "looked at.",
            clusters,
        ]
    whom = "held-out training classes" if how["classes"] == "validation" else "classes never seen in training"
    return [f"In %, on {pictures} {whom}; {seeds}.", clusters]


def _signs(comparison: Comparison) -> list[str]:
    runs = comparison.seeds * (comparison.folds or 1)
    if runs == 1:
        said = ["One run of each method: no interval can be given, and a difference may be luck."]
    elif comparison.folds:
        said = [
            "±: half of the 95 % interval (Student's t over seeds and folds, widened for the classes that the training "
            "sets of folds share: Nadeau and Bengio, 2003)."
        ]
    else:
        said = ["±: half of the 95 % interval of the mean over seeds (Student's t)."]
    if len(comparison.methods) > 1 or comparison.untrained():
        sign = "" if runs == 1 else "; ▲ or ▼ where the interval excludes 0"
        said.append(f"Δ: less {comparison.baseline} with the same seed{' and fold' if comparison.folds else ''}{sign}.")
    if any(method.papers for method in comparison.methods):
        said.append("In brackets: what the paper reports for this cell.")
    kinds = sorted({kind for method in comparison.methods for kind in comparison.fact(method.name, "peak_memory_of")})
    if kinds:
        what = {
            "process, resident": "of the process, with its libraries and the decoded pictures",
            "GPU, tensors": "of tensors on the GPU",
        }
        said.append(f"Memory: the peak {' or '.join(what[kind] for kind in kinds)}.")
    return said


def _held_equal(comparison: Comparison) -> list[str]:
    """Checked against what the runs recorded: initial weights, order of the pictures, how many of them."""
    if len(comparison.methods) < 2 or not comparison.untrained():
        return []
    configs = {method.name: method.config for method in comparison.methods}

    def budget(method: str) -> str:
        return f"{max(comparison.fact(method, 'pictures')):,} pictures in {configs[method]['steps']:,} steps"

    facts: list[tuple[str, str, str, Callable[[str], str]]] = [
        ("initial_weights", "started from the same weights", "initial weights", lambda name: _network(configs[name])),
        (
            "data_order",
            "saw the same pictures in the same order",
            "order of pictures",
            lambda name: _batches(configs[name]),
        ),
        ("pictures", "learnt from the same number of pictures", "budget", budget),
    ]
    equal, unequal = [], []
    for fact, same, what, about in facts:
        groups = comparison.alike(partial(of_training, name=fact))
        if len(groups) == 1:
            equal.append(same)
        else:
            each = "; ".join(f"{', '.join(written(group))}: {about(group[0])}" for group in groups)
            unequal.append(f"Not the same {what}: {each}.")
    said = [f"With the same seed, all methods {listed(equal)}."] if equal else []
    return said + unequal


def written(group: Sequence[str]) -> list[str]:
    """A group of methods without the tuned ones that stand beside themselves."""
    return [name for name in group if not (name.endswith(TUNED) and name.removesuffix(TUNED) in group)]


def listed(parts: Sequence[str]) -> str:
    """`one`, `one and two`, `one, two and three`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _network(config: Mapping[str, Any]) -> str:
    backbone = config["backbone"]
    start = "random" if backbone["weights"] == "none" else backbone["weights"]
    return f"{backbone['name']} from {start} weights, embedding of {config['embedding_size']}"


def _batches(config: Mapping[str, Any]) -> str:
    sampler = config["sampler"]
    arguments = ", ".join(f"{name} {value}" for name, value in sampler["init_args"].items())
    return f"{sampler['class_path'].rpartition('.')[2]} ({arguments}), {config['steps']:,} steps"
