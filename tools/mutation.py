"""Break the losses and the metrics on purpose, one small change at a time, and count the changes that no test notices.

    make mutation                                       # all modules, a sample of each: about an hour on one core
    python tools/mutation.py losses/angular --sample 0  # every mutant of one module

The mutants are cosmic-ray's (`pip install cosmic-ray`). Each is tried in a process of its own, forked from one that has
loaded PyTorch, so that none has to; it is compiled in place of the module, and no file is ever changed. First its own
tests are run, `tests/losses/test_angular.py` of `losses/angular`, then those of the whole folder that COMMON names. A
mutant is killed once a test fails, or takes far longer than without it. What was killed is remembered in
`build/mutation` as long as the module is the same; survivors are tried again.

Some mutants are no mistakes: they change speed or memory alone, or nothing at all. Those that a person has found to be
so are listed in `tools/equivalent_mutants.txt`, by reason; they are counted apart, and not tried.
"""

import argparse
import ast
import gc
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # forks with threads would hang
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading those of others takes longer than most tests

import parso
import pytest
import torch
import torch._dynamo  # what most tests load
import torchvision
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from lightning.fabric import Fabric
from scipy.io import savemat
from sklearn.metrics import normalized_mutual_info_score

LOADED = (torch, torchvision, Fabric, savemat, normalized_mutual_info_score)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "mutation"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
COMMON = {
    "losses": ["test_every_loss.py", "test_tiles.py", "test_any_batch.py"],
    "metrics": ["test_evaluation.py", "test_retrieval.py", "test_any_points.py"],
}
# Kernels for a GPU: what is not a kernel in it is a few lines around them.
LEFT_OUT = ("losses/fused", "losses/__init__", "metrics/__init__")
SEED = 0
MEMORY = 8 * 2**30

