"""A catalogue in a folder whose writer is killed at any moment, is read by others meanwhile, or is one of two."""

import hashlib
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.forkserver import ensure_running

import numpy as np
import pytest
from PIL import Image
from support import wait_for
from test_store import SIZE, check_nearest, entry, holds, is_of

from nearkin import cli
from nearkin.catalog import Catalog, lance, look
from nearkin.catalog.lance import LanceStore, LanceTable
from nearkin.embed import load

pytestmark = pytest.mark.slow

PLACES = 400
KILLS = 50


@pytest.fixture(scope="module")
def processes():
    """New processes in a moment: forked from one that has imported what takes seconds, and has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("PYTHONWARNINGS", "ignore:lancedb fork support,ignore:optimize(cleanup_older_than=0)")
        ensure_running()
    return context


def version(place, generation):
    """What a picture is in a generation: everything but its path is another in each."""
    vector = np.random.default_rng([place, generation]).normal(size=SIZE)
    made = entry(f"{place}.jpg", vector, f"label {generation % 7}", named=bool(generation % 2))
    record = replace(made.record, stamp=str(generation), size=generation, sha256=str(generation))
    return replace(made, record=record, thumbnail=f"{place} {generation} ".encode() * 300)


def small_limits():
    """Have a hundred pictures be indexed and merged as many thousands are."""
    lance.INDEXED_FROM, lance.LEFT_OUT, lance.PIECES = 100, 30, 4


def write(folder, turn, pipe):
    """Until killed: say what comes next, do it, say that it is done."""
    small_limits()
    lance.KEPT = timedelta(microseconds=1)  # old versions go at once
    chosen, generation = random.Random(turn), 1000 * turn
    store = LanceStore(folder)
    pipe.send(("start", 0, []))
    with store.writing():
        table = store.table("pictures_0", SIZE)
        while True:
            generation += 1
            act = chosen.choices(["put", "remove", "settle", "publish"], [6, 1, 2, 1])[0]
            places = chosen.sample(range(PLACES), 40 if act == "put" else 10)
            pipe.send((act, generation, places))
            if act == "put":
                table.put([version(place, generation) for place in places])
            elif act == "remove":
                table.remove([version(place, 0).record.id for place in places])
            elif act == "settle":
                table.settle()
            else:
                store.publish({"generation": generation, "long": "x" * 10_000})
            pipe.send(None)


def killed_at(moment, processes, folder, turn):
    """Run a writer, kill it, and return what it said: operations that were done, and the one that was begun."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=write, args=(folder, turn, theirs))
    process.start()
    theirs.close()
    said = [ours.recv()]
    if turn % 3 == 0:  # in the midst of indexing or merging
        while said[-1] is None or said[-1][0] != "settle":
            said.append(ours.recv())
    time.sleep(moment)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    try:
        while True:
            said.append(ours.recv())
    except EOFError:
        ours.close()
    begun = None
    done = []
    for act in said[1:]:
        done += [begun] if act is None else []
        begun = act
    return done, begun


def after(state, act):
    """Generation of each picture, and of the description, once an operation is done."""
    what, generation, places = act
    if what == "put":
        return state | dict.fromkeys(places, generation)
    if what == "remove":
        return {place: value for place, value in state.items() if place not in places}
    return state | {"described": generation} if what == "publish" else state


def check(folder, states):
    """The catalogue is whole and in one of these states, which is returned."""
    store = LanceStore(folder)
    table = store.table("pictures_0", SIZE)
    generations = {int(record.path.split("/")[-1].removesuffix(".jpg")): record.size for record in table.records()}
    description = store.description()
    if description is not None:
        assert len(description["long"]) == 10_000
        generations["described"] = description["generation"]
    assert generations in states
    expected = [version(place, generation) for place, generation in generations.items() if place != "described"]
    holds(table, expected)
    for each in expected[:3]:
        check_nearest(table, expected, each.vector[None], 5)
    return generations


def test_killed_fifty_times(processes, tmp_path):
    chosen, state, hit = random.Random(0), {}, Counter()
    for turn in range(1, KILLS + 1):
        done, begun = killed_at(chosen.uniform(0, 0.3), processes, tmp_path, turn)
        for act in done:
            state = after(state, act)
        state = check(tmp_path, [state] if begun is None else [state, after(state, begun)])
        hit[begun and begun[0]] += 1
    assert len(state) > PLACES / 2
    assert hit["settle"] >= 10, hit
    assert hit["put"] >= 5, hit
    assert LanceStore(tmp_path).table("pictures_0", SIZE).table.list_indices()


