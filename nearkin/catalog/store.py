"""Where a catalogue is kept: the narrow interface that LanceDB and Milvus both have.

Shape key: q = queries, k = hits of each, D = embedding size.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Record:
    """What a catalogue knows of a picture.

    Args:
        id: Of its path: a catalogue holds a path once.
        path: Absolute.
        label: Its kind, if it has one.
        named: Whether a person gave the label; else the folder did.
        sha256: Of the file's content.
        size: Of the file, in bytes.
        stamp: Size and times of the file: while it is the same, the content is not read again.
    """

    id: str
    path: str
    label: str | None
    named: bool
    sha256: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Entry:
    """A picture as it is written to a catalogue: what is known, a small copy (JPEG), and the embedding (D,)."""

    record: Record
    thumbnail: bytes
    vector: Vectors


@dataclass(frozen=True)
class Found:
    """A picture that a search found.

    Args:
        id, path, label, sha256: As in `Record`. The rest of it is not looked up: each column takes a search its time.
        distance: From the query, Euclidean.
    """

    id: str
    path: str
    label: str | None
    sha256: str
    distance: float

    @property
    def order(self) -> tuple[float, str]:
        """What hits are sorted by: nearest first, equals by their paths."""
        return self.distance, self.path


KNOWN = [each.name for each in fields(Record)]
"""Columns of what is known of a picture."""

TOLD = [each.name for each in fields(Found) if each.name != "distance"]
"""Columns of what a search tells."""


def record(row: Mapping[str, Any]) -> Record:
    return Record(**{name: row[name] for name in KNOWN})


def told(row: Mapping[str, Any], square: float) -> Found:
    """What a search tells of a row, at a squared distance that may have become negative by rounding."""
    return Found(**{name: row[name] for name in TOLD}, distance=max(square, 0.0) ** 0.5)


class Table(Protocol):
    """The pictures as one model sees them. What a method has written when it returns outlives a kill."""

    def count(self, label: str | None = None) -> int:
        """Number of pictures, of one label if asked."""

    def version(self) -> int:
        """A number that another write changes."""

    def records(self) -> Iterator[Record]:
        """All of them, in no order."""

    def entries(self, ids: Sequence[str]) -> list[Entry]:
        """Those with these ids that are there, in no order."""

    def vectors(self) -> tuple[list[str], Vectors]:
        """Ids and embeddings (n, D) of all, in one order."""

    def put(self, entries: Sequence[Entry]) -> None:
        """Add pictures, in place of those with the same ids; all of them or, if killed, none."""

    def remove(self, ids: Sequence[str]) -> None:
        """Take pictures out."""

    def nearest(self, queries: Vectors, k: int, label: str | None = None) -> list[list[Found]]:
        """Up to k of the nearest pictures of each query (q, D), of one label if asked, nearest first.

        Distances are exact. Which pictures are found is exact while the table is small, else nearly so.
        """

    def settle(self) -> None:
        """After writing: build or mend the index and merge small pieces, where that is worth the time."""


class Store(Protocol):
    """Tables, and one description that says which of them counts."""

    where: str

    def description(self) -> dict[str, Any] | None:
        """What `publish` wrote last; None in a place that holds no catalogue."""

    def publish(self, description: dict[str, Any]) -> None:
        """Replace the description, at once for all readers."""

    def table(self, name: str, size: int, make: bool = True) -> Table:
        """The table of a name, for embeddings of length `size`.

        Args:
            name: Its name.
            size: D.
            make: Make it if it is not there.

        Raises:
            InputError: It is not there, and is not to be made; or its embeddings have another length.
        """

    def tables(self) -> list[str]:
        """Names of the tables."""

    def drop(self, name: str) -> None:
        """Remove a table."""

    def keep_model(self, run: Path, sha256: str) -> str:
        """Keep the model of a run for whoever opens the catalogue; returns where, as `model` takes it."""

    def model(self, kept: str) -> Path:
        """The folder of a model that was kept."""

    def writing(self) -> AbstractContextManager[None]:
        """Be the one who writes; another waits."""


def id_of(path: str) -> str:
    """The id of a path."""
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:32]


def open_store(where: str | Path) -> Store:
    """A folder, kept by LanceDB; or `http://HOST:19530`, a Milvus server.

    Raises:
        InputError: The server does not answer; LanceDB cannot have a folder of this name.
    """
    if str(where).startswith(("http://", "https://")):
        from nearkin.catalog.milvus import MilvusStore

        return MilvusStore(str(where))
    from nearkin.catalog.lance import LanceStore

    return LanceStore(Path(where).expanduser().resolve())
