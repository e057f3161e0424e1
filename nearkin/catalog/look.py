"""A group of pictures -> what belongs into a catalogue of them: read, recognised, embedded, and not yet written."""

import hashlib
import io
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image

from nearkin.catalog.store import Entry, Record, id_of
from nearkin.data import prefetch
from nearkin.data.images import Picture, UnreadableImage, open_picture, read_image, refusal, to_square, unreadable
from nearkin.data.preprocessing import Preprocessing
from nearkin.embed import Model
from nearkin.processes import rank, world_size
from nearkin.progress import Bar

AT_ONCE = 256
"""Pictures between two writes."""

THUMBNAIL = 160
"""Longer side of the copies, in pixels."""


@dataclass(frozen=True)
class Job:
    """A picture that belongs into a catalogue, and what is said of it."""

    path: Path
    label: str | None
    named: bool = False


@dataclass(frozen=True)
class Ready:
    """A picture on its way into a catalogue.

    Args:
        record: What will be known of it.
        square: What the model sees.
        thumbnail: A small copy.
    """

    record: Record
    square: Picture
    thumbnail: bytes


@dataclass(frozen=True)
class Moved:
    """A picture whose embedding and small copy are those of another row.

    Args:
        record: What will be known of it.
        source: Id of that row.
    """

    record: Record
    source: str


@dataclass(frozen=True)
class Seen:
    """A group of pictures that was looked at.

    Args:
        embedded: Those that the model has just seen.
        moved: Those of whose content there is a row.
        unreadable: By path, why.
    """

    embedded: list[Entry]
    moved: list[Moved]
    unreadable: dict[str, str]


def look(
    model: Model, jobs: Sequence[Job], known: dict[str, Record], moved: dict[str, Record]
) -> Generator[Seen, None, None]:
    """Read pictures, group by group, and embed those of whose content the catalogue has no embedding; write nothing.

    Of several processes each takes every so manieth group, and all take as many, of which the last may be empty.

    Args:
        model: What embeds.
        jobs: The pictures.
        known: The rows of the catalogue, by id.
        moved: Rows that no job is about, by content: a job that has it is taken for that picture in another place.
    """
    round_ = AT_ONCE * world_size()
    starts = range(0, len(jobs), round_)
    mine = [jobs[start + AT_ONCE * rank() : start + AT_ONCE * (rank() + 1)] for start in starts]
    with ThreadPoolExecutor(os.cpu_count()) as threads, Bar("indexing", len(jobs)) as bar:

        def read(group: Sequence[Job]) -> list[Ready | Moved | UnreadableImage | None]:
            return list(threads.map(lambda job: prepare(job, known, moved, model.architecture.image), group))

        for start, group, results in zip(starts, mine, prefetch(read, mine), strict=True):
            yield see(model, group, results)
            bar.advance(min(round_, len(jobs) - start))


def see(model: Model, group: Sequence[Job], results: Sequence[Ready | Moved | UnreadableImage | None]) -> Seen:
    """Embed what was read of a group."""
    ready = [each for each in results if isinstance(each, Ready)]
    embedded = []
    if ready:
        squares = torch.from_numpy(np.stack([each.square for each in ready])).permute(0, 3, 1, 2)
        vectors = model.run(torch.split(squares, model.batch))
        embedded = [Entry(each.record, each.thumbnail, vector) for each, vector in zip(ready, vectors, strict=True)]
    pairs = zip(group, results, strict=True)
    unread = {str(job.path): str(each) for job, each in pairs if isinstance(each, UnreadableImage)}
    return Seen(embedded, [each for each in results if isinstance(each, Moved)], unread)


def prepare(
    job: Job, known: dict[str, Record], moved: dict[str, Record], preprocessing: Preprocessing
) -> Ready | Moved | UnreadableImage | None:
    """Read a picture; None if the catalogue has it as it is and as it is called. Otherwise as `look`."""
    path = str(job.path)
    here = known.get(id_of(path))
    try:
        path.encode()
        with open_picture(path) as file:
            stat = os.fstat(file.fileno())  # before the content: a change in between shows the next time
            stamp = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            data = None if here is not None and here.stamp == stamp else file.read()
    except UnicodeEncodeError:
        return refusal(path, "its name is not UTF-8; rename it")
    except OSError as error:
        return unreadable(path, error)
    sha256 = here.sha256 if here is not None and data is None else hashlib.sha256(data or b"").hexdigest()
    same = here if here is not None and here.sha256 == sha256 else moved.get(sha256)
    label, named = job.label, job.named
    if not named:
        by_person = next((each for each in (same, here) if each is not None and each.named), None)
        if by_person is not None:  # who knows better than a folder, and named the picture, wherever it is now
            label, named = by_person.label, True
        elif label is None and here is not None:
            label = here.label
    record = Record(id_of(path), path, label, named, sha256, stat.st_size, stamp)
    if record == here:
        return None
    if same is not None:
        return Moved(record, same.id)
    assert data is not None  # else it would be as it was here
    try:
        return Ready(record, *views(data, path, preprocessing))
    except UnreadableImage as error:
        return error


def views(data: bytes, path: str, preprocessing: Preprocessing) -> tuple[Picture, bytes]:
    """What the model sees of a file's content, exactly as of the same file in a search; and a small copy, JPEG."""
    file = io.BytesIO(data)
    file.name = path
    picture = read_image(file, at_least=preprocessing.side)
    square = to_square(picture, preprocessing.side, preprocessing.fit)
    if min(picture.shape[:2]) < THUMBNAIL:  # a JPEG may have been decoded too small for a copy
        picture = read_image(data, at_least=THUMBNAIL)
    small = Image.fromarray(picture)
    small.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    return square, simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=80)
