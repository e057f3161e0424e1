"""The folder of a run: what lies in it, and how it is opened."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nearkin.errors import InputError
from nearkin.files import read_mapping, write_file

FILES = (
    "config.yaml",
    "metrics.jsonl",
    "result.json",
    "model.safetensors",
    "model.json",
    "last.ckpt",
    "previous.ckpt",
    "report.html",
    "failed.txt",
)

BACK = "bring it back, or train the run anew"
"""What to do about a damaged file of a run."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run and its small files."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def failure(self) -> Path:
        """Why a run of a comparison came to nothing, where it did."""
        return self.path / "failed.txt"

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file()

    def occupied(self) -> list[str]:
        """Names of the files here that a run would replace."""
        return [name for name in FILES if (self.path / name).exists()]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep other processes from training into it; still empty at the end, it goes again.

        Raises:
            InputError: It cannot be made or written to, or another process is at work on it.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]
        with ExitStack() as behind:
            behind.callback(remove_empty, made)
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=self.path).close()
                folder = os.open(self.path, os.O_RDONLY)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise InputError(
                    f"--out expects a folder that can be written to, but {self.path} cannot be ({error.strerror}); "
                    "name another"
                ) from error
            behind.callback(os.close, folder)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
            except BlockingIOError:
                raise InputError(
                    f"another process is training into {self.path}; wait for it, or name another folder with --out"
                ) from None
            yield

    def check_free(self, overwrite: bool) -> None:
        """Refuse a folder that holds a run, or a file that a run would replace, unless it shall be replaced.

        Raises:
            InputError: It does.
        """
        if overwrite:
            return
        if self.exists():
            raise InputError(
                f"{self.path} already holds a run; go on with it by --resume, replace it by --overwrite, "
                "or name another folder with --out"
            )
        if self.occupied():
            raise InputError(
                f"{self.path} is not a run, yet holds what a run would replace: {', '.join(self.occupied())}; "
                "name another folder with --out, or replace them by --overwrite"
            )

    def start(self, config: dict[str, Any]) -> None:
        """Make the folder for a new run; the files of an older one are removed, and nothing else is."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for events in (self.path / "tensorboard").glob("events.*"):
            events.unlink()
        content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_file(self.path / "config.yaml", content.encode())

    def check_config(self, config: dict[str, Any]) -> None:
        """Refuse to go on with a run under another configuration than it was begun with.

        Raises:
            InputError: There is no run here, or its configuration differs.
        """
        if not self.exists():
            raise InputError(f"--resume expects a run in {self.path}, but there is none; leave --resume out")
        changed = self.changed(config)
        if changed:
            key, begun, now = changed
            raise InputError(
                f"--resume expects the configuration that {self.path} was begun with: {key} was {begun}, is {now}; "
                f"go on with: nearkin train {self.path / 'config.yaml'} --resume"
            )

    def changed(self, config: dict[str, Any]) -> tuple[str, Any, Any] | None:
        """The first key in which the run that was begun here differs, its value then and now; None where none does."""
        begun, now = flat(self.config()), flat(config)
        # A run's folder may have been moved; and the pictures are the same from a cache.
        keys = sorted((begun.keys() | now.keys()) - {"out", "data.cache"})
        return next(((key, begun.get(key), now.get(key)) for key in keys if begun.get(key) != now.get(key)), None)

    def config(self) -> dict[str, Any]:
        """What the run was begun with.

        Raises:
            InputError: No run was begun here.
        """
        if not self.exists():
            raise InputError(f"expected the folder of a run, but {self.path} holds no config.yaml; train one first")
        config = read_mapping(self.path / "config.yaml", yaml.safe_load, BACK)
        for part in ("data", "protocol"):
            if not isinstance(config.get(part), dict):
                raise InputError(f"{self.path / 'config.yaml'} is damaged (no {part} in it); {BACK}")
        return config

    def result(self) -> dict[str, Any]:
        """The scores of a finished run.

        Raises:
            InputError: The run is not finished.
        """
        self.config()
        file = self.path / "result.json"
        if not file.is_file():
            raise InputError(
                f"{self.path} holds a run that is not finished; go on with: "
                f"nearkin train {self.path / 'config.yaml'} --resume"
            )
        result = read_mapping(file, json.loads, BACK)
        usable = {
            "untrained": are_scores(result.get("untrained")),
            "trained": are_scores(result.get("trained")),
            "protocol": is_protocol(result.get("protocol")),
            "training": isinstance(result.get("training"), dict),
        }
        for part, good in usable.items():
            if not good:
                raise InputError(f"{file} is damaged (no usable {part} in it); {BACK}")
        return result

    def finish(self, result: dict[str, Any]) -> None:
        """Write the scores: the run is finished."""
        write_file(self.path / "result.json", json.dumps(result, indent=1).encode())

    def history(self) -> list[dict[str, float]]:
        """The rows of `metrics.jsonl`; a last line that a crash cut short is left out.

        Raises:
            InputError: Another line is damaged.
        """
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(errors="replace").split("\n")
        try:
            rows = [json.loads(line) for line in lines[:-1] if line]
            if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
                raise ValueError("a line without a step")
            return rows
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.metrics} is damaged ({error}); repair or remove it") from error


def are_scores(said: object) -> bool:
    return isinstance(said, dict) and all(isinstance(each, int | float) for each in said.values())


def is_protocol(said: object) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("scored"), list):
        return False
    numbers = ("test_images", "test_classes", "kmeans_restarts", "kmeans_seed")
    words = (*said["scored"], said.get("kmeans_init"))
    return all(isinstance(said.get(key), int) for key in numbers) and all(isinstance(word, str) for word in words)


def remove_empty(folders: list[Path]) -> None:
    """Remove these folders, innermost first, as far as they are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
