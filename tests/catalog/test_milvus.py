"""The commands on a Milvus server: milvus-lite, which speaks its protocol, in a process of its own."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from uuid import uuid4

import pytest
from support import wait_for
from test_catalog import refused, searched, slowly

from nearkin.catalog import Catalog
from nearkin.embed import load
from nearkin.serve.live import Live
from nearkin.serve.problems import Problem

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")
from nearkin.catalog.milvus import DESCRIBED, MilvusStore  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that has just been started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("milvus")
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", folder, "--host", "127.0.0.1"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=log, stderr=log)
    try:
        wait_for(lambda: "listening" in (folder / "log").read_text() or process.poll() is not None, 120)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def where(server):
    """A database of the test's own: a server holds several catalogues."""
    name = f"test_{uuid4().hex}"
    pymilvus.MilvusClient(server).create_database(name)
    return f"{server}/{name}"


@pytest.mark.parametrize("text", ["{", "[]", "[" * 9000])
def test_a_damaged_description_is_one_line(nearkin, index, photos, where, text):
    index()
    pymilvus.MilvusClient(where).upsert(DESCRIBED, [{"id": "description", "text": text, "vector": [0.0, 0.0]}])
    query = photos / "class-01" / "00.png"
    answer = nearkin("search", where, query)
    refused(answer, f"the description in {where} is damaged (", "; index into another database")


def paths(where, run):
    return sorted(record.path for record in Catalog.open(where, run).table.records())


def test_the_commands(nearkin, index, run, make_run, photos, where, tmp_path):
    query, other = photos / "class-01" / "00.png", make_run(seed=1)
    refused(nearkin("search", where, query), where, "holds none")
    folder = tmp_path / "folder"
    for place in (where, folder):
        assert nearkin("index", run, photos, "--catalog", place)[1].startswith("30 pictures embedded, 0 as they were\n")
    assert index().startswith("0 pictures embedded, 30 as they were\n")

    def agree():
        for more in (["-k", 30], ["--label", "class-02"], ["--crop", "3,4,20,20"], ["--label", "mine"]):
            found, expected = searched(nearkin, where, query, *more), searched(nearkin, folder, query, *more)
            assert found["names"] == expected["names"]
            assert found["threshold"] == expected["threshold"]
            for ours, theirs in zip(found["hits"], expected["hits"], strict=True):
                assert ours.pop("distance") == pytest.approx(theirs.pop("distance"), abs=2e-4)
                assert ours == theirs

    agree()
    (photos / "class-00" / "00.png").rename(photos / "class-00" / "new.png")
    for place in (where, folder):
        assert nearkin("label", place, "mine", query)[1] == "mine: 1 picture named, 0 of them new\n"
        assert nearkin("index", run, photos, "--catalog", place, "--prune")[1].startswith("0 pictures embedded, 30 as")
        assert nearkin("index", "--upgrade", other, "--catalog", place)[1].startswith("30 pictures embedded, 0 as")
    agree()
    assert [hit["path"] for hit in searched(nearkin, where, query, "--label", "mine")["hits"]] == [str(query)]
    refused(nearkin("index", run, photos, "--catalog", where), load(run).sha256[:12], load(other).sha256[:12])


def test_a_model_that_is_elsewhere_is_named_with_run(nearkin, index, run, photos, where, tmp_path):
    index()
    query, elsewhere = photos / "class-01" / "00.png", tmp_path / "elsewhere"
    run.rename(elsewhere)
    for command in (("search", where, query), ("label", where, "mine", query), ("serve", where)):
        refused(nearkin(*command), where, f"{run}, but it is not there", "--run")
    assert nearkin("search", where, query, "--run", elsewhere)[0] == 0
    assert nearkin("label", where, "mine", query, "--run", elsewhere)[0] == 0


@pytest.fixture
def live(index, run, where):
    """What serves the photos, indexed, of a run that was named."""
    index()
    live = Live(where, run)
    yield live
    live.close()


def test_who_serves_with_a_run_takes_up_the_next_model(nearkin, live, run, make_run, where):
    other = make_run(seed=1)
    assert nearkin("index", "--upgrade", other, "--catalog", where)[0] == 0
    assert live.ask(lambda catalog: (catalog.model.sha256, catalog.table.count())) == (load(other).sha256, 30)
    assert nearkin("index", "--upgrade", run, "--catalog", where)[0] == 0
    assert live.health().model == load(run).sha256[:12]


def test_who_serves_says_that_the_next_model_is_elsewhere(nearkin, live, make_run, where, caplog):
    other = make_run(seed=1)
    assert nearkin("index", "--upgrade", other, "--catalog", where)[0] == 0
    other.rename(other.parent / "elsewhere")
    with pytest.raises(Problem, match="the server's terminal says why") as caught:
        live.health()
    assert caught.value.status == 503
    assert f"{other}, but it is not there" in caplog.messages[-1]
    (other.parent / "elsewhere").rename(other)
    assert live.health().model == load(other).sha256[:12]


