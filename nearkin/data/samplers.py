"""Batch samplers: which pictures meet in one batch.

Each sampler is an iterable of batches of indices. One `iter()` is one epoch, `len()` the batches in it, and successive
epochs differ. A batch is a pure function of (seed, epoch, batch number), so the whole state is those two counters:
a run that stops anywhere continues with exactly the batches that it would have seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

Indices = NDArray[np.int64]
Labels = Sequence[int] | Indices | Tensor
INTEGERS = "labels must be integers, the class of each picture"


class SeededBatchSampler(Sampler[list[int]], ABC):
    """What all batch samplers share: the two counters and the walk over them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self.batch = 0  # batches of this epoch already handed out

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def draw(self, epoch: int, batch: int) -> list[int]:
        """The indices of one batch; the same arguments always give the same batch."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rest of the current epoch, then step to the next one."""
        while self.batch < len(self):
            self.batch += 1  # before the yield: the state taken with a batch in hand points behind that batch
            yield self.draw(self.epoch, self.batch - 1)
        self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the walk stands: `epoch` and `batch`, the batches of that epoch already handed out."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved state; the next batch is the one that would have come next."""
        self.epoch, self.batch = state["epoch"], state["batch"]

    def random(self, *key: int) -> np.random.Generator:
        """A generator of its own for each key, independent between keys."""
        return np.random.default_rng((self.seed, *key))


