"""`nearkin data`, and whole runs on every kind of `--data`."""

import csv
import hashlib
import json
import resource
import tarfile
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow
import pytest
from pyarrow import parquet

from nearkin import config
from nearkin.data.source import PUBLISHED
from nearkin.embed import load
from nearkin.errors import InputError
from nearkin.run_folder import RunFolder

SMALL = [
    "--image.size",
    "16",
    "--embedding_size",
    "8",
    "--sampler.classes",
    "2",
    "--sampler.images",
    "2",
    "--steps",
    "2",
]


@pytest.fixture
def serve(tmp_path):
    """Offer what lies in a folder over HTTP: `serve(name)` is its address."""
    place = tmp_path / "served"
    place.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=place)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield place, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def published(monkeypatch):
    """Let a small set stand for the one of its name."""
    return lambda small: monkeypatch.setitem(PUBLISHED, small.name, small)


def pack(root, small, place, url):
    """The files of a set, packed from its tree as they are published, and the set that is to be got from there."""
    files = []
    for file in small.files:
        path = place / file.name
        if file.name.endswith(".tgz"):
            with tarfile.open(path, "w:gz") as tar:
                tar.add(root / file.folder, file.folder)
        elif file.name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                for each in sorted((root / file.folder).rglob("*")):
                    archive.write(each, each.relative_to(root))
        else:
            path.write_bytes((root / file.name).read_bytes())
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        files.append(replace(file, md5=md5, urls=(f"{url}/{file.name}",)))
    return replace(small, files=tuple(files))


@pytest.mark.parametrize("name", ["cub200", "cars196", "sop"])
def test_get_then_check_then_get_again(name, request, nearkin, serve, published, tmp_path):
    root, small = request.getfixturevalue({"cub200": "small_cub", "cars196": "small_cars", "sop": "small_sop"}[name])()
    published(pack(root, small, *serve))
    target = tmp_path / "got"
    status, out, err = nearkin("data", "check", name, "--root", target)
    assert (status, out) == (2, "")
    assert f"get it with: nearkin data get {name} --root {target}" in err
    for action in ("get", "check", "get"):
        status, out, _ = nearkin("data", action, name, "--root", target)
        assert (status, out) == (0, f"{small.title} in {target}: {small.counts}, all there and none empty\n")
    images, _ = small.open(target)
    assert images.labels.tolist() == small.open(root)[0].labels.tolist()
    images.paths[3].unlink()
    status, out, err = nearkin("data", "check", name, "--root", target)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"1 of {len(images.paths)} pictures missing or empty: {images.paths[3].relative_to(target)}; move" in err


