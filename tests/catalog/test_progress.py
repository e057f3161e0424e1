"""How far an index is: a bar on a terminal, lines in a log."""

import pty
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from nearkin.catalog import look
from nearkin.embed import Model


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """Six pictures at a time, and 0.3 s for them."""
    original = Model.run

    def run(model, batches):
        time.sleep(0.3)
        return original(model, batches)

    monkeypatch.setattr(look, "AT_ONCE", 6)
    monkeypatch.setattr(Model, "run", run)


def all_of(terminal):
    """What is written to a terminal until nobody has it open any more."""
    shown = b""
    with suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while chunk := file.read(4096):
            shown += chunk
    return shown


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(nearkin, run, photos, where, monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(all_of, ours)
        with open(theirs, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            assert nearkin("index", run, photos, "--catalog", where)[0] == 0
        shown = reading.result().decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    states = re.findall(r"indexing +\S+ +(\d+)/30 +([\d.]+)/s +(\d+):(\d+)", plain)
    assert "\x1b[" in shown
    assert all(0 < float(rate) <= 20 for _, rate, _, _ in states)  # six in 0.3 s, or longer
    left = {int(done): 60 * int(minutes) + int(seconds) for done, _, minutes, seconds in states}
    assert left.keys() >= {12, 18, 24, 30}  # of one group alone nothing can be told
    assert left[12] >= left[24] >= left[30] == 0
    assert left[12] >= 1  # for 18 more


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [6, 12, 18, 24, 30]), (1e6, [])])
def test_in_a_log_there_are_plain_lines(nearkin, run, photos, where, monkeypatch, seconds, expected):
    monkeypatch.setattr("nearkin.progress.SECONDS_BETWEEN_LINES", seconds)
    _, out, err = nearkin("index", run, photos, "--catalog", where)
    assert out.startswith("30 pictures embedded")
    lines = err.splitlines()
    found = [re.fullmatch(r"indexing (\d+)/30, ([\d.]+)/s, (\d+) s left", line) for line in lines]
    assert all(found), lines
    assert [int(each[1]) for each in found] == expected
    assert all(0 < float(each[2]) <= 20 for each in found)
    assert [int(each[3]) for each in found[-1:]] == [0] * len(found[-1:])
