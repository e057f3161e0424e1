"""Runs that are killed, or run out of disk, in processes of their own."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearkin.checkpoint import load_checkpoint
from nearkin.run_folder import RunFolder

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
OPTIONS = [
    *("--image.size", "16", "--embedding_size", "8", "--sampler.classes", "3", "--sampler.images", "4"),
    *("--schedule", "CosineAnnealingLR", "--warmup", "10", "--data.validation", "0.2"),
    *("--validate_every", "40", "--augment.rotate", "10", "--checkpoint_minutes", "0"),
]


def command(root, out, *more, steps=150):
    own = ("--data", str(root), "--out", str(out), "--steps", str(steps))
    return [sys.executable, "-m", "nearkin", "train", *own, *OPTIONS, *more]


def assert_same(whole, other):
    """Two runs that ended with the same weights, scores and curves, bit for bit."""
    assert (whole.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()
    results = [run.result() for run in (whole, other)]
    for result in results:
        assert result["training"].pop("seconds") > 0
        assert result["training"].pop("peak_memory_mb") > 0
    assert results[0] == results[1]
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history()] for run in (whole, other)]
    assert rows[0] == rows[1]


def test_killed_fifty_times_it_ends_with_the_weights_of_one_never_stopped(make_folder, tmp_path):
    root = make_folder([8] * 40)  # 16 training classes, 3 a batch: 5 batches an epoch
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    steps = 15 * 50  # more than fifty lives can take
    subprocess.run(command(root, whole.path, steps=steps), check=True, capture_output=True)
    options = command(root, killed.path, steps=steps)[4:]
    loop = [sys.executable, HERE / "train_again_and_again.py", "50", killed.path, *options]
    done = subprocess.run(loop, capture_output=True, text=True, check=False)
    killed_, went_on, status = re.search(r"(\d+) killed, (\d+) after a step, then status (\d+)", done.stdout).groups()
    assert (killed_, status) == ("50", "0"), done.stderr[-2000:]
    assert int(went_on) >= 10, "killed before they had begun"
    assert_same(whole, killed)
    assert not list(killed.path.glob(".*.tmp")), "what a killed process left half-written stays out of the way"


def started(arguments, run, rows):
    """A training in a process of its own, once its journal has so many rows."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and len(run.history()) < rows and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_sigterm_writes_a_checkpoint_and_is_no_failure(make_folder, tmp_path):
    root = make_folder([8] * 40)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    own = ("--checkpoint_minutes", "60")
    subprocess.run(command(root, whole.path, *own), check=True, capture_output=True)
    process = started(command(root, stopped.path, *own), stopped, 2)
    told = time.monotonic()
    process.terminate()
    process.terminate()  # as a launcher does that passes on what the scheduler sends to all
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - told < 10
    assert process.returncode == 0, err
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("nearkin:")]
    step = int(re.search(r"stopped after step (\d+) of 150; go on with: nearkin train ", line)[1])
    assert load_checkpoint(stopped.checkpoint)["step"] == step
    subprocess.run(command(root, stopped.path, *own, "--resume"), check=True, capture_output=True)
    assert_same(whole, stopped)


def test_sigterm_before_the_first_step_is_no_failure(make_folder, tmp_path):
    root, run = make_folder([8] * 40), RunFolder(tmp_path / "run")
    process = subprocess.Popen(command(root, run.path), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not run.path.exists() and time.monotonic() < deadline:  # it is claimed, then the pictures are read
        time.sleep(0.005)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.splitlines()[-1] == "nearkin: stopped by SIGTERM; run the command again"
    assert not run.path.exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(make_folder, tmp_path, disk):
    place, remount = disk(3)
    root, run = make_folder([8] * 40), RunFolder(place / "run")
    filler = place / "filler"
    filler.write_bytes(bytes(1_000_000))
    failed = subprocess.run(command(root, run.path), capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    last = failed.stderr.strip().splitlines()[-1]
    assert "No space left on device; free some space and run the command again, a training with --resume" in last
    assert str(run.path) in last
    assert not list(run.path.glob(".*.tmp"))
    filler.unlink()
    remount("size=30m")
    subprocess.run(command(root, run.path, "--resume"), check=True, capture_output=True)
    whole = RunFolder(tmp_path / "whole")
    subprocess.run(command(root, whole.path), check=True, capture_output=True)
    assert (run.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
