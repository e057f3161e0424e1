"""A catalogue in a folder, by LanceDB: no server, and readable after any kill.

The folder holds `catalog.json` (the description), `models/` and one Lance table per model. A write is a new version of
its table, which counts once its manifest stands in the folder.
"""

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq
from lancedb.query import LanceVectorQueryBuilder

from nearkin.catalog.store import KNOWN, TOLD, Entry, Found, Record, Vectors, record, told
from nearkin.embed import DESCRIPTION, WEIGHTS
from nearkin.errors import InputError, printable
from nearkin.files import locked, read_mapping, write_file

log = logging.getLogger("nearkin")
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")  # else Lance warns of them on every extension

INDEXED_FROM = 10_000
"""Pictures. Below, looking at every one of them takes less than 25 ms."""

LEFT_OUT = 2_000
"""Pictures beside the index, which a search looks at one by one, before it is extended; a fiftieth of large tables."""

PARTS = 8
"""Of the index, before it is built anew: each extension is a part of its own, and a search goes through all."""

PIECES = 32
"""Fragments of a table before they are merged: each append makes one, and each is opened by every search."""

KEPT = timedelta(minutes=1)
"""How long a version is kept for those who are reading it. Many of them make every search slower."""

TRIED = 150
"""Candidates for the neighbours of a picture while the graph is built: with 300, LanceDB's own choice, that takes 1.7
times as long and recall@10 is the same."""

EXPLORED = 100
"""Candidates that a search in the graph keeps; at 100, recall@10 was 0.99 in `benchmarks/catalog.py`."""

REFINED = 2
"""Times k, the candidates whose distances are computed from the vectors themselves: the graph holds them in 8 bits."""

ANEW = "remove the folder and index the pictures anew, or name another"

NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and what is not Unicode: LanceDB opens no folder that has one in its path."""

DESCRIBED, DROPPED, INDEX = "catalog.json", "dropped", "vector_idx"


def schema(size: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("named", pa.bool_(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("stamp", pa.string(), nullable=False),
            pa.field("thumbnail", pa.binary(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), size), nullable=False),
        ]
    )


@contextmanager
def errors_of_the_system() -> Iterator[None]:
    """A full disk, a file that is gone or damaged, and the like as OSErrors: LanceDB tells of them as of its own."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if code := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), "the catalogue") from error
        reason = re.sub(r"^lance error: |, /[^ ]*$", "", str(error).partition("\n")[0])  # the place in Lance's code
        raise OSError(errno.EIO, f"damaged ({reason}); {ANEW}", "the catalogue") from error


