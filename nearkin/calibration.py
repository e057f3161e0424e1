"""How near is near enough: the distance below which two pictures are taken for the same kind.

A query of a kind that a catalogue does not hold should have no match there. How near its nearest stranger comes is
learnt from pictures whose kinds are known: each searches among those of all other classes, and the distances to the
nearest are kept. Their quantile at a rate is the threshold at which that share of such queries finds a false match.

Small rates ask for quantiles that few pictures tell of, or none. Below the lowest fifth the distances are taken to
follow a power law, as those of points of a few intrinsic dimensions do: the share within t is proportional to t^m, with
m fitted to that fifth (Hill, "A simple general approach to inference about the tail of a distribution", 1975).

The nearest of more strangers is nearer. For a search among N pictures (those of a label, where it looks at no others),
more than the n strangers that the distances are of, the rate is taken at 1 - (1 - rate)^(n / N): as if every n more
pictures were another independent draw. Pictures of one kind are less than that. So this holds where a catalogue has
about as many pictures of a kind as the calibration had; where it has one of each, false matches can be several times as
many as asked for (`benchmarks/calibration.py`).

Shape key: n = pictures, D = embedding size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MOST = 1_000
"""Distances that are kept: enough for a false-match rate of one in some hundreds."""

TAIL = 0.2
"""Share of the distances, the smallest, that the power law is fitted to. In `tests/test_calibration.py` and with other
made-up kinds, of a tenth the threshold varied more, and of three tenths it was stricter than asked."""

LEAST = 10
"""Distances that it is fitted to, if there are as many."""

TILE = 2**10


@dataclass(frozen=True)
class Calibration:
    """What is known of the distances between pictures of different kinds.

    Args:
        distances: From pictures to their nearest stranger, ascending.
        strangers: How many each had to search among, on average.
        classes: Of how many classes the pictures were.
        held_out: Whether the model has not learnt from these classes. Those it has learnt it keeps farther apart than
            new ones, so that a threshold from them lets more false matches through than asked for.
    """

    distances: list[float]
    strangers: int
    classes: int
    held_out: bool

    def threshold(self, rate: float, pictures: int) -> float:
        """The distance within which a hit counts as a match.

        Args:
            rate: Share of the queries of unknown kinds that may find a match, in (0, 1).
            pictures: N, that are searched among.

        Raises:
            ValueError: The rate is not in (0, 1).
        """
        if not 0 < rate < 1:
            raise ValueError(f"the false-match rate is a share in (0, 1), got {rate}")
        # Fewer pictures may be of as many kinds: for them nothing is taken to be easier.
        each = -np.expm1(np.log1p(-rate) * self.strangers / max(pictures, self.strangers))
        last = len(self.distances) - 1
        place, below = each * last, max(int(TAIL * last), min(LEAST, last))
        if place >= below:
            return self.distances[int(place)]
        edge = self.distances[below]
        slope = np.log(edge / np.array(self.distances[:below])).mean()  # 1 / m
        return float(edge * (place / below) ** slope)

    @classmethod
    def of(cls, description: Mapping[str, Any] | None) -> "Calibration | None":
        """From `model.json`, which may have none.

        Raises:
            ValueError, TypeError, LookupError, OverflowError: It is not what `calibrate` found.
        """
        if description is None:
            return None
        distances = [float(each) for each in description["distances"]]
        ascending = all(a <= b for a, b in pairwise(distances))
        if not (distances and distances[0] > 0 and distances[-1] < np.inf and ascending):
            raise ValueError("the distances of a calibration are positive and ascending")
        strangers, classes = index(description["strangers"]), index(description["classes"])
        if not (1 <= strangers < 2**63 and 2 <= classes < 2**63):
            raise ValueError(f"a calibration is by strangers, not by {strangers} in {classes} classes")
        return cls(distances, strangers, classes, bool(description["held_out"]))


def calibrate(embeddings: NDArray[np.float32], labels: NDArray[np.int64], held_out: bool) -> Calibration | None:
    """Learn from pictures of known kinds how near strangers come.

    Args:
        embeddings: (n, D), as they are compared.
        labels: (n,) their classes.
        held_out: As in `Calibration`.

    Returns:
        None if no picture has a stranger at a distance that float32 holds, but for copies of it that are of another
        class by mistake.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        return None
    x, y = torch.from_numpy(embeddings), torch.from_numpy(labels)
    nearest = torch.cat(
        [
            torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist")
            .masked_fill_(own[:, None] == y, torch.inf)
            .amin(dim=1)
            for rows, own in zip(torch.split(x, TILE), torch.split(y, TILE), strict=True)
        ]
    )
    ascending = np.sort(nearest.double().numpy())
    ascending = ascending[(ascending > 0) & np.isfinite(ascending)]
    if not len(ascending):
        return None
    kept = ascending[np.linspace(0, len(ascending) - 1, min(MOST, len(ascending))).round().astype(int)]
    strangers = len(labels) - round(float((sizes.astype(float) ** 2).sum() / len(labels)))
    return Calibration([float(f"{each:.6g}") for each in kept], strangers, len(classes), held_out)
