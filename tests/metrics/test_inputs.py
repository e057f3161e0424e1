"""What is refused is tested where it is used, in test_retrieval; here, what is kept."""

import numpy as np
import pytest
import torch

from nearkin.metrics.inputs import as_embeddings, as_labels


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
