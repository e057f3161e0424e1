"""The commands. Each reads its options, has it done, and prints what came of it.

What a command needs is imported in it, so that `nearkin --help` and a mistyped option answer at once.
"""

import argparse
import json
import os
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from nearkin.errors import InputError, printable
from nearkin.files import absolute
from nearkin.terminal import ADVICE, Parser, fail, several

if TYPE_CHECKING:
    from nearkin.config import Settings
    from nearkin.data import Data
    from nearkin.run_folder import RunFolder

SWITCHES = ("--resume", "--overwrite", "--print_config")  # of nearkin train: they take no value


def train(arguments: list[str]) -> None:
    from nearkin import config

    if {"-h", "--help"} & set(arguments):
        print(config.help_text())
        return
    settings = config.read(arguments)
    if "--print_config" in settings.flags:
        print(config.to_yaml(settings.config), end="")
        return
    run_training(settings)


def run_training(settings: "Settings") -> "RunFolder":
    """Train as the settings say, and print what came of it."""
    from nearkin.data.images import UnreadableImage
    from nearkin.evaluate import describe
    from nearkin.interruption import Terminated, terminable
    from nearkin.processes import rank
    from nearkin.run_folder import RunFolder
    from nearkin.stopped import Preempted, TrainingStopped
    from nearkin.train import train as start

    built = settings.build()
    run = RunFolder(built["out"])
    try:
        with terminable():
            start(**built, overwrite="--overwrite" in settings.flags, resume="--resume" in settings.flags)
    except TrainingStopped as stopped:
        fail(str(stopped), 0 if isinstance(stopped, Preempted) else 1)
    except Terminated:
        fail(f"stopped by SIGTERM; {go_on(run)}", 0)
    except UnreadableImage as gone:
        fail(f"{gone}, though it could be read before; bring it back, and {go_on(run)}", 2)
    if rank() == 0:
        print(describe(run.result()))
        print(f"run: {run.path}")
    return run


def go_on(run: "RunFolder") -> str:
    """How to go on with a training that was stopped."""
    begun = run.exists()
    return f"go on with: nearkin train {run.path / 'config.yaml'} --resume" if begun else "run the command again"


def evaluate(arguments: list[str]) -> None:
    parser = Parser("evaluate", "Every metric of a run on the classes that it has not seen.")
    parser.add_run()
    parser.add_argument("--levels", nargs="+", metavar="STAGE", help="only these of the run's levels, concatenated")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON, as fractions")
    options = parser.parse_args(arguments)

    from nearkin.evaluate import describe, evaluate_run
    from nearkin.processes import rank

    result = evaluate_run(options.run, pictures_of(options), options.levels)
    if rank() == 0:
        print(json.dumps(result["trained"]) if options.json else describe(result))


def report(arguments: list[str]) -> None:
    parser = Parser("report", "One self-contained HTML page about a run.")
    parser.add_run()
    options = parser.parse_args(arguments)

    from nearkin.report import write_report

    print(f"report: {write_report(options.run, pictures_of(options))}")


def pictures_of(options: argparse.Namespace) -> "Data | None":
    """The pictures that the options of `Parser.add_run` name; None for the run's own."""
    from nearkin.data.source import Data, short_form
    from nearkin.run_folder import RunFolder

    if options.data is options.root is None:
        return None
    said = RunFolder(options.run).config()["data"] if options.data is None else short_form(options.data)
    return Data.at(said["root"] if options.root is None else options.root, said.get("name"))


def data(arguments: list[str]) -> None:
    parser = Parser(
        "data", "Get a data set of the papers, or check that no picture is missing or empty and every count is right."
    )
    parser.add_argument("action", choices=("get", "check"))
    parser.add_argument("name", help="cub200, cars196 or sop")
    parser.add_argument("--root", help="folder of its archive and its pictures; data/NAME unless given")
    options = parser.parse_args(arguments)

    from nearkin.data.source import published
    from nearkin.progress import Bar

    chosen = published(options.name)
    root = absolute("--root", chosen.default_root if options.root is None else options.root)
    if options.action == "get":
        try:
            chosen.get(root, Bar)
        except OSError as error:
            if error.errno not in ADVICE:
                raise
            where = error.filename or root
            raise InputError(
                f"{where}: {error.strerror}; make room there or name another --root, then go on"
            ) from error
    chosen.open(root)
    print(f"{chosen.title} in {root}: {chosen.counts}, all there and none empty")


