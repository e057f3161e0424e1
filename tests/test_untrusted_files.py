"""Files that somebody else made, or that are damaged: no code in them runs, nothing is fetched for them, one line."""

import copy
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import outcome, write_pictures

from nearkin import cli
from nearkin.checkpoint import load_checkpoint
from nearkin.embed import load
from nearkin.errors import InputError

SMALL = ("--steps", "4", "--image.size", "16", "--sampler.classes", "2", "--embedding_size", "8", "--seed", "3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Pictures, a run that was trained on them, and a catalogue of them: nobody changes them."""
    root = tmp_path_factory.mktemp("whole")
    photos = write_pictures(root / "photos", [6] * 8)
    for command in (
        ("train", "--data", photos, "--out", root / "run", *SMALL),
        ("index", root / "run", photos, "--catalog", root / "catalog"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in command])
        assert ended.value.code == 0
    return root


@pytest.fixture
def place(finished, tmp_path):
    """A copy of all that."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


class Code:
    """What a pickle holds that writes a file as it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def refused(result):
    status, out, err = result
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("nearkin: ")
    return err


@pytest.mark.parametrize("wrapped", ["by torch", "bare"])
@pytest.mark.parametrize("file", ["weights", "weights.safetensors", "checkpoint", "model", "catalogue"])
def test_code_in_a_pickle_does_not_run(nearkin, place, tmp_path, file, wrapped):
    evil, ran, run, query = tmp_path / "evil", tmp_path / "ran", place / "run", place / "photos/class-00/00.png"
    if wrapped == "by torch":
        torch.save({"head.weight": Code(ran)}, evil)
    else:
        evil.write_bytes(pickle.dumps({"head.weight": Code(ran)}))
    content = evil.read_bytes()
    if file.startswith("weights"):
        given = evil.rename(tmp_path / file)
        new = ("--data", place / "photos", "--out", tmp_path / "new", "--backbone.weights", given)
        commands = [("train", *new, *SMALL)]
    elif file == "checkpoint":
        (run / "result.json").unlink()
        (run / "last.ckpt").write_bytes(hashlib.sha256(content).digest() + content)  # as whole as ours
        commands = [("train", run / "config.yaml", "--out", run, "--resume")]
    else:
        models = run if file == "model" else next((place / "catalog/models").iterdir())
        description = json.loads((models / "model.json").read_text())
        (models / "model.safetensors").write_bytes(content)
        (models / "model.json").write_text(json.dumps(description | {"sha256": hashlib.sha256(content).hexdigest()}))
        commands = [("search", place / "catalog", query)]
        if file == "model":
            commands = [
                ("evaluate", run),
                ("report", run),
                ("index", run, place / "photos", "--catalog", place / "new"),
            ]
    for command in commands:
        refused(nearkin(*command))
    assert not ran.exists()
    if wrapped == "by torch":  # the pickle does what it is for, where it is read without care
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content)
    assert ran.is_dir()


JUNK = (None, True, -1, 0, 0.5, 10**400, math.nan, math.inf, "", "nonsense", [], [None], ["a", 1], {}, {"size": 28})