def read(folder, stop, pipe):
    """Until told to stop: look at everything, of which there is never less; say how often that was done."""
    table, times, least = LanceStore(folder).table("pictures_0", SIZE), 0, 0
    queries = np.random.default_rng(os.getpid()).normal(size=(3, SIZE)).astype(np.float32)
    try:
        while not stop.is_set():
            for n in (table.count(), len({record.id for record in table.records()}), len(set(table.vectors()[0]))):
                assert n >= least, f"{n} pictures after {least}"
                least = n
            for query, answer in zip(queries, table.nearest(queries, 10), strict=True):
                assert len(answer) == min(10, least) or least < 50
                for near in answer:
                    place = int(near.path.split("/")[-1].removesuffix(".jpg"))
                    as_it_was = version(place, int(near.sha256))
                    assert is_of(near, as_it_was)
                    assert near.distance == pytest.approx(np.linalg.norm(as_it_was.vector - query), rel=1e-5)
            times += 1
    except BaseException as error:
        pipe.send(error)
    else:
        pipe.send(times)


def test_two_read_while_one_writes(processes, tmp_path, monkeypatch):
    for name in ("INDEXED_FROM", "LEFT_OUT", "PIECES"):
        monkeypatch.setattr(lance, name, getattr(lance, name))  # put back afterwards
    small_limits()
    table, stop, written = LanceStore(tmp_path).table("pictures_0", SIZE), processes.Event(), {}
    readers = []
    for _ in range(2):
        ours, theirs = processes.Pipe(duplex=False)
        readers.append((processes.Process(target=read, args=(tmp_path, stop, theirs)), ours))
        readers[-1][0].start()
    for generation in range(1, 41):
        places = [*range(40 * generation, 40 * generation + 40), *range(1, generation)]  # new ones and old ones
        written |= dict.fromkeys(places, generation)
        table.put([version(place, generation) for place in places])
        if generation % 3 == 0:
            table.settle()
    stop.set()
    times = [ours.recv() for _, ours in readers]
    for process, _ in readers:
        process.join()
    assert all(isinstance(each, int) and each >= 5 for each in times), times
    assert table.table.list_indices()
    holds(table, [version(*each) for each in written.items()])


def write_once(folder, pipe):
    """Put one picture, and pass on what is said meanwhile."""
    handler = logging.Handler()
    handler.emit = lambda record: pipe.send(record.getMessage())
    logging.getLogger("nearkin").addHandler(handler)
    with LanceStore(folder).writing():
        LanceStore(folder).table("pictures_0", SIZE).put([version(2, 1)])
    pipe.send("done")


def test_a_second_writer_waits(processes, tmp_path):
    store = LanceStore(tmp_path)
    ours, theirs = processes.Pipe(duplex=False)
    second = processes.Process(target=write_once, args=(tmp_path, theirs))
    with store.writing():
        table = store.table("pictures_0", SIZE)
        second.start()
        assert ours.recv() == f"{tmp_path}: another process is writing into it; waiting for that"
        table.put([version(1, 1)])
        assert not ours.poll(0.5)
        holds(table, [version(1, 1)])
    assert ours.recv() == "done"
    second.join()
    holds(table, [version(1, 1), version(2, 1)])


# The commands


