"""One training at a time, each in a process of its own: its crash touches nothing else, and its peak memory is its own.

The processes are forked from a server that has imported PyTorch once. Ctrl-C and SIGTERM are passed on to the training,
which writes a checkpoint and ends; whatever ends this process, a kill included, ends the training too.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from nearkin.children import end_with_parent, forking
from nearkin.config import Settings
from nearkin.errors import InputError
from nearkin.interruption import Terminated
from nearkin.stopped import TrainingStopped
from nearkin.train import train

POLL_SECONDS = 0.5

KILL_AFTER = 3
"""Presses of Ctrl-C: the first ends the training after its step, the second at once, the third kills it."""


class RunFailed(RuntimeError):  # noqa: N818
    """A training ended in a way that no one foresaw; the message is one line about it."""


class Worker:
    """Trains in processes of their own; a context manager that takes over Ctrl-C and SIGTERM.

    One of them that no training saw is raised at its end.

    Attributes:
        pressed: How often Ctrl-C was pressed; SIGTERM counts as once.
        stop: What is raised for it.
    """

    def __init__(self) -> None:
        self.process: Any = None
        self.hears = False
        self.pressed = 0
        self.stop: type[KeyboardInterrupt] = KeyboardInterrupt

    def __enter__(self) -> "Worker":
        self.context = forking("nearkin.config")
        self.before = {number: signal.signal(number, self._press) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:  # an error of ours while it runs: nothing would wait for it
            self.process.kill()
            self.process.join()
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.pressed and error is None:  # while nothing was training, or in its last step
            raise self.stop

    def train(self, settings: Settings, log: Path, watch: Callable[[], None] = lambda: None) -> None:
        """Train as the settings say, and resume where their flags hold `--resume`.

        Args:
            settings: Of the run.
            log: File that everything the training prints is appended to.
            watch: Called twice a second while it runs.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or, as `Terminated`, SIGTERM came; the run can be resumed.
            InputError: The training refused its input.
            TrainingStopped: As the training raised it.
            OSError: As the training raised it.
            RunFailed: It ended in any other way.
        """
        if self.pressed:
            raise self.stop
        receiver, sender = self.context.Pipe(duplex=False)
        # Not a daemon: the training may start processes of its own.
        self.process = self.context.Process(target=_work, args=(settings, log, sender), name="training")
        self.process.start()
        sender.close()
        try:
            receiver.recv()  # that it hears what is passed on
            self.hears = True
            if self.pressed:
                self._pass_on()
            while not receiver.poll(POLL_SECONDS):
                watch()
            error = receiver.recv()
            self.process.join()
        except EOFError:
            self.process.join()
            error = RunFailed(_ended(self.process.exitcode))
        self.process, self.hears = None, False
        if error is not None:
            raise self.stop if self.pressed else error

    def _press(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and self.pressed:  # from a scheduler, and passed on by a launcher
            return
        if number == signal.SIGTERM:
            self.stop = Terminated
        self.pressed += 1
        if self.hears or self.pressed >= KILL_AFTER:
            self._pass_on()

    def _pass_on(self) -> None:
        if self.process is None or self.process.pid is None:
            return
        try:
            os.kill(self.process.pid, signal.SIGKILL if self.pressed >= KILL_AFTER else signal.SIGINT)
        except ProcessLookupError:  # it has just ended
            return


def _work(settings: Settings, log: Path, sender: connection.Connection) -> None:
    """What the process does: say that it hears Ctrl-C, train, and send what was raised, or None."""
    os.setsid()  # a terminal's Ctrl-C goes to the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    error: BaseException | None = None
    try:
        sender.send(None)
        log.parent.mkdir(parents=True, exist_ok=True)
        _send_output_to(log)
        train(**settings.build(), resume="--resume" in settings.flags)
    except (InputError, TrainingStopped, OSError, KeyboardInterrupt) as known:
        error = known
        print(f"{type(known).__name__}: {known}", file=sys.stderr, flush=True)
    except BaseException as unknown:
        traceback.print_exc()
        line = next((line for line in str(unknown).splitlines() if line.strip()), "")
        error = RunFailed(f"{type(unknown).__name__}: {line} (see {log})")
    if error is not None:
        error.__cause__ = error.__context__ = None
    sender.send(error)


def _send_output_to(log: Path) -> None:
    """Append everything that is printed, by Python or by a library, to the file."""
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("nearkin").setLevel(logging.INFO)


def _ended(code: int | None) -> str:
    """How a process ended that said nothing."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; the system does this when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {code} and without a word"
