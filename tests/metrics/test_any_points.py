"""Any points at all: every metric gives the naive loop's figure, or one line that says what is wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score
from strategies import FLOATS, INTEGERS, examples, labels, layouts, matrices
from support import outcome
from test_retrieval import reference, same

from nearkin import metrics
from nearkin.metrics.ranking import Grid, to_grid

TYPES = (*FLOATS, torch.int64, torch.int8, torch.uint8)
LARGEST = float(np.finfo(np.float32).max)


@st.composite
def points(draw, **arguments):
    """Embeddings of any type, NumPy's or PyTorch's, beside the same in float64."""
    dtype = draw(st.sampled_from(TYPES))
    values = draw(matrices(**arguments))
    if not dtype.is_floating_point:
        values = np.round(np.nan_to_num(values).clip(-100, 100)) % 100
    x, plain = draw(layouts(values, dtype))
    exact = plain.double().numpy()
    if dtype != torch.bfloat16 and draw(st.booleans()):
        return x.numpy(), exact
    return (x.requires_grad_() if dtype.is_floating_point and draw(st.booleans()) else x), exact


@st.composite
def ids(draw, n):
    """Labels (n,) of any type, NumPy's or PyTorch's or a list, beside the same as numbers of Python."""
    y = draw(labels(n, INTEGERS))
    kind = draw(st.sampled_from(["tensor", "array", "list", "every other"]))
    plain = y.tolist()
    if kind == "array":
        return y.numpy(), plain
    if kind == "every other":
        return y.numpy().repeat(2)[::2], plain
    fits = n and max(plain) < 2**63  # NumPy makes floats of larger ones in a list
    return (plain if kind == "list" and fits else y), plain


def usable(exact):
    return bool(exact.size and (np.abs(exact) <= LARGEST).all())


def refused(function, *arguments, **options):
    """What a metric answers, and the line that it refuses arguments with: one of them is None."""
    found, line = outcome(ValueError, function, *arguments, **options)
    assert line is None or (" must " in line and "got" in line)
    return found, line


def groups(y):
    return [[i for i, other in enumerate(y) if other == each] for each in dict.fromkeys(y)]


def pairs(y):
    return {(i, j) for i in range(len(y)) for j in range(i) if y[i] == y[j]}


@pytest.mark.parametrize("alone", [True, False])
@examples(50)
@given(data=st.data())
def test_retrieval(alone, data):
    (x, exact), normalize = data.draw(points()), data.draw(st.booleans())
    others = [] if alone else [data.draw(points(columns=st.just(exact.shape[1]) | st.integers(0, 5)))]
    arguments, plain = [], []
    for each, values in [(x, exact), *others]:
        y, numbers = data.draw(ids(len(values) + data.draw(st.sampled_from([0] * 15 + [1]))))
        arguments += [each, y]
        plain += [values, numbers]
    ks = data.draw(st.lists(st.integers(-1, 12) | st.just(10**30), max_size=4))

    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):  # as where classes are small beside the gallery
            patch.setattr("nearkin.metrics.screening.RARE", 2)
        found, line = refused(metrics.retrieval, *arguments, ks=ks, normalize=normalize)
    fits = ks and min(ks) >= 1 and len({values.shape[1] for values in plain[::2]}) == 1
    for values, numbers in zip(plain[::2], plain[1::2], strict=True):
        fits = fits and usable(values) and len(values) == len(numbers) and not isinstance(numbers[0], bool)
    assert bool(fits) == (line is None), line
    event("refused" if line else "taken")
    if line:
        return
    # Ranks are exact on the grid, where nothing rounds.
    grid = to_grid(*(torch.from_numpy(values) for values in ([exact] * 2 if alone else plain[::2])), normalize)
    expected = reference(grid[0], plain[1], *([] if alone else [grid[1], plain[3]]), ks=ks)
    same(found, expected)
    assert metrics.recall_at_k(*arguments, ks=ks, normalize=normalize) == {k: found[f"recall@{k}"] for k in ks}
    assert metrics.map_at_r(*arguments, normalize=normalize) == found["map@r"]
    assert metrics.r_precision(*arguments, normalize=normalize) == found["r_precision"]


@pytest.mark.parametrize("normalize", [False, True])
@examples(25)
@given(data=st.data())
def test_the_grid_moves_a_point_by_no_more_than_float32_does(normalize, data):
    _, exact = data.draw(points(rows=st.integers(1, 9), columns=st.integers(1, 5)))
    if not usable(exact):
        return
    values = torch.from_numpy(exact)
    grid = Grid.around(values, normalize=normalize)
    back = grid.round(values).double() / grid.scale + grid.origin
    if normalize:
        values = values * 2.0**300  # of the smallest numbers hypot would round the length to whole ones
        lengths = torch.tensor([math.hypot(*row) for row in values], dtype=torch.float64)[:, None]
        values = torch.where(lengths > 0, values / lengths, 0.0)
    farthest = float((values - grid.origin).abs().max())
    own = 2.0**-52 if normalize else 0.0  # what float64 does to a unit vector, here as there
    assert (back - values).abs().max() <= 2.0**-23 * farthest + own + 1e-240


@examples(40)
@given(data=st.data())
def test_kmeans(data):
    (x, exact), normalize = data.draw(points()), data.draw(st.booleans())
    k = data.draw(st.integers(-1, len(exact) + 1))
    options = {
        "init": data.draw(st.sampled_from(["k-means++", "random"])),
        "restarts": data.draw(st.integers(1, 3)),
        "iterations": data.draw(st.sampled_from([1, 2, 100])),
        "seed": data.draw(st.sampled_from([0, 1, 2**64 - 1])),
    }
    found, line = refused(metrics.kmeans, x, k, normalize=normalize, **options)
    assert (usable(exact) and 1 <= k <= len(exact)) == (line is None), line
    if line:
        return
    assert found.assignments.shape == (len(exact),)
    assert set(found.assignments) <= set(range(k))
    assert found.centroids.shape == (k, exact.shape[1])
    assert np.isfinite(found.centroids).all()
    # In units of the largest coordinate, whose squares do not overflow.
    grid = Grid.around(torch.from_numpy(exact), normalize=normalize)
    placed = grid.round(torch.from_numpy(exact)).double().numpy() / grid.scale + grid.origin.numpy()
    unit = max(np.abs(placed).max(), 1e-30)
    squared = (((placed[:, None] - found.centroids) / unit) ** 2).sum(axis=2)
    own = squared[np.arange(len(exact)), found.assignments]
    np.testing.assert_allclose(own, squared.min(axis=1), rtol=1e-5, atol=1e-5)
    assert found.objective / unit / unit == pytest.approx(own.sum(), rel=1e-4, abs=1e-5)
    assert metrics.kmeans(x, k, normalize=normalize, **options).assignments.tolist() == found.assignments.tolist()


@examples(50)
@given(data=st.data())
def test_two_labellings(data):
    n = data.draw(st.integers(0, 9))
    (y, classes), (z, clusters) = data.draw(ids(n)), data.draw(ids(n + data.draw(st.sampled_from([0] * 9 + [1]))))
    fits = n and n == len(clusters) and not isinstance(classes[0], bool) and not isinstance(clusters[0], bool)
    for metric in (metrics.nmi, metrics.pairwise_f1):
        found, line = refused(metric, y, z)
        assert bool(fits) == (line is None), line
        if line:
            return
        assert metric(z, y) == pytest.approx(found, rel=1e-12)
    together, apart = pairs(classes), pairs(clusters)
    f1 = 2 * len(together & apart) / (len(together) + len(apart)) if together or apart else 1.0
    assert found == pytest.approx(f1, rel=1e-12)
    classes, clusters = (np.unique(np.array(each), return_inverse=True)[1] for each in (classes, clusters))
    assert metrics.nmi(y, z) == pytest.approx(normalized_mutual_info_score(classes, clusters), abs=1e-9)


@examples(20)
@given(data=st.data())
def test_evaluate(data):
    (x, exact), normalize = data.draw(points()), data.draw(st.booleans())
    y, numbers = data.draw(ids(len(exact)))
    gallery, values = data.draw(points(columns=st.just(exact.shape[1])))
    gallery_ids, gallery_numbers = data.draw(ids(len(values)))
    fits = usable(exact) and not isinstance(numbers[0], bool)
    found, line = refused(metrics.evaluate, x, y, normalize=normalize)
    assert fits == (line is None), line
    both, line = refused(metrics.evaluate, x, y, gallery, gallery_ids, normalize=normalize)
    fits_both = fits and usable(values) and not isinstance(gallery_numbers[0], bool)
    assert fits_both == (line is None), line
    if not fits:
        return
    clusters = metrics.kmeans(x, len(groups(numbers)), normalize=normalize).assignments
    assert found["nmi"] == metrics.nmi(y, clusters)
    assert found["f1"] == metrics.pairwise_f1(y, clusters)
    assert {"recall@1": found["recall@1"], "map@r": found["map@r"]}.items() <= found.items()
    for scores in (found, both or found):
        assert list(scores) == [*(f"recall@{k}" for k in (1, 2, 4, 8)), "map@r", "r_precision", "nmi", "f1"]
        assert all(0 <= value <= 1 for value in scores.values())


SOUND = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("embeddings", "numbers", "line"),
    [
        (None, [0, 1], "embeddings must be of one of the types .* got object"),
        ("cat", [0, 1], "embeddings must be of one of the types .* got <U3"),
        (SOUND.to(torch.complex64), [0, 1], "got complex64"),
        (SOUND.bool(), [0, 1], "got bool"),
        (SOUND.numpy().astype(">f4"), [0, 1], "got >f4"),
        (SOUND.numpy().astype(np.longdouble), [0, 1], "got float128"),
        (SOUND.to_sparse(), [0, 1], "embeddings must be dense, got torch.sparse_coo"),
        (SOUND.to("meta"), [0, 1], "embeddings must have values, got a tensor on the device meta"),
        (SOUND, torch.arange(2, device="meta"), "labels must have values, got a tensor on the device meta"),
        (SOUND[0], [0, 1], r"embeddings must be \(N, D\) .* got shape \(3,\)"),
        (SOUND[None], [0, 1], r"got shape \(1, 2, 3\)"),
        (SOUND, ["cat", "dog"], "labels must be integers, got <U3"),
        (SOUND, [0.0, 1.0], "labels must be integers, got float64"),
        (SOUND, [0, 2**64], "labels must be integers, got object"),
        (SOUND, [0, None], "labels must be integers, got object"),
        (SOUND, torch.zeros(2, dtype=torch.bfloat16), "labels must be integers, got bfloat16"),
        (SOUND, torch.zeros(2, dtype=torch.complex64), "labels must be integers, got complex64"),
        (SOUND, torch.arange(2).to_sparse(), "labels must be dense, got torch.sparse_coo"),
        (SOUND, [[0, 1]], r"labels must be \(N,\) .* got shape \(1, 2\)"),
        (SOUND, 0, r"labels must be \(N,\) .* got shape \(\)"),
    ],
)
def test_what_was_expected_and_what_came(embeddings, numbers, line):
    with pytest.raises(ValueError, match=line):
        metrics.evaluate(embeddings, numbers)
