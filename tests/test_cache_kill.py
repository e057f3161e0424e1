"""Caches of decoded pictures whose making is killed, runs out of disk, or is wanted twice at once."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from nearkin.data import Preprocessing, read_all, scan
from nearkin.data.cache import Cache

pytestmark = pytest.mark.slow

PREPROCESSING = Preprocessing(size=64)
ROW = 3 * 64 * 64


def command(root, cache, out):
    options = ("--image.size", "64", "--steps", "1", "--sampler.classes", "3")
    return [sys.executable, "-m", "nearkin", "train", "--data", root, "--data.cache", cache, "--out", out, *options]


def check(root, cache):
    """The cache holds every picture as it is decoded without one."""
    images, pictures = read_all(scan(root), PREPROCESSING, cache=cache)
    everything = np.arange(len(images.paths))
    assert torch.equal(pictures[everything], read_all(images, PREPROCESSING)[1][everything])


def test_killed_in_mid_build(make_folder, tmp_path):
    root, cache = make_folder([100] * 20, side=100), tmp_path / "cache"
    file, kills = Cache(cache, PREPROCESSING), 0
    for wanted in (10, 300, 700):
        process = subprocess.Popen(
            command(root, cache, tmp_path / "run"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if file.pictures.exists() and file.pictures.stat().st_size >= wanted * ROW:
                break
            time.sleep(0.001)
        kills += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not file.load().rows
    assert kills == 3
    check(root, cache)
    assert sorted(cache.iterdir()) == sorted([file.lock, file.json, file.pictures])
    assert file.pictures.stat().st_size == 2000 * ROW


def test_two_that_build_at_once(make_folder, tmp_path):
    root, cache = make_folder([50] * 20, side=100), tmp_path / "cache"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command(root, cache, tmp_path / name), **pipes) for name in "ab"]
    said = "".join(process.communicate(timeout=240)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]
    check(root, cache)
    assert Cache(cache, PREPROCESSING).pictures.stat().st_size == 1000 * ROW


def test_a_full_disk_is_one_line_and_what_was_there_stays(make_folder, tmp_path, disk):
    place, _ = disk(3)
    root, cache = make_folder([10] * 10, side=100), place / "cache"
    check(root, cache)
    file = Cache(cache, PREPROCESSING)
    before = {path: path.read_bytes() for path in cache.iterdir()}
    more = make_folder([30] * 10, side=90, name="more")
    failed = subprocess.run(command(more, cache, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    line = failed.stderr.strip().splitlines()[-1]
    assert line.startswith(f"nearkin: {file.pictures}: No space left on device; free some space and run")
    assert {path: path.read_bytes() for path in cache.iterdir()} == before
    assert not (tmp_path / "run").exists()
