"""One run -> one self-contained HTML page: scores, curves, a map of the unseen classes, neighbours."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearkin.data import Data
from nearkin.data.folder import count
from nearkin.embed import load
from nearkin.evaluate import embed_unseen, scored_classes
from nearkin.files import write_file
from nearkin.metrics.inputs import as_embeddings, as_labels
from nearkin.plots import words
from nearkin.plots.album import album
from nearkin.plots.curves import charts
from nearkin.plots.embedding_map import embedding_map, map_sample
from nearkin.plots.neighbours import Neighbours, best_first, confused_pairs, find_neighbours, one_per_class
from nearkin.plots.page import page, plain
from nearkin.run_folder import RunFolder

log = logging.getLogger("nearkin")

MAP_POINTS = 5_000  # what a browser draws smoothly, and thumbnails for a page of some 10 MB
NEIGHBOURS = 8  # shown per query
QUERIES = 6  # per section


def write_report(folder: Path, data: Data | None = None) -> Path:
    """Write `report.html` of a finished run, embedding the pictures of the classes that scored it once more.

    Args:
        folder: The run's.
        data: Where the pictures are now; where they were unless given.

    Returns:
        The page.

    Raises:
        InputError: The run is not finished, or its pictures are gone.
    """
    run = RunFolder(folder)
    result, config = run.result(), run.config()
    unseen = embed_unseen(load(folder), data or Data.of(config["data"]), scored_classes(run))
    scored = result["protocol"]["test_images"]
    if len(unseen.images.paths) != scored:
        log.warning(
            "the run was scored on %s of these classes; the page shows the %s that are there now",
            count(scored, "picture"),
            f"{len(unseen.images.paths):,}",
        )
    page = report_page(
        name=folder.resolve().name,
        config=config,
        history=run.history(),
        result={key: result[key] for key in ("untrained", "trained")},
        embeddings=unseen.embeddings,
        labels=unseen.images.labels,
        classes=unseen.images.classes,
        paths=unseen.images.paths,
        seed=config["seed"],
    )
    write_file(run.report, page.encode())
    return run.report


def report_page(
    *,
    name: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    result: Mapping[str, Mapping[str, float]],
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    paths: Sequence[Path],
    seed: int = 0,
) -> str:
    """Write the report of a training run as one HTML page.

    Args:
        name: Of the run, the page's title.
        config: The run's configuration, nested.
        history: What training logged: rows such as {"step": 20, "loss": 0.61, "lr": 0.001, "seconds": 3.1}.
        result: Scores as fractions: {"untrained": {"recall@1": 0.36, ...}, "trained": {...}}.
        embeddings: Of the unseen classes' pictures (n, D), as compared at test time.
        labels: Their classes (n,), as indices into `classes`.
        classes: Names of the classes.
        paths: The n pictures. One that cannot be read is shown grey.
        seed: Of the map's layout and of the random samples.

    Raises:
        ValueError: No picture, sizes that disagree, labels without a name, embeddings that are not finite.
    """
    embeddings = as_embeddings(embeddings).float().numpy()
    labels = as_labels(labels, len(embeddings))
    if len(paths) != len(embeddings):
        raise ValueError(f"expected one path for each of the {len(embeddings)} embeddings, got {len(paths)}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must be in [0, {len(classes)}), got {labels.min()} to {labels.max()}")

    neighbours = find_neighbours(embeddings, labels, k=NEIGHBOURS)
    sections = _sections(neighbours, labels, seed)
    confused = confused_pairs(neighbours, labels)
    on_map = map_sample(labels, MAP_POINTS, seed)
    layout = embedding_map(embeddings[on_map], seed)

    queries = [query for section in sections for query in section.queries]
    queries += [query for pair in confused for query in pair.queries]
    held = album(paths, labels, on_map, (i for query in queries for i in (query, *neighbours.indices[query])))
    number = held.number

    scores = words.scores(result)
    right = labels[neighbours.indices[:, :1]] == labels[:, None]  # (n, 1), or (1, 0) of a single picture
    data = {
        "name": name,
        "summary": words.summary(scores[0] if scores else None, len(np.unique(labels))),
        "facts": words.facts(config, history, embeddings, labels),
        "scores": [asdict(score) for score in scores],
        "charts": [asdict(chart) for chart in charts(history)],
        "classes": {
            "names": list(classes),
            "sizes": np.bincount(labels, minlength=len(classes)).tolist(),
            "right": np.bincount(labels[right.any(axis=1)], minlength=len(classes)).tolist(),
        },
        "pictures": held.pictures,
        "map": {
            "note": words.map_note(on_map, labels),
            "pictures": number[on_map].tolist(),
            "x": layout[:, 0].round(4).tolist(),
            "y": layout[:, 1].round(4).tolist(),
            "sprites": held.sprites,
        },
        "sections": [
            {
                "title": section.title,
                "note": section.note,
                "rows": [
                    {
                        "query": int(number[query]),
                        "neighbours": number[neighbours.indices[query]].tolist(),
                        "distances": neighbours.distances[query].tolist(),
                    }
                    for query in section.queries
                ],
            }
            for section in sections
        ],
        "confused": [
            {
                "classes": pair.classes,
                "counts": pair.counts,
                "examples": [number[[q, neighbours.indices[q, 0]]].tolist() for q in pair.queries],
            }
            for pair in confused
        ],
        "config": plain(_without_folders(config)),
        "method": words.method(config, embeddings, labels, on_map),
    }
    return page(name, data)


@dataclass(frozen=True)
class _Section:
    """Queries that are shown together, each with its nearest neighbours."""

    title: str
    note: str
    queries: list[int]


def _sections(neighbours: Neighbours, labels: NDArray[np.int64], seed: int) -> list[_Section]:
    sample = np.random.default_rng(seed).permutation(len(labels))[:QUERIES]
    order = best_first(neighbours)
    return [
        _Section("A random sample", "Drawn by lot among all pictures: what to expect.", sample.tolist()),
        _Section(
            "The best queries",
            "Highest average precision at R, then the widest gap to a wrong picture. One per class.",
            one_per_class(order, labels, QUERIES),
        ),
        _Section(
            "The worst queries",
            "The other end of the same order. Look here for wrong labels and for classes that look alike.",
            one_per_class(order[::-1], labels, QUERIES),
        ),
    ]


def _without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `data.root`, `data.cache`, `out` and a file of weights by their last name only.

    Whom the page is sent to need not know whose disk it was.
    """
    named = copy.deepcopy(dict(config))
    data, backbone = named.get("data"), named.get("backbone")
    for holder, key in ((named, "out"), (data, "root"), (data, "cache"), (backbone, "weights")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str | Path):
            holder[key] = Path(holder[key]).name
    return named
