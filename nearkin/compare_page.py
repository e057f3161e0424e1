"""A comparison -> one self-contained HTML page: the table, the differences, and two methods side by side.

Shape key: n = pictures of the scored classes, D = embedding size of a method.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearkin.compare_table import Table, points, signed
from nearkin.comparison import Comparison, Run
from nearkin.data import Data, ImageList
from nearkin.embed import load
from nearkin.evaluate import embed_unseen, scored_classes
from nearkin.files import write_file
from nearkin.plots import words
from nearkin.plots.album import album
from nearkin.plots.embedding_map import embedding_map, map_sample
from nearkin.plots.neighbours import find_neighbours, one_per_class
from nearkin.plots.page import COMPARISON, page
from nearkin.report import MAP_POINTS, NEIGHBOURS, QUERIES
from nearkin.run_folder import RunFolder

HEADLINE = "recall@1"
"""The metric of the summary, by which the best of the other methods is shown beside the baseline."""


@dataclass(frozen=True)
class Side:
    """One of the two methods whose models are shown.

    Args:
        name: Of the method.
        embeddings: Of the same n pictures as the other side's (n, D), as they are compared.
    """

    name: str
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Shown:
    """What two methods are shown by.

    Args:
        sides: The two.
        images: The n pictures.
        runs: Which runs the models are of, in words.
        config: Of one of these runs.
    """

    sides: tuple[Side, Side]
    images: ImageList
    runs: str
    config: dict[str, Any]


def write_page(file: Path, comparison: Comparison, made: Table, show: tuple[str, str] | None = None) -> None:
    """Write the page; the models of two methods embed the pictures of the scored classes once more.

    Args:
        file: To be written.
        comparison: What the page is about.
        made: Its table.
        show: Names of the two methods; None takes the baseline and the best of the others.
    """
    pair = show or default_pair(comparison)
    runs = shared_runs(comparison, pair) if pair else None
    shown = embed_both(runs) if runs else None
    if show and not shown:
        print(
            f"--show: no run was finished by both {show[0]} and {show[1]}, so the page shows neither", file=sys.stderr
        )
    write_file(file, comparison_page(file.parent.name, comparison, made, shown).encode())


def comparison_page(name: str, comparison: Comparison, made: Table, shown: Shown | None = None) -> str:
    """The page as HTML.

    Args:
        name: Its title.
        comparison: What it is about.
        made: Its table.
        shown: Two methods side by side; None leaves them out.
    """
    data: dict[str, Any] = {
        "name": name,
        "summary": summary(comparison),
        "columns": [asdict(column) for column in made.columns],
        "rows": [[asdict(cell) for cell in row] for row in made.rows],
        "notes": made.notes,
        "baseline": comparison.baseline,
        "differences": differences(comparison),
        "shown": None,
    }
    if shown:
        data |= side_by_side(shown)
    return page(f"{name} · nearkin", data, COMPARISON)


def summary(comparison: Comparison) -> str:
    """The best method and what it is worth, in a sentence."""
    best = best_of(comparison, [method.name for method in comparison.methods])
    if best is None:
        return "No run was finished."
    title = words.meaning(HEADLINE)[0]
    scores = comparison.scores(best, HEADLINE)
    sentence = f"Highest {title}: {best} with {points(comparison.mean(scores))} %"
    if best != comparison.baseline:
        less = signed(comparison.against_baseline(scores, HEADLINE))
        return f"{sentence}, {less} against {comparison.baseline}."
    return f"{sentence}, which is the baseline." if len(comparison.methods) > 1 else f"{sentence}."


def best_of(comparison: Comparison, methods: Sequence[str]) -> str | None:
    """The method with the highest mean of the headline's metric, the first of equals; None where none has a run."""
    means = {name: comparison.mean(comparison.scores(name, HEADLINE)) for name in methods}
    return max((name for name, mean in means.items() if mean), key=lambda name: means[name].mean, default=None)  # type: ignore[union-attr]


def default_pair(comparison: Comparison) -> tuple[str, str] | None:
    others = [method.name for method in comparison.methods if method.name != comparison.baseline]
    best = best_of(comparison, others)
    return (comparison.baseline, best) if best else None


