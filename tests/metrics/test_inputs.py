"""What is kept, and what is refused."""

import numpy as np
import pytest
import torch

from nearkin.metrics.inputs import TILE, as_embeddings, as_labels


def test_a_tensor_keeps_its_type_and_loses_its_graph():
    x = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert as_embeddings(x).dtype == torch.bfloat16
    assert not as_embeddings(x).requires_grad


@pytest.mark.filterwarnings("error")
def test_read_only_and_reversed_arrays_and_lists_are_taken():
    x = np.arange(6.0).reshape(3, 2)
    assert as_embeddings(x[::-1]).tolist() == [[4, 5], [2, 3], [0, 1]]
    x.flags.writeable = False
    assert as_embeddings(x).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert as_embeddings([[1.0, 2.0]]).tolist() == [[1, 2]]


def test_labels_become_int64_without_losing_any():
    for dtype in (np.uint8, np.int16, np.uint64):
        info = np.iinfo(dtype)
        labels = as_labels(np.array([info.min, info.max, info.max - 1], dtype=dtype))
        assert labels.dtype == np.int64
        assert len(set(labels.tolist())) == 3
    assert as_labels([3, -1]).tolist() == [3, -1]


def test_booleans_are_no_class_ids():
    with pytest.raises(ValueError, match="integers, got bool"):
        as_labels(np.array([True, False]))


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3), dtype=complex), "x must be of one of the types float16, bfloat16, .* got complex128"),
        (np.zeros(3), r"x must be \(N, D\) with N and D at least 1, got shape \(3,\)"),
        (np.zeros((0, 3)), r"x must be \(N, D\) with N and D at least 1, got shape \(0, 3\)"),
        (np.zeros((3, 0)), r"x must be \(N, D\) with N and D at least 1, got shape \(3, 0\)"),
        (torch.eye(3).to_sparse(), "x must be dense, got torch.sparse_coo"),
        (np.array([[0, 0], [0, np.nan], [np.nan, 0]]), "x must be finite in float32, got NaN or infinity in row 1"),
        (np.array([[0, 0], [0, 0], [-2 * LARGEST, 0]]), "x must be finite in float32, got NaN or infinity in row 2"),
    ],
)
def test_embeddings_that_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        as_embeddings(values, "x")


def test_embeddings_are_looked_at_whole_and_taken_up_to_float32s_largest():
    x = np.zeros((TILE + 2, 1))
    x[0], x[-1] = LARGEST, -LARGEST
    assert as_embeddings(x).shape == x.shape
    x[-1] = np.inf
    with pytest.raises(ValueError, match=f"in row {TILE + 1}"):
        as_embeddings(x)


@pytest.mark.parametrize("values", [np.zeros((2, 1), dtype=int), np.zeros(0, dtype=int), torch.zeros(2, 1).int()])
def test_labels_of_another_shape_are_refused(values):
    with pytest.raises(ValueError, match=r"clusters must be \(N,\) with N at least 1, got shape"):
        as_labels(values, name="clusters")


def test_labels_of_another_number_are_refused():
    assert as_labels([1, 2, 3], 3).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="labels must have one entry for each of the 4 embeddings, got 3"):
        as_labels([1, 2, 3], 4)
