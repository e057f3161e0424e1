"""A catalogue that is being served while others write into it."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from nearkin.catalog import Catalog
from nearkin.children import forking
from nearkin.errors import InputError
from nearkin.serve.decoding import Decoders
from nearkin.serve.layout import Layout, Maps
from nearkin.serve.problems import Problem

log = logging.getLogger("nearkin")

T = TypeVar("T")


@dataclass(frozen=True)
class Health:
    """That a server answers, and with what.

    Args:
        status: "ok".
        pictures: In the catalogue.
        model: The first 12 digits of its SHA-256.
        classes: Of how many classes the threshold for a match was learnt; None where there is none.
        held_out: Whether the model has not learnt from these classes.
    """

    status: str
    pictures: int
    model: str
    classes: int | None
    held_out: bool | None


class Live:
    """The catalogue as it is now: another model is taken up as soon as the catalogue has changed over to it.

    Args:
        where: Its place.
        run: Folder of the model's run, if the catalogue cannot find it.
    """

    def __init__(self, where: str, run: Path | None = None) -> None:
        self.where, self.run = where, run
        self.lock = Lock()
        context = forking("nearkin.serve.decoding")  # which takes its time, while the catalogue is opened
        self.catalog = Catalog.open(where, run)
        self.decoders, self.maps = Decoders(context), Maps(context)
        self.packing = Lock()
        self.packed: tuple[Layout, str, bytes] | None = None

    def current(self) -> Catalog:
        """The catalogue, opened again if it has changed over to another model.

        Raises:
            Problem: It is gone, or its model is.
        """
        with self.lock:
            try:
                if self.catalog.store.description() != self.catalog.description:
                    self.catalog = self.reopened()
            except InputError as error:
                log.warning("%s", error)  # with a path, which is for whoever started the server
                line = "the catalogue cannot be opened any more; the server's terminal says why"
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, line) from error
            return self.catalog

    def reopened(self) -> Catalog:
        """The catalogue, with the model that it has now: the run that was named may be of the one before.

        Raises:
            InputError: There is none, or its model is not to be found.
        """
        try:
            return Catalog.open(self.where)
        except InputError:
            if self.run is not None:
                with suppress(InputError):
                    return Catalog.open(self.where, self.run)
            raise

    def ask(self, task: Callable[[Catalog], T]) -> T:
        """Do a task; once more if the catalogue changed over meanwhile and took the table away."""
        catalog = self.current()
        try:
            return task(catalog)
        except Exception:
            if self.current() is catalog:
                raise
            return task(self.catalog)

    def map(self) -> tuple[str, bytes]:
        """The map as JSON, gzipped, and a tag of its content, which no other map has."""
        layout = self.ask(self.maps.current)
        with self.packing:
            if self.packed is None or self.packed[0] is not layout:
                body = json.dumps(packed(layout)).encode()
                self.packed = layout, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"', gzip.compress(body, 5)
            return self.packed[1:]

    def health(self) -> Health:
        """That it answers, and with what."""
        catalog = self.current()
        known = catalog.calibration
        return Health(
            "ok",
            catalog.table.count(),
            catalog.model.sha256[:12],
            None if known is None else known.classes,
            None if known is None else known.held_out,
        )

    def close(self) -> None:
        """Stop what runs beside."""
        self.maps.close()
        self.decoders.close()


def packed(layout: Layout) -> dict[str, Any]:
    """A layout for JSON: of each picture its id, its place, and its label as an index into the names, or -1."""
    names = sorted({label for label in layout.labels if label is not None})
    number = {name: i for i, name in enumerate(names)} | {None: -1}
    return {
        "quality": layout.quality,
        "ids": layout.ids,
        "x": layout.places[:, 0].round(4).tolist(),
        "y": layout.places[:, 1].round(4).tolist(),
        "labels": [number[label] for label in layout.labels],
        "names": names,
        "total": layout.total,
    }
