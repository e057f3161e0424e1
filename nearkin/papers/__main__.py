"""Write the papers' experiments as configurations: `python -m nearkin.papers configs`."""

import sys
from pathlib import Path

from nearkin.papers.experiments import EXPERIMENTS


def write(root: Path) -> None:
    """Write root/<data set>/<name>.yaml for every experiment."""
    for experiment in EXPERIMENTS:
        file = root / experiment.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(experiment.to_yaml(), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m nearkin.papers CONFIGS_FOLDER")
    write(Path(sys.argv[1]))
