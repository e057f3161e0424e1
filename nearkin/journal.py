"""`metrics.jsonl` of a run, as Fabric writes it."""

import json
from typing import Any

from lightning.fabric.loggers.logger import Logger

from nearkin.files import write_file
from nearkin.run_folder import RunFolder


class JsonLines(Logger):
    """Fabric logger that appends to `metrics.jsonl`: one object a line, `step` first."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def rewind(self, step: int) -> None:
        """Drop the rows after this step: a resumed run is about to write them again."""
        rows = [row for row in self.run.history() if row["step"] <= step]
        write_file(self.run.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        try:
            with open(self.run.metrics, "a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.run.metrics)) from error

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them."""
