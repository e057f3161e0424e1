"""One writer at a time, by tickets on a board that any number of threads reads and writes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nearkin.catalog import turn
from nearkin.catalog.turn import Turn
from nearkin.errors import InputError


class Board(dict):
    """Tickets in memory."""

    def read(self):
        return dict(self)

    def write(self, id, text):
        self[id] = text

    def remove(self, id):
        self.pop(id, None)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What takes a minute takes half a second."""
    for name, seconds in {"RENEWED": 0.05, "EXPIRED": 0.5, "LOOKED": 0.01}.items():
        monkeypatch.setattr(turn, name, seconds)


def test_only_one_has_the_turn():
    board, inside, times = Board(), [], []

    def write(_):
        with Turn(board, "C").held():
            inside.append(1)
            times.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(40)))
    assert times == [1] * 40
    assert not board


def test_of_two_tickets_put_at_once_neither_counts():
    """Both are on the board before anyone looks: both are taken back."""
    both, put = threading.Barrier(2), set()

    class Together(Board):
        def write(self, id, text):
            super().write(id, text)
            if id not in put:
                put.add(id)
                both.wait(10)

    board, inside, times = Together(), [], []

    def write(_):
        with Turn(board, "C").held():
            inside.append(1)
            times.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    assert len(put) == 2
    assert times == [1, 1]


def test_a_second_one_waits_and_says_for_whom(caplog):
    board, order = Board(), []

    def second():
        with Turn(board, "C").held():
            order.append("second")

    with Turn(board, "C").held():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.0)  # twice what a ticket lasts that is not renewed
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    (line,) = caplog.messages
    assert line.startswith("C: process ")
    assert "is writing into it; waiting for that (" in line


def test_the_ticket_of_one_who_was_killed_expires(caplog):
    board, start = Board(killed='{"who": "process 1 on moon"}'), time.monotonic()
    with Turn(board, "C").held():
        assert "killed" not in board
    assert 0.5 <= time.monotonic() - start < 5
    assert caplog.messages == ["C: process 1 on moon is writing into it; waiting for that (0 s, if it was killed)"]


def test_a_ticket_that_is_renewed_does_not_expire():
    board = Board()

    def renew():
        for number in range(20):
            board.write("other", f'{{"who": "other", "renewals": {number}}}')
            time.sleep(0.06)

    thread = threading.Thread(target=renew)
    thread.start()
    start = time.monotonic()
    with Turn(board, "C").held():
        waited = time.monotonic() - start
    thread.join()
    assert waited > 20 * 0.06


def test_a_turn_that_was_taken_away_is_not_held_any_more():
    """As of a process that stood still: what it has written may have met another's writing."""
    board, own = Board(), Turn(Board(), "C")
    own.tickets = board

    def stand_still():
        with own.held():
            own.check()
            board.remove(own.id)
            time.sleep(0.2)  # it would have renewed it
            assert not board
            with pytest.raises(InputError, match="another one has gone on with C; run the command again"):
                own.check()

    with pytest.raises(InputError, match="another one has gone on with C; run the command again"):
        stand_still()
    assert not board


def test_whatever_happens_the_ticket_is_given_back():
    board = Board()

    def interrupted():
        with Turn(board, "C").held():
            assert len(board) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not board


def test_a_board_that_does_not_answer_for_a_while_is_asked_again():
    class Moody(Board):
        silent = False

        def read(self):
            if self.silent:
                raise InputError("no answer")
            return super().read()

    board = Moody()
    with Turn(board, "C").held():
        (before,) = board.values()
        board.silent = True
        time.sleep(0.2)
        board.silent = False
        time.sleep(0.2)
        assert list(board.values()) != [before]