def index(arguments: list[str]) -> None:
    parser = Parser("index", "Embed a folder of pictures into a catalogue; only what is new or changed is read.")
    parser.usage = "nearkin index RUN PHOTOS --catalog C [--prune], or: nearkin index --upgrade RUN --catalog C"
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run whose model embeds them")
    parser.add_argument("photos", type=Path, nargs="?", help="folder of pictures; a sub-folder is the label of its own")
    parser.add_argument("--catalog", required=True, metavar="C", help="its folder, or http://HOST:19530 of a Milvus")
    parser.add_argument("--prune", action="store_true", help="take out pictures whose files are gone")
    parser.add_argument(
        "--upgrade", type=Path, metavar="RUN", help="embed all pictures with this run's model, then change over to it"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="embed on this Ray cluster: auto is that of this machine, local a new one",
    )
    options = parser.parse_args(arguments)
    if options.ray is not None and several():
        parser.error("--ray starts processes of its own: leave torchrun out")
    if options.upgrade is not None and options.run is not None:
        parser.error("--upgrade takes the run alone: the pictures are those of the catalogue")
    if options.upgrade is None and options.photos is None:
        parser.error("expected a run and a folder of pictures")

    from nearkin import catalog
    from nearkin.processes import rank

    try:
        if options.upgrade is not None:
            done = catalog.upgrade(options.catalog, options.upgrade, options.prune, options.ray)
        else:
            done = catalog.index(options.catalog, options.run, options.photos, options.prune, options.ray)
    except KeyboardInterrupt:
        fail(f"stopped; what is written stays, the rest goes on with: nearkin index {shlex.join(arguments)}", 1)
    if rank() == 0:
        print(done)
        print(f"catalogue: {printable(options.catalog)}")


def search(arguments: list[str]) -> None:
    parser = Parser("search", "The pictures of a catalogue that are nearest to one, or to several of one thing.")
    parser.add_argument("catalog", help="its folder, or http://HOST:19530 of a Milvus")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="several are averaged")
    parser.add_argument("-k", type=int, default=10, help="hits, at most (%(default)s)")
    parser.add_argument("--label", help="only among pictures of this label")
    parser.add_argument("--crop", type=crop, metavar="X,Y,W,H", help="the part of the picture that is meant, in pixels")
    parser.add_argument(
        "--false-matches",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the queries whose kind is not in the catalogue, how many may find a match (%(default)s)",
    )
    parser.add_argument("--run", type=Path, help="folder of the model's run, if the catalogue cannot find it")
    parser.add_argument("--json", action="store_true", help="print the hits as JSON")
    options = parser.parse_args(arguments)

    from nearkin.catalog import Catalog
    from nearkin.catalog.answers import as_json, as_text
    from nearkin.data.images import UnreadableImage

    catalog = Catalog.open(options.catalog, options.run)
    try:
        answer = catalog.search(options.images, options.k, options.label, options.crop, options.false_matches)
    except UnreadableImage as error:
        raise InputError(f"{error}; name a picture") from error
    print(json.dumps(as_json(answer)) if options.json else as_text(answer, catalog.calibration))


def crop(text: str) -> tuple[int, int, int, int]:
    """x, y, width and height in pixels."""
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected four whole numbers x,y,w,h, got {text!r}") from error
    return x, y, width, height


def serve(arguments: list[str]) -> None:
    parser = Parser("serve", "A page, and an API, to look through a catalogue.")
    parser.add_argument("catalog", help="its folder, or http://HOST:19530 of a Milvus")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--token",
        help="what requests have to show; needed for any address but this machine's own. The environment variable "
        "NEARKIN_TOKEN is the same, but for the list of processes, which shows an option to everyone here",
    )
    parser.add_argument("--run", type=Path, help="folder of the model's run, if the catalogue cannot find it")
    options = parser.parse_args(arguments)
    secret = os.environ.pop("NEARKIN_TOKEN", None) or None  # no process that is started from here has to know it
    try:
        from nearkin.serve.server import serve as start
    except ModuleNotFoundError as error:
        raise InputError("serve needs packages that are not here: pip install 'nearkin[serve]'") from error

    start(options.catalog, options.host, options.port, secret if options.token is None else options.token, options.run)


def label(arguments: list[str]) -> None:
    parser = Parser("label", "Name pictures of a new kind, no training needed: searches then answer with the name.")
    parser.add_argument("catalog", help="its folder, or http://HOST:19530 of a Milvus")
    parser.add_argument("name", help="of their kind")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="added to the catalogue if not in it")
    parser.add_argument("--run", type=Path, help="folder of the model's run, if the catalogue cannot find it")
    options = parser.parse_args(arguments)

    from nearkin import catalog
    from nearkin.data.folder import count

    done = catalog.name(options.catalog, options.name, options.images, options.run)
    named = done.embedded + done.kept
    print(f"{printable(options.name)}: {count(named, 'picture')} named, {done.embedded:,} of them new")


