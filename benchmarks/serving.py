"""A server under many clients: errors, latency, memory, and what it says above its capacity.

    python benchmarks/serving.py [SECONDS [PICTURES]]

A catalogue is made of drawn pictures, embedded by a convnet with random weights at 64 pixels, and served by a process
of its own. Clients are threads of this process, each with a connection that it keeps, and search by uploads (JPEG,
500 x 375) one after another: 64 of them for SECONDS (60), then 200 for ten, which is more than the server takes at
once. Of those it refuses, each waits the second that it is told to. Clients and server share the machine's processors.
"""

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from nearkin.calibration import Calibration
from nearkin.catalog import index
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model
from nearkin.models import Backbone, Embedder

CLIENTS, MANY = 64, 200
SETTLED = 10
"""Seconds after which a server has what it needs: what it takes from then on is a leak."""


@dataclass
class Load:
    """What became of the requests of some seconds: how long each took, in seconds.

    Args:
        clients: That asked at the same time.
        seconds: From the first request to the last answer.
        answered: Took this long, each.
        refused: With 503, likewise.
        errors: What else came, a line each.
        memory: MB that the server held, by seconds since the start.
    """

    clients: int
    seconds: float = 0.0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: dict[float, float] = field(default_factory=dict)

    @property
    def growth(self) -> float:
        """MB that the server took after it had settled, or after the first half of a shorter run."""
        settled = min(SETTLED, max(self.memory) / 2)
        return self.memory[max(self.memory)] - next(mb for second, mb in self.memory.items() if second >= settled)

    def __str__(self) -> str:
        total = len(self.answered) + len(self.refused) + len(self.errors)
        lines = [
            f"{self.clients} clients, {self.seconds:.0f} s: {total:,} requests, {len(self.errors):,} errors, "
            f"{len(self.answered) / self.seconds:,.0f} answers/s, {percentiles(self.answered)}",
            f"  memory of the server {max(self.memory.values()):,.0f} MB at most, {self.growth:+.1f} MB once settled",
        ]
        if self.refused:
            share = len(self.refused) / total
            lines.append(f"  refused with 503: {len(self.refused):,} ({share:.1%}), {percentiles(self.refused)}")
        return "\n".join([*lines, *(f"  {line}" for line in sorted(set(self.errors))[:5])])


def percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms"


def drawn(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG that has about the bytes of a photograph."""
    coarse = Image.fromarray(random.integers(256, size=(12, 16, 3)).astype(np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + random.normal(0, 4, (size[1], size[0], 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_catalog(place: Path, pictures: int) -> Path:
    random = np.random.default_rng(0)
    for i in range(pictures):
        file = place / "photos" / f"kind-{i % 20:02d}" / f"{i:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(drawn(random, (160, 120)))
    torch.manual_seed(0)
    architecture = Architecture("convnet", 128, "avg", True, Preprocessing(64))
    calibration = Calibration(np.linspace(0.01, 1, 100).tolist(), strangers=1000, classes=20, held_out=True)
    (place / "run").mkdir()
    Model(Embedder(Backbone("convnet").build(), 128).eval(), architecture, [], calibration).save(place / "run")
    index(place / "catalog", place / "run", place / "photos")
    return place / "catalog"


@contextmanager
def server(catalog: Path) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: host and port, and the id of the process."""
    command = [sys.executable, "-m", "nearkin", "serve", str(catalog), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().partition(" pictures at ")[2].strip()
        if not address:
            sys.exit("the server did not start")
        yield urlsplit(address).netloc, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def resident(process: int) -> float:
    """MB of memory that a process holds."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def ask(address: str, uploads: list[bytes], until: float, load: Load) -> None:
    """One client, until the time is up."""
    connection = HTTPConnection(address, timeout=60)
    while time.monotonic() < until:
        upload = uploads[len(load.answered) % len(uploads)]
        start = time.monotonic()
        try:
            connection.request("POST", "/api/search", upload)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, HTTPException, ValueError) as error:
            load.errors.append(repr(error))
            connection.close()
            continue
        took = time.monotonic() - start
        if answer.status == 200 and len(body["hits"]) == 24:
            load.answered.append(took)
        elif answer.status == 503:
            load.refused.append(took)
            time.sleep(int(answer.headers["retry-after"]))
        else:
            load.errors.append(f"{answer.status}: {body}")
    connection.close()


def run(address: str, process: int, clients: int, seconds: float) -> Load:
    random = np.random.default_rng(1)
    uploads = [drawn(random, (500, 375)) for _ in range(16)]
    load, start = Load(clients), time.monotonic()
    threads = [threading.Thread(target=ask, args=(address, uploads, start + seconds, load)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory[time.monotonic() - start] = resident(process)
        time.sleep(0.25)
    load.seconds = time.monotonic() - start
    return load


def main(seconds: float = 60, pictures: int = 1000) -> None:
    with tempfile.TemporaryDirectory() as place:
        catalog = make_catalog(Path(place), pictures)
        with server(catalog) as (address, process):
            print(f"{pictures:,} pictures, the server holds {resident(process):,.0f} MB before the first request")
            for clients, limit in ((CLIENTS, seconds), (MANY, 10)):
                print(run(address, process, clients, limit), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    main(*map(int, sys.argv[1:]))
