"""YAML file and command line <-> the arguments of `nearkin.train.train`.

A key is a constructor argument. A class is written in full,

    loss: {class_path: nearkin.losses.RankedListLoss, init_args: {alpha: 1.2}}

or in short, `loss: RankedListLoss`, on the command line `--loss RankedListLoss --loss.alpha 1.2`. Defaults, then the
file, then the command line; whoever names another class starts from that class's own defaults. jsonargparse checks the
types and builds the objects.
"""

import copy
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from nearkin.class_keys import CLASSES, SUPPLIED, Tree, check_complete, merge_class, parameters, required, unknown
from nearkin.data.source import Data, short_form
from nearkin.errors import InputError
from nearkin.files import absolute
from nearkin.run_folder import RunFolder
from nearkin.train import train

LISTS = ("levels", "logger")  # `--levels block2` is a list of one
SHORT: dict[str, Callable[[Any], dict[str, Any]]] = {  # what `--data D` says of the keys below `data`
    "data": short_form,
    "backbone": lambda name: {"name": name},
}
FLAGS = ("--overwrite", "--resume", "--print_config", "--help", "-h")
LENGTHS = ("T_max", "total_steps")  # of a schedule; the run's own length where nothing is said


@dataclass(frozen=True)
class Settings:
    """A checked command line.

    Attributes:
        config: Every key with its value, as plain YAML types.
        flags: The switches that were given, with their dashes.
    """

    config: Tree
    flags: frozenset[str]

    def build(self) -> Tree:
        """Arguments for `train`."""
        with readable():
            built = parser().instantiate(parser().parse_object(self.config, defaults=False))
        return {**built.as_dict(), "config": self.config}


def read(arguments: list[str]) -> Settings:
    """Settings from the command line behind `nearkin train`.

    Raises:
        InputError: A file cannot be read, a key is unknown, or a value has the wrong type.
    """
    files, options, flags = split_arguments(arguments)
    if {"--overwrite", "--resume"} <= flags:
        raise InputError("--overwrite begins a run anew and --resume goes on with it; give one of them")
    tree = defaults()
    for file in map(Path, files):
        merge(tree, read_yaml(file))
        if file.name == "config.yaml" and RunFolder(file.parent).metrics.exists():
            tree["out"] = file.parent  # a run's own, which may have been moved or copied since
        loss, size = tree["loss"], tree["embedding_size"]
        if "embedding_size" in required(loss["class_path"]) and loss["init_args"].get("embedding_size") == size:
            # As `checked` filled it in: the command line may name another for both.
            del loss["init_args"]["embedding_size"]
    merge(tree, options)
    data = tree["data"]
    if data["root"] is data["name"] is None and "--print_config" in flags:
        return Settings(checked(tree), flags)
    root = Data.at(data["root"], data["name"]).root
    data["root"] = str(root)
    if data["cache"] not in (None, "null"):
        data["cache"] = str(absolute("data.cache", data["cache"]))
    called = data["name"] or re.sub(r"\.(csv|parquet)$", "", root.name)
    tree["out"] = str(absolute("out", Path("runs") / called if tree["out"] is None else tree["out"]))
    return Settings(checked(tree), flags)


def checked(tree: Tree) -> Tree:
    """The whole tree with every value in its type; the pictures may be left out.

    Raises:
        InputError: A value is not of its type.
    """
    fill_length(tree)
    wanted = required(tree["loss"]["class_path"])
    init = tree["loss"]["init_args"]
    if "embedding_size" in wanted:
        said = init.get("embedding_size")
        if said is not None and str(said) != str(tree["embedding_size"]):
            raise InputError(
                f"loss.embedding_size must be embedding_size, which is {tree['embedding_size']}, got {said}; "
                "leave loss.embedding_size out"
            )
        init["embedding_size"] = tree["embedding_size"]
    uncounted = "num_classes" in wanted and init.get("num_classes") is None
    if uncounted:
        init["num_classes"] = 1  # until the data settings are known to be good
    for key in CLASSES:
        if tree[key]:
            check_complete(key, tree[key])
    data, out = tree["data"], tree["out"]
    no_pictures = data["root"] is None
    stand_in = {**tree, "data": {**data, "root": "."}, "out": "."} if no_pictures else tree
    with readable():
        tree = to_tree(parser().parse_object(stand_in, defaults=False))
    if uncounted:
        tree["loss"]["init_args"]["num_classes"] = None if no_pictures else training_classes(tree)
    return tree | {"data": data, "out": out} if no_pictures else tree


