"""A table of a user's own pictures: a CSV or Parquet file with the columns `path`, `label` and, if wanted, `split`."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearkin.data.folder import ClassSplit, ImageList
from nearkin.errors import InputError, printable

SUFFIXES = (".csv", ".parquet")
SPLITS = ("train", "validation", "test")

Row = tuple[str, dict[str, Any]]
"""Where a row stands, as in "row 7", and its values by column."""


def read_manifest(file: Path) -> tuple[ImageList, ClassSplit | None]:
    """List the pictures that a manifest names, in its order; none is opened.

    Paths are absolute or relative to the manifest's folder. Rows of a CSV are counted as a spreadsheet does, the header
    being row 1; those of a Parquet file from 1.

    Args:
        file: `.csv` (UTF-8, commas) or `.parquet`.

    Returns:
        The pictures, classes sorted by name; and the split, or None where there is no such column.

    Raises:
        InputError: A column is missing or unknown, or a row has no path or label, names a file that is not there or
            already listed, has an unknown split, or puts a class into a second one.
    """
    paths: list[Path] = []
    labels: list[str] = []
    listed: dict[str, str] = {}  # path -> where it was named
    split_of: dict[str, tuple[str, str]] = {}  # class -> its split, and where that was said
    for where, row in read_csv(file) if file.suffix.lower() == ".csv" else read_parquet(file):
        here = f"{file}, {where}"
        picture, label = (text(row[each], f"{here}: {each}") for each in ("path", "label"))
        path = file.parent / picture
        if not os.path.isfile(path):  # Path.is_file raises where a name is too long
            raise InputError(
                f"{here}: there is no file {printable(str(path))}; paths are absolute or relative to {file.parent}"
            )
        before = listed.setdefault(os.path.normpath(path), where)
        if before != where:
            raise InputError(f"{here}: {printable(picture)} is already in {before}; list every picture once")
        paths.append(path)
        labels.append(label)
        if "split" in row:
            split = row["split"]
            if split not in SPLITS:
                raise InputError(f"{here}: expected the split to be {', '.join(SPLITS[:2])} or test, found {split!r}")
            first, there = split_of.setdefault(label, (split, where))
            if first != split:
                raise InputError(
                    f"{here}: class {printable(label)} is in {split} here and in {first} in {there}; put it into one "
                    "split only, or scores would not be for unseen classes"
                )
    if not paths:
        raise InputError(f"{file}: expected a row for every picture, found none below the header")
    classes = sorted(set(labels))  # NumPy would cut zeros off their ends
    number = {name: i for i, name in enumerate(classes)}
    images = ImageList(paths, np.array([number[label] for label in labels], dtype=np.int64), classes)
    if not split_of:
        return images, None
    parts = np.array([split_of[name][0] for name in images.classes])
    return images, ClassSplit(*(np.flatnonzero(parts == part) for part in SPLITS))


def text(value: Any, what: str) -> str:
    """A cell that must not be empty; whole numbers, as Parquet has them, become their digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        raise InputError(f"{what} is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise InputError(f"{what} should be text or a whole number, found {value!r}")
    return value


def read_csv(file: Path) -> Iterator[Row]:
    content = file.read_bytes()
    try:
        decoded = content.decode("utf-8-sig")  # with or without the mark that Excel puts in front
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, row {row}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    rows = csv.reader(io.StringIO(decoded, newline=""), strict=True)
    try:
        header = next(rows, [])
        check_columns(file, header)
        for number, cells in enumerate(rows, start=2):
            if len(cells) != len(header) and cells:
                raise InputError(f"{file}, row {number}: expected {len(header)} columns, found {len(cells)}")
            if cells:
                yield f"row {number}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: not a CSV file ({error})") from error


def read_parquet(file: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            check_columns(file, opened.schema_arrow.names)
            number = 0
            for batch in opened.iter_batches():
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for i in range(len(batch)):
                    number += 1
                    try:
                        row = {name: column[i].as_py() for name, column in columns.items()}
                    except UnicodeDecodeError as error:
                        raise InputError(f"{file}, row {number}: not UTF-8 ({error.reason})") from error
                    yield f"row {number}", row
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        raise InputError(f"{file} is not a Parquet file, or a damaged one ({' '.join(str(error).split())})") from error


def check_columns(file: Path, found: Sequence[str]) -> None:
    """An unknown column is refused, not passed over: it may be a split that is spelt wrong."""
    if not {"path", "label"} <= set(found) <= {"path", "label", "split"} or len(set(found)) < len(found):
        names = ", ".join(map(repr, found)) or "none"
        raise InputError(f"{file}: expected the columns path, label and, if wanted, split; found {names}")
