"""Pictures -> a catalogue: what is new or changed is embedded, the rest is left alone.

Every group of pictures that was embedded is written at once and stays, whatever becomes of the process: the same
command goes on where it was stopped.
"""

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nearkin.catalog.catalog import FORMAT, check_model, described, existing, model_of
from nearkin.catalog.look import Job, Seen, look, prepare
from nearkin.catalog.store import Record, Store, Table, id_of, open_store
from nearkin.data.folder import count, files_below, names
from nearkin.data.images import UnreadableImage
from nearkin.data.preprocessing import Preprocessing
from nearkin.embed import Model, load
from nearkin.errors import InputError, check_unicode
from nearkin.processes import collect, once, rank

log = logging.getLogger("nearkin")


@dataclass(frozen=True)
class Done:
    """What became of the pictures.

    Args:
        embedded: Were new, or their content had changed.
        kept: Were there, as they are now; their place, or what is said of them, may have changed.
        unreadable: Cannot be read as pictures; one line for each, its path and why.
        gone: Are in the catalogue, but no file is in their place.
        removed: How many of these were taken out.
    """

    embedded: int
    kept: int
    unreadable: list[str]
    gone: list[str]
    removed: int

    def __str__(self) -> str:
        parts = [f"{count(self.embedded, 'picture')} embedded", f"{self.kept:,} as they were"]
        if self.unreadable:
            parts.append(f"{len(self.unreadable):,} unreadable")
        if self.removed:
            parts.append(f"{self.removed:,} that are gone removed")
        elif self.gone:
            parts.append(f"{len(self.gone):,} gone, but still in the catalogue (--prune takes them out)")
        return ", ".join(parts)


def index(where: str | Path, run: Path, photos: Path, prune: bool = False, ray: str | None = None) -> Done:
    """Bring the pictures below a folder into a catalogue, which is made if there is none.

    Args:
        where: Place of the catalogue: a folder, or `http://HOST:19530`.
        run: Folder of the run whose model embeds them.
        photos: The folder. The sub-folder of a picture is its label.
        prune: Take out pictures that are gone, from below this folder or to it.
        ray: Address of the Ray cluster that embeds them, as in `on_ray.look_on_ray`; this process does, unless given.

    Raises:
        InputError: The catalogue was made with another model; there is no picture.
    """
    photos = photos.expanduser().resolve()
    if not photos.is_dir():
        what = "is a file" if photos.exists() else "does not exist"
        raise InputError(f"expected a folder of pictures, but {photos} {what}; name another")
    model, store = load(run), open_store(where)
    if str(photos) == store.where:
        raise InputError(
            f"a catalogue is a folder of its own, and {photos} is that of the pictures; name another with --catalog"
        )
    if described(store) is None:  # nothing is made for a folder without a picture
        check_readable(photos, jobs_below(photos), model.architecture.image)

    def begin() -> tuple[str, list[Job], dict[str, Record]]:
        description = described(store)
        if description is None:
            description = describe(store, run, model)
            store.table(description["table"], model.architecture.width)
            store.publish(description)
        else:
            check_model(store, description, model)
        jobs = jobs_below(photos)  # not before: a catalogue in there is known by its description
        table = store.table(description["table"], model.architecture.width)
        return description["table"], jobs, {record.id: record for record in table.records()}

    with writing(store):
        table_name, jobs, known = once(begin)
        table = store.table(table_name, model.architecture.width)
        present = {id_of(str(job.path)) for job in jobs}
        moved = by_content(known, but=present)
        embedded, kept, unread = fill(
            table, while_there(photos, looking(model, run, ray, jobs, known, moved)), len(jobs)
        )
        if len(unread) == len(jobs):
            raise no_picture(photos, list(unread.values()))
        gone = once(lambda: left_behind(table, known, present, photos))
        if rank() == 0:
            if prune:
                table.remove([each.id for each in gone])
            table.settle()
    return Done(embedded, kept, list(unread.values()), [each.path for each in gone], len(gone) if prune else 0)


