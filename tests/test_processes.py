"""Several processes that do the work of one: by torchrun, over Gloo, on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support import wait_for

from nearkin import Catalog
from nearkin.checkpoint import load_checkpoint
from nearkin.run_folder import RunFolder

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

OBSERVED = (HERE / "joint_command.py",)
"""nearkin, by something that looks at how a process ends that is one of several."""


def together(processes, *command, **options):
    """Run a Python command in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    given = {"capture_output": True, "text": True, "timeout": 300, "env": environment, **options}
    return subprocess.run([sys.executable, *launcher, *map(str, command)], check=False, **given)


def started(processes, *command):
    """A Python command in so many processes, while it runs."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([*launcher, *map(str, command)], **pipes)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What each process ended with: `ended(3)[rank][case]`."""
    made = {}

    def run(processes):
        if processes not in made:
            file = tmp_path_factory.mktemp("joint") / "steps"
            done = together(processes, HERE / "joint_steps.py", file)
            assert done.returncode == 0, done.stderr
            made[processes] = [torch.load(f"{file}.{each}") for each in range(processes)]
        return made[processes]

    return run


@pytest.mark.parametrize("processes", [2, 3])
def test_their_gradients_and_steps_are_those_of_one(ended, processes):
    ((alone, _),) = ended(1)
    (first, mean), *more = ended(processes)
    others = [found for found, _ in more]
    assert mean.tolist() == [(processes - 1) / 2, -3]
    assert alone.keys() == first.keys()
    for case, expected in alone.items():
        assert first[case].keys() == expected.keys()
        for name, value in expected.items():
            error = (first[case][name] - value).abs().max() / value.abs().max().clamp_min(1e-9)
            assert error <= 1e-6, f"{case}, {name}: off by {error:.1e}"
            assert all(torch.equal(first[case][name], other[case][name]) for other in others), f"{case}, {name}"


def test_their_scores_are_those_of_one(tmp_path):
    found = []
    for processes in (1, 3):
        done = together(processes, HERE / "joint_scores.py", tmp_path / f"{processes}")
        assert done.returncode == 0, done.stderr
        found += [json.loads((tmp_path / f"{processes}.{each}").read_text()) for each in range(processes)]
    assert len(found) == 4
    assert all(each == found[0] for each in found)
    assert 0 < found[0]["few of a class, found in float32"]["map@r"] < 1


OPTIONS = [
    *("--image.size", "16", "--embedding_size", "8", "--sampler.classes", "3", "--sampler.images", "4"),
    *("--augment.rotate", "10", "--data.validation", "0.2", "--validate_every", "20"),
]


def training(root, out, *more, by=("-m", "nearkin")):
    return [*by, "train", "--data", root, "--out", out, *OPTIONS, *more]