def export(arguments: list[str]) -> None:
    parser = Parser("export", "Write the model of a run as one ONNX file; its metadata say how to prepare pictures.")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file; one that is there is lost")
    options = parser.parse_args(arguments)

    from nearkin.export import export_onnx

    file = options.onnx.expanduser()
    export_onnx(options.run, file)
    print(f"model: {file} ({file.stat().st_size / 10**6:.1f} MB)")


def compare(arguments: list[str]) -> None:
    parser = Parser("compare", "Configurations x seeds -> one table with intervals, and one page.")
    parser.usage = "nearkin compare CONFIG... [options] [--key value of nearkin train, laid over every CONFIG]"
    parser.add_argument("files", type=Path, nargs="+", metavar="CONFIG", help="one method each, named as its file is")
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="runs of each, seeds 0 to N - 1 (%(default)s)"
    )
    parser.add_argument("--out", default="runs/comparison", help="folder (%(default)s)")
    parser.add_argument("--baseline", metavar="NAME", help="method that the others are set against; the first")
    parser.add_argument(
        "--folds", type=int, metavar="K", help="score on training classes: train without one of K parts, each in turn"
    )
    parser.add_argument(
        "--trials", type=int, metavar="T", help="search T hyper-parameters for each method, on training classes only"
    )
    parser.add_argument(
        "--show", nargs=2, metavar=("A", "B"), help="methods side by side; the baseline and the best other"
    )
    own, overrides = split_options(arguments, {"seeds": 1, "out": 1, "baseline": 1, "folds": 1, "trials": 1, "show": 2})
    options = parser.parse_intermixed_args(own)  # configurations may stand before, between and behind the options

    from nearkin.compare import Request
    from nearkin.compare import compare as start
    from nearkin.interruption import Terminated, terminable

    out = absolute("--out", options.out)
    show = tuple(options.show) if options.show else None
    request = Request(
        options.files, overrides, out, options.seeds, options.baseline, options.folds, options.trials, show
    )
    try:
        with terminable():
            comparison = start(request)
    except KeyboardInterrupt as stop:
        fail(
            f"stopped; what is finished stays, the rest goes on with: nearkin compare {shlex.join(arguments)}",
            0 if isinstance(stop, Terminated) else 1,
        )
    print((out / "comparison.md").read_text(), end="")
    print(f"comparison: {out / 'comparison.html'}")
    failed = comparison.failed
    if failed:
        runs = f"{len(failed)} of {len(comparison.runs)} runs failed"
        fail(f"{runs}, the first is {failed[0].title}: {failed[0].failure}", 1)


def doctor(arguments: list[str]) -> None:
    parser = Parser("doctor", "What nearkin is made of and runs on here, and a self-test: exit status 1 if it fails.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where to look at the free disk; here")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    options = parser.parse_args(arguments)

    from nearkin.doctor import as_text, examine, self_test

    facts = examine(options.folder)
    if not options.json:
        print(as_text(facts))
    checks = []
    for check in self_test():
        checks.append(check)
        if not options.json:
            print(check, flush=True)
    wrong = sum(not check.right for check in checks)
    if options.json:
        print(json.dumps({**facts, "checks": [check._asdict() for check in checks]}))
    else:
        print(f"{len(checks)} checks, {wrong or 'none'} wrong")
    if wrong:
        fail(f"{wrong} of {len(checks)} checks are wrong", 1)


def split_options(arguments: list[str], own: dict[str, int]) -> tuple[list[str], list[str]]:
    """Divide a command line: what is no option and the options of these names, each with so many values; all others."""
    ours: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name in own or argument == "--help":
            ours.append(argument)
            ours += islice(rest, own.get(name, 0) if argument.startswith("--") and not equals else 0)
        else:
            others.append(argument)
            others += islice(rest, 0 if equals or argument in SWITCHES else 1)
    return ours, others


def demo(arguments: list[str]) -> None:
    parser = Parser("demo", "Train on built-in glyphs, evaluate on characters never seen, write a report, search.")
    parser.add_argument("--out", default="runs/demo", help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    from nearkin.demo import search_in_demo, settings
    from nearkin.report import write_report

    run = run_training(settings(absolute("--out", options.out), options.seed))
    print(f"report: {write_report(run.path)}")
    print(search_in_demo(run))