class LanceStore:
    """The catalogue of a folder.

    Raises:
        InputError: LanceDB cannot have one of this name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)
        if NOT_IN_NAMES.search(self.where):
            raise InputError(
                f"a catalogue's folder has a name in UTF-8 without control characters, got {printable(self.where)}; "
                "name another"
            )

    @cached_property
    def database(self) -> lancedb.DBConnection:
        return lancedb.connect(self.folder / "tables")  # makes the folder

    def description(self) -> dict[str, Any] | None:
        try:
            return read_mapping(self.folder / DESCRIBED, json.loads, ANEW)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def publish(self, description: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self.folder / DESCRIBED, json.dumps(description, indent=1).encode())

    @errors_of_the_system()
    def table(self, name: str, size: int, make: bool = True) -> "LanceTable":
        if not make and name not in self.tables():
            raise InputError(f"{self.where}: its pictures are gone (no {name}); {ANEW}")
        try:
            self.database.create_table(name, schema=schema(size), exist_ok=True)
            return LanceTable(self.database, name)
        except ValueError as error:
            other = LanceTable(self.database, name).size
            raise InputError(
                f"expected embeddings of {size} numbers in {name} of {self.where}, found {other}"
            ) from error

    def tables(self) -> list[str]:
        return list(self.database.list_tables(limit=1000).tables)

    def drop(self, name: str) -> None:
        # First out of the way: what a killed process leaves of it would be found in a later table of this name.
        (self.folder / "tables" / f"{name}.lance").rename(self.folder / DROPPED)
        shutil.rmtree(self.folder / DROPPED)

    def keep_model(self, run: Path, sha256: str) -> str:
        kept = f"models/{sha256[:12]}"
        folder = self.folder / kept
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, DESCRIPTION):
            write_file(folder / name, (run / name).read_bytes())
        for other in (self.folder / "models").iterdir():
            if other != folder and not self._in_use(other.name):
                shutil.rmtree(other)
        return kept

    def model(self, kept: str) -> Path:
        return self.folder / kept

    def _in_use(self, name: str) -> bool:
        description = self.description()
        return description is not None and description["model"]["kept"] == f"models/{name}"

    @contextmanager
    def writing(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                busy = f"{self.folder}: another process is writing into it; waiting for that"
                held.enter_context(locked(self.folder / ".lock", busy))
                shutil.rmtree(self.folder / DROPPED, ignore_errors=True)
            except (FileExistsError, NotADirectoryError, PermissionError) as error:
                raise InputError(
                    f"a catalogue is a folder that can be written to, and {self.folder} cannot be ({error.strerror}); "
                    "name another with --catalog"
                ) from error
            yield


class LanceTable:
    """The pictures as one model sees them, in one Lance table."""

    def __init__(self, database: lancedb.DBConnection, name: str) -> None:
        self.database, self.name = database, name
        self.schema = self.table.schema
        self.size: int = self.schema.field("vector").type.list_size

    @property
    def table(self) -> lancedb.table.Table:
        """The table as it stands now, whoever has written into it or put another in its place."""
        # An open one that is to notice that by itself asks the disk four times in one search.
        try:
            return self.database.open_table(self.name)
        except ValueError as error:
            raise InputError(
                f"{Path(self.database.uri).parent}: its pictures are gone (no {self.name}); {ANEW}"
            ) from error

    @errors_of_the_system()
    def count(self, label: str | None = None) -> int:
        return int(self.table.count_rows(None if label is None else labelled(label)))

    @errors_of_the_system()
    def version(self) -> int:
        return int(self.table.version)

    def records(self) -> Iterator[Record]:
        with errors_of_the_system():
            for batch in self.table.search().select(KNOWN).to_batches():
                yield from (Record(**row) for row in batch.to_pylist())

    @errors_of_the_system()
    def entries(self, ids: Sequence[str]) -> list[Entry]:
        if not ids:
            return []
        rows = self.table.search().where(f"id IN ({', '.join(map(quoted, ids))})").limit(len(ids)).to_arrow()
        vectors = matrix(rows["vector"], self.size)
        others = rows.drop_columns(["vector"]).to_pylist()
        return [Entry(record(row), row["thumbnail"], vector) for row, vector in zip(others, vectors, strict=True)]

    @errors_of_the_system()
    def vectors(self) -> tuple[list[str], Vectors]:
        rows = self.table.search().select(["id", "vector"]).to_arrow()
        return rows["id"].to_pylist(), matrix(rows["vector"], self.size)

    @errors_of_the_system()
    def put(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        entries = list({entry.record.id: entry for entry in entries}.values())  # a merge would keep both of two
        columns = {name: [getattr(entry.record, name) for entry in entries] for name in KNOWN}
        vectors = np.concatenate([entry.vector for entry in entries])
        arrays = {
            **columns,
            "thumbnail": [entry.thumbnail for entry in entries],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), self.size),
        }
        rows = pa.table(arrays, schema=self.schema)
        self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    @errors_of_the_system()
    def remove(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), 1000):
            self.table.delete(f"id IN ({', '.join(map(quoted, ids[start : start + 1000]))})")

    @errors_of_the_system()
    def nearest(self, queries: Vectors, k: int, label: str | None = None) -> list[list[Found]]:
        search = self.table.search(queries, vector_column_name="vector")
        assert isinstance(search, LanceVectorQueryBuilder)
        search = (
            search.distance_type("l2")
            .limit(k)
            .ef(max(EXPLORED, 2 * k))
            .refine_factor(REFINED)
            .select([*TOLD, "_distance"])
        )
        if label is not None:
            search = search.where(labelled(label), prefilter=True)
        hits: list[list[Found]] = [[] for _ in queries]
        for row in search.to_list():
            hits[row.get("query_index", 0)].append(told(row, row["_distance"]))
        return [sorted(each, key=lambda near: near.order) for each in hits]

    @errors_of_the_system()
    def settle(self) -> None:
        table, count = self.table, self.count()
        pieces = table.stats()["fragment_stats"]["num_fragments"]  # type: ignore[index]
        graph = table.index_stats(INDEX) if count >= INDEXED_FROM else None
        beside, parts = (0, 0) if graph is None else (graph.num_unindexed_rows, graph.num_indices or 1)
        # Lance does not merge pictures of two parts of the index: a piece for each part stays.
        if beside > max(LEFT_OUT, count // 50) or pieces > PIECES + parts:
            # Nobody else is writing, so that files of no version are what killed writers have left.
            table.optimize(cleanup_older_than=KEPT, delete_unverified=True)
        if count >= INDEXED_FROM and (graph is None or parts >= PARTS):
            built = HnswSq(distance_type="l2", num_partitions=1, ef_construction=TRIED)
            table.create_index("vector", config=built, name=INDEX, replace=True)


def labelled(label: str) -> str:
    return f"label = {quoted(label)}"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def matrix(column: pa.ChunkedArray, size: int) -> Vectors:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, size)
