"""How the scored embeddings of runs are spread: whether a loss has used the space that it was given.

usage: python benchmarks/spread.py RUN...

Effective dimensions are (Σλ)² / Σλ² over the eigenvalues λ of the covariance of the embeddings: 1 on a line, D where
all directions are alike. Squared distances are means over pairs of pictures of one class, and of two.
"""

import sys
from pathlib import Path

import numpy as np

from nearkin.data import Data
from nearkin.embed import load
from nearkin.evaluate import embed_unseen, scored_classes
from nearkin.run_folder import RunFolder


def main(runs: list[Path]) -> None:
    print(f"{'effective dimensions':>20} {'d² of a class':>14} {'beyond 2':>9} {'d² of two':>10}  run")
    for run in runs:
        folder = RunFolder(run)
        found = embed_unseen(load(run), Data.of(folder.config()["data"]), scored_classes(folder))
        x, labels = found.embeddings.astype(np.float64), found.images.labels
        eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
        norms = (x**2).sum(axis=1)
        d2 = norms[:, None] + norms - 2 * x @ x.T
        same = labels[:, None] == labels
        positive = d2[same & ~np.eye(len(x), dtype=bool)]
        dimensions = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
        beyond = f"{100 * (positive > 2).mean():.1f} %"
        print(f"{dimensions:20.1f} {positive.mean():14.3f} {beyond:>9} {d2[~same].mean():10.3f}  {run}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(argument) for argument in sys.argv[1:]])