def leaves(tree, path=()):
    """The places in a tree of dictionaries, itself and all below."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))


def changed(tree, path, value):
    """The tree with another value at a place; without it where the value is `...`."""
    if not path:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


def damaged(tree):
    """The tree with each of its places changed to each piece of junk, beside what was changed."""
    for path in leaves(tree):
        for junk in (*JUNK, *([...] if path else [])):
            yield (path, junk), changed(tree, path, junk)


def test_whatever_a_model_is_said_to_be(place):
    """It is refused in one line, or is a model whose embeddings are of the size that it was said to have."""
    file = place / "run/model.json"
    whole = json.loads(file.read_text())
    assert whole["calibration"]
    tried = 0
    for what, tree in damaged(whole):
        file.write_text(json.dumps(tree))
        model, line = outcome(InputError, load, place / "run")
        tried += 1
        if line is None:
            embeddings = model.embed([place / "photos/class-00/00.png"])
            assert embeddings.shape == (1, 8), what
            assert model.calibration is None or model.calibration.threshold(0.05, 48) > 0, what
    assert tried > 200


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[]", "1", "", '{"sha256": "\\ud800"}', "\0", "{} {}"]
)
@pytest.mark.parametrize("name", ["result.json", "model.json", "catalog.json"])
def test_json_that_is_none(nearkin, place, name, text):
    file = (place / "catalog" if name == "catalog.json" else place / "run") / name
    file.write_text(text)
    for command in {
        "result.json": [("report", place / "run")],
        "model.json": [
            ("evaluate", place / "run"),
            ("index", place / "run", place / "photos", "--catalog", place / "c"),
        ],
        "catalog.json": [("search", place / "catalog", place / "photos/class-00/00.png")],
    }[name]:
        assert str(file.parent) in refused(nearkin(*command))


def test_whatever_a_catalogue_is_said_to_be(nearkin, place):
    file, query = place / "catalog/catalog.json", place / "photos/class-00/00.png"
    whole = json.loads(file.read_text())
    for what, tree in damaged(whole):
        file.write_text(json.dumps(tree))
        status, out, err = nearkin("search", place / "catalog", query, "--json")
        assert (status, err.count("\n")) in ((0, 0), (2, 1)), (what, err)
        if status == 0:
            assert json.loads(out)["hits"][0]["path"].endswith("photos/class-00/00.png"), what


def test_whatever_a_result_is_said_to_be(nearkin, place):
    file = place / "run/result.json"
    whole = json.loads(file.read_text())
    for (path, junk), tree in damaged(whole):
        if len(path) < 2 or (path[0] == "protocol" and junk in (None, "nonsense", ...)):
            file.write_text(json.dumps(tree))
            status, _, err = nearkin("report", place / "run")
            assert (status, err.count("\n")) in ((0, 0), (2, 1)), (path, junk, err)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: 1"),
        ("config.yaml", "data: []\nprotocol: {}"),
        ("config.yaml", "data: {root: 3}\nprotocol: {}"),
        ("config.yaml", "data: {root: x, colour: red}\nprotocol: {}"),
        ("metrics.jsonl", "1\n[]\n"),
        ("metrics.jsonl", '{"step": null}\n'),
    ],
)
def test_other_files_of_a_run(nearkin, place, name, text):
    (place / "run" / name).write_text(text)
    refused(nearkin("report", place / "run"))


@pytest.mark.parametrize(
    "change", ['"ks": 3', '"colour": 1', '"kmeans_init": "x"', '"kmeans_seed": null', '"ks": ["a"]']
)
def test_a_protocol_that_is_none(nearkin, place, change):
    config = place / "run/config.yaml"
    config.write_text(config.read_text().replace("protocol:\n", f"protocol: {{{change}}}\nother:\n"))
    assert "protocol" in refused(nearkin("evaluate", place / "run"))


def test_weights_of_another_network_are_one_line(place):
    weights = place / "run/model.safetensors"
    tensors = load_file(weights)
    for change in (
        {"head.weight": torch.zeros(9, 9)},
        {"head.weight": torch.full_like(tensors["head.weight"], math.nan)},
        {"head.weight": tensors["head.weight"].long()},
        {"another": torch.zeros(1)},
    ):
        save_file(tensors | change, weights)
        description = json.loads((place / "run/model.json").read_text())
        description["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        (place / "run/model.json").write_text(json.dumps(description))
        assert "does not fit the network" in outcome(InputError, load, place / "run")[1]


def test_a_checkpoint_that_is_something_else(place):
    file = place / "run/last.ckpt"
    for content in (b"", b"PK\3\4" + bytes(100), b"text", pickle.dumps({"step": 1}, protocol=0)):
        file.write_bytes(hashlib.sha256(content).digest() + content)
        assert "is no checkpoint" in outcome(InputError, load_checkpoint, file)[1]


@pytest.mark.parametrize(
    "state", [[1], {}, {"step": "1"}, {"step": 1}, {"step": 2, "embedder": {}}, {"step": 2, "embedder": 3}], ids=str
)
def test_a_checkpoint_of_something_else(nearkin, place, state):
    run, file = place / "run", io.BytesIO()
    torch.save(state, file)
    (run / "result.json").unlink()
    (run / "last.ckpt").write_bytes(hashlib.sha256(file.getvalue()).digest() + file.getvalue())
    assert "last.ckpt is " in refused(nearkin("train", run / "config.yaml", "--out", run, "--resume"))


ALONE = """
import json, sys

asked = []

def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(arguments[1][0])
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        asked.append(str(arguments[0]))

sys.addaudithook(watch)
from nearkin import cli

for command in json.loads(sys.argv[1]):
    try:
        cli.main(command)
    except SystemExit as ended:
        print(command[0], ended.code, asked, file=sys.stderr)
"""


@pytest.mark.slow
def test_nothing_is_fetched_unless_asked_for(tmp_path):
    """Commands without any network, of which nothing in Python looks for a name or an address: weights alone do."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("needs a network namespace of its own: unshare --net")
    photos, run, query = write_pictures(tmp_path / "photos", [6] * 8), tmp_path / "run", "photos/class-00/00.png"
    commands = [
        ["train", "--data", photos, "--out", run, *SMALL],
        ["train", "--data", photos, "--out", "timm", "--backbone", "timm:resnet18", *SMALL],
        ["evaluate", run],
        ["report", run],
        ["index", run, photos, "--catalog", "catalog"],
        ["search", "catalog", query],
        ["label", "catalog", "name", query],
        ["export", run, "--onnx", "model.onnx"],
        ["doctor"],
        [
            "train",
            "--data",
            photos,
            "--out",
            "asked",
            "--backbone",
            "googlenet",
            "--backbone.weights",
            "imagenet",
            *SMALL,
        ],
    ]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ALONE, json.dumps(commands, default=str)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"TORCH_HOME": str(tmp_path / "torch")},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if line.split(" ")[0] in {command[0] for command in commands}]
    assert said[:-1] == [f"{command[0]} 0 []" for command in commands[:-1]], done.stderr
    assert said[-1].startswith("train 2 [")
    assert "download.pytorch.org" in said[-1]
    assert Path(tmp_path / "model.onnx").is_file()
