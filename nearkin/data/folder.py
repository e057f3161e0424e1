"""A folder of pictures, one sub-folder per class, and its class-disjoint split."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearkin.errors import InputError

log = logging.getLogger("nearkin")

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ImageList:
    """Pictures and their classes.

    Attributes:
        paths: The n files.
        labels: Class of each picture (n,), an index into `classes`.
        classes: Names of the classes.
    """

    paths: list[Path]
    labels: Indices
    classes: list[str]

    def of_classes(self, classes: Indices) -> Indices:
        """Indices of the pictures that belong to any of these classes."""
        return np.flatnonzero(np.isin(self.labels, classes))

    def only(self, classes: Indices) -> "ImageList":
        """The pictures of these classes; ids and names of all classes stay as they are."""
        chosen = self.of_classes(classes)
        return ImageList([self.paths[i] for i in chosen], self.labels[chosen], self.classes)


def scan(root: Path) -> ImageList:
    """List the pictures below `root`: each sub-folder is a class and may hold its pictures at any depth.

    Classes and files are sorted by name; hidden ones (".DS_Store", "._a.jpg") are passed over. Nothing is opened.

    Raises:
        InputError: The folder does not exist or holds no class folder with a file in it.
        OSError: A folder cannot be listed: left out, its class would shift the split between training and test.
    """
    expected = "expected a folder with one sub-folder of pictures per class"
    if not root.exists():
        raise InputError(f"{expected}, but {root} does not exist; name an existing folder with --data")
    if not root.is_dir():
        raise InputError(f"{expected}, but {root} is a file; name the folder, or a .csv or .parquet, with --data")
    paths: list[Path] = []
    labels: list[int] = []
    classes: list[str] = []
    empty: list[str] = []
    for folder in sorted(child for child in root.iterdir() if child.is_dir() and not hidden(child)):
        files = sorted(files_below(folder))
        if not files:
            empty.append(folder.name)
            continue
        paths += files
        labels += [len(classes)] * len(files)
        classes.append(folder.name)
    if not classes:
        loose = sum(1 for child in root.iterdir() if child.is_file() and not hidden(child))
        raise InputError(
            f"{expected}, but {root} holds no class folder with a file in it ({loose} loose files); "
            "move the pictures of each class into a sub-folder named after it"
        )
    if empty:
        log.warning("%s without a file: %s", count(len(empty), "class folder"), names(empty))
    return ImageList(paths, np.array(labels, dtype=np.int64), classes)


def files_below(folder: Path) -> Iterator[Path]:
    """The files at any depth, none of them hidden, in a hidden folder, or in a catalogue."""

    def stop(error: OSError) -> None:
        raise error

    for place, inside, files in os.walk(folder, onerror=stop):
        if "catalog.json" in files and "tables" in inside:  # what `nearkin index` makes
            inside.clear()
            continue
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith("."))


@dataclass(frozen=True)
class ClassSplit:
    """Class ids of the three parts; no class is in two of them."""

    train: Indices
    validation: Indices
    test: Indices


def split_classes(images: ImageList, validation: float, seed: int, fold: int = 0) -> ClassSplit:
    """The papers' protocol: classes sorted by name, the first half (rounded up) trains, the rest tests.

    Args:
        images: The pictures.
        validation: Fraction, in [0, 1), of the *training* classes that is held out.
        seed: Shuffles the training classes before they are held out.
        fold: Which part of that size is held out, counted from 0. The parts of one seed are disjoint, and those of
            `validation` = 1 / k are together all training classes.

    Raises:
        InputError: There are too few classes to train and to test on.
    """
    total = len(images.classes)
    if total < 4:
        raise InputError(
            f"expected at least 4 classes (half train, the other half tests), found {total}: "
            f"{names(images.classes)}; add class folders"
        )
    half = (total + 1) // 2
    train, held_out = hold_out(np.arange(half), validation, seed, fold)
    return ClassSplit(train=train, validation=held_out, test=np.arange(half, total))


def hold_out(training: Indices, validation: float, seed: int, fold: int = 0) -> tuple[Indices, Indices]:
    """Split training classes at random into those that are learnt from and those that are held out.

    Args:
        training: Class ids.
        validation: Fraction, in [0, 1), that is held out.
        seed: Shuffles the classes.
        fold: Which part of that size is held out, from 0.

    Raises:
        InputError: The fraction is out of range, or leaves either part fewer than 2 classes; there is no such fold.
    """
    if not 0 <= validation < 1:
        raise InputError(f"data.validation is a fraction of the training classes in [0, 1), got {validation}")
    folds = int(1 / validation + 1e-9) if validation else 1
    if not 0 <= fold < folds:
        raise InputError(
            f"data.fold must be in [0, {folds}), the parts of size data.validation={validation:.4g}, got {fold}"
        )
    start, stop = round(fold * validation * len(training)), round((fold + 1) * validation * len(training))
    number = stop - start
    if validation and (number < 2 or len(training) - number < 2):
        two = 2 / len(training)
        choose = f"choose between {two:.2f} and {1 - two:.2f}, or " if two <= 0.5 else ""
        raise InputError(
            f"data.validation {validation} holds out {number} of {len(training)} training classes, and both parts "
            f"need at least 2; {choose}add classes"
        )
    order = training[np.random.default_rng(seed).permutation(len(training))]
    return np.sort(np.delete(order, slice(start, stop))), np.sort(order[start:stop])


def hidden(path: Path) -> bool:
    return path.name.startswith(".")


def count(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`, `2 classes`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def names(items: list[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most:,} more" if len(items) > most else "")
