"""Comparisons that are stopped or killed, in processes of their own, and begun again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearkin.run_folder import RunFolder

pytestmark = pytest.mark.slow

CONFIG = """
image: {size: 16}
embedding_size: 8
sampler: {class_path: ClassBalancedSampler, init_args: {classes: 3, images: 4}}
schedule: CosineAnnealingLR
augment: {rotate: 10}
steps: 150
checkpoint_minutes: 0.002
"""


@pytest.fixture
def start(make_folder, tmp_path):
    """Start the same comparison of two methods and two seeds in a folder of this name."""
    root = make_folder([8] * 20)
    files = []
    for name, loss in (("ranked", "RankedListLoss"), ("contrast", "ContrastiveLoss")):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(f"{CONFIG}loss: {loss}\n")

    def begin(name):
        command = [
            sys.executable,
            "-m",
            "nearkin",
            "compare",
            *files,
            "--data",
            root,
            "--seeds",
            "2",
            "--out",
            tmp_path / name,
        ]
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return begin


def wait_for(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def writers(file):
    """The processes that have a file open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == file:
                found.add(int(link.parts[2]))
        except OSError:  # ended since
            continue
    return found


@pytest.fixture
def whole(start, tmp_path):
    process = start("whole")
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    return tmp_path / "whole", out


def runs(folder):
    return [RunFolder(folder / name / f"seed-{seed}") for name in ("ranked", "contrast") for seed in range(2)]


def assert_same(folder, whole):
    for ours, theirs in zip(runs(folder), runs(whole), strict=True):
        name = "model.safetensors"
        assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes()
        assert ours.result()["trained"] == theirs.result()["trained"]
        assert ours.result()["training"]["data_order"] == theirs.result()["training"]["data_order"]
    assert (folder / "comparison.csv").read_bytes() == (whole / "comparison.csv").read_bytes()


def test_stopped_and_killed_at_any_time_it_ends_where_one_never_stopped_does(start, whole, tmp_path):
    folder = tmp_path / "cut"
    for number, (method, seed, how) in enumerate(
        [
            ("ranked", 0, "terminal"),
            ("contrast", 0, "kill"),
            ("contrast", 0, "parent alone"),
            ("ranked", 1, "preempted"),
        ]
    ):
        run = RunFolder(folder / method / f"seed-{seed}")
        log = run.path / "log.txt"
        process = start("cut")
        before = len(run.history())
        wait_for(lambda: len(run.history()) >= before + 2 or process.poll() is not None)  # noqa: B023
        assert process.poll() is None
        [training] = writers(log)
        assert training != process.pid
        if how == "kill":
            os.kill(process.pid, signal.SIGKILL)
        elif how == "terminal":
            os.killpg(process.pid, signal.SIGINT)
        elif how == "preempted":  # a scheduler may say it to all processes, and more than once
            os.killpg(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGTERM)
        else:
            os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10 if how == "preempted" else 120)
        wait_for(lambda: not writers(log), 20)  # noqa: B023
        assert not (run.path / "result.json").exists()
        assert out == ""
        if how == "kill":
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == (0 if how == "preempted" else 1)
            last = err.splitlines()[-1]
            assert last.startswith("nearkin: stopped; what is finished stays, the rest goes on with: nearkin compare ")
            assert last.endswith(f"--out {folder}")
            assert "stopped after step" in log.read_text().splitlines()[-1]
            assert "Traceback" not in log.read_text() + err
        assert not (folder / "comparison.md").exists(), number

    process = start("cut")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0
    assert "ranked, seed 0 (run 1 of 4)" not in err
    assert "ranked, seed 1 (run 3 of 4): going on after step" in err
    assert "| ranked (baseline)" in out
    assert_same(folder, whole[0])


def test_a_training_that_is_killed_from_outside_is_a_row_and_the_others_go_on(start, tmp_path):
    folder = tmp_path / "shot"
    run = RunFolder(folder / "contrast" / "seed-0")
    process = start("shot")
    wait_for(lambda: len(run.history()) >= 2)
    [training] = writers(run.path / "log.txt")
    os.kill(training, signal.SIGKILL)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "contrast, seed 0" in out
    assert "1 of 4 runs failed, the first is contrast, seed 0: its process was ended by SIGKILL" in err.splitlines()[-1]
    process = start("shot")
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    assert all(run.result() for run in runs(folder))


def test_ctrl_c_again_and_again_ends_it_whatever_the_training_does(start, tmp_path):
    process = start("stuck")
    run = RunFolder(tmp_path / "stuck" / "ranked" / "seed-0")
    wait_for(lambda: len(run.history()) >= 2)
    [training] = writers(run.path / "log.txt")
    os.kill(training, signal.SIGSTOP)  # deaf to everything but a kill
    for _ in range(3):
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 1
    assert "nearkin: stopped" in process.stderr.read()
    wait_for(lambda: not writers(run.path / "log.txt"), 20)