def test_a_writer_who_was_killed_holds_nobody_up_for_long(nearkin, index, run, photos, where, monkeypatch, caplog):
    index()
    client = pymilvus.MilvusClient(where)
    ticket = {"id": "ticket killed", "text": '{"who": "process 1 on moon"}', "vector": [0.0, 0.0]}
    client.upsert("nearkin_catalog", [ticket])
    monkeypatch.setattr("nearkin.catalog.turn.EXPIRED", 0.5)
    monkeypatch.setattr("nearkin.catalog.turn.LOOKED", 0.1)
    assert nearkin("label", where, "mine", photos / "class-01" / "00.png")[0] == 0
    assert "process 1 on moon is writing into it; waiting for that (0 s, if it was killed)" in caplog.text
    assert not client.query("nearkin_catalog", filter='id like "ticket%"')


def test_an_upgrade_that_was_taken_for_dead_does_not_change_over(nearkin, index, make_run, where, monkeypatch):
    """Its ticket is gone before it would publish."""
    index()
    client, other = pymilvus.MilvusClient(where), make_run(seed=1)
    before = Catalog.open(where).description

    def taken_away(table):
        client.delete("nearkin_catalog", filter='id like "ticket%"')

    with monkeypatch.context() as patch:
        patch.setattr("nearkin.catalog.milvus.MilvusTable.settle", taken_away)
        refused(nearkin("index", "--upgrade", other, "--catalog", where), "another one has gone on with", "again")
    assert Catalog.open(where).description == before
    assert nearkin("index", "--upgrade", other, "--catalog", where)[1].startswith("0 pictures embedded, 30 as")


@pytest.mark.slow
def test_whoever_writes_during_an_upgrade_waits_for_it(nearkin, index, run, make_run, photos, where, caplog):
    """An index with the old model is refused in the end, one with the new model goes on, a second upgrade has nothing
    to do: no picture is lost."""
    index()
    other = make_run(seed=1)
    upgrades = [slowly("index", "--upgrade", other, "--catalog", where) for _ in range(2)]
    client = pymilvus.MilvusClient(where)
    table = f"nearkin_pictures_{load(other).sha256[:12]}"
    wait_for(lambda: client.has_collection(table), 240)
    shutil.copy(photos / "class-00" / "00.png", photos / "new.png")
    refused(nearkin("index", run, photos, "--catalog", where), load(run).sha256[:12], load(other).sha256[:12])
    assert "is writing into it; waiting for that" in caplog.text
    said = [process.communicate(timeout=240) for process in upgrades]
    assert [process.returncode for process in upgrades] == [0, 0], said
    assert Counter(out.split(" pictures")[0] for out, _ in said) == {"30": 1, "0": 1}
    assert nearkin("index", other, photos, "--catalog", where)[0] == 0
    assert paths(where, other) == sorted(map(str, photos.rglob("*.png")))


@pytest.mark.slow
def test_a_killed_index_goes_on(nearkin, run, photos, where, monkeypatch):
    process = slowly("index", run, photos, "--catalog", where)

    def rows():
        return Catalog.open(where, run).table.count()

    wait_for(lambda: MilvusStore(where).description(), 240)
    wait_for(lambda: rows() >= 6, 240)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written = rows()
    assert 6 <= written < 30
    monkeypatch.setattr("nearkin.catalog.turn.EXPIRED", 2.0)
    out = nearkin("index", run, photos, "--catalog", where)[1]
    assert out.startswith(f"{30 - written} pictures embedded, {written} as they were\n")
    assert paths(where, run) == sorted(map(str, photos.rglob("*.png")))


@pytest.mark.slow
def test_the_server_on_a_milvus(nearkin, index, run, make_run, photos, where):
    index()
    command = [sys.executable, "-m", "nearkin", "serve", where, "--port", "0", "--run", run]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[-1]

        def asked(path, data=None):
            with urllib.request.urlopen(f"{address}{path}", data=data, timeout=60) as answer:
                return json.load(answer)

        query = photos / "class-03" / "02.png"
        assert asked("api/health")["pictures"] == 30
        (first, *_) = asked("api/search", query.read_bytes())["hits"]
        assert (first["path"], first["itself"]) == ("class-03/02.png", True)
        other = make_run(seed=1)
        assert nearkin("index", "--upgrade", other, "--catalog", where)[0] == 0
        assert asked("api/health")["model"] == load(other).sha256[:12]
        assert asked(f"api/similar/{first['id']}")["hits"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 0
