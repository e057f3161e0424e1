"""Data flows one way: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nearkin"
PARTS = ("data", "losses", "metrics", "models")


def imported(file):
    """The nearkin modules that a file imports, anywhere in it."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_never_import_each_other(part):
    for file in (PACKAGE / part).rglob("*.py"):
        for module in imported(file):
            if module.startswith("nearkin"):
                assert module.startswith((f"nearkin.{part}", "nearkin.errors", "nearkin.files", "nearkin.processes")), (
                    f"{file} imports {module}"
                )


def test_nothing_imports_the_command_line():
    modules = {"nearkin.cli", "nearkin.commands", "nearkin.terminal"}
    for file in PACKAGE.rglob("*.py"):
        if file.name not in ("cli.py", "commands.py", "terminal.py", "__main__.py"):
            assert not modules & set(imported(file)), file


def test_only_training_waits_for_lightning():
    check = "import sys, nearkin.evaluate, nearkin.report; print({'lightning', 'torchmetrics'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"


def test_the_core_runs_without_what_only_some_of_it_needs():
    absent = "import sys; sys.modules.update(dict.fromkeys(('openTSNE', 'timm', 'sklearn', 'pyarrow')))"
    core = "import nearkin as nk; nk.losses, nk.metrics, nk.load; import nearkin.train"
    subprocess.run([sys.executable, "-c", f"{absent}; {core}"], check=True)