def training_classes(tree: Tree) -> int:
    """How many classes a batch may come from."""
    return len(Data.of(tree["data"]).open(tree["seed"])[1].train)


def help_text() -> str:
    """What `nearkin train --help` prints."""
    lines = ["usage: nearkin train [CONFIG.yaml] [--key value ...]", ""]
    lines += entry("--overwrite", "Replace the run that --out already holds.")
    lines += entry("--resume", "Go on with the run that --out holds.")
    lines += entry("--print_config", "Print every key with its value, and train nothing.")
    # What jsonargparse prints itself names options that `split_arguments` does not know, and every nn.Module there is.
    for group in parser()._action_groups:
        actions = [action for action in group._group_actions if action.dest in leaves(default_tree())]
        if actions:
            lines += ["", f"{group.title}:"]
        for action in actions:
            name, _, last = action.dest.rpartition(".")
            short = f"--{name}, " if name in SHORT and SHORT[name]("").get(last) == "" else ""
            default = yaml.safe_dump(leaves(default_tree())[action.dest], default_flow_style=True).split("\n")[0]
            lines += entry(f"{short}--{action.dest}", f"{action.help} [{default}]")
    return "\n".join([*lines, "", "The arguments of a class: nearkin train --print_config --loss AngularLoss", ""])


def entry(option: str, text: str) -> list[str]:
    indent = " " * 26
    described = textwrap.wrap(" ".join(text.split()), 110, initial_indent=indent, subsequent_indent=indent)
    if len(option) < 22:
        described[0] = f"  {option:<24}{described[0].strip()}"
        return described
    return [f"  {option}", *described]


def leaves(tree: Tree) -> Tree:
    """Every key that has a value of its own: `data.root`, but `loss` as a whole, by its class's short name."""
    found: Tree = {}
    for key, value in tree.items():
        if key in CLASSES:
            found[key] = value and value["class_path"].rpartition(".")[2]
        elif isinstance(value, dict):
            found |= {f"{key}.{name}": leaf for name, leaf in value.items()}
        else:
            found[key] = value
    return found


def to_yaml(config: Tree) -> str:
    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


@cache
def parser() -> ArgumentParser:
    made = ArgumentParser(
        prog="nearkin train", usage="nearkin train [CONFIG.yaml] [--key value ...]", exit_on_error=False
    )
    made.add_function_arguments(train, skip={"config", "overwrite", "resume"})
    return made


def defaults() -> Tree:
    return copy.deepcopy(default_tree())


@cache
def default_tree() -> Tree:
    return to_tree(parser().get_defaults())


def to_tree(namespace: Any) -> Tree:
    tree: Tree = yaml.safe_load(parser().dump(namespace, skip_validation=True, skip_unset=False))
    for key in CLASSES:
        if tree[key]:
            init = tree[key].get("init_args", {})
            tree[key]["init_args"] = {name: value for name, value in init.items() if name not in SUPPLIED}
    return tree


def split_arguments(arguments: list[str]) -> tuple[list[str], Tree, frozenset[str]]:
    """Files, keys as a nested tree, and switches of a command line."""
    files: list[str] = []
    flags: set[str] = set()
    given: Tree = {}
    rest = iter(arguments)
    for argument in rest:
        if argument in FLAGS:
            flags.add(argument)
        elif argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if not equals:
                following = next(rest, None)
                check_key(key)
                if following is None or following.startswith("--"):
                    raise InputError(f"--{key} expects a value behind it")
                value = following
            merge_key(given, key.split("."), value)
        else:
            files.append(argument)
    if len(files) > 1:
        raise InputError(f"expected at most one CONFIG.yaml, got {', '.join(files)}; options begin with --")
    return files, given, frozenset(flags)


def merge_key(tree: Tree, path: list[str], value: Any) -> None:
    """Set `tree[a][b][c] = value`; a plain value in the way is the short form of the same key."""
    for key in path[:-1]:
        if not isinstance(tree, dict):
            break
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            below = tree[key] = in_full(key, below)
        tree = below
    present = tree.get(path[-1])
    if isinstance(present, dict):
        said = in_full(path[-1], value)
        present |= {name: leaf for name, leaf in said.items() if leaf is not None or name not in present}
    else:
        tree[path[-1]] = value


