"""Many runs -> one table: configurations x seeds, trained one after the other, with what their scores can prove.

Seeds are the outer loop, so that what is wrong with one method shows early and what is finished can be compared. All
of it can be stopped at any time and started again: the state is the run folders.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from nearkin import config, tuning
from nearkin.compare_page import write_page
from nearkin.compare_runs import Job, carry_out, check_unchanged, make_job
from nearkin.compare_search import search_all
from nearkin.compare_table import long_csv, markdown, summary_csv, table
from nearkin.comparison import TUNED, Comparison, Method, Run
from nearkin.data import Data
from nearkin.errors import InputError, nearest
from nearkin.files import write_file
from nearkin.papers import figures
from nearkin.run_folder import RunFolder, flat

OURS = ("seed", "out", "data.fold")
"""Keys of `nearkin train` that differ between the runs of a method, and so cannot be laid over them."""

WRITTEN = ("comparison.md", "comparison.csv", "comparison.html", "summary.csv", "search.csv")
"""Files of a comparison, beside the folders of its methods."""


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


def compare(request: Request) -> Comparison:
    """Train what is missing, and write `comparison.md`, `.csv` and `.html`, and `summary.csv`.

    Raises:
        InputError: The request cannot be carried out, a run holds something else than what is asked for, or another
            process compares one of the methods in the same folder.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; the same command goes on.
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
        methods = search_all(methods, request.trials, request.out / "search.csv")
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


def method_jobs(method: Method, request: Request) -> list[Job]:
    """The runs of one method, seed by seed."""
    jobs = []
    for seed in range(request.seeds):
        for fold in range(request.folds) if request.folds else (None,):
            folder = method.folder / (f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}")
            run = Run(method.name, seed, fold, folder)
            jobs.append(make_job(run, method.config, run.title))
    return jobs


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
    known = [*names, *((name + TUNED for name in names) if request.trials else ())]
    for name in names:
        if name in WRITTEN or known.count(name) > 1:
            other = f"the file {name}" if name in WRITTEN else "a method with searched values"
            raise InputError(f"the comparison has {other} as well as the configuration {name}.yaml; rename that")
    return known
