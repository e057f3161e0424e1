"""Keys of a configuration whose values are classes: losses, samplers, optimizers, schedules, with their arguments."""

import inspect
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from nearkin.data.samplers import SeededBatchSampler
from nearkin.errors import InputError, nearest

CLASSES = {  # where the short names of each class-valued key live
    "loss": "nearkin.losses",
    "sampler": "nearkin.data",
    "optimizer": "torch.optim",
    "schedule": "torch.optim.lr_scheduler",
}
SUPPLIED = {"labels", "seed", "params", "optimizer"}  # arguments that `train` itself gives to those classes

Tree = dict[str, Any]


def merge_class(key: str, before: Tree | None, layer: Any) -> Tree | None:
    """One class-valued key: `Name`, `{class_path, init_args}`, or the arguments alone, of which one may be a class."""
    if layer is None or layer == "null":
        return None
    layer = dict(layer) if isinstance(layer, dict) else {"class_path": layer}
    named = layer.pop("class_path", None)
    init = layer.pop("init_args", None) or {}
    if not isinstance(init, dict):
        raise InputError(f"{key}.init_args expects keys and values, got {init!r}")
    arguments = {**init, **layer}
    if named is None and before is None:
        what = f"{key}.{next(iter(arguments))}" if arguments else key
        raise InputError(f"{what} needs a class to belong to: name one with --{key}")
    path = resolve(key, str(named)) if named is not None else before["class_path"]  # type: ignore[index]
    same = before is not None and locate(before["class_path"]) is locate(path)
    kept = before["init_args"] if before and same else own_defaults(path)
    accepted = parameters(path)
    for name in arguments:
        if accepted is not None and name not in accepted:
            raise unknown(f"{key}.{name}", [f"{key}.{each}" for each in accepted], of=path.rpartition(".")[2])
    for name in arguments.keys() & set(inner_losses(path)):
        arguments[name] = merge_class(f"{key}.{name}", kept.get(name), arguments[name])
    return {"class_path": path, "init_args": {**kept, **arguments}}


def inner_losses(path: str) -> list[str]:
    """Names of the constructor arguments that are losses themselves, as of a memory of past batches."""
    return [name for name, each in inspect.signature(locate(path)).parameters.items() if each.annotation is nn.Module]


def check_complete(key: str, chosen: Tree) -> None:
    """Refuse a class without an argument that it cannot be made without.

    Raises:
        InputError: The first that is missing, here or of a loss inside.
    """
    path, init = chosen["class_path"], chosen["init_args"]
    inner = inner_losses(path)
    for name in required(path):
        if init.get(name) is None and name in inner:
            raise InputError(f"{key}.{name} is missing: name one, such as ContrastiveLoss, with --{key}.{name}")
        if name not in init and name not in SUPPLIED:
            raise InputError(
                f"{key}.{name} is missing, and {path.rpartition('.')[2]} needs it: give it with --{key}.{name}, "
                "or name another class"
            )
    for name in inner:
        if init.get(name) is not None:
            check_complete(f"{key}.{name}", init[name])


def resolve(key: str, name: str) -> str:
    """The import path of a class from its short name or its import path."""
    kind = key.partition(".")[0]  # the loss.loss of a loss is one, too
    if "." not in name:
        home = import_module(CLASSES[kind])
        found = {each: value for each, value in vars(home).items() if inspect.isclass(value) and each[0] != "_"}
        known = [each for each, value in found.items() if suits(kind, value)]
        if name not in known:
            raise InputError(f"unknown {key} {name!r}; {nearest(name, known)}")
        return f"{CLASSES[kind]}.{name}"
    try:
        found = locate(name)
    except Exception as error:  # a module may raise anything
        raise InputError(f"{key}: {name} cannot be imported ({error})") from error
    if not (inspect.isclass(found) and suits(kind, found)):
        raise InputError(f"{key}: {name} is no class that can be used as one; {CLASSES[kind]} holds those that can")
    return name


def locate(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def suits(key: str, candidate: type) -> bool:
    """Whether a class found in the home of a key is one of those that the key is for."""
    base = {
        "loss": nn.Module,
        "sampler": SeededBatchSampler,
        "optimizer": Optimizer,
        "schedule": LRScheduler,
    }[key]
    if candidate in (base, ReduceLROnPlateau):  # the latter wants a score at each step
        return False
    return issubclass(candidate, base) and not inspect.isabstract(candidate)


def parameters(path: str) -> list[str] | None:
    """Names of the constructor arguments that a configuration may set; None where any is accepted."""
    signature = inspect.signature(locate(path)).parameters
    if any(each.kind is each.VAR_KEYWORD for each in signature.values()):
        return None
    return [each for each in signature if each not in SUPPLIED]


def required(path: str) -> list[str]:
    """Names of the constructor arguments that have no default."""
    signature = inspect.signature(locate(path)).parameters.values()
    return [each.name for each in signature if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]


def own_defaults(path: str) -> Tree:
    """The defaults of a class's constructor as plain YAML values."""
    values = {
        name: each.default
        for name, each in inspect.signature(locate(path)).parameters.items()
        if name not in SUPPLIED and each.default is not each.empty
    }
    plain = (type(None), bool, int, float, str, tuple, list)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if isinstance(value, plain)
    }


def unknown(key: str, known: list[str], of: str = "") -> InputError:
    owner = f" of {of}" if of else ""
    return InputError(f"unknown key {key}{owner}; {nearest(key, known)}")
