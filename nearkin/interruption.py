"""Ctrl-C and SIGTERM: seen between two steps of a training, at once elsewhere."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Terminated(KeyboardInterrupt):
    """SIGTERM, where no step has to be brought to its end first."""


@dataclass
class Pressed:
    """What has come: Ctrl-C, or SIGTERM, which the scheduler of a cluster sends to a job that has to make room."""

    interrupt: bool = False
    terminate: bool = False


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated`."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        restore(signal.SIGTERM, before, terminate)


@contextmanager
def interruptible() -> Iterator[Pressed]:
    """Note Ctrl-C and SIGTERM, to be looked at between two steps; a second Ctrl-C interrupts at once."""
    pressed = Pressed()

    def first(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            pressed.interrupt = True
            signal.signal(number, before[0])
        else:  # which may come twice: from the scheduler, and passed on by a launcher
            pressed.terminate = True

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        for number in numbers:
            signal.signal(number, first)
    except ValueError:  # not the main thread, which alone receives signals
        yield pressed
        return
    try:
        yield pressed
    finally:
        for number, handler in zip(numbers, before, strict=True):
            restore(number, handler, first)


def restore(number: signal.Signals, before: Handler | int | None, ours: Handler) -> None:
    """Set a handler again, unless somebody has set another than ours meanwhile."""
    if signal.getsignal(number) is ours:
        signal.signal(number, before)
