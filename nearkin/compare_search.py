"""The trials of `nearkin compare --trials` as runs; `nearkin.tuning` says which values they have."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nearkin import tuning
from nearkin.class_keys import Tree
from nearkin.compare_runs import Job, Runner, make_job, steps_done
from nearkin.compare_table import as_csv
from nearkin.comparison import TUNED, Method, Run
from nearkin.config import Settings
from nearkin.errors import InputError
from nearkin.files import write_file
from nearkin.rehearsal import blame
from nearkin.run_folder import RunFolder


def search_all(methods: Sequence[Method], trials: int, table: Path) -> list[Method]:
    """Search for each method in turn; each is followed by itself with what was found.

    Args:
        methods: As they are written.
        trials: Of each method.
        table: CSV file that all of them are written to.
    """
    kept = {method.name: kept_trials(method, trials) for method in methods}
    steps = sum(int(method.config["steps"]) for method in methods) * trials
    done = sum(steps_done(job) for jobs in kept.values() for job in jobs)
    found: dict[str, list[tuning.Trial]] = {}
    with Runner("searching", len(methods) * trials, steps, done) as runner:
        for method in methods:
            found[method.name] = search(method, trials, runner)
    write_file(table, search_csv(found).encode())
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
    name, own = method.name + TUNED, trials[0]
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
