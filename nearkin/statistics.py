"""Means over repeated runs, and how far they can be trusted.

Shape key: n = runs of one method, each with a seed (and a fold) of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.special import stdtrit

Key = TypeVar("Key")

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean, and its interval at 95 %.

    Args:
        mean: Of n values.
        half: Half the width of the interval, so that it is `mean` ± `half`; None where one value tells nothing.
        n: Values.
    """

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    @property
    def excludes_zero(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float], overlap: float = 0.0) -> Estimate:
    """The mean of n values and Student's t-interval around it.

    With `overlap` 0 the values are taken for independent draws: mean ± t(0.975, n - 1) · sd · sqrt(1/n). The scores of
    folds are not: their training sets share most classes. Their variance is then sd² (1/n + overlap), with overlap =
    classes scored / classes trained on, 1 / (k - 1) for k folds (Nadeau and Bengio, "Inference for the Generalization
    Error", Machine Learning 2003, §3, the corrected resampled t-test). Unlike the first term, the second does not
    shrink with more seeds: they shuffle the same classes.

    Raises:
        ValueError: There is no value, or one is not finite.
    """
    n = len(values)
    if not n or not all(map(math.isfinite, values)):
        raise ValueError(f"expected finite values, at least one, got {list(values)}")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    t = float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Estimate(mean, t * math.sqrt(variance * (1 / n + overlap)), n)


def difference(a: Mapping[Key, float], b: Mapping[Key, float], overlap: float = 0.0) -> Estimate | None:
    """The mean of a - b over the runs that both have, pair by pair, as `estimate` gives it; None where they share none.

    What a seed does to both, such as easy classes or lucky weights, cancels in the pair: this interval may exclude 0
    where those of the two means overlap.
    """
    shared = [a[key] - b[key] for key in a if key in b]
    return estimate(shared, overlap) if shared else None
