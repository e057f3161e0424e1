"""Indexing by the actors of a Ray cluster, one of which is killed in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import wait_for

from nearkin import Catalog
from nearkin.errors import InputError

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}


def indexing(run, photos, catalog, *more):
    command = [sys.executable, "-m", "nearkin", "index", run, photos, "--catalog", catalog, *more]
    return subprocess.Popen(
        map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def actors():
    """Ids of the processes of this session's actors that look at pictures."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::" in (words := status.read_bytes()) and b"Looker" in words:
                found.append(int(status.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def written(catalog):
    try:
        return Catalog.open(catalog).table.count()
    except InputError:  # not even begun
        return 0


def rows(catalog):
    table = Catalog.open(catalog).table
    ids, vectors = table.vectors()
    order = np.argsort(ids)
    return sorted(table.records(), key=lambda each: each.id), vectors[order]


def test_it_holds_what_one_process_would_have_written_though_an_actor_is_killed(make_folder, run, tmp_path):
    photos = make_folder([60] * 30, side=100, name="many")
    (photos / "class-03" / "broken.png").write_bytes(b"no picture")
    alone = indexing(run, photos, tmp_path / "alone")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0, err

    process = indexing(run, photos, tmp_path / "together", "--ray", "local")
    wait_for(lambda: written(tmp_path / "together"), 240)
    os.kill(actors()[0], signal.SIGKILL)
    assert 0 < written(tmp_path / "together") < 1800, "it was in the middle"
    again, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    # Before what the command says, Ray tells of the actor.
    assert again.replace("together", "alone").splitlines()[-2:] == out.splitlines()
    (expected, vectors), (records, others) = rows(tmp_path / "alone"), rows(tmp_path / "together")
    assert records == expected
    assert np.array_equal(others, vectors)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "here"])
def test_an_address_where_nobody_answers_is_one_line(make_folder, run, tmp_path, address):
    process = indexing(run, make_folder([2, 2], name="many"), tmp_path / "catalog", "--ray", address)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    expected = f"nearkin: expected the address of a Ray cluster, HOST:PORT, but none answers at {address}"
    assert err.strip().splitlines()[-1].startswith(expected), err