def on_two_machines(*command):
    """Run a Python command in two processes, each started by a launcher of its own, as on two machines."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    launchers = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *meeting, "--node-rank", number, *map(str, command)],
            **pipes,
        )
        for number in "01"
    ]
    said = [each.communicate(timeout=300) for each in launchers]
    return subprocess.CompletedProcess(
        command, max(each.returncode for each in launchers), *("".join(each) for each in zip(*said, strict=True))
    )


def test_a_training_on_two_machines_begins_as_on_one_and_is_a_whole_run(make_folder, tmp_path):
    root = make_folder([8] * 20)
    (root / "class-03" / "broken.png").write_bytes(b"no picture")
    runs = []
    for name, start, by in (("one", partial(together, 1), ("-m", "nearkin")), ("two", on_two_machines, OBSERVED)):
        run = RunFolder(tmp_path / name)
        sensitive = (
            "--optimizer",
            "SGD",
            "--optimizer.lr",
            "0.3",
            "--clip_gradient",
            "0.2",
        )  # to a factor, unlike Adam
        done = start(*training(root, run.path, "--steps", "40", "--loss", "MarginLoss", *sensitive, by=by))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("recall@1") == 1
        assert done.stderr.count("broken.png") == 1
        runs.append(run)
    one, two = runs
    assert sorted(path.name for path in one.path.iterdir()) == sorted(path.name for path in two.path.iterdir())
    first, second = (run.history()[0] for run in runs)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-3)  # ten steps of float32
    expected, result = (run.result() for run in runs)
    assert result["untrained"] == expected["untrained"]
    assert result["protocol"] == expected["protocol"]
    assert result["training"]["data_order"] == expected["training"]["data_order"]
    assert result["training"]["pictures"] == expected["training"]["pictures"]


def test_what_two_began_one_ends(make_folder, tmp_path):
    root, run, whole = make_folder([8] * 20), RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    steps = (
        "--steps",
        "300",
        "--checkpoint_minutes",
        "60",
        "--levels",
        "[block2, block3]",
        "--frozen_batch_norm",
        "true",
    )
    steps = (*steps, "--micro_batch", "2", "--schedule", "CosineAnnealingLR")
    with started(2, *training(root, run.path, *steps, by=OBSERVED)) as process:
        wait_for(lambda: len(run.history()) >= 2, 120)
        process.terminate()  # torchrun passes it on
        said = process.communicate(timeout=60)[1]
    (line,) = [line for line in said.splitlines() if line.startswith("nearkin:")]
    assert "threads of Gloo" not in said
    step = int(re.search(r"stopped after step (\d+) of 300; go on with: nearkin train ", line)[1])
    state = load_checkpoint(run.checkpoint)
    assert state["step"] == step
    resumed = together(1, *training(root, run.path, *steps, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in run.history() if "loss" in row] == list(range(10, 301, 10))
    alone = together(1, *training(root, whole.path, *steps))
    assert alone.returncode == 0, alone.stderr
    for key in ("data_order", "pictures", "initial_weights"):
        assert run.result()["training"][key] == whole.result()["training"][key]
    assert run.history()[-2]["lr"] == whole.history()[-2]["lr"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_ends_the_others_in_one_line(make_folder, tmp_path, which):
    root, run = make_folder([8] * 20), RunFolder(tmp_path / "run")
    steps = ("--steps", "200", "--checkpoint_minutes", "0")
    with started(2, *training(root, run.path, *steps, by=OBSERVED)) as launcher:
        wait_for(lambda: len(run.history()) >= 2, 120)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(children[which]), signal.SIGKILL)
        said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("nearkin:")]
    assert line.startswith(f"nearkin: {'' if which else 'process 1: '}another process has ended (")
    assert line.endswith("); what was written stays: run the command again, a training with --resume")
    assert "exitcode: -9" in " ".join(said.split())
    assert "threads of Gloo" not in said
    assert "[rank" not in said  # how PyTorch begins a traceback
    step = load_checkpoint(run.checkpoint)["step"]
    assert 10 <= step < 200
    resumed = together(1, *training(root, run.path, *steps, "--resume"))
    assert resumed.returncode == 0, resumed.stderr


def rows(catalog):
    """What a catalogue holds, in the order of the ids."""
    table = Catalog.open(catalog).table
    ids, vectors = table.vectors()
    return sorted(table.records(), key=lambda each: each.id), vectors[np.argsort(ids)]


def test_what_they_evaluate_and_index_is_what_one_does(make_folder, tmp_path):
    root = make_folder([40] * 20)
    (root / "class-03" / "broken.png").write_bytes(b"no picture")
    done = together(1, *training(root, tmp_path / "run", "--steps", "20"))
    assert done.returncode == 0, done.stderr
    scores, printed, held = [], [], []
    for processes in (1, 3):
        evaluated = together(processes, "-m", "nearkin", "evaluate", tmp_path / "run", "--json")
        assert evaluated.returncode == 0, evaluated.stderr
        scores.append(json.loads(evaluated.stdout))
        catalog = tmp_path / f"catalog-{processes}"
        command = ["-m", "nearkin", "index", tmp_path / "run", root, "--catalog", catalog]
        indexed = together(processes, *command)
        assert indexed.returncode == 0, indexed.stderr
        assert indexed.stderr.count("broken.png") == 1
        printed.append(indexed.stdout.replace(str(catalog), ""))
        held.append(rows(catalog))
    again = together(processes, *command)
    assert again.stdout.startswith("0 pictures embedded, 800 as they were"), again.stderr
    assert scores[0] == scores[1]
    assert printed[0] == printed[1]
    (records, vectors), (others, more) = held
    assert records == others
    assert len(records) == 800
    assert np.array_equal(vectors, more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "nowhere"], "nearkin: expected a folder with one sub-folder"),
        (["train", "--data", "nowhere", "--out", "taken"], "taken already holds a run; go on"),
        (["train", "--data", "nowhere", "--out", "file/run"], "file/run cannot be (Not a directory)"),
        (["index", "taken", "photos", "--catalog", "catalog"], "photos does not exist; name another"),
        (["search", "catalog", "picture.png"], "nearkin: search is for one process, but torchrun started 2"),
    ],
)
def test_what_is_wrong_is_said_once(tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.yaml").write_text("")
    (tmp_path / "file").write_text("")
    done = together(2, "-m", "nearkin", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nearkin:")]
    assert message in line
