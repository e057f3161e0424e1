"""The contract of a catalogue's store, for LanceDB and for Milvus (milvus-lite, which speaks its protocol)."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from support import wait_for

from nearkin.catalog import lance
from nearkin.catalog.lance import LanceStore
from nearkin.catalog.store import Entry, Record, id_of, open_store
from nearkin.errors import InputError

SIZE = 8
DESCRIPTION = {"format": 1, "table": "pictures_0", "model": {"kept": "models/0", "normalize": True, "name": "Ω"}}
HOSTILE = [
    "'",
    '"',
    'it\'s "both"',
    "back\\slash",
    "ends in \\",
    "\\u0041 \\n",
    "a\nb\rc\td",
    "x'; DROP TABLE pictures; --",
    "' OR '1'='1",
    '" or id != "',
    "{label} %s $1",
    "🦜 日本語 𠮷 é é",
    "\x01\x7f",
    " ",
    "",
    "null",
    "l" * 1000,
    "日" * 1000,
]


@pytest.fixture(params=["lance", "milvus"])
def reopen(request, tmp_path):
    """Open the store of this test as a process that has just started does."""
    if request.param == "lance":
        yield lambda: LanceStore(tmp_path / "catalog")
        return
    pytest.importorskip("pymilvus")
    server = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    from nearkin.catalog.milvus import MilvusStore

    file = str(tmp_path / "catalog.db")

    def start():
        server.release_server(file)
        return MilvusStore(file)

    yield start
    server.release_server(file)


@pytest.fixture
def store(reopen):
    return reopen()


@pytest.fixture
def table(store):
    return store.table("pictures_0", SIZE)


def another_handle(store):
    """The store as a second process has it that runs beside this one."""
    return type(store)(store.folder if isinstance(store, LanceStore) else store.where)


def entry(path, vector, label=None, named=False):
    path = f"/photos/{path}"
    record = Record(id_of(path), path, label, named, id_of(f"content of {path}"), len(path) << 33, f"1 2 {path}")
    return Entry(record, bytes([255, 216, 0, len(path) % 256]), np.asarray(vector, np.float32))


def some(n, label=None, seed=0, name="p"):
    """Pictures of embeddings whose distances are exact in float32, many of them equal."""
    vectors = np.random.default_rng(seed).integers(-2, 3, (n, SIZE))
    return [entry(f"{name}{i:05d}.jpg", vector, label) for i, vector in enumerate(vectors)]


def is_of(near, entry):
    """Whether a search tells of a picture what is known of it."""
    told = {name: value for name, value in asdict(near).items() if name != "distance"}
    return told.items() <= asdict(entry.record).items() and len(told) == 4


def same(found, expected):
    """The entries, in any order, to the last bit."""
    assert sorted(each.record.id for each in found) == sorted(each.record.id for each in expected)
    known = {each.record.id: each for each in expected}
    for each in found:
        assert each.record == known[each.record.id].record
        assert each.thumbnail == known[each.record.id].thumbnail
        assert each.vector.dtype == np.float32
        assert np.array_equal(each.vector, known[each.record.id].vector)


def holds(table, expected):
    """All that a table says agrees with the entries that it should have."""
    assert table.count() == len(expected)
    records = list(table.records())
    assert len(records) == len(expected)
    assert {each.id: each for each in records} == {each.record.id: each.record for each in expected}
    same(table.entries([each.record.id for each in expected]), expected)
    ids, vectors = table.vectors()
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(expected), SIZE)
    known = {each.record.id: each.vector for each in expected}
    assert sorted(ids) == sorted(known)
    assert all(np.array_equal(known[id], vector) for id, vector in zip(ids, vectors, strict=True))


def reference(entries, query, k, label=None):
    """Distances and paths of the k nearest, one by one in float64."""
    pairs = [
        (float(np.linalg.norm(each.vector.astype(np.float64) - query.astype(np.float64))), each.record)
        for each in entries
        if label is None or each.record.label == label
    ]
    return sorted(pairs, key=lambda pair: (pair[0], pair[1].path))[:k]


def check_nearest(table, entries, queries, k, label=None, exact=True):
    answers = table.nearest(queries, k, label)
    assert len(answers) == len(queries)
    known = {each.record.id: each for each in entries}
    for query, answer in zip(queries, answers, strict=True):
        expected = reference(entries, query, k, label)
        distances = [near.distance for near in answer]
        np.testing.assert_allclose(distances, [distance for distance, _ in expected], rtol=2e-6, atol=1e-6)
        assert len({near.id for near in answer}) == len(answer)
        assert [(near.distance, near.path) for near in answer] == sorted((near.distance, near.path) for near in answer)
        for near in answer:
            assert is_of(near, known[near.id])
            true = np.linalg.norm(known[near.id].vector.astype(np.float64) - query.astype(np.float64))
            assert near.distance == pytest.approx(true, rel=2e-6, abs=1e-6)
        last = distances[-1] if distances else 0.0  # among equals at the end, any may be left out
        if exact:
            nearer = [near.id for near in answer if near.distance < last - 1e-5]
            assert nearer == [record.id for distance, record in expected if distance < last - 1e-5]


def test_a_new_place_holds_nothing(store):
    assert store.description() is None
    assert store.tables() == []
    assert store.table("pictures_0", SIZE).count() == 0
    assert store.description() is None


def test_an_empty_table(table):
    holds(table, [])
    assert table.entries([]) == []
    assert table.entries([id_of("/photos/none")]) == []
    assert table.nearest(np.zeros((2, SIZE), np.float32), 3) == [[], []]
    assert table.nearest(np.zeros((1, SIZE), np.float32), 3, "cat") == [[]]
    table.put([])
    table.remove([])
    table.remove([id_of("/photos/none")])
    table.settle()
    holds(table, [])


def test_put_replace_remove(table):
    entries = some(20, "cat")
    table.put(entries)
    holds(table, entries)
    changed = [
        Entry(replace(each.record, label=None, named=True, stamp="new"), b"other", each.vector + 1)
        for each in entries[:7]
    ]
    more = some(5, name="q", seed=1)
    table.put([*changed, *more])
    holds(table, [*changed, *entries[7:], *more])
    table.put(changed)
    holds(table, [*changed, *entries[7:], *more])
    table.remove([each.record.id for each in [*changed[:3], *more]])
    holds(table, [*changed[3:], *entries[7:]])
    table.settle()
    holds(table, [*changed[3:], *entries[7:]])
    assert len(table.entries([entries[0].record.id, entries[10].record.id])) == 1
    check_nearest(table, [*changed[3:], *entries[7:]], np.ones((1, SIZE), np.float32), 30)


def test_the_later_of_two_with_one_id_stays(table):
    first, second = entry("a.jpg", np.zeros(SIZE), "first"), entry("a.jpg", np.ones(SIZE), "second")
    table.put([first, second])
    holds(table, [second])
    table.put([second, first])
    holds(table, [first])


def test_values_come_back_to_the_bit(table):
    vectors = np.random.default_rng(0).normal(size=(4, SIZE)).astype(np.float32)
    vectors[1] *= np.float32(1e-30)
    vectors[2] = [0.0, -0.0, 1e-45, 3e38, -3e38, 1 / 3, 16777217, 1]
    entries = [entry(f"{i}.jpg", vector, "x", named=bool(i % 2)) for i, vector in enumerate(vectors)]
    entries[3] = Entry(replace(entries[3].record, size=2**62), bytes(range(256)) * 80, vectors[3])
    entries[0] = replace(entries[0], thumbnail=b"")
    table.put(entries)
    holds(table, entries)


@pytest.mark.parametrize("k", [1, 7, 200, 1000])
def test_nearest_is_what_brute_force_finds(table, k):
    entries = [*some(150, "cat"), *some(50, "dog", seed=1, name="q")]
    entries += [entry(f"copy{i}.jpg", entries[0].vector, "cat") for i in range(12)]
    table.put(entries)
    queries = np.random.default_rng(2).integers(-2, 3, (30, SIZE)).astype(np.float32)
    queries[0] = entries[0].vector
    for label in (None, "cat", "dog", "bird"):
        check_nearest(table, entries, queries, k, label)
        check_nearest(table, entries, queries[:1], k, label)


def test_distances_of_near_duplicates(table):
    vectors = np.random.default_rng(0).normal(size=(60, SIZE)).astype(np.float32)
    vectors[30:] = vectors[:30] + np.float32(1e-4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    entries = [entry(f"{i:02d}.jpg", vector) for i, vector in enumerate(vectors)]
    table.put(entries)
    check_nearest(table, entries, vectors, 5, exact=False)
    assert [answer[0].distance for answer in table.nearest(vectors, 1)] == [0.0] * 60


def test_many_pictures_and_many_ids(table):
    entries = some(3000)
    table.put(entries)
    table.settle()
    holds(table, entries)
    check_nearest(table, entries, entries[0].vector[None], 2500)
    table.remove([each.record.id for each in entries[500:]])
    holds(table, entries[:500])


def test_an_index_finds_what_brute_force_does(tmp_path, monkeypatch):
    for name, value in {"INDEXED_FROM": 300, "LEFT_OUT": 50, "PIECES": 4}.items():
        monkeypatch.setattr(lance, name, value)
    table, random = LanceStore(tmp_path).table("pictures_0", SIZE), np.random.default_rng(0)

    def pictures(name, n, label):
        return [entry(f"{name}{i}.jpg", vector, label) for i, vector in enumerate(random.normal(size=(n, SIZE)))]

    def check(entries):
        known = {each.record.id: each for each in entries}
        for k, label in [(1, None), (10, None), (10, "rare"), (100, "cat"), (1000, None), (5, "none")]:
            queries, right, wanted = random.normal(size=(10, SIZE)).astype(np.float32), 0, 0
            for query, answer in zip(queries, table.nearest(queries, k, label), strict=True):
                expected = reference(entries, query, k, label)
                assert len({near.id for near in answer}) == len(answer) == len(expected)
                for near in answer:
                    assert is_of(near, known[near.id])
                    assert near.distance == pytest.approx(np.linalg.norm(known[near.id].vector - query), rel=1e-5)
                right += len({near.id for near in answer} & {record.id for _, record in expected})
                wanted += len(expected)
            assert right >= 0.98 * wanted, (k, label)

    entries = [*pictures("a", 600, "cat"), *pictures("b", 5, "rare")]
    table.put(entries)
    table.settle()
    assert table.table.list_indices()
    check(entries)
    moved = [replace(each, vector=np.roll(each.vector, 1)) for each in entries[:40]]
    table.put(moved)
    entries = [*moved, *entries[40:]]
    check(entries)
    table.remove([each.record.id for each in entries[:200]])
    added = pictures("c", 120, "cat")
    table.put(added)
    entries = [*entries[200:], *added]
    check(entries)
    table.settle()
    check(entries)
    holds(table, entries)
    table.remove([each.record.id for each in entries[20:]])
    check(entries[:20])
    table.settle()
    holds(table, entries[:20])


def test_single_pictures_do_not_each_become_a_part_of_the_index(tmp_path, monkeypatch):
    for name, value in {"INDEXED_FROM": 20, "LEFT_OUT": 5, "PIECES": 4}.items():
        monkeypatch.setattr(lance, name, value)
    table = LanceStore(tmp_path).table("pictures_0", SIZE)
    for i in range(6):
        table.put(some(10, name=f"many{i}"))
        table.settle()
    parts = table.table.list_indices()[0].num_segments
    for i in range(20):
        table.put(some(1, name=f"one{i}"))
        table.settle()
    assert table.table.list_indices()[0].num_segments <= parts + 20 / 4
    assert table.count() == 80


def test_hostile_labels_and_paths(table):
    queries = np.zeros((1, SIZE), np.float32)
    entries = [entry(f"{text}/{i}.jpg", [i] * SIZE, text) for i, text in enumerate(HOSTILE)]
    entries.append(entry("none.jpg", [99] * SIZE))
    table.put(entries)
    holds(table, entries)
    for each in entries[:-1]:
        (near,) = table.nearest(queries, 50, each.record.label)[0]
        assert is_of(near, each)
        same(table.entries([each.record.id]), [each])
    for label in ("no such", "'; --", "%", "_", "NULL", "\\"):
        assert table.nearest(queries, 50, label) == [[]]
    renamed = [replace(each, record=replace(each.record, label=HOSTILE[i - 1])) for i, each in enumerate(entries[:-1])]
    table.put(renamed)
    holds(table, [*renamed, entries[-1]])
    table.remove([each.record.id for each in renamed])
    holds(table, entries[-1:])


def test_count_of_a_label(table):
    pairs = zip(some(2 * len(HOSTILE)), HOSTILE * 2, strict=True)
    entries = [replace(each, record=replace(each.record, label=label)) for each, label in pairs]
    unnamed = some(3, name="q")
    table.put([*entries, *unnamed])
    assert table.count() == len(entries) + 3
    for label in HOSTILE:
        assert table.count(label) == 2
    assert table.count("none of these") == 0


def test_ids_are_only_ids(table):
    entries = some(3)
    table.put(entries)
    hostile = ["' OR '1'='1", '") or id != ("', "x') --", "\\", "a,b", "]"]
    assert table.entries(hostile) == []
    table.remove(hostile)
    holds(table, entries)


def test_publish_and_describe(store, reopen):
    store.publish(DESCRIPTION)
    assert store.description() == DESCRIPTION
    other = DESCRIPTION | {"table": "pictures_1", "quote": "'\"\\\n"}
    store.publish(other)
    assert store.description() == other
    assert another_handle(store).description() == other
    assert reopen().description() == other


def test_tables_and_drop(store):
    first, second = store.table("pictures_0", SIZE), store.table("pictures_1", 2 * SIZE)
    store.publish(DESCRIPTION)
    entries = some(4)
    first.put(entries)
    assert sorted(store.tables()) == ["pictures_0", "pictures_1"]
    assert second.count() == 0
    store.drop("pictures_1")
    assert store.tables() == ["pictures_0"]
    holds(store.table("pictures_0", SIZE), entries)
    store.drop("pictures_0")
    holds(store.table("pictures_0", SIZE), [])
    store.table("pictures_0", SIZE).put(some(3, name="q"))
    holds(store.table("pictures_0", SIZE), some(3, name="q"))


def test_what_was_written_is_there_after_reopening(store, reopen):
    table, entries = store.table("pictures_0", SIZE), some(50, "cat")
    table.put(entries)
    table.remove([entries[0].record.id])
    table = reopen().table("pictures_0", SIZE)
    holds(table, entries[1:])
    check_nearest(table, entries[1:], np.zeros((1, SIZE), np.float32), 60, "cat")
    table.put(entries[:1])
    table.settle()
    holds(reopen().table("pictures_0", SIZE), entries)


def test_what_one_handle_writes_the_other_reads_at_once(store):
    ours, theirs = store.table("pictures_0", SIZE), another_handle(store).table("pictures_0", SIZE)
    entries = some(30)
    for i in range(0, 30, 10):
        ours.put(entries[i : i + 10])
        holds(theirs, entries[: i + 10])
    theirs.remove([entries[0].record.id])
    holds(ours, entries[1:])
    ours.settle()
    renamed = [replace(each, record=replace(each.record, label="cat")) for each in entries[1:3]]
    theirs.put(renamed)
    holds(ours, [*renamed, *entries[3:]])
    check_nearest(ours, renamed, np.zeros((1, SIZE), np.float32), 5, "cat")


def test_a_write_changes_the_version(store):
    ours, theirs = store.table("pictures_0", SIZE), another_handle(store).table("pictures_0", SIZE)
    seen, entries = [ours.version()], some(3)
    for write in (
        lambda: theirs.put(entries),
        lambda: theirs.put([replace(entries[0], record=replace(entries[0].record, label="cat"))]),
        lambda: ours.remove([entries[1].record.id]),
    ):
        write()
        seen.append(ours.version())
        assert theirs.version() == ours.version()
    assert len(set(seen)) == 4
    list(ours.records())
    assert ours.version() == seen[-1]


def test_two_handles_that_write_the_same_do_not_double_it(store):
    ours, theirs = store.table("pictures_0", SIZE), another_handle(store).table("pictures_0", SIZE)
    entries = some(10)
    ours.put(entries)
    theirs.put(entries)
    ours.put(entries[5:])
    holds(theirs, entries)


def test_a_table_of_another_embedding_size_is_refused(store):
    store.table("pictures_0", SIZE).put(some(3))
    with pytest.raises(InputError, match=rf"embeddings of {SIZE + 1} numbers in pictures_0 .*, found {SIZE}$"):
        store.table("pictures_0", SIZE + 1)
    holds(store.table("pictures_0", SIZE), some(3))


def test_the_model_is_found_again(store, reopen, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    files = {"model.safetensors": b"weights", "model.json": b"{}"}
    for name, content in files.items():
        (run / name).write_bytes(content)
    kept = store.keep_model(run, "0123456789abcdef")
    folder = reopen().model(kept)
    assert {name: (folder / name).read_bytes() for name in files} == files


def test_a_second_writer_waits_for_the_first(store, monkeypatch, caplog):
    monkeypatch.setattr("nearkin.catalog.turn.LOOKED", 0.05)
    other, order = another_handle(store), []

    def second():
        with other.writing():
            order.append("second")
            other.table("pictures_0", SIZE).put(some(3))

    with ThreadPoolExecutor(1) as thread:
        with store.writing():
            waiting = thread.submit(second)
            wait_for(lambda: any("is writing into it; waiting for that" in each for each in caplog.messages))
            store.table("pictures_0", SIZE).put(some(2))
            order.append("first")
        waiting.result(20)
    assert order == ["first", "second"]
    assert store.description() is None
    holds(store.table("pictures_0", SIZE), some(3))


def test_writing_lets_go(store):
    with store.writing():
        store.table("pictures_0", SIZE).put(some(2))
    with pytest.raises(KeyError), store.writing():
        raise KeyError
    with store.writing():
        holds(another_handle(store).table("pictures_0", SIZE), some(2))


def test_a_server_that_is_not_there_is_one_line():
    pytest.importorskip("pymilvus")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^no Milvus server answers at {where} .*; is it running") as caught:
            open_store(where)  # nobody listens
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no Milvus server answers at http://127\.0\.0\.1:99999"):
        open_store("http://127.0.0.1:99999")


def test_a_server_that_says_nothing_is_one_line(monkeypatch):
    milvus = pytest.importorskip("nearkin.catalog.milvus")
    monkeypatch.setattr(milvus, "CONNECTED", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^no Milvus server answers at {where} "):
            open_store(where)


def test_milvus_without_its_client_says_what_to_install():
    absent = "import sys; sys.modules['pymilvus'] = None"
    check = "from nearkin.catalog.store import open_store; open_store('http://host')"
    found = subprocess.run([sys.executable, "-c", f"{absent}; {check}"], capture_output=True, text=True, check=False)
    assert found.stderr.endswith("InputError: a catalogue in Milvus needs pymilvus: pip install 'nearkin[milvus]'\n")