def name(where: str | Path, label: str, images: Sequence[Path], run: Path | None = None) -> Done:
    """Name pictures: those that a catalogue does not hold are added, to all the label is given.

    Args:
        where: Place of the catalogue.
        label: The name of their kind.
        images: The files.
        run: Folder of the model's run, if the catalogue cannot find it.

    Raises:
        InputError: There is no catalogue; the label is empty; a picture cannot be read: then none is named.
    """
    label = label.strip()
    if not label:
        raise InputError("expected a name for the pictures, got an empty one")
    check_unicode("a label", label)
    store = open_store(where)
    existing(store)
    with store.writing():
        description = existing(store)
        model = model_of(store, description, run)
        table = store.table(description["table"], model.architecture.width)
        files = (each.expanduser() for each in images)
        # A link keeps its name, as it does in `index`; of the same file twice one is enough.
        jobs = list(dict.fromkeys(Job(file.parent.resolve() / file.name, label, named=True) for file in files))
        known = {record.id: record for record in table.records()}
        moved = by_content(known, but={id_of(str(job.path)) for job in jobs})
        with closing(look(model, jobs, known, moved)) as groups:
            looked_at = []
            for seen in groups:
                for problem in seen.unreadable.values():
                    raise InputError(f"{problem}; nothing was named")
                looked_at.append(seen)
        for seen in looked_at:
            write(table, seen)
        table.settle()
    embedded = sum(len(seen.embedded) for seen in looked_at)
    return Done(embedded, len(jobs) - embedded, [], [], 0)


def upgrade(where: str | Path, run: Path, prune: bool = False, ray: str | None = None) -> Done:
    """Embed all pictures of a catalogue with another model, beside what it has, and change over when all are there.

    Args:
        where: Place of the catalogue.
        run: Folder of the other model's run.
        prune: Leave pictures behind that cannot be read any more.
        ray: As in `index`.

    Raises:
        InputError: There is no catalogue; pictures cannot be read, and shall not be left behind: it stays as it was.
    """
    model, store = load(run), open_store(where)
    existing(store)

    def begin() -> tuple[dict[str, Any], dict[str, Any], list[Record], dict[str, Record]]:
        description = existing(store)
        old = store.table(description["table"], description["model"]["embedding_size"])
        new = description if description["model"]["sha256"] == model.sha256 else describe(store, run, model)
        table = store.table(new["table"], model.architecture.width)
        for name in store.tables():
            if name not in (description["table"], new["table"]):
                store.drop(name)
        return description, new, list(old.records()), {record.id: record for record in table.records()}

    with writing(store):
        description, new, records, known = once(begin)
        table = store.table(new["table"], model.architecture.width)
        jobs = [Job(Path(each.path), each.label, each.named) for each in records]
        embedded, kept, unread = fill(table, looking(model, run, ray, jobs, known, {}), len(jobs))
        if unread and not prune:
            raise InputError(
                f"{count(len(unread), 'picture')} of {len(jobs):,} cannot be embedded anew "
                f"({names(list(unread.values()), 3)}); the catalogue stays as it is: bring them back, or leave them "
                "behind with --prune"
            )
        if rank() == 0:
            wanted = {each.id for each in records if each.path not in unread}
            table.remove([each for each in known if each not in wanted])
            table.settle()
            if new["table"] != description["table"]:
                store.publish(new)
                store.drop(description["table"])
    return Done(embedded, kept, [], list(unread), len(unread))


def describe(store: Store, run: Path, model: Model) -> dict[str, Any]:
    """The description of a catalogue whose pictures this model embeds; keeps the model."""
    kept = store.keep_model(run, model.sha256)
    architecture = model.architecture
    return {
        "format": FORMAT,
        "table": f"pictures_{model.sha256[:12]}",
        "model": {
            "sha256": model.sha256,
            "kept": kept,
            "embedding_size": architecture.width,
            "normalize": architecture.normalize,
            "image": vars(architecture.image),
        },
    }


