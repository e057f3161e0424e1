"""Each target by a fuzzer that looks for inputs which reach new lines.

Here its random numbers, its number of inputs and, where the system allows that, the addresses of its memory are fixed,
so that what passed once passes again; `make fuzz` looks on with other ones. What it finds becomes a plain test beside
those of what it broke.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import broken, flipped, sound

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECONDS = os.environ.get("NEARKIN_FUZZ_SECONDS")

COMMAND_LINES = (
    "--loss AngularLoss --loss.alpha 36",
    "--loss CrossBatchMemory --loss.loss ContrastiveLoss --loss.loss.margin 0.5",
    "--backbone timm:resnet18 --levels [layer2,layer4] --backbone.weights none",
    "--schedule OneCycleLR --schedule.max_lr 0.1 --steps 90 --warmup 9",
    "--optimizer.lr=1e-3 --data.validation .2 --data.cache null --logger tensorboard",
)


def pictures():
    return [*sound().values(), *broken().values(), *flipped(1).values()]


def manifests():
    rows = {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": ["cat", "cat", "dog"], "split": ["train", "train", "test"]}
    lines = [",".join(each) for each in zip(*rows.values(), strict=True)]
    file = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), file)
    text = "\n".join([",".join(rows), *lines])
    return [text.encode(), text.replace("\n", "\r\n").encode("utf-8-sig"), b"label,path\n1,a.jpg\n", file.getvalue()]


def configurations():
    files = [file.read_bytes() for file in sorted((ROOT / "configs").rglob("*.yaml"))[::12]]
    lines = [b"seed: 1\0" + line.replace(" ", "\0").encode() for line in COMMAND_LINES]
    return [b"\0" + each for each in (*files, *lines)]


STILL = ["setarch", "--addr-no-randomize", "true"]
"""A program whose memory has the same addresses every time: the fuzzer tells inputs apart by them."""

SEEDS = {"picture": pictures, "manifest": manifests, "configuration": configurations}
"""What each target's fuzzer starts from."""

INPUTS = {"picture": 20_000, "manifest": 30_000, "configuration": 6_000}
"""How many it tries where no time is given: some 15 s each."""


@pytest.mark.parametrize("target", SEEDS)
def test_nothing_breaks_it(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: there is one for Linux on x86-64")
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    for number, content in enumerate(SEEDS[target]()):
        (seeds / str(number)).write_bytes(content)
    still = [] if SECONDS or subprocess.run(STILL).returncode else STILL[:-1]
    extent = [f"-max_total_time={SECONDS}"] if SECONDS else [f"-runs={INPUTS[target]}", "-seed=1", "-reload=0"]
    limits = ["-timeout=60", "-rss_limit_mb=3000", "-max_len=20000"]
    command = [
        *still,
        sys.executable,
        HERE / f"{target}.py",
        seeds,
        *extent,
        *limits,
        f"-artifact_prefix={tmp_path}/found-",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    found = [(file.name, file.read_bytes()) for file in tmp_path.glob("found-*")]
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}\n{found}"
    assert not found
    coverage = re.findall(r"^#(\d+)\s+(\w+)\s+cov: (\d+)", done.stderr, re.MULTILINE)
    first = next(each for each in coverage if each[1] == "INITED")
    last = coverage[-1]
    print(f"{target}: {last[0]} inputs, coverage from {first[2]} to {last[2]}")
    assert int(last[0]) >= (len(SEEDS[target]()) + 1 if SECONDS else INPUTS[target])