class ClassBalancedSampler(SeededBatchSampler):
    """`classes` distinct classes per batch, `images` pictures of each, class by class.

    The classes are permuted anew each epoch and dealt out without replacement; those left over when less than a batch
    of them remains sit that epoch out. A class with fewer than `images` pictures repeats some of them (Wang et al.,
    "Ranked List Loss", CVPR 2019, §4). A class with one picture has no pair to learn from and is never drawn.

    Args:
        labels: Class of each picture, integers (n,).
        classes: Classes per batch; None takes 32, or all classes where there are fewer.
        images: Pictures per class, at least 2.
        seed: Two samplers with the same seed draw the same batches.

    Raises:
        ValueError: More classes are asked for than have two pictures, or fewer than two pictures per class.
    """

    def __init__(self, labels: Labels, classes: int | None = None, images: int = 4, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.members = pictures_by_class(labels)
        if classes is None:
            classes = max(2, min(32, len(self.members)))
        require("classes per batch", classes, 2)
        require("images per class", images, 2)
        require_classes(classes, self.members)
        self.classes, self.images = classes, images

    def __len__(self) -> int:
        return len(self.members) // self.classes

    def draw(self, epoch: int, batch: int) -> list[int]:
        order = self.random(epoch).permutation(len(self.members))
        random = self.random(epoch, batch)
        chosen = order[batch * self.classes : (batch + 1) * self.classes]
        return [int(i) for c in chosen for i in spread(self.members[c], self.images, random)]


class NPairSampler(SeededBatchSampler):
    """`batch_size` / 2 distinct classes, two pictures of each: anchor, positive, anchor, positive, ...

    Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS 2016.

    Args:
        labels: Class of each picture, integers (n,).
        batch_size: Pictures per batch, even.
        seed: Two samplers with the same seed draw the same batches.

    Raises:
        ValueError: The batch size is odd, or more classes are asked for than have two pictures.
    """

    def __init__(self, labels: Labels, batch_size: int = 128, *, seed: int = 0) -> None:
        super().__init__(seed)
        if batch_size < 4 or batch_size % 2:
            raise ValueError(f"an N-pair batch is pairs: batch_size must be even and at least 4, got {batch_size}")
        self.pairs = ClassBalancedSampler(labels, classes=batch_size // 2, images=2, seed=seed)

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, epoch: int, batch: int) -> list[int]:
        return self.pairs.draw(epoch, batch)


class DisjointTripletSampler(SeededBatchSampler):
    """`batch_size` / 3 triplets that share no picture: all anchors, then all positives, then all negatives.

    The anchors are of distinct classes, permuted anew each epoch and dealt out without replacement. A negative is any
    picture of another class than its anchor's. This is T-I of Wang et al., "Deep Metric Learning with Angular Loss",
    ICCV 2017, §4.

    Args:
        labels: Class of each picture, integers (n,).
        batch_size: Pictures per batch, a multiple of 3.
        seed: Two samplers with the same seed draw the same batches.

    Raises:
        ValueError: The batch size is no multiple of 3, more classes are asked for than have two pictures, or too few
            pictures remain beside the pairs to give every triplet a negative.
    """

    def __init__(self, labels: Labels, batch_size: int = 120, *, seed: int = 0) -> None:
        super().__init__(seed)
        if batch_size < 3 or batch_size % 3:
            raise ValueError(f"a batch of triplets: batch_size must be a multiple of 3, got {batch_size}")
        self.labels = class_ids(labels)
        self.members = pictures_by_class(labels)
        self.triplets = batch_size // 3
        require_classes(self.triplets, self.members)
        # By Hall's theorem these two counts suffice: the anchors' classes are distinct, so a spare picture is of no
        # use to one triplet at most, and only a lone triplet can be left with spares of its own class alone.
        spare = len(self.labels) - 2 * self.triplets
        if spare < self.triplets or spare < max(len(m) for m in self.members) - 1:
            raise ValueError(
                f"{self.triplets} triplets that share no picture need {self.triplets} negatives beside their pairs; "
                f"{len(self.labels)} training pictures do not always leave them: use a smaller batch_size"
            )

    def __len__(self) -> int:
        return len(self.members) // self.triplets

    def draw(self, epoch: int, batch: int) -> list[int]:
        order = self.random(epoch).permutation(len(self.members))
        random = self.random(epoch, batch)
        chosen = order[batch * self.triplets : (batch + 1) * self.triplets]
        pairs = np.stack([random.choice(self.members[c], 2, replace=False) for c in chosen])  # (triplets, 2)
        spare = random.permutation(np.setdiff1d(np.arange(len(self.labels)), pairs))
        for t, anchor in enumerate(pairs[:, 0]):
            usable = self.labels[spare] != self.labels[anchor]
            usable[:t] &= ~usable[t:].any()  # an earlier triplet gives its negative away only in need
            swap = int(np.flatnonzero(usable)[0])
            spare[[t, swap]] = spare[[swap, t]]
        return [int(i) for i in (*pairs[:, 0], *pairs[:, 1], *spare[: self.triplets])]


def class_ids(labels: Labels) -> Indices:
    """The class of each picture as an array of integers (n,).

    Raises:
        ValueError: They are no integers, or not one for each picture.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        if labels.is_floating_point():  # NumPy has not all of these
            raise ValueError(f"{INTEGERS}, got {str(labels.dtype).removeprefix('torch.')}")
    array = np.asarray(labels)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"labels must be (n,), the class of each picture, n at least 1, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{INTEGERS}, got {array.dtype}")
    return array


def pictures_by_class(labels: Labels) -> list[Indices]:
    """The indices of each class's pictures, classes in order; classes with a single picture are left out."""
    array = class_ids(labels)
    order = np.argsort(array, kind="stable")
    starts = np.flatnonzero(np.diff(array[order])) + 1
    return [members for members in np.split(order, starts) if len(members) >= 2]


def spread(members: Indices, count: int, random: np.random.Generator) -> Indices:
    """`count` members in random order, none repeated before every one of them has been used."""
    rounds = -(-count // len(members))
    return np.concatenate([random.permutation(members) for _ in range(rounds)])[:count]


def require(what: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")


def require_classes(asked: int, members: list[Indices]) -> None:
    if asked > len(members):
        raise ValueError(
            f"the batch asks for {asked} classes, but only {len(members)} training classes have two pictures or more; "
            f"ask for at most {len(members)}"
        )
