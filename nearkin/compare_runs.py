"""The runs of a comparison: what is on the disk of each, and one after the other what is missing."""

import errno
import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from nearkin.class_keys import Tree
from nearkin.comparison import Run
from nearkin.config import Settings
from nearkin.embed import DESCRIPTION
from nearkin.errors import InputError
from nearkin.files import read_mapping, write_file
from nearkin.progress import Bar
from nearkin.run_folder import BACK, RunFolder
from nearkin.stopped import Diverged, TrainingStopped
from nearkin.worker import RunFailed, Worker

NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""What the disk says when no run could be written: the next one would fail in the same way."""


class Refused(InputError):  # noqa: N818
    """A training refused its input."""


@dataclass(frozen=True)
class Job:
    """One run that is to be there in the end.

    Args:
        run: Without its outcome.
        config: All of it.
        title: What to call it.
    """

    run: Run
    config: Tree
    title: str

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.run.folder)

    @property
    def steps(self) -> int:
        return int(self.config["steps"])


def make_job(run: Run, shared: Tree, title: str) -> Job:
    """A run, and its method's configuration with what is the run's own."""
    tree = deepcopy(shared)
    tree["seed"], tree["out"] = run.seed, str(run.folder)
    if run.fold is not None:
        tree["data"]["fold"] = run.fold
    return Job(run, tree, title)


def check_unchanged(job: Job) -> None:
    """Refuse to take a run for what is asked for that was begun with another configuration.

    Raises:
        InputError: It was; the line names the first key that differs, and both values.
    """
    changed = job.folder.changed(job.config) if job.folder.exists() else None
    if changed:
        key, begun, now = changed
        raise InputError(
            f"{job.run.folder} holds a run with {key} {begun}, but {now} is asked for; "
            "name another folder with --out, or remove that one"
        )


def known_outcome(run: Run) -> Run | None:
    """The run with what is on the disk of it: its result, or that it failed; None where it is not finished."""
    folder = RunFolder(run.folder)
    if not folder.exists():
        return None
    if (run.folder / "result.json").is_file():
        if not (run.folder / DESCRIPTION).is_file():
            raise InputError(f"{run.folder} holds a result but no {DESCRIPTION}; remove the folder to train it again")
        description = read_mapping(run.folder / DESCRIPTION, json.loads, BACK)
        learnt = ("sha256", "trained_classes", "calibration")
        architecture = {key: value for key, value in description.items() if key not in learnt}
        return replace(run, result=folder.result(), architecture=architecture)
    if folder.failure.is_file():
        return replace(run, failure=folder.failure.read_text())
    return None


def steps_done(job: Job) -> int:
    if known_outcome(job.run):
        return job.steps
    history = job.folder.history()
    return int(history[-1]["step"]) if history else 0


class Runner:
    """Carries out runs one after the other, each in a process of its own, and shows how far all of them are.

    A context manager.

    Args:
        what: What the runs are for, in a word.
        runs: How many there are in all.
        steps: Of all runs together.
        done: Of these, steps that were done before.
    """

    def __init__(self, what: str, runs: int, steps: int, done: int) -> None:
        self.what, self.runs, self.number = what, runs, 0
        self.worker = Worker()
        self.bar = Bar(what, steps, done)

    def __enter__(self) -> "Runner":
        self.worker.__enter__()
        self.bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.__exit__(*error)
        self.worker.__exit__(*error)

    def outcome(self, job: Job) -> Run:
        """Train, go on with, or only read a run; then it has a result, or says why it came to nothing.

        Raises:
            Refused: The training refused its input.
            InputError: The disk took no more, or the folder holds another run.
            KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came.
        """
        self.number += 1
        check_unchanged(job)
        known = known_outcome(job.run)
        if known:
            return known
        begun = steps_done(job)
        before = self.bar.done - begun
        name = f"{job.title} (run {self.number} of {self.runs})"
        self.say(f"{name}: {f'going on after step {begun}' if job.folder.exists() else 'begins'}")

        def watch() -> None:
            history = job.folder.history()
            step = int(history[-1]["step"]) if history else 0
            self.bar.advance(max(0, before + step - self.bar.done), name)

        flags = frozenset({"--resume"}) if job.folder.exists() else frozenset()
        try:
            self.worker.train(Settings(job.config, flags), job.run.folder / "log.txt", watch)
        except InputError as error:
            raise Refused(f"{job.title}: {error}") from error
        except Diverged as error:
            write_file(job.folder.failure, str(error).encode())  # it would diverge again
            outcome = replace(job.run, failure=str(error))
        except (TrainingStopped, RunFailed, OSError) as error:
            if isinstance(error, OSError) and error.errno in NO_PLACE:
                raise InputError(
                    f"{job.title}: {error.filename or 'a file'}: {error.strerror}; make room or give access, and "
                    "give the same command again"
                ) from error
            outcome = replace(job.run, failure=str(error))
        else:
            finished = known_outcome(job.run)
            assert finished is not None
            outcome = finished
        self.bar.advance(max(0, before + job.steps - self.bar.done), name)
        self.say(f"{name}: {in_words(outcome)}")
        return outcome

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # a live bar lets it pass above itself


def in_words(run: Run) -> str:
    if run.result is None:
        return f"failed: {run.failure}"
    trained, untrained = (100 * run.result[when]["recall@1"] for when in ("trained", "untrained"))
    return (
        f"Recall@1 {trained:.1f} % (untrained {untrained:.1f}), trained in {run.result['training']['seconds']:,.0f} s"
    )


def carry_out(jobs: Sequence[Job]) -> list[Run]:
    """The outcomes of all runs, in order; what is finished already is only read."""
    done = [steps_done(job) for job in jobs]
    with Runner("training", len(jobs), sum(job.steps for job in jobs), sum(done)) as runner:
        return [runner.outcome(job) for job in jobs]
