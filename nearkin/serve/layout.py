"""The map of a catalogue: its pictures in the plane, quickly by principal components, then well by t-SNE.

Shape key: n = pictures on the map, D = embedding size.
"""

import logging
import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nearkin.catalog import Catalog
from nearkin.catalog.store import Vectors
from nearkin.children import end_with_parent
from nearkin.plots.embedding_map import embedding_map, framed

log = logging.getLogger("nearkin")

MOST = 50_000
"""Pictures on the map; of more, as many by lot. A browser draws these without a stutter."""

COMPONENTS = 50
"""What t-SNE is given of longer embeddings, as van der Maaten and Hinton do: distances change little, time a lot."""


@dataclass(frozen=True)
class Layout:
    """Where each picture lies.

    Args:
        quality: "quick" are principal components, "good" is t-SNE.
        ids: Of the pictures.
        labels: Theirs.
        places: (n, 2), centred, the longer side spanning [-1, 1].
        total: Pictures in the catalogue.
    """

    quality: Literal["quick", "good"]
    ids: list[str]
    labels: list[str | None]
    places: NDArray[np.floating]
    total: int


class Maps:
    """The newest layout of a catalogue; a better one is made by another process, at low priority.

    Args:
        context: What starts it.
        seed: Of t-SNE.
    """

    def __init__(self, context: ForkServerContext, seed: int = 0) -> None:
        self.context, self.seed = context, seed
        self.lock = Lock()
        self.layout: Layout | None = None
        self.of: tuple[str, int] | None = None  # the table and its version
        self.contents: list[tuple[str, str]] = []  # ids and content of what is on the map
        self.worker: ProcessPoolExecutor | None = None
        self.better: Future[NDArray[np.float64]] | None = None

    def current(self, catalog: Catalog) -> Layout:
        """The layout of the catalogue as it is now; the quick one until the good one is ready.

        While the good one is being made, pictures that are added meanwhile are not on the map.
        """
        with self.lock:
            if self.better is not None and self.better.done():
                self._take()
            now = (catalog.description["table"], catalog.table.version())
            if self.layout is None or (self.of != now and self.better is None):
                self._look(catalog)
                self.of = now
            assert self.layout is not None
            return self.layout

    def _take(self) -> None:
        assert self.better is not None
        assert self.layout is not None
        better, self.better = self.better, None
        if better.exception() is None:
            self.layout = replace(self.layout, quality="good", places=better.result())
        else:
            log.warning("the map stays a quick one: %s", better.exception())
            self._end()  # of a process that was killed, the pool takes no more work

    def _look(self, catalog: Catalog) -> None:
        records = {record.id: record for record in catalog.table.records()}
        # Ids are hashes: the first of them in order are a sample by lot, and the same one each time.
        ids = sorted(records)[:MOST]
        contents = [(id, records[id].sha256) for id in ids]
        same_table = self.of is not None and self.of[0] == catalog.description["table"]
        if self.layout is not None and same_table and contents == self.contents:
            self.layout = replace(self.layout, labels=[records[id].label for id in ids], total=len(records))
            return
        all_ids, vectors = catalog.table.vectors()
        row = {id: i for i, id in enumerate(all_ids)}
        ids = [id for id in ids if id in row]  # what was removed between the two looks is not on the map
        components = principal_components(vectors[[row[id] for id in ids]], COMPONENTS)
        labels = [records[id].label for id in ids]
        places = framed(components[:, :2].astype(np.float64)) if ids else components[:, :2]
        self.layout = Layout("quick" if ids else "good", ids, labels, places, len(records))
        self.contents = [(id, records[id].sha256) for id in ids]
        if not ids:
            return
        if self.worker is None:
            self.worker = ProcessPoolExecutor(1, self.context, initializer=stand_back)
        self.better = self.worker.submit(embedding_map, components, self.seed)

    def close(self) -> None:
        """End the other process."""
        with self.lock:
            self._end()

    def _end(self) -> None:
        if self.worker is not None:
            for process in list((self.worker._processes or {}).values()):
                process.kill()
            self.worker.shutdown(cancel_futures=True)
            self.worker = None


def stand_back() -> None:
    """What the other process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    end_with_parent()


def principal_components(vectors: Vectors, most: int) -> NDArray[np.float32]:
    """Project (n, D) onto the directions of largest variance (n, most), zeros beyond D."""
    centred = vectors - vectors.mean(axis=0, keepdims=True) if len(vectors) else vectors
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    projected = centred @ axes[:, ::-1][:, :most].astype(np.float32)
    return np.pad(projected, ((0, 0), (0, most - projected.shape[1])))
