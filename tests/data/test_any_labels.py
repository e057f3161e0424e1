"""Any labels and sizes at all: every sampler deals batches as it says, or says in one line why it cannot."""

from collections import Counter
from itertools import combinations, islice

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from strategies import INTEGERS, examples
from support import outcome

from nearkin.data import ClassBalancedSampler, DisjointTripletSampler, NPairSampler, TwoStreamSampler

TYPES = [dtype for dtype in INTEGERS if dtype != torch.bool]


@st.composite
def class_ids(draw):
    """Labels as any caller has them, beside the plain list: few or many classes, of very unequal sizes, mixed."""
    ids = [number for number, size in enumerate(draw(st.lists(st.integers(0, 9), max_size=7))) for _ in range(size)]
    ids = draw(st.permutations(ids)) if len(ids) < 40 else ids
    dtype = draw(st.sampled_from(TYPES))
    ids = [each + (torch.iinfo(dtype).max - 10 if draw(st.booleans()) else 0) for each in ids]
    tensor = torch.from_numpy(np.array(ids, dtype=str(dtype).removeprefix("torch.")))
    kinds = [tensor.numpy, lambda: tensor]
    if dtype != torch.uint64:  # NumPy makes floats of a list of more than int64 holds
        kinds.append(lambda: ids)
    return draw(st.sampled_from(kinds))(), ids


def balanced(sizes, classes, images):
    enough = sum(size >= 2 for size in sizes.values()) >= classes
    return enough and classes >= 2 and images >= 2


def npair(sizes, batch):
    return batch % 2 == 0 and balanced(sizes, batch // 2, 2)


def triplets(sizes, batch):
    """Whether every choice of the anchors' classes leaves each triplet a negative of its own, by trying all."""
    count, pairs = batch // 3, [name for name, size in sizes.items() if size >= 2]
    if batch < 3 or batch % 3 or len(pairs) < count:
        return False
    for chosen in combinations(pairs, count):
        spare = [name for name, size in sizes.items() for _ in range(size - 2 * (name in chosen))]
        usable = [[each != anchor for each in spare] for anchor in chosen]  # (triplets, spare pictures)
        if not spare or (maximum_bipartite_matching(csr_array(usable), "column") < 0).any():
            return False
    return True


def two_streams(sizes, classes, images):
    enough = sum(size >= images for size in sizes.values()) >= classes
    return enough and classes >= 2 and images >= 2 and sum(sizes.values()) >= 2 * classes * images


def check_balanced(rows, sizes, classes, images):
    rows = rows.reshape(classes, images)
    assert (rows == rows[:, :1]).all()
    assert len(set(rows[:, 0].tolist())) == classes


def check_triplets(rows, sizes, batch):
    anchor, positive, negative = rows.reshape(3, -1)
    assert (anchor == positive).all()
    assert (anchor != negative).all()


def check_two_streams(rows, sizes, classes, images):
    neat, shuffled = np.split(rows, 2)
    check_balanced(neat, sizes, classes, images)
    assert len(shuffled) == len(neat)


counts = st.integers(-1, 6)
SAMPLERS = {  # the sampler, what it is asked for, whether it can give that, and whether a batch is that
    "balanced": (ClassBalancedSampler, st.tuples(counts, counts), balanced, check_balanced),
    "npair": (
        NPairSampler,
        st.tuples(st.integers(-1, 12)),
        npair,
        lambda rows, sizes, batch: check_balanced(rows, sizes, batch // 2, 2),
    ),
    "triplet": (DisjointTripletSampler, st.tuples(st.integers(-1, 15)), triplets, check_triplets),
    "two streams": (TwoStreamSampler, st.tuples(counts, counts), two_streams, check_two_streams),
}


@pytest.mark.parametrize("name", SAMPLERS)
@examples(150)
@given(data=st.data())
def test_batches_or_one_line(name, data):
    kind, asked, possible, check = SAMPLERS[name]
    labels, ids = data.draw(class_ids())
    arguments, seed = data.draw(asked), data.draw(st.integers(0, 3))
    sizes = Counter(ids)
    sampler, line = outcome(ValueError, kind, labels, *arguments, seed=seed)
    assert (line is None) == possible(sizes, *arguments), line
    event("refused" if line else "taken")
    if line:
        return
    drawn = [[*sampler] for _ in range(2)]
    assert len(drawn[0]) == len(sampler) >= 1
    for batch in (*drawn[0], *drawn[1]):
        assert all(type(index) is int for index in batch)
        check(np.array(ids, dtype=object)[batch], sizes, *arguments)
        times, repeated = Counter(batch), kind is ClassBalancedSampler
        assert all(times[index] == 1 or (repeated and sizes[ids[index]] < arguments[1]) for index in batch)
    again = kind(labels, *arguments, seed=seed)
    again.load_state_dict({"epoch": 1, "batch": 1})
    assert [*islice(again, len(sampler))] == drawn[1][1:]


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (["a", "a", "b", "b"], "<U1"),
        ([0.0, 0.0, 1.0, 1.0], "float64"),
        (torch.tensor([0, 0, float("nan"), 1]), "float32"),
        (torch.zeros(4, dtype=torch.bfloat16), "bfloat16"),
        ([True, True, False, False], "bool"),
        ([[0, 0], [1, 1]], "shape (2, 2)"),
        (torch.zeros(4, 1, dtype=torch.long), "shape (4, 1)"),
        ([], "shape (0,)"),
        (3, "shape ()"),
        (None, "shape ()"),
        ([None, None], "object"),
    ],
)
@pytest.mark.parametrize("kind", [ClassBalancedSampler, NPairSampler, DisjointTripletSampler, TwoStreamSampler])
def test_what_is_no_class_of_each_picture_is_one_line(kind, labels, got):
    _, line = outcome(ValueError, kind, labels)
    assert line.startswith("labels must be ")
    assert line.endswith(f", got {got}")
