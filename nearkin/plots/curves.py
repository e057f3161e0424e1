"""Learning curves: the rows a run logged -> charts ready to draw."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_CURVES = ("step", "epoch", "seconds")
ORDER = ("loss", "validation", "lr")  # these first, others as they come
SMOOTHED = "loss"  # the only curve that is noise around a trend
REACH = 1 / 50  # of the run: how far to either side a smoothed curve averages
LOG_RANGE = 100  # a curve whose largest value is this many times its smallest needs a logarithmic axis
MOST_POINTS = 1_000  # more than a chart has pixels for


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: What it shows, such as `recall@1`.
        steps: Training steps, ascending.
        values: Finite numbers, one per step.
        smooth: The trend of `values`; empty where they are their own trend.
        broken_at: The first step whose value was not finite, None if there is none.
    """

    name: str
    steps: list[float]
    values: list[float]
    smooth: list[float] = field(default_factory=list)
    broken_at: int | None = None


@dataclass(frozen=True)
class Chart:
    """Lines that share their axes.

    Args:
        name: What comes before the first `/` of the logged keys, such as `validation`.
        log: Draw the values on a logarithmic axis.
        percent: The values are fractions, to be read as percent.
        series: At least one line.
    """

    name: str
    log: bool
    percent: bool
    series: list[Series]


def charts(history: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Group the logged numbers into charts by prefix: `validation/recall@1` and `validation/map@r` share one.

    Args:
        history: Rows with "step" and any numbers, such as {"step": 20, "loss": 0.61, "lr": 0.001}. A step that
            was logged again (by a run that was resumed) counts as logged last.
    """
    logged: dict[str, dict[int, float]] = {}
    for row in history:
        for key, value in row.items():
            if key not in NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                logged.setdefault(key, {})[int(row["step"])] = float(value)

    groups: dict[str, list[Series]] = {name: [] for name in ORDER}
    for key, points in logged.items():
        group, _, name = key.partition("/")
        series = _series(name or group, points, smoothed=group == SMOOTHED)
        groups.setdefault(group, []).append(series)
    return [_chart(name, series) for name, series in groups.items() if series]


def smooth(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Average each of (n,) values with those up to `reach` before and after it, the nearer the more.

    Not an average of the past only, as for a running display: that one lags behind wherever the curve falls.
    """
    weights = np.hanning(2 * reach + 3)[1:-1]
    total = np.convolve(values, weights)[reach : reach + len(values)]
    return total / np.convolve(np.ones_like(values), weights)[reach : reach + len(values)]


def _series(name: str, points: dict[int, float], smoothed: bool) -> Series:
    steps = sorted(points)
    finite = [step for step in steps if math.isfinite(points[step])]
    broken_at = next((step for step in steps if not math.isfinite(points[step])), None)
    values = np.array([points[step] for step in finite])
    reach = round(REACH * len(values))
    trend = smooth(values, reach) if smoothed and reach else values[:0]
    return Series(name, _thin(np.array(finite)), _thin(values), _thin(trend), broken_at)


def _chart(name: str, series: list[Series]) -> Chart:
    values = [value for line in series for value in line.values]
    log = bool(values) and min(values) > 0 and max(values) >= LOG_RANGE * min(values)
    percent = name == "validation" and all(0 <= value <= 1 for value in values)
    return Chart(name, log, percent, series)


def _thin(values: NDArray[Any]) -> list[float]:
    """Average runs of neighbours where there are more than MOST_POINTS values."""
    if len(values) <= MOST_POINTS:
        return [float(value) for value in values]
    return [float(part.mean()) for part in np.array_split(values, MOST_POINTS)]
