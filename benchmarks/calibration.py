"""Whether the chosen rate of false matches comes true, for catalogues of other shapes than the calibration's.

    python benchmarks/calibration.py [--rate 0.05] [--draws 8]

Kinds are made up: centres at random in 6 or 16 dimensions, a few pictures about each, bent into unit vectors of 32. A
model is calibrated on some kinds; queries of others search a catalogue of again others. Each row says what share of
them found a match on average, where `rate` was asked for.
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray

from nearkin.calibration import calibrate

QUERIES = 300
# Kinds and pictures of each, in the calibration and in the catalogue.
SHAPES = [
    ((100, 5), (100, 5)),
    ((100, 5), (6400, 5)),
    ((50, 20), (50, 20)),
    ((50, 20), (1000, 1)),
    ((50, 20), (50, 1)),
    ((20, 50), (20, 50)),
    ((20, 50), (1000, 1)),
    ((8, 125), (8, 125)),
    ((8, 125), (1000, 1)),
]


def pictures(
    random: np.random.Generator, layers: list[NDArray[np.float64]], kinds: int, each: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings of new kinds, and their labels."""
    labels = np.repeat(np.arange(kinds), each)
    centres = random.normal(size=(kinds, len(layers[0])))
    points = centres[labels] + 0.35 * random.normal(size=(len(labels), len(layers[0])))
    vectors = np.maximum(points @ layers[0], 0) @ layers[1]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def share(seed: int, dimensions: int, rate: float, known: tuple[int, int], catalogue: tuple[int, int]) -> float:
    """Of the queries of unknown kinds, how many find a match."""
    random = np.random.default_rng(seed)
    layers = [random.normal(size=(dimensions, 64)), random.normal(size=(64, 32))]
    calibration = calibrate(*pictures(random, layers, *known), held_out=True)
    assert calibration is not None
    queries, gallery = (torch.from_numpy(pictures(random, layers, *each)[0]) for each in ((QUERIES, 1), catalogue))
    nearest = torch.cdist(queries, gallery).amin(dim=1).numpy()
    return float(np.mean(nearest <= calibration.threshold(rate, len(gallery))))


def main() -> None:
    """Print one line per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=8)
    args = parser.parse_args()
    print(f"{'calibrated on':>15}{'catalogue':>15}{'6 dimensions':>15}{'16 dimensions':>15}   asked {args.rate:.1%}")
    for known, catalogue in SHAPES:
        found = [
            np.mean([share(seed, dimensions, args.rate, known, catalogue) for seed in range(args.draws)])
            for dimensions in (6, 16)
        ]
        shapes = (f"{kinds:,} x {each}" for kinds, each in (known, catalogue))
        print("".join(f"{each:>15}" for each in (*shapes, *(f"{each:.1%}" for each in found))), flush=True)


if __name__ == "__main__":
    main()
