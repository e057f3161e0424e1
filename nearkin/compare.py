"""Many runs -> one table: configurations x seeds, trained one after the other, with what their scores can prove.

Seeds are the outer loop, so that what is wrong with one method shows early and what is finished can be compared. All
of it can be stopped at any time and started again: the state is the run folders.
"""

import errno
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nearkin import config, tuning
from nearkin.compare_page import write_page
from nearkin.compare_table import as_csv, long_csv, markdown, summary_csv, table
from nearkin.comparison import TUNED, Comparison, Method, Run
from nearkin.config import Settings, Tree
from nearkin.data import Data
from nearkin.embed import DESCRIPTION
from nearkin.errors import InputError, nearest
from nearkin.files import write_file
from nearkin.papers import figures
from nearkin.progress import Bar
from nearkin.run_folder import RunFolder, flat
from nearkin.train import Diverged, TrainingStopped, blame
from nearkin.worker import RunFailed, Worker

OURS = ("seed", "out", "data.fold")
"""Keys of `nearkin train` that differ between the runs of a method, and so cannot be laid over them."""

WRITTEN = ("comparison.md", "comparison.csv", "comparison.html", "summary.csv", "search.csv")
"""Files of a comparison, beside the folders of its methods."""

NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""What the disk says when no run could be written: the next one would fail in the same way."""


class Refused(InputError):  # noqa: N818
    """A training refused its input."""


@dataclass(frozen=True)
class Request:
    """What is to be compared, and how.

    Args:
        files: Configurations, one method each.
        overrides: Keys and values of `nearkin train` that are laid over every one of them.
        out: Folder of the comparison.
        seeds: Runs of each method, seeds 0, 1, ...
        baseline: Name of the method that the others are set against; None takes the first.
        folds: Cut the training classes into so many, train without one and score on it, each in turn; None trains on
            all of them and scores on the test classes.
        trials: Of a search over hyper-parameters for each method; None searches none.
        show: Two methods whose models are shown side by side; None takes the baseline and the best of the others.
    """

    files: list[Path]
    overrides: list[str] = field(default_factory=list)
    out: Path = Path("runs/comparison")
    seeds: int = 5
    baseline: str | None = None
    folds: int | None = None
    trials: int | None = None
    show: tuple[str, str] | None = None


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


def compare(request: Request) -> Comparison:
    """Train what is missing, and write `comparison.md`, `.csv` and `.html`, and `summary.csv`.

    Raises:
        InputError: The request cannot be carried out, a run holds something else than what is asked for, or another
            process compares one of the methods in the same folder.
        KeyboardInterrupt: Ctrl-C was pressed; the same command goes on.
    """
    methods = read_methods(request)
    baseline = chosen_baseline(request, methods)
    check_show(request, methods)
    with ExitStack() as claims:
        for method in methods:
            claims.enter_context(RunFolder(method.folder).claimed())
        return compare_methods(methods, baseline, request)


def compare_methods(methods: list[Method], baseline: str, request: Request) -> Comparison:
    """What `compare` does once everything it was given is known to be right."""
    jobs = [job for method in methods for job in method_jobs(method, request)]
    for job in jobs:
        check_unchanged(job)
    if request.trials:
        methods = search_all(methods, request)
        if baseline not in (method.name for method in methods):
            raise InputError(f"--baseline {baseline!r} is not there: no trial of it came to a result; name another")
    jobs = [job for method in methods for job in method_jobs(method, request)]
    jobs.sort(key=lambda job: job.run.key)  # stable: methods keep their order within a seed
    runs = carry_out(jobs)
    comparison = Comparison(methods, runs, baseline, request.seeds, request.folds)

    made = table(comparison)
    write_file(request.out / "comparison.md", markdown(made).encode())
    write_file(request.out / "comparison.csv", long_csv(comparison).encode())
    write_file(request.out / "summary.csv", summary_csv(comparison).encode())
    write_page(request.out / "comparison.html", comparison, made, request.show)
    return comparison


# Methods


def read_methods(request: Request) -> list[Method]:
    """Read the configurations, all of them before anything is trained."""
    for name, value, least in (("seeds", request.seeds, 1), ("folds", request.folds, 2), ("trials", request.trials, 1)):
        if value is not None and value < least:
            raise InputError(f"--{name} must be at least {least}, got {value}")
    if request.folds and request.trials:
        raise InputError(
            "--folds scores training classes that the search of --trials would have chosen by; give one of them"
        )
    with RunFolder(request.out).claimed():
        pass  # it can be made and written to
    check_overrides(request)
    if request.trials:
        tuning.check_installed()
    given = list(request.overrides)
    if request.folds:
        given += ["--data.validation", str(1 / request.folds), "--protocol.classes", "validation"]

    methods = []
    for file, name in zip(request.files, method_names(request.files), strict=True):
        try:
            tree = config.read([str(file), *given, "--out", str(request.out)]).config
        except InputError as error:
            raise InputError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
        on_test_classes = tree["protocol"]["classes"] == "test"
        data_set = file.resolve().parent.name
        papers = figures(data_set, file.stem) if on_test_classes and tree["data"]["name"] == data_set else None
        methods.append(Method(name, tree, request.out / name, papers))
    first = methods[0]
    for other in methods[1:]:
        for part in ("data", "protocol"):
            for key, value in first.config[part].items():
                if other.config[part][key] != value:
                    raise InputError(
                        f"methods are compared on the same pictures by the same protocol, but {part}.{key} is {value} "
                        f"in {first.name} and {other.config[part][key]} in {other.name}; "
                        f"give one for all: --{part}.{key} VALUE"
                    )
    if request.trials and first.config["protocol"]["classes"] == "validation":
        raise InputError(
            "--trials chooses by held-out training classes, and protocol.classes validation would score on them; "
            "leave one of the two out"
        )
    try:
        Data.of(first.config["data"]).open(seed=0)
    except InputError as error:
        raise InputError(f"--folds {request.folds}: {error}" if request.folds else str(error)) from error
    return methods


def check_overrides(request: Request) -> None:
    """Refuse keys that are set for every run."""
    _, given, flags = config.split_arguments(request.overrides)
    keys = flat(given)
    ours = [*OURS, *(("data.validation", "protocol.classes") if request.folds else ())]
    for key in ours:
        if key in keys:
            raise InputError(f"--{key} is set by nearkin compare for each of its runs; leave it out")
    if flags:
        raise InputError(
            f"{sorted(flags)[0]} is of nearkin train; nearkin compare goes on with its runs by itself, and anew in "
            "another folder: --out"
        )


def method_names(files: Sequence[Path]) -> list[str]:
    """The stem of each file, with as many of its folders before it as tell it from the others.

    Raises:
        InputError: A file was named twice.
    """
    paths = [file.resolve().with_suffix("").parts for file in files]
    twice = [files[i] for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise InputError(f"{twice[0]} was named twice; name each configuration once")
    return [
        "/".join(next(end for end in ends(path) if sum(end == p[-len(end) :] for p in paths) == 1)) for path in paths
    ]


def ends(path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """`("a", "b", "c")` -> `("c",)`, `("b", "c")`, ..."""
    return (path[-length:] for length in range(1, len(path) + 1))


def chosen_baseline(request: Request, methods: Sequence[Method]) -> str:
    known = known_names(request, methods)
    name = request.baseline or methods[0].name
    if name not in known:
        raise InputError(f"--baseline expects one of the methods, got {name!r}; {nearest(name, known)}")
    return name


def check_show(request: Request, methods: Sequence[Method]) -> None:
    known = known_names(request, methods)
    for name in request.show or ():
        if name not in known:
            raise InputError(f"--show expects two of the methods, got {name!r}; {nearest(name, known)}")
    if request.show and request.show[0] == request.show[1]:
        raise InputError(f"--show expects two methods, got {request.show[0]!r} twice")


def known_names(request: Request, methods: Sequence[Method]) -> list[str]:
    """Names that the methods have now, and those that a search will add.

    Raises:
        InputError: One is a name of something else, too.
    """
    names = [method.name for method in methods]
    known = [*names, *(map(tuned_name, names) if request.trials else ())]
    for name in names:
        if name in WRITTEN or known.count(name) > 1:
            other = f"the file {name}" if name in WRITTEN else "a method with searched values"
            raise InputError(f"the comparison has {other} as well as the configuration {name}.yaml; rename that")
    return known


def tuned_name(name: str) -> str:
    return name + TUNED


# Runs


def method_jobs(method: Method, request: Request) -> list[Job]:
    """The runs of one method, seed by seed."""
    jobs = []
    for seed in range(request.seeds):
        for fold in range(request.folds) if request.folds else (None,):
            folder = method.folder / (f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}")
            run = Run(method.name, seed, fold, folder)
            jobs.append(make_job(run, method.config, run.title))
    return jobs


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
        description = json.loads((run.folder / DESCRIPTION).read_text())
        architecture = {key: value for key, value in description.items() if key not in ("sha256", "trained_classes")}
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
            KeyboardInterrupt: Ctrl-C was pressed.
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


# Search


def search_all(methods: Sequence[Method], request: Request) -> list[Method]:
    """Search for each method in turn; each is followed by itself with what was found. Writes `search.csv`."""
    assert request.trials is not None
    kept = {method.name: kept_trials(method, request.trials) for method in methods}
    steps = sum(int(method.config["steps"]) for method in methods) * request.trials
    done = sum(steps_done(job) for jobs in kept.values() for job in jobs)
    found: dict[str, list[tuning.Trial]] = {}
    with Runner("searching", len(methods) * request.trials, steps, done) as runner:
        for method in methods:
            found[method.name] = search(method, request.trials, runner)
    write_file(request.out / "search.csv", search_csv(found).encode())
    return [each for method in methods for each in tuned(method, found[method.name])]


def search(method: Method, count: int, runner: Runner) -> list[tuning.Trial]:
    """The trials of one method: those that were begun before as they were begun, then new ones."""
    trials: list[tuning.Trial] = []
    for number in range(count):
        begun = RunFolder(trial_run(method, number).folder)
        values = tuning.own_values(begun.config()) if begun.exists() else tuning.propose(method.config, trials)
        job = trial_job(method, number, values)
        refusal = loss_refusal(job.config) if number else None  # the first is the configuration as it is written
        run = replace(job.run, failure=refusal) if refusal else runner.outcome(job)
        score = run.result["trained"][tuning.OBJECTIVE] if run.result else None
        trials.append(tuning.Trial(values, score, run.failure))
    return trials


def loss_refusal(tree: Tree) -> str | None:
    """Why the loss of a configuration does not take its values together; None where it does."""
    try:
        with blame("loss"):
            Settings(tree, frozenset()).build()["loss"]()
    except InputError as error:
        return str(error)
    return None


def kept_trials(method: Method, count: int) -> list[Job]:
    """The trials that were begun before."""
    runs = (trial_run(method, number) for number in range(count))
    return [Job(run, RunFolder(run.folder).config(), "") for run in runs if RunFolder(run.folder).exists()]


def trial_run(method: Method, number: int) -> Run:
    return Run(method.name, tuning.SEED, None, method.folder / "search" / f"trial-{number:03d}")


def trial_job(method: Method, number: int, values: dict[str, float]) -> Job:
    """One trial: training classes only, some of which are held out and scored."""
    tree = tuning.with_values(method.config, values)
    tree["data"] |= {"validation": tuning.HELD_OUT, "fold": 0}
    tree["protocol"]["classes"] = "validation"
    return make_job(trial_run(method, number), tree, f"{method.name}, trial {number}")


def tuned(method: Method, trials: Sequence[tuning.Trial]) -> list[Method]:
    """The method as it is written, and with the best values that were found."""
    chosen = tuning.best(trials)
    if chosen is None:
        return [replace(method, note=f"none of {len(trials)} trials came to a result ({trials[0].failure})")]
    name, own = tuned_name(method.name), trials[0]
    values = ", ".join(f"{key} {value:g}" for key, value in chosen.values.items())
    if chosen is own:
        note = f"the best of {len(trials)} trials is the configuration as it is written, so its runs are the same"
        return [method, replace(method, name=name, papers=None, note=note)]
    score = f"MAP@R {100 * (chosen.score or 0):.1f} % on held-out training classes"
    written = f"as written {100 * own.score:.1f} %" if own.score is not None else "as written it failed"
    note = f"{values}; the best of {len(trials)} trials ({score}, {written})"
    tree = tuning.with_values(method.config, chosen.values)
    # Named after the trial: more trials may find another, and its runs are others.
    folder = method.folder / f"tuned-{trials.index(chosen):03d}"
    return [method, Method(name, tree, folder, note=note)]


def search_csv(found: dict[str, list[tuning.Trial]]) -> str:
    """Every trial of every method: its values, what it scored, and which was chosen."""
    keys = sorted({key for trials in found.values() for trial in trials for key in trial.values}, key=str)
    rows = [
        [
            name,
            number,
            trial.score,
            trial is tuning.best(trials),
            *(trial.values.get(key) for key in keys),
            trial.failure,
        ]
        for name, trials in found.items()
        for number, trial in enumerate(trials)
    ]
    return as_csv(["method", "trial", tuning.OBJECTIVE, "chosen", *keys, "failure"], rows)
