"""The batches of DAMLRRM: half from a neat stream, half from a shuffled one."""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from nearkin.data.samplers import Indices, Labels, SeededBatchSampler, pictures_by_class, require


class TwoStreamSampler(SeededBatchSampler):
    """`classes` × `images` pictures class by class, then as many random ones: the neat and the shuffled half.

    Each stream's pool is cut once, by the seed, into batches that never change, and is gone through again and again
    in the same order:

    - Neat: the pictures of each class are cut into groups of `images`, and each batch takes a group from each of the
      `classes` classes with the most groups left. What makes no whole group, or no whole batch, stays out; so do
      classes with fewer than `images` pictures, for a picture is never its own positive.
    - Shuffled: all pictures in random order, cut at even distances into batches of the same size, as many as hold
      every picture, or a few more: as many as have no common divisor with the number of neat batches. Neighboring
      batches overlap by what they hold too much.

    So the same shuffled batch meets another neat batch each time, and no pair of batches comes again before all pairs
    have been seen: (neat batches) × (shuffled batches) steps. A picture that the neat half holds is passed over in the
    shuffled half, and the pictures that follow in the shuffled order fill it up: no picture is in a batch twice.

    An epoch is once through the neat pool (Xu et al., "Deep Asymmetric Metric Learning via Rich Relationship
    Mining", CVPR 2019).

    Args:
        labels: Class of each picture, integers (n,).
        classes: Classes in the neat half, at least 2.
        images: Pictures per class in the neat half, at least 2. The paper takes 12 × 5, or 20 × 3 for small classes.
        seed: Two samplers with the same seed draw the same batches.

    Raises:
        ValueError: More classes are asked for than have `images` pictures, or there are fewer pictures than the two
            halves of a batch hold.
    """

    def __init__(self, labels: Labels, classes: int = 12, images: int = 5, *, seed: int = 0) -> None:
        super().__init__(seed)
        require("classes per batch", classes, 2)
        require("images per class", images, 2)
        members = [each for each in pictures_by_class(labels) if len(each) >= images]
        if classes > len(members):
            raise ValueError(
                f"the neat half asks for {classes} classes of {images} pictures, but only {len(members)} training "
                f"classes have {images} pictures or more; ask for at most {len(members)}, or for fewer images"
            )
        half = classes * images
        if len(labels) < 2 * half:
            raise ValueError(
                f"two halves of {classes} x {images} take {2 * half} different pictures, but there are only "
                f"{len(labels)} training pictures; ask for fewer classes or images"
            )
        self.half = half
        self.neat = neat_batches(members, classes, images, self.random(0))  # (neat batches, half)
        self.order = self.random(1).permutation(len(labels))
        self.shuffled_batches = -(-len(labels) // half)
        while gcd(len(self.neat), self.shuffled_batches) > 1:
            self.shuffled_batches += 1

    def __len__(self) -> int:
        return len(self.neat)

    def draw(self, epoch: int, batch: int) -> list[int]:
        step = epoch * len(self.neat) + batch
        neat = self.neat[batch]
        start = step % self.shuffled_batches * len(self.order) // self.shuffled_batches
        onwards = self.order.take(np.arange(start, start + 2 * self.half), mode="wrap")
        shuffled = onwards[~np.isin(onwards, neat)][: self.half]
        return [int(i) for i in (*neat, *shuffled)]


def neat_batches(members: list[Indices], classes: int, images: int, random: np.random.Generator) -> NDArray[np.int64]:
    """As many batches of groups of distinct classes as can be dealt, in random order (batches, classes * images).

    Taking from the classes with the most groups left, ties at random, wastes the fewest: no class is left over with
    many groups that no other class can join.
    """
    groups = [random.permutation(each)[: len(each) // images * images].reshape(-1, images) for each in members]
    left = np.array([len(each) for each in groups])
    batches = []
    while np.count_nonzero(left) >= classes:
        order = random.permutation(len(groups))
        chosen = order[np.argsort(-left[order], kind="stable")[:classes]]
        left[chosen] -= 1
        batches.append(np.concatenate([groups[c][left[c]] for c in chosen]))
    return random.permutation(np.stack(batches))
