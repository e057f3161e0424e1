"""Scores of the same points, by however many processes run this: `python joint_scores.py FILE`, or by torchrun.

Every process writes what it found to FILE.<its number>.
"""

import json
import sys
from contextlib import nullcontext

import numpy as np

from nearkin import metrics
from nearkin.processes import joined, rank
from nearkin.terminal import several


def cases():
    """Points and labels, and perhaps a gallery: by name."""
    random = np.random.default_rng(0)
    points = random.normal(size=(1_500, 16)).astype(np.float32)
    yield "few of a class, found in float32", (points, np.arange(1_500) // 3)
    yield "many of a class, ranked in float64", (points, np.arange(1_500) % 5)
    yield "copies and classes of one", (points[random.integers(40, size=900)], random.integers(600, size=900))
    yield "fewer queries than processes", (points[:2], np.arange(2), points, np.arange(1_500) % 700)


if __name__ == "__main__":
    with joined() if several() else nullcontext():
        found = {name: metrics.evaluate(*case, ks=(1, 10, 1_000)) for name, case in cases()}
        with open(f"{sys.argv[1]}.{rank()}", "w") as file:
            json.dump(found, file)
