"""A catalogue in Milvus, for those who outgrow one machine: a server or a cluster, by pymilvus.

A table is a collection `nearkin_NAME`. The collection `nearkin_catalog` holds the description, when each table was last
written, and the tickets of those who write. Several catalogues on one server are several databases of it:
`http://HOST:19530/DATABASE`. Milvus keeps no files: models stay where they are.
"""

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nearkin.catalog.store import KNOWN, TOLD, Entry, Found, Record, Vectors, id_of, record, told
from nearkin.catalog.turn import Turn
from nearkin.errors import InputError
from nearkin.files import mapping

try:
    from grpc import RpcError
    from pymilvus import CollectionSchema, DataType, MilvusClient, MilvusException
except ImportError as error:
    raise InputError("a catalogue in Milvus needs pymilvus: pip install 'nearkin[milvus]'") from error

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what it raises it logs too, with a traceback

CONNECTED = 5.0
"""Seconds within which a server is there."""

ANSWERED = 60.0
"""Seconds within which it has done what it was asked."""

AT_ONCE = 1_000
"""Rows of a request, but for `put`: with thumbnails and embeddings they are within the 100 MB of an answer."""

MOST = 16_384
"""Hits of a search, by Milvus's limit."""

LONGEST = 65_535
"""Bytes of a text, by Milvus's limit: a thumbnail of 160 pixels has less than half, in base64."""

PREFIX = "nearkin_"
DESCRIBED = "nearkin_catalog"
TICKET = "ticket "


class MilvusStore:
    """The catalogue of a database of a Milvus server.

    Args:
        uri: `http://HOST:19530`, or whatever else pymilvus connects to.

    Raises:
        InputError: The server does not answer; so do all methods, and where it refuses what it is asked.
    """

    def __init__(self, uri: str) -> None:
        self.where = uri
        self.ready: set[str] = set()
        self.turn: Turn | None = None
        try:
            self.client = MilvusClient(uri, timeout=CONNECTED)
        except (MilvusException, RpcError, ValueError) as error:
            reason = getattr(error, "message", error)
            raise InputError(f"no Milvus server answers at {uri} ({reason}); is it running?") from error

    def description(self) -> dict[str, Any] | None:
        if DESCRIBED not in self.ready and not ask(self.client.has_collection, DESCRIBED):
            return None
        self._serve(DESCRIBED)
        found = text(self.client, "description")
        if found is None:
            return None
        return mapping(found.encode(), json.loads, f"the description in {self.where}", "index into another database")

    def publish(self, description: dict[str, Any]) -> None:
        self._make(DESCRIBED, texts())
        self._check_turn()
        write_text(self.client, "description", json.dumps(description))

    def table(self, name: str, size: int, make: bool = True) -> "MilvusTable":
        if not make and name not in self.tables():
            raise InputError(f"{self.where}: its pictures are gone (no {name}); index them anew")
        self._make(DESCRIBED, texts())
        self._make(PREFIX + name, schema(size))
        fields = ask(self.client.describe_collection, PREFIX + name)["fields"]
        found = next(field["params"]["dim"] for field in fields if field["name"] == "vector")
        if int(found) != size:
            raise InputError(f"expected embeddings of {size} numbers in {name} of {self.where}, found {found}")
        return MilvusTable(self.client, PREFIX + name, size)

    def tables(self) -> list[str]:
        found = ask(self.client.list_collections)
        return [name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX) and name != DESCRIBED]

    def drop(self, name: str) -> None:
        self._check_turn()
        ask(self.client.drop_collection, PREFIX + name)
        self.ready.discard(PREFIX + name)

    def keep_model(self, run: Path, sha256: str) -> str:
        """The absolute path of the run: who opens the catalogue on another machine names the run."""
        return str(run.expanduser().resolve())

    def model(self, kept: str) -> Path:
        return Path(kept)

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._make(DESCRIBED, texts())
        self.turn = Turn(MilvusTickets(self.client), self.where)
        try:
            with self.turn.held():
                yield
        finally:
            self.turn = None

    def _check_turn(self) -> None:
        """Before what cannot be undone: see that this is still the one who writes."""
        if self.turn is not None:
            self.turn.check()

    def _make(self, collection: str, schema: CollectionSchema) -> None:
        if not ask(self.client.has_collection, collection):
            try:
                ask(self.client.create_collection, collection, schema=schema, consistency_level="Strong")
            except InputError:
                if not ask(self.client.has_collection, collection):
                    raise  # else another process has made it in this moment
        self._serve(collection)

    def _serve(self, collection: str) -> None:
        """Have a collection ready to be read, also where a process was killed just after it had made it."""
        if collection in self.ready:
            return
        if not ask(self.client.list_indexes, collection):
            index = MilvusClient.prepare_index_params("vector", index_type="AUTOINDEX", metric_type="L2")
            ask(self.client.create_index, collection, index)
        ask(self.client.load_collection, collection)
        self.ready.add(collection)


