"""Kill a training at a random moment, again and again: `python train_again_and_again.py KILLS RUN OPTIONS...`.

Every life is a fork of this process, which has imported everything: it starts at once. Prints how often it killed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from nearkin import cli, train  # noqa: F401 - imported before the fork
from nearkin.run_folder import RunFolder

MOST_ROWS = 1  # of the journal that a life may add: so the run outlives its killer


def live(arguments):
    """Train in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    try:
        cli.main(["train", *arguments])
    except SystemExit as end:
        os._exit(end.code)
    finally:
        os._exit(70)


def main(kills, run, options):
    run, moment = RunFolder(Path(run)), random.Random(0)
    moved, status = 0, None
    started = time.monotonic()
    child = live([*options, "--out", str(run.path)])
    while not run.checkpoint.exists():
        time.sleep(0.001)
    birth = time.monotonic() - started  # what a life takes here to its first step, or less
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed = 1
    while status is None:
        child = live([*options, "--out", str(run.path), *(["--resume"] if run.exists() else [])])
        before = run.checkpoint.stat().st_mtime_ns if run.checkpoint.exists() else 0
        rows, deadline = len(run.history()), time.monotonic() + moment.uniform(0, 2 * birth)
        while killed < kills and time.monotonic() < deadline and len(run.history()) < rows + MOST_ROWS:
            time.sleep(0.001)
        if killed < kills:
            os.kill(child, signal.SIGKILL)
        _, ended = os.waitpid(child, 0)
        if os.WIFSIGNALED(ended):
            killed += 1
            moved += run.checkpoint.exists() and run.checkpoint.stat().st_mtime_ns > before
        else:
            status = os.WEXITSTATUS(ended)
    print(f"{killed} killed, {moved} after a step, then status {status}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