# Of cosmic-ray's operators those that make a mistake somebody could make: most others are type errors.
BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_FloorDiv Pow_Mul BitOr_BitAnd BitAnd_BitOr"
COMPARISONS = "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
OPERATORS = [
    *(f"ReplaceBinaryOperator_{each}" for each in BINARY.split()),
    *(f"ReplaceComparisonOperator_{each}" for each in COMPARISONS.split()),
    *(f"ReplaceUnaryOperator_Delete_{each}" for each in ("USub", "Invert", "Not")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("NumberReplacer", "RemoveDecorator", "ReplaceBreakWithContinue", "ZeroIterationForLoop", "ExceptionReplacer"),
]


class Mutant(NamedTuple):
    """One change of a module: the line, cosmic-ray's operator, and at which of its places."""

    line: int
    operator: str
    occurrence: int


def mutants(text: str) -> Iterator[Mutant]:
    """Every mutant of a module, but those of its annotations."""
    annotations = [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for owner in ast.walk(ast.parse(text))
        for node in (getattr(owner, "annotation", None), getattr(owner, "returns", None))
        if node is not None
    ]
    nodes = list(ast_nodes(parso.parse(text)))
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = (place for node in nodes for place, _ in operator.mutation_positions(node))
        for occurrence, place in enumerate(places):
            if not any(start <= place < stop for start, stop in annotations):
                yield Mutant(place[0], name, occurrence)


def mutated(text: str, mutant: Mutant) -> str:
    """The text of the module with that change."""
    changed: str = mutate_code(text, get_operator(f"core/{mutant.operator}")(), mutant.occurrence)
    return changed


def difference(text: str, changed: str) -> str:
    """The first line that differs, before and after."""
    pairs = zip_longest(text.splitlines(), changed.splitlines(), fillvalue="")
    before, after = next((before, after) for before, after in pairs if before != after)
    return f"{before.strip()}  ->  {after.strip()}"


class Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds one module, with a text of our own."""

    def __init__(self, module: str, text: str) -> None:
        self.name = f"nearkin.{module.replace('/', '.')}"
        self.path, self.text = str(ROOT / "nearkin" / f"{module}.py"), text

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_filename(self, name):
        return self.path

    def get_data(self, path):
        return self.text.encode()

    def path_stats(self, path):
        raise OSError  # nothing to cache


@cache
def time_limit(tests: tuple[str, ...]) -> float:
    """Seconds beyond which these tests are taken to hang."""
    start = time.monotonic()
    if not survive(tests, 600):
        sys.exit(f"{' '.join(tests)} fail as it is")
    return 20 + 5 * (time.monotonic() - start)


def survive(tests: tuple[str, ...], seconds: float, finder: Finder | None = None) -> bool:
    """Whether all tests pass, in time."""
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path[:0] = [finder] if finder else []
        arguments = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
        status = 1
        try:
            status = pytest.main([*arguments, "-m", "not slow", "-k", "not compiles", *tests])
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


class Counts(NamedTuple):
    """Of a module's mutants: all, how many were chosen, of these killed, and how many others are no mistakes."""

    every: int
    chosen: int
    killed: int
    equivalent: int


def examine(module: str, sample: int) -> Counts:
    """Try a sample of a module's mutants, all if 0, and print those that are mistakes and survive."""
    text = (ROOT / "nearkin" / f"{module}.py").read_text()
    every = list(mutants(text))
    random.Random(SEED).shuffle(every)  # a larger sample holds the smaller
    chosen = every[: sample or None]
    folder, stem = module.split("/")
    own = ROOT / "tests" / folder / f"test_{stem}.py"
    stages = [(str(own),)] if own.exists() else []
    stages.append(tuple(str(own.parent / name) for name in COMMON[folder]))

    remembered = RESULTS / f"{module.replace('/', '.')}.json"
    known = json.loads(remembered.read_text()) if remembered.exists() else {}
    killed = [Mutant(*each) for each in known["killed"]] if known.get("text") == text else []
    remembered.parent.mkdir(parents=True, exist_ok=True)
    no_mistakes = set(EQUIVALENT.read_text().splitlines())
    survivors = equivalent = 0
    for mutant in sorted(set(chosen) - set(killed)):
        changed = mutated(text, mutant)
        if f"{module}.py: {difference(text, changed)}" in no_mistakes:
            equivalent += 1
        elif all(survive(tests, time_limit(tests), Finder(module, changed)) for tests in stages):
            survivors += 1
            print(f"{module}.py:{mutant.line}: {difference(text, changed)}", flush=True)
        else:
            killed.append(mutant)
            remembered.write_text(json.dumps({"text": text, "killed": killed}))
    return Counts(len(every), len(chosen), len(chosen) - survivors - equivalent, equivalent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(
        str(file.relative_to(ROOT / "nearkin").with_suffix(""))
        for folder in COMMON
        for file in (ROOT / "nearkin" / folder).glob("*.py")
    )
    parser.add_argument(
        "modules", nargs="*", default=[name for name in every if name not in LEFT_OUT], metavar="MODULE"
    )
    parser.add_argument(
        "--sample", type=int, default=60, help="mutants of each module, at most; 0 for all (%(default)s)"
    )
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    gc.freeze()
    found = []
    for module in options.modules:
        counts = examine(module, options.sample)
        found.append(counts)
        print(f"{module}: {counts.every} mutants, {counts.chosen} chosen, {counts.killed} killed,", end=" ")
        print(f"{counts.equivalent} no mistakes", flush=True)
    every, chosen, killed, equivalent = map(sum, zip(*found, strict=True))
    print(f"all: {every} mutants, {chosen} chosen, {killed} killed, {equivalent} no mistakes")
    print(f"killed: {killed / chosen:.1%}, of the mistakes {killed / (chosen - equivalent):.1%}")
    weighted = sum(each.killed * each.every / each.chosen for each in found)
    print(f"weighted by the mutants of the modules, killed: {weighted / every:.1%}")


if __name__ == "__main__":
    main()