def in_full(key: str, value: Any) -> Tree:
    """The keys that a short form stands for: `timm:resnet18` is `{"name": "timm:resnet18"}` of a backbone."""
    return SHORT[key](value) if key in SHORT else {"class_path": value}


def read_yaml(file: Path) -> Tree:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"expected a configuration in YAML, but there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as YAML: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} should hold keys and values, holds {type(content).__name__}")
    return content


def merge(tree: Tree, layer: Tree) -> None:
    """Lay keys over those of `tree`, in place; another class drops the arguments of the one before."""
    for key, value in layer.items():
        check_key(str(key))
        if key not in tree:
            above, below = key.split(".", 1)
            raise InputError(f"{key}: the keys of a file have no dots; write {above}: {{{below}: ...}}")
        if key in CLASSES:
            tree[key] = given(key, merge_class(key, tree[key], value), leaves(default_tree())[key])
        elif isinstance(tree[key], dict):
            if not isinstance(value, dict):
                if key not in SHORT:
                    known = ", ".join(f"{key}.{name}" for name in tree[key])
                    raise InputError(f"{key} has keys of its own ({known}); got {value!r}")
                value = SHORT[key](value)
            for name, leaf in value.items():
                if name not in tree[key]:
                    raise unknown(f"{key}.{name}", [f"{key}.{each}" for each in tree[key]])
                tree[key][name] = given(f"{key}.{name}", leaf, default_tree()[key][name])
        else:
            tree[key] = given(key, as_list(key, value) if key in LISTS else value, default_tree()[key])


def given(key: str, value: Any, default: Any) -> Any:
    """The value; null is one only where it is the default too."""
    if value is None and default is not None:
        raise InputError(f"{key} expects a value, such as its default {default}, got null")
    return value


def as_list(key: str, value: Any) -> Any:
    """The list that a name, or a list or null written as YAML, stands for."""
    try:
        content = yaml.safe_load(value) if isinstance(value, str) else value
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{key}: {value!r} is not YAML; expected a name, [a, list, of, names] or null") from error
    return [content] if isinstance(content, str) else content


def fill_length(tree: Tree) -> None:
    """A schedule that has to know its length gets that of the run, unless told."""
    if tree["schedule"]:
        try:
            length = int(tree["steps"]) - int(tree["warmup"])
        except (TypeError, ValueError):
            raise InputError(f"steps and warmup expect numbers, got {tree['steps']}, {tree['warmup']}") from None
        for name in parameters(tree["schedule"]["class_path"]) or []:
            if name in LENGTHS and tree["schedule"]["init_args"].get(name) is None:
                tree["schedule"]["init_args"][name] = length


def check_key(key: str) -> None:
    top = key.split(".")[0]
    known = list(default_tree())
    if top not in known:
        raise unknown(key, [*known, *(flag[2:] for flag in FLAGS)])


@contextmanager
def readable() -> Iterator[None]:
    """jsonargparse's several lines about a value of the wrong type, as one that names key, expectation and value."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
        kinds = r"Expected a (<class '[^']+'>|[\w.]+\[[^\]]*\]|tuple with \d+ elements|\S+)"
        expected = [in_words(each) for each in re.findall(kinds, text)]
        got = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: | - Expected |$)", text)
        if not (key and expected and got):
            raise InputError(text) from error
        raise InputError(f"{key} expects {' or '.join(dict.fromkeys(expected))}, got {got[1]}") from error


def in_words(kind: str) -> str:
    """A type as Python writes it, for a person: `<class 'int'>` -> `a whole number`."""
    choices = re.search(r"Literal\[(.*)\]", kind)
    if choices:
        return "one of " + choices[1].replace("'", "")
    length = re.fullmatch(r"tuple with (\d+) elements", kind)
    if length:
        return f"a list of {length[1]} values"
    name = re.sub(r"<class '([^']+)'>", r"\1", kind)
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "tuple": "a list such as [1, 2]",
        "NoneType": "null",
    }
    return words.get(name, name)