class MilvusTickets:
    """The tickets of those who write, beside the description."""

    def __init__(self, client: MilvusClient) -> None:
        self.client = client

    def read(self) -> dict[str, str]:
        rows = ask(self.client.query, DESCRIBED, filter=f'id like "{TICKET}%"', output_fields=["id", "text"])
        return {row["id"].removeprefix(TICKET): row["text"] for row in rows}

    def write(self, id: str, text: str) -> None:
        write_text(self.client, TICKET + id, text)

    def remove(self, id: str) -> None:
        ask(self.client.delete, DESCRIBED, ids=[TICKET + id])


class MilvusTable:
    """The pictures as one model sees them, in one collection."""

    def __init__(self, client: MilvusClient, collection: str, size: int) -> None:
        self.client, self.collection, self.size = client, collection, size

    def count(self, label: str | None = None) -> int:
        found = ask(self.client.query, self.collection, filter=labelled(label), output_fields=["count(*)"])
        return int(found[0]["count(*)"])

    def version(self) -> int:
        return int(text(self.client, self.collection) or 0)

    def records(self) -> Iterator[Record]:
        return map(record, self._rows(KNOWN))

    def entries(self, ids: Sequence[str]) -> list[Entry]:
        rows = [
            row
            for some in pieces(ids)
            for row in ask(self.client.get, self.collection, some, output_fields=[*KNOWN, "thumbnail", "vector"])
        ]
        return [
            Entry(record(row), base64.b64decode(row["thumbnail"]), np.array(row["vector"], np.float32)) for row in rows
        ]

    def vectors(self) -> tuple[list[str], Vectors]:
        pairs = [(row["id"], np.array(row["vector"], np.float32)) for row in self._rows(["id", "vector"])]
        return [id for id, _ in pairs], np.array([vector for _, vector in pairs], np.float32).reshape(-1, self.size)

    def put(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        once = {entry.record.id: entry for entry in entries}  # servers refuse an id twice in one request
        rows = [
            vars(entry.record)
            | {
                "kind": kind(entry.record.label),
                "thumbnail": base64.b64encode(entry.thumbnail).decode(),
                "vector": entry.vector,
            }
            for entry in once.values()
        ]
        ask(self.client.upsert, self.collection, rows)
        self._written()

    def remove(self, ids: Sequence[str]) -> None:
        for some in pieces(ids):
            ask(self.client.delete, self.collection, ids=some)
        self._written()

    def nearest(self, queries: Vectors, k: int, label: str | None = None) -> list[list[Found]]:
        answers = ask(
            self.client.search,
            self.collection,
            list(queries),
            limit=min(k, MOST),
            filter=labelled(label),
            output_fields=TOLD,
        )
        # Milvus leaves the root out of Euclidean distances.
        hits = [[told(hit["entity"], hit["distance"]) for hit in each] for each in answers]
        return [sorted(each, key=lambda near: near.order) for each in hits]

    def settle(self) -> None:
        """Nothing: Milvus indexes and merges by itself."""

    def _written(self) -> None:
        write_text(self.client, self.collection, str(time.time_ns()))  # Milvus counts no versions

    def _rows(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        """All rows, as they were at one time."""
        pages = ask(self.client.query_iterator, self.collection, batch_size=AT_ONCE, output_fields=fields)
        while page := ask(lambda timeout: pages.next()):  # the pages were asked for with a timeout
            yield from page


def schema(size: int) -> CollectionSchema:
    fields = MilvusClient.create_schema()
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
    for name in ("path", "sha256", "stamp", "thumbnail", "kind"):
        fields.add_field(name, DataType.VARCHAR, max_length=LONGEST)
    fields.add_field("label", DataType.VARCHAR, max_length=LONGEST, nullable=True)
    fields.add_field("named", DataType.BOOL)
    fields.add_field("size", DataType.INT64)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=size)
    return fields


def texts() -> CollectionSchema:
    fields = MilvusClient.create_schema()
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=255)
    fields.add_field("text", DataType.VARCHAR, max_length=LONGEST)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus has no collection without one
    return fields


def text(client: MilvusClient, name: str) -> str | None:
    rows = ask(client.get, DESCRIBED, [name], output_fields=["text"])
    return rows[0]["text"] if rows else None


def write_text(client: MilvusClient, name: str, content: str) -> None:
    ask(client.upsert, DESCRIBED, [{"id": name, "text": content, "vector": [0.0, 0.0]}])


def ask(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a method of the client answers.

    Raises:
        InputError: The server does not answer, or refuses.
    """
    try:
        return method(*arguments, timeout=ANSWERED, **options)
    except MilvusException as error:
        raise InputError(f"Milvus: {error.message}") from error
    except RpcError as error:
        raise InputError(f"Milvus does not answer: {error.details()}") from error


def pieces(ids: Sequence[str]) -> Iterator[list[str]]:
    known = [id for id in ids if id.isalnum()]  # as all that are kept; pymilvus puts others as they are into a filter
    return (known[start : start + AT_ONCE] for start in range(0, len(known), AT_ONCE))


def kind(label: str | None) -> str:
    """A label as filters have it: no quotes, no escapes, which servers read each in their own way."""
    return "" if label is None else id_of(label)


def labelled(label: str | None) -> str:
    """The filter for a label, or for none."""
    return "" if label is None else f'kind == "{kind(label)}"'