def jobs_below(photos: Path) -> list[Job]:
    """The files below a folder; a sub-folder of it is the label of what lies in it at any depth.

    Raises:
        InputError: There is none.
    """
    files = sorted(files_below(photos))
    if not files:
        raise InputError(f"expected a folder of pictures, but {photos} holds no picture; name another")
    parts = [(path, path.relative_to(photos).parts) for path in files]
    return [Job(path, part[0] if len(part) > 1 else None) for path, part in parts]


def left_behind(table: Table, known: dict[str, Record], present: set[str], photos: Path) -> list[Record]:
    """Rows of pictures that are gone: from below a folder, or from elsewhere if they are in it now."""
    contents = {record.sha256 for record in table.records() if record.id in present}
    below = f"{photos}{os.sep}"
    return [
        each
        for each in known.values()
        if each.id not in present
        and (each.path.startswith(below) or (each.sha256 in contents and not os.path.lexists(each.path)))
    ]


def check_readable(photos: Path, jobs: Sequence[Job], preprocessing: Preprocessing) -> None:
    """See that a folder holds a picture.

    Raises:
        InputError: None of its files can be read.
    """
    problems = []
    for job in jobs:
        found = prepare(job, {}, {}, preprocessing)
        if not isinstance(found, UnreadableImage):
            return
        problems.append(str(found))
    raise no_picture(photos, problems)


def no_picture(photos: Path, problems: list[str]) -> InputError:
    return InputError(
        f"expected a folder of pictures, but of the {count(len(problems), 'file')} in {photos} none can be read "
        f"({names(problems, 1)}); name another"
    )


def by_content(known: dict[str, Record], but: set[str]) -> dict[str, Record]:
    """The rows, but for those of these ids, by the hash of their content; of several the one that a person named."""
    others = [each for id, each in known.items() if id not in but]
    return {each.sha256: each for each in sorted(others, key=lambda each: (each.named, each.path))}


def fill(table: Table, looked_at: Generator[Seen, None, None], jobs: int) -> tuple[int, int, dict[str, str]]:
    """Write what is new or changed; return how many were embedded, how many kept, and what cannot be read, with why.

    Of several processes each looks at its share, the first alone writes, and all return the same.
    """
    embedded, unread = 0, dict[str, str]()
    with closing(looked_at) as groups:
        for mine in groups:
            for seen in collect(mine):
                if rank() == 0:
                    write(table, seen)
                embedded += len(seen.embedded)
                unread |= seen.unreadable
                for problem in seen.unreadable.values():
                    log.warning("skipped %s", problem)
    return embedded, jobs - embedded - len(unread), unread


def while_there(photos: Path, looked_at: Generator[Seen, None, None]) -> Generator[Seen, None, None]:
    """What is seen in a folder, as long as the folder is there.

    Raises:
        InputError: It has vanished, or is empty, as the place is where something was mounted.
    """
    with closing(looked_at) as groups:
        for seen in groups:
            if seen.unreadable and (not photos.is_dir() or not any(photos.iterdir())):
                raise InputError(
                    f"{photos} is gone; what was read before is in the catalogue: bring the folder back and run the "
                    "command again"
                )
            yield seen


def looking(
    model: Model,
    run: Path,
    ray: str | None,
    jobs: Sequence[Job],
    known: dict[str, Record],
    moved: dict[str, Record],
) -> Generator[Seen, None, None]:
    """`look` here, or on a Ray cluster."""
    if ray is None:
        return look(model, jobs, known, moved)
    from nearkin.catalog.on_ray import look_on_ray

    return look_on_ray(ray, run, jobs, known, moved)


def write(table: Table, seen: Seen) -> None:
    """Write a group at once: what was embedded, and what takes over the embedding of another row."""
    rows = {row.record.id: row for row in table.entries(sorted({each.source for each in seen.moved}))}
    table.put([*seen.embedded, *(replace(rows[each.source], record=each.record) for each in seen.moved)])


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Be the one who writes, of several processes the first; another command waits."""
    with store.writing() if rank() == 0 else nullcontext():
        yield
