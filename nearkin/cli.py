"""The command line: which command is meant, by how many processes, and what becomes of its errors."""

import io
import logging
import os
import sys
import warnings
from typing import NoReturn

from nearkin import commands
from nearkin.errors import InputError, nearest
from nearkin.terminal import ADVICE, Lines, fail, nobody_reads, say, several, warn

COMMANDS = {
    "demo": (commands.demo, "built-in glyphs: train, evaluate, report, index, search; minutes on 2 cores"),
    "train": (commands.train, "a folder of pictures -> a trained embedding, scored on unseen classes"),
    "evaluate": (commands.evaluate, "every metric of a run on unseen classes"),
    "report": (commands.report, "one self-contained HTML page about a run"),
    "data": (commands.data, "get or check a data set of the papers: cub200, cars196, sop"),
    "index": (commands.index, "a folder of pictures -> a catalogue to search in; adds only what is new"),
    "search": (commands.search, "the pictures of a catalogue that are nearest to one"),
    "serve": (commands.serve, "a page, and an API, to look through a catalogue"),
    "label": (commands.label, "name pictures of a new kind: searches then answer with the name"),
    "export": (commands.export, "the model of a run as one ONNX file"),
    "compare": (commands.compare, "configurations x seeds -> one table with intervals, and one page"),
    "doctor": (commands.doctor, "versions, devices, what is repeatable here, and a self-test of some seconds"),
}

TOGETHER = ("train", "evaluate", "index")
"""Commands that several processes can share, started by torchrun."""

USAGE = "usage: nearkin COMMAND ...\n\n" + "\n".join(f"  {name:10s} {text}" for name, (_, text) in COMMANDS.items())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 the command or its input is wrong, 1 anything else."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Lines("%(message)s"))
    logging.basicConfig(handlers=[lines])
    logging.getLogger("nearkin").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every letter
    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            dispatch(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
    except InputError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 1)
    except BrokenPipeError:
        if not nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes on exit
        sys.exit(1)
    except OSError as error:
        if error.errno is None:
            raise
        advice = ADVICE.get(error.errno)
        fail(f"{error.filename or 'a file'}: {error.strerror}" + (f"; {advice}" if advice else ""), 2 if advice else 1)
    sys.exit(0)


def dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"unknown command {command!r}; {nearest(command, COMMANDS)}")
    run, _ = COMMANDS[command]
    if not several():
        run(rest)
        return
    if command not in TOGETHER:
        raise InputError(f"{command} is for one process, but torchrun started {os.environ['WORLD_SIZE']}; leave it out")
    from nearkin.processes import ProcessLost, joined

    try:
        with joined():
            run(rest)
    except ProcessLost as lost:
        say(
            f"another process has ended ({lost}); what was written stays: run the command again, a training with "
            "--resume"
        )
        sys.exit(1)
