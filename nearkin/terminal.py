"""How a command speaks with a person: options, lines, warnings, the status it ends with."""

import argparse
import errno
import logging
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from nearkin.errors import InputError, nearest, printable

FREE = "free some space and run the command again, a training with --resume"
ALLOW = "make it accessible, or name another"
ADVICE = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.EFBIG: FREE,
    errno.EROFS: ALLOW,
    errno.EACCES: ALLOW,
    errno.EPERM: ALLOW,
    errno.ENAMETOOLONG: "name a shorter one",
}

SECONDS_FOR_THE_FIRST = 15.0
"""How long the other processes wait before they tell of an error."""


def several() -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


class Parser(argparse.ArgumentParser):
    """argparse, with errors as the rest of nearkin gives them."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"nearkin {command}", description=description, allow_abbrev=False)

    def add_run(self) -> None:
        """A run, and where its pictures are now."""
        self.add_argument("run", type=Path, help="folder of a run")
        self.add_argument("--data", help="folder, manifest, or name of a data set; the run's own unless given")
        self.add_argument("--data.root", dest="root", help="where the data set of that name lies")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse does it, but of an unknown option the nearest known one is named."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            option = unknown[0].partition("=")[0]
            hint = f"; {nearest(option, self._option_string_actions)}" if option.startswith("-") else ""
            self.error(f"unknown argument {option}{hint}")
        return options

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see nearkin {self.prog.split()[-1]} --help")


class Lines(logging.Formatter):
    """What is logged, as a terminal may show it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))


def nobody_reads(stream: TextIO) -> bool:
    """Whether a stream leads to a program that has read enough, as `head` has."""
    pipe = select.poll()
    pipe.register(stream, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def fail(message: str, status: int) -> NoReturn:
    if several() and status == 0 and os.environ["RANK"] != "0":
        sys.exit(0)
    if several() and os.environ["LOCAL_RANK"] != "0":  # torchrun ends it meanwhile if the first one here fails, too
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_FOR_THE_FIRST)
    say(message)
    sys.exit(status)


def say(message: str) -> None:
    """A line for a person, which names the process if it is not the first of several."""
    if several() and os.environ["RANK"] != "0":
        message = f"process {os.environ['RANK']}: {message}"
    # In one write, with its end: processes that share a terminal or a pipe would otherwise part each other's lines.
    print(f"nearkin: {printable(' '.join(message.split()))}\n", end="", file=sys.stderr)


def warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as Python does, but nearkin's own as one line without its place in the code."""
    own = Path(filename).is_relative_to(Path(__file__).parent)
    text = f"nearkin: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)
