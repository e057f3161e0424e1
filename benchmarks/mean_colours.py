"""Recall of the simplest embedding there is: the mean colours of an 8 x 8 grid, on the unseen half of the classes.

usage: python benchmarks/mean_colours.py ../shared/data/grocery
"""

import sys
from pathlib import Path

from nearkin import metrics
from nearkin.data import Preprocessing, read_all, scan, split_classes


def main(root: str) -> None:
    # Shrinking a picture to 8 x 8 averages each cell of the grid.
    images, pictures = read_all(scan(Path(root)), Preprocessing(size=8))
    unseen = images.of_classes(split_classes(images, validation=0.0, seed=0).test)
    embeddings = pictures[unseen].flatten(1).float() / 255
    for name, value in metrics.evaluate(embeddings, images.labels[unseen]).items():
        print(f"{name:12s} {100 * value:5.1f}")


main(sys.argv[1])