def command(arguments, end=None):
    """A command as it runs by itself, but for writing three pictures at a time, and for its end."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    look.AT_ONCE = 3
    if end is not None:
        end()
    cli.main(list(map(str, arguments)))


def run_to_end(processes, *arguments, end=None):
    """Run a command until it is done, or until the end that it is given."""
    process = processes.Process(target=command, args=(arguments, end))
    process.start()
    process.join()
    assert process.exitcode == (0 if end is None else -signal.SIGKILL)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_write(number, seconds):
    """Be killed some time after a write has begun."""
    put, left = LanceTable.put, iter(range(number))

    def counted(table, entries):
        if next(left, None) is None:
            threading.Timer(seconds, die).start()
        put(table, entries)

    LanceTable.put = counted


def really_killed(seconds, where, *arguments):
    """`nearkin`, as a person starts it, killed some time after it has begun to write."""
    lock = where / ".lock"
    lock.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "nearkin", *map(str, arguments)], stdout=subprocess.DEVNULL)
    wait_for(lock.exists, 120)
    time.sleep(seconds)
    process.kill()
    process.wait()


def content(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(photos):
    return {str(path): content(path) for path in photos.rglob("*.png")}


def embeddings(run, photos):
    """Of all pictures, by content."""
    paths = sorted(photos.rglob("*.png"))
    return {content(path): vector for path, vector in zip(paths, load(run).embed(paths), strict=True)}


def rows(where, seen):
    """Contents by path, if there is a catalogue: each row is there once, and whole.

    Args:
        where: Place of the catalogue.
        seen: Embeddings by content.
    """
    store = LanceStore(where)
    if (description := store.description()) is None:
        return {}
    table = store.table(description["table"], description["model"]["embedding_size"])
    records = list(table.records())
    assert len({record.path for record in records}) == len(records) == table.count()
    for each in table.entries([record.id for record in records]):
        np.testing.assert_allclose(each.vector, seen[each.record.sha256], atol=1e-5)
        assert each.thumbnail[:2] == b"\xff\xd8"
    return {record.path: record.sha256 for record in records}


def test_an_index_that_is_killed_goes_on(processes, run, photos, tmp_path):
    chosen, seen, whole, found = random.Random(0), embeddings(run, photos), contents(photos), []
    for turn in range(8):
        where = tmp_path / f"catalog-{turn}"
        arguments = "index", run, photos, "--catalog", where
        if turn % 4 == 0:
            really_killed(chosen.uniform(0, 0.3), where, *arguments)
        else:
            run_to_end(processes, *arguments, end=partial(in_a_write, turn, chosen.uniform(0, 0.01)))
        found.append(len(rows(where, seen)))
        assert rows(where, seen).items() <= whole.items()
        run_to_end(processes, *arguments)
        assert rows(where, seen) == whole
    assert len({*found} - {0, len(whole)}) >= 3, found


def test_an_index_of_a_catalogue_that_is_there_goes_on(processes, run, photos, where):
    """Pictures come, go, change and move, and each row is of the folder as it was or as it is."""
    chosen, seen, between = random.Random(1), embeddings(run, photos), 0
    arguments = "index", run, photos, "--catalog", where, "--prune"
    run_to_end(processes, *arguments)
    for turn in range(8):
        before = contents(photos)
        for number, path in enumerate(chosen.sample(sorted(photos.rglob("*.png")), 15)):
            noise = np.random.default_rng([turn, number]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            if number % 3 == 0:
                path.rename(photos / f"moved-{turn}-{number}.png")
            elif number % 3 == 1:
                Image.fromarray(noise).save(path)
            else:
                path.unlink()
                Image.fromarray(noise).save(photos / f"new-{turn}-{number}.png")
        seen |= embeddings(run, photos)
        after = contents(photos)
        if turn % 4 == 0:
            really_killed(chosen.uniform(0, 0.3), where, *arguments)
        else:
            run_to_end(processes, *arguments, end=partial(in_a_write, turn % 4, chosen.uniform(0, 0.01)))
        found = rows(where, seen)
        assert all(sha256 in (before.get(path), after.get(path)) for path, sha256 in found.items())
        assert before.keys() & after.keys() <= found.keys(), "what was there and stays is there"
        between += found not in (before, after)
        run_to_end(processes, *arguments)
        assert rows(where, seen) == after
    assert between >= 3


def before_the_change():
    LanceStore.publish = die


def after_the_change():
    publish = LanceStore.publish
    LanceStore.publish = lambda *arguments: die(publish(*arguments))


def in_the_midst_of_the_old_table():
    def some_of_it(folder, ignore_errors=False):
        if folder.exists():
            die(next(folder.rglob("*.lance")).unlink())

    lance.shutil.rmtree = some_of_it


def between_the_files_of_a_model():
    write = lance.write_file
    lance.write_file = lambda path, data: write(path, data) if path.suffix != ".json" else die()


@pytest.mark.parametrize(
    ("end", "changed"),
    [
        (between_the_files_of_a_model, False),
        (before_the_change, False),
        (after_the_change, True),
        (in_the_midst_of_the_old_table, True),
    ],
)
def test_an_upgrade_killed_as_it_changes_over_is_of_one_model_or_the_other(
    processes, run, make_run, photos, where, end, changed
):
    other, whole = make_run(seed=1), contents(photos)
    seen = {each: embeddings(each, photos) for each in (run, other)}
    run_to_end(processes, "index", run, photos, "--catalog", where)
    run_to_end(processes, "index", "--upgrade", other, "--catalog", where, end=end)
    assert rows(where, seen[other if changed else run]) == whole
    query = photos / "class-01" / "00.png"
    assert Catalog.open(where).search(query, k=1)[0].path == str(query)
    for each in (other, run):
        run_to_end(processes, "index", "--upgrade", each, "--catalog", where)
        assert rows(where, seen[each]) == whole
        assert len(LanceStore(where).tables()) == 1
        assert not (where / "dropped").exists()
