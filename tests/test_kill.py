"""Runs that are killed, or run out of disk, in processes of their own."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from nearkin.run_folder import RunFolder

pytestmark = pytest.mark.slow

OPTIONS = [
    *("--image.size", "16", "--embedding_size", "8", "--sampler.classes", "3", "--sampler.images", "4"),
    *("--steps", "150", "--schedule", "CosineAnnealingLR", "--warmup", "10", "--data.validation", "0.2"),
    *("--validate_every", "40", "--augment.rotate", "10", "--checkpoint_minutes", "0.002"),
]


def command(root, out, *more):
    return [sys.executable, "-m", "nearkin", "train", "--data", str(root), "--out", str(out), *OPTIONS, *more]


def test_killed_in_mid_epoch_it_resumes_to_the_same_weights(make_folder, tmp_path):
    root = make_folder([8] * 40)  # 16 training classes, 3 a batch: 5 batches an epoch
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    subprocess.run(command(root, whole.path), check=True, capture_output=True)

    kills, random_ = 0, random.Random(0)
    for attempt in range(20):
        process = subprocess.Popen(
            command(root, killed.path, *(["--resume"] if killed.exists() else [])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        done_before = len(killed.history())
        deadline = time.monotonic() + 120
        while process.poll() is None and len(killed.history()) < done_before + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(random_.uniform(0, 0.3))
        if process.poll() is None and attempt < 4:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait(timeout=240) == 0:
            break
    assert kills >= 2
    model = "model.safetensors"
    assert (whole.path / model).read_bytes() == (killed.path / model).read_bytes()
    results = [run.result() for run in (whole, killed)]
    for result in results:
        assert result["training"].pop("seconds") > 0
        assert result["training"].pop("peak_memory_mb") > 0
    assert results[0] == results[1]
    assert not list(killed.path.glob(".*.tmp")), "what a killed process left half-written stays out of the way"
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history()] for run in (whole, killed)]
    assert rows[0] == rows[1]


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
