"""Long work, shown: a bar with rate and time left on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nearkin.processes import rank

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Counts work done towards a total; a context manager.

    Args:
        what: What is being done, as in "training".
        total: Units of work in all.
        done: Units done before now.
        transient: Leave nothing on the terminal in the end.
    """

    def __init__(self, what: str, total: int, done: int = 0, transient: bool = False) -> None:
        self.what, self.total, self.done, self.first = what, total, done, done
        self.start = self.said = time.monotonic()
        self.live: Progress | None = None
        self.silent = rank() > 0
        if sys.stderr.isatty() and not self.silent:
            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=transient,
            )
            self.task = self.live.add_task(what, total=total, completed=done, rate="", note="")

    def __enter__(self) -> "Bar":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` more as done; `note` is shown behind the bar."""
        self.done += units
        now = time.monotonic()
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        if self.live:
            self.live.update(self.task, completed=self.done, rate=f"{rate:,.1f}/s", note=note)
        elif now - self.said >= SECONDS_BETWEEN_LINES and not self.silent:
            self.said = now
            left = f"{(self.total - self.done) / rate:,.0f} s left" if rate else "time left unknown"
            parts = [f"{self.what} {self.done:,}/{self.total:,}", f"{rate:,.1f}/s", left, note]
            # In one write, as `terminal.say` does it.
            print(", ".join(filter(None, parts)) + "\n", end="", file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int, transient: bool = False) -> Iterator[T]:
    """Yield the items and show how far they are."""
    with Bar(what, total, transient=transient) as bar:
        for item in items:
            yield item
            bar.advance()
