"""Recall of the simplest embedding there is: the mean colours of an 8 x 8 grid, on the unseen half of the classes.

usage: python benchmarks/mean_colours.py ../shared/data/grocery
"""

import sys
from pathlib import Path

import torch.nn.functional as F

from nearkin import metrics
from nearkin.data import Data, Preprocessing, read_all


def main(root: str) -> None:
    listed, split = Data(Path(root)).open(seed=0)
    images, pictures = read_all(listed, Preprocessing(size=64))
    unseen = images.of_classes(split.test)
    embeddings = F.avg_pool2d(pictures[unseen].float() / 255, 8).flatten(1)  # (n, 3 * 8 * 8)
    for name, value in metrics.evaluate(embeddings, images.labels[unseen]).items():
        print(f"{name:12s} {100 * value:5.1f}")


main(sys.argv[1])
