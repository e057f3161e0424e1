"""Many clients at once, as `benchmarks/serving.py` has them."""

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serving.py"
MOST_GROWTH = 20.0
"""MB. A leak of one decoded upload in ten would be more."""


@pytest.fixture(scope="module")
def run(served):
    bench = runpy.run_path(str(BENCHMARK))
    address = served.address.removeprefix("http://").rstrip("/")
    return lambda clients, seconds: bench["run"](address, served.process.pid, clients, seconds)


def test_64_clients_meet_no_error_and_take_no_memory(run):
    load = run(64, 10)
    assert load.errors == []
    assert load.refused == []
    assert len(load.answered) >= 64
    assert load.growth < MOST_GROWTH


def test_200_clients_are_answered_or_refused(run):
    load = run(200, 4)
    assert load.errors == []
    assert len(load.answered) >= 64
    assert load.refused
