"""What hypothesis draws for the tests of any input: points, labels, and how often.

The examples are the same every time; a failure prints the smallest input that fails, and the line
`@reproduce_failure(...)` that repeats it. `NEARKIN_EXAMPLES=20` looks at twenty times as many.
"""

import os
from datetime import timedelta

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
)
SCALES = (0.0, 5e-324, 1e-45, 1e-30, 1e-13, 1e-6, 1e-3, 1.0, 30.0, 1e3, 1e6, 1e15, 1e17, 1e30, 1e38, 1e300)
USUAL = (1e-3, 1.0, 30.0)
ROWS, COLUMNS = st.integers(0, 9), st.integers(0, 5)

MORE = int(os.environ.get("NEARKIN_EXAMPLES", "1"))


def examples(number):
    """So many examples, the same every time; each within a time in which nothing but a hang takes as long."""
    return settings(
        max_examples=MORE * number,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=30),
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


@st.composite
def matrices(draw, scales=SCALES, rows=ROWS, columns=COLUMNS, wild=True):
    """float64 (N, D): of some scale; rows may come twice or be 0; if wild, one entry may be any float at all."""
    n, size = draw(rows), draw(columns)
    random = np.random.default_rng(draw(st.integers(0, 999)))
    values = random.uniform(-1, 1, (n, size)) * draw(st.sampled_from(scales))
    special = draw(st.sampled_from(["none", "copies", "zero", "whole numbers", *(["wild"] if wild else [])]))
    if special == "copies" and n:
        values = values[random.integers(n, size=n)]
    if special == "zero":
        values[: draw(st.integers(1, 2))] = 0
    if special == "whole numbers":
        values = random.integers(-2, 3, (n, size)).astype(np.float64)
    if special == "wild" and n and size:
        values[random.integers(n), random.integers(size)] = draw(st.floats())
    return values


@st.composite
def layouts(draw, values, dtype):
    """A tensor of these values, in one of the ways in which it may lie in memory; each beside its plain copy."""
    with np.errstate(over="ignore"):
        plain = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    kind = draw(st.sampled_from(["plain", "transposed", "every other column", "part of a larger one", "expanded"]))
    if kind == "transposed":
        return plain.T.contiguous().T, plain
    if kind == "every other column":
        return plain.repeat_interleave(2, dim=1)[:, ::2], plain
    if kind == "part of a larger one":
        return torch.nn.functional.pad(plain, (1, 1, 1, 1), value=7)[1:-1, 1:-1], plain
    if kind == "expanded" and len(plain):
        return plain[:1].expand_as(plain), plain[:1].repeat(len(plain), 1)
    return plain.clone(), plain


@st.composite
def labels(draw, n, dtypes=INTEGERS):
    """Class ids (n,): a few classes; in pairs, thirds or halves; or any numbers of the type."""
    dtype = draw(st.sampled_from(dtypes))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["few", "pairs", "thirds", "halves", "any"]))
    if kind == "pairs":
        ids = torch.arange(n) // 2
    elif kind == "thirds":
        ids = torch.cat([torch.arange(n // 3).repeat(2), torch.arange(n // 3) + 1, torch.zeros(n % 3)])
    elif kind == "halves":
        ids = torch.arange(n // 2).repeat(2) if n % 2 == 0 else torch.zeros(n)
    elif kind == "few":
        ids = torch.from_numpy(random.integers(3, size=n))
    else:
        low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        numbers = str(dtype).removeprefix("torch.")
        return torch.from_numpy(random.choice(np.array([low, high, 0, 1], dtype=numbers), size=n))
    return ids.to(dtype)
