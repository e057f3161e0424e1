"""Write the configurations of the papers' methods: `python -m nearkin.papers configs`."""

import sys
from pathlib import Path

from nearkin.papers import experiments, small


def write(root: Path) -> None:
    """Write root/<data set>/<name>.yaml for every experiment of the papers, and for every method on small pictures."""
    for name, text in (*experiments.files(), *small.files()):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m nearkin.papers CONFIGS_FOLDER")
    write(Path(sys.argv[1]))