def shared_runs(comparison: Comparison, pair: tuple[str, str]) -> tuple[Run, Run] | None:
    """A run of each with the same seed, the lowest that both finished; None where there is none."""
    first, second = (comparison.finished(name) for name in pair)
    key = min(first.keys() & second.keys(), default=None)
    return None if key is None else (first[key], second[key])


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """For every metric the difference of every method to the baseline, as fractions."""
    charts = []
    for metric in comparison.metrics:
        rows = []
        for method in comparison.methods:
            less = comparison.against_baseline(comparison.scores(method.name, metric), metric)
            if less and method.name != comparison.baseline:
                row = {"name": method.name, "mean": less.mean, "low": less.low, "high": less.high}
                rows.append({**row, "text": signed(less), "apart": less.excludes_zero})
        if rows:
            charts.append({"title": words.meaning(metric)[0], "rows": rows})
    return charts


def embed_both(runs: tuple[Run, Run]) -> Shown:
    """The scored pictures as the models of two runs see them; one that only one of them can read is left out."""
    embedded = []
    for run in runs:
        folder = RunFolder(run.folder)
        data = Data.of(folder.config()["data"])
        embedded.append(embed_unseen(load(run.folder), data, scored_classes(folder)))
    first, second = (each.images for each in embedded)
    place = {path: i for i, path in enumerate(second.paths)}
    keep = [i for i, path in enumerate(first.paths) if path in place]
    images = ImageList([first.paths[i] for i in keep], first.labels[keep], first.classes)
    sides = (
        Side(runs[0].method, embedded[0].embeddings[keep]),
        Side(runs[1].method, embedded[1].embeddings[[place[path] for path in images.paths]]),
    )
    which = f"seed {runs[0].seed}" + ("" if runs[0].fold is None else f", fold {runs[0].fold}")
    return Shown(sides, images, which, RunFolder(runs[0].folder).config())


def side_by_side(shown: Shown) -> dict[str, Any]:
    """What the page shows of two methods: queries and what each finds, and both maps."""
    sides, images, labels = shown.sides, shown.images, shown.images.labels
    found = [find_neighbours(side.embeddings, labels, k=NEIGHBOURS) for side in sides]
    a, b = (side.name for side in sides)
    gain = found[1].precision - found[0].precision  # (n,) nan for a picture alone in its class
    sections = [
        (
            f"Where {b} finds more",
            f"Average precision at R most above that of {a}. One query per class.",
            most(gain, labels),
        ),
        (f"Where {a} finds more", f"The same the other way about: most below that of {a}.", most(-gain, labels)),
        ("A random sample", "Drawn by lot among all pictures: what to expect.", drawn(len(labels))),
    ]
    on_map = map_sample(labels, MAP_POINTS)
    layouts = [embedding_map(side.embeddings[on_map]) for side in sides]
    queries = [query for *_, chosen in sections for query in chosen]
    held = album(
        images.paths, labels, on_map, (i for query in queries for each in found for i in (query, *each.indices[query]))
    )
    rows = {
        query: {
            "query": int(held.number[query]),
            "found": [
                {
                    "precision": None if np.isnan(each.precision[query]) else float(each.precision[query]),
                    "neighbours": held.number[each.indices[query]].tolist(),
                    "distances": each.distances[query].tolist(),
                }
                for each in found
            ],
        }
        for query in queries
    }
    how = dict(words.method(shown.config, sides[0].embeddings, labels, on_map))
    return {
        "shown": {"names": [a, b], "note": f"Both models are those of {shown.runs}."},
        "classes": {"names": images.classes},
        "pictures": held.pictures,
        "map": {
            "note": words.map_note(on_map, labels),
            "pictures": held.number[on_map].tolist(),
            "sprites": held.sprites,
            "layouts": [{"x": each[:, 0].round(4).tolist(), "y": each[:, 1].round(4).tolist()} for each in layouts],
        },
        "sections": [
            {"title": title, "note": note, "rows": [rows[query] for query in chosen]}
            for title, note, chosen in sections
        ],
        "method": [(term, how[term]) for term in ("Search", "Recall@K", "R-precision, MAP@R", "NMI, F1", "Map")],
    }


def most(gain: NDArray[np.float64], labels: NDArray[np.int64]) -> list[int]:
    """The queries with the largest positive gain (n,), one per class, the largest first, ties to the lower index."""
    order = np.argsort(-gain, kind="stable")
    return one_per_class(order[gain[order] > 0], labels, QUERIES)


def drawn(n: int) -> list[int]:
    sample: list[int] = np.random.default_rng(0).permutation(n)[:QUERIES].tolist()
    return sample