def test_the_default_root_is_below_data(nearkin, small_cub, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published(small_cub(root=tmp_path / "data" / "cub200")[1])
    status, out, _ = nearkin("data", "check", "cub200")
    assert status == 0
    assert f"in {tmp_path / 'data' / 'cub200'}: 12 pictures of 4 classes to train on and 15 of 5 to test on" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "required: action, name; see nearkin data --help"),
        (["data", "got", "cub200"], "invalid choice: 'got'"),
        (["data", "get", "cub"], "unknown data set 'cub'; did you mean cub200?"),
        (["data", "check", "sop", "--rot", "x"], "--rot"),
        (
            ["data", "get", "cars196", "--root", "nowhere"],
            "car_ims.tgz (md5 d5c8f0aa497503f355e17dc7886c3f14) and cars_annos",
        ),
        (["data", "check", "cars196", "--root", "nowhere"], "get it with: nearkin data get cars196 --root"),
        (["train", "--data", "cub200", "--data.root", "nowhere"], "get it with: nearkin data get cub200 --root"),
        (["train", "--data", "missing.csv"], "missing.csv does not exist"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(nearkin, arguments, message):
    status, out, err = nearkin(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_no_network_is_one_line_that_names_the_file_and_where_it_is_from(nearkin, small_cub, published, tmp_path):
    _, small = small_cub()
    published(replace(small, files=(replace(small.files[0], urls=("http://127.0.0.1:9/CUB_200_2011.tgz",)),)))
    status, out, err = nearkin("data", "get", "cub200", "--root", tmp_path / "new")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "http://127.0.0.1:9/CUB_200_2011.tgz: [Errno 111] Connection refused" in err
    assert f"from https://data.caltech.edu/records/65de6-vp158 into {tmp_path / 'new'}" in err
    assert "bring CUB_200_2011.tgz (md5 97eceeb196236b17998738112f37df78)" in err


def test_a_root_that_cannot_be_made(nearkin, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = nearkin("data", "get", "cub200", "--root", tmp_path / "file")
    assert (status, err.count("\n")) == (2, 1)
    assert f"--root expects a folder, but there is a file at {tmp_path / 'file'} or above" in err
    assert nearkin("data", "get", "cub200", "--root", tmp_path / "file" / "below")[0] == 2


def test_a_full_disk_is_one_line_and_the_command_goes_on_when_there_is_room(
    nearkin, small_cub, serve, published, tmp_path
):
    root, small = small_cub()
    small = pack(root, small, *serve)
    published(small)
    target = tmp_path / "got"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # no file may grow beyond this
    try:
        status, _, err = nearkin("data", "get", "cub200", "--root", target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    assert err.splitlines()[-1].startswith(f"nearkin: {target}: File too large; make room there or name another --root")
    assert [path.name for path in target.iterdir()] == ["CUB_200_2011.tgz.part"]
    assert nearkin("data", "get", "cub200", "--root", target)[0] == 0


# What `--data` and its keys become.


def data_of(*arguments):
    return config.read(list(arguments)).config["data"]


def test_the_forms_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = {"root": str(tmp_path / "data" / "cub200"), "name": "cub200", "validation": 0.0, "fold": 0, "cache": None}
    assert data_of("--data", "cub200") == default
    assert data_of("--data.name", "cub200") == default
    elsewhere = {**default, "root": "/birds"}
    assert data_of("--data", "cub200", "--data.root", "/birds") == elsewhere
    assert data_of("--data.root", "/birds", "--data", "cub200") == elsewhere
    assert data_of("--data", "cub200", "--data.validation", "0.2") == {**default, "validation": 0.2, "fold": 0}
    assert data_of("--data.validation", "0.2", "--data", "cub200") == {**default, "validation": 0.2, "fold": 0}
    assert data_of("--data", "./cub200") == {
        "root": str(tmp_path / "cub200"),
        "name": None,
        "validation": 0.0,
        "fold": 0,
        "cache": None,
    }
    assert data_of("--data", "list.csv") == {
        "root": str(tmp_path / "list.csv"),
        "name": None,
        "validation": 0.0,
        "fold": 0,
        "cache": None,
    }


def test_data_of_the_command_line_replaces_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("data: cub200", "data: {name: cub200}", "data: {name: cub200, root: /birds, validation: 0.0}"):
        (tmp_path / "c.yaml").write_text(text)
        assert data_of("c.yaml")["name"] == "cub200"
        assert data_of("c.yaml", "--data", "/mine") == {
            "root": "/mine",
            "name": None,
            "validation": 0.0,
            "fold": 0,
            "cache": None,
        }
        assert data_of("c.yaml", "--data.root", "/b") == {
            "root": "/b",
            "name": "cub200",
            "validation": 0.0,
            "fold": 0,
            "cache": None,
        }
    (tmp_path / "c.yaml").write_text("data: {root: /mine, validation: 0.2}")
    expected = {"root": str(tmp_path / "data" / "sop"), "name": "sop", "validation": 0.2, "fold": 0, "cache": None}
    assert data_of("c.yaml", "--data", "sop") == expected


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        (["--data", "cub200"], "cub200"),
        (["--data", "cub200", "--data.root", "/birds"], "cub200"),
        (["--data", "/x/list.csv"], "list"),
        (["--data", "/x/shop.v2.parquet"], "shop.v2"),
        (["--data", "/x/shop.v2"], "shop.v2"),
    ],
)
def test_a_run_is_called_as_its_data(arguments, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.read(arguments).config["out"] == str(tmp_path / "runs" / run)


def test_a_name_that_no_data_set_has():
    with pytest.raises(InputError, match=r"unknown data set 'cars'; did you mean cars196?"):
        data_of("--data.name", "cars")


# Whole runs.


def check_run(nearkin, run, trained, scored):
    """A finished run: which classes it knows, that `evaluate`, `report` and its own configuration repeat its scores."""
    result = RunFolder(run).result()
    assert load(run).trained_classes == trained
    assert result["protocol"]["test_classes"] == scored
    status, out, _ = nearkin("evaluate", run, "--json")
    assert status == 0
    assert json.loads(out) == pytest.approx(result["trained"])
    again = run.parent / "again"
    assert nearkin("train", run / "config.yaml", "--out", again)[0] == 0
    for key in ("untrained", "trained", "protocol"):
        assert RunFolder(again).result()[key] == result[key]
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_run_on_a_data_set_with_a_name(nearkin, small_cub, published, tmp_path, monkeypatch):
    root, small = small_cub()
    published(small)
    run = tmp_path / "run"
    arguments = ["--data", "cub200", "--data.root", root, "--data.validation", "0.5", "--out", run, *SMALL]
    status, out, _ = nearkin("train", *arguments)
    assert status == 0
    assert "15 pictures of 5 unseen classes" in out
    images, _ = small.open(root)
    check_run(nearkin, run, images.classes[:4], 5)
    assert RunFolder(run).config()["data"] == {
        "root": str(root),
        "name": "cub200",
        "validation": 0.5,
        "fold": 0,
        "cache": None,
    }
    assert nearkin("report", run)[0] == 0
    assert "cub200" in (run / "report.html").read_text()

    # Moved, the name stays; another set is scored on its test classes, all of which are new.
    scores = json.loads(nearkin("evaluate", run, "--json")[1])
    root.rename(tmp_path / "moved")
    assert nearkin("evaluate", run)[0] == 2
    assert json.loads(nearkin("evaluate", run, "--data.root", tmp_path / "moved", "--json")[1]) == pytest.approx(scores)
    both = ["--data", "cub200", "--data.root", tmp_path / "moved"]
    assert json.loads(nearkin("evaluate", run, *both, "--json")[1]) == pytest.approx(scores)


def table(make_folder, tmp_path, splits):
    root = make_folder([4] * len(splits))
    rows = [["path", "label", "split"]]
    for path in sorted(root.rglob("*.png"), reverse=True):
        rows.append([str(path.relative_to(tmp_path)), path.parent.name, splits[int(path.parent.name[-2:])]])
    return rows


SPLITS = ["test", "train", "train", "test", "validation", "validation", "test"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_run_on_a_manifest(nearkin, make_folder, tmp_path, kind):
    rows = table(make_folder, tmp_path, SPLITS)
    file = tmp_path / f"list.{kind}"
    if kind == "csv":
        with open(file, "w", newline="") as opened:
            csv.writer(opened).writerows(rows)
    else:
        parquet.write_table(pyarrow.table(dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))), file)
    run = tmp_path / "run"
    status, out, _ = nearkin("train", "--data", file, "--out", run, *SMALL)
    assert status == 0
    assert "12 pictures of 3 unseen classes" in out
    check_run(nearkin, run, ["class-01", "class-02", "class-04", "class-05"], 3)
    assert any("validation/recall@1" in row for row in RunFolder(run).history())
    assert nearkin("report", run)[0] == 0


def test_evaluate_takes_all_three_forms_and_only_the_test_classes_of_a_split(
    nearkin, make_folder, small_cub, published, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    assert nearkin("train", "--data", make_folder([4] * 6), "--out", run, *SMALL)[0] == 0  # on class-00 to class-02
    counted = []
    monkeypatch.setattr(
        "nearkin.evaluate.Protocol.score",
        lambda self, embeddings, labels: counted.append(len(labels)) or {"recall@1": 0.5},
    )
    root, small = small_cub()
    published(small)
    other = make_folder([3] * 5, name="other")
    lines = [f"{path},{path.parent.name}" for path in sorted(other.rglob("*.png"))]
    plain, given = tmp_path / "plain.csv", tmp_path / "given.csv"
    plain.write_text("\n".join(["path,label", *lines]))
    parts = {"class-00": "test", "class-01": "train", "class-02": "train", "class-03": "test", "class-04": "train"}
    given.write_text("\n".join(["path,label,split", *(f"{line},{parts[line[-8:]]}" for line in lines)]))
    for arguments, pictures in (
        (["--data", other], 6),  # class-03 and class-04
        (["--data", plain], 6),
        (["--data", given], 3),  # class-03: class-00 was trained on, class-04 trains in that split
        (["--data", "cub200", "--data.root", root], 15),
    ):
        assert nearkin("evaluate", run, *arguments, "--json")[0] == 0
        assert counted.pop() == pictures
    given.write_text("\n".join(["path,label,split", *(f"{line},train" for line in lines)]))
    status, _, err = nearkin("evaluate", run, "--data", given)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{given} puts no class into its split test" in err
    given.write_text("\n".join(["path,label,split", *(f"{line},test" for line in lines if "class-00" in line)]))
    status, _, err = nearkin("evaluate", run, "--data", given)
    assert (status, err.count("\n")) == (2, 1)
    assert "the model was trained on all 1 test class of" in err
