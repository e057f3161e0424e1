"""Against a sort of exact integer distances, where float32 cannot tell who is nearer."""

import numpy as np
import pytest
import torch

from nearkin.metrics import retrieval, screening
from nearkin.metrics.ranking import offsets, scores_between, to_grid
from nearkin.metrics.screening import Screen, rounding_errors

# Every rank of the first of its class shows.
KS = range(1, 1101)


def reference(queries, query_labels, gallery=None, gallery_labels=None):
    alone = gallery is None
    gallery, gallery_labels = (queries, query_labels) if alone else (gallery, gallery_labels)
    queries, gallery = queries.long().numpy(), gallery.long().numpy()
    query_labels, gallery_labels = query_labels.numpy(), gallery_labels.numpy()
    first, average_precision, precision_at_r = [], [], []
    for i, query in enumerate(queries):
        order = ((gallery - query) ** 2).sum(axis=1).argsort(kind="stable")
        hit = gallery_labels[order[order != i] if alone else order] == query_labels[i]
        r = hit.sum()
        first.append(hit.argmax() if r else len(gallery))
        precision = hit.cumsum() / np.arange(1, len(hit) + 1)
        average_precision.append((precision * hit)[:r].sum() / max(r, 1))
        precision_at_r.append(hit[:r].sum() / max(r, 1))
    result = {f"recall@{k}": np.mean(np.array(first) < min(k, len(gallery))) for k in KS}
    return {**result, "map@r": np.mean(average_precision), "r_precision": np.mean(precision_at_r)}


def same(found, expected):
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def integers(n, size, largest, seed=0):
    return torch.randint(-largest, largest + 1, (n, size), generator=generator(seed)).float()


def classes(n, of_each):
    return (torch.arange(n) // of_each)[torch.randperm(n, generator=generator(1))]


def clumps(n, size, apart, within, of_each=4):
    labels = classes(n, of_each)
    return integers(n, size, apart)[labels] + integers(n, size, within, seed=1), labels


def nearly_equal(n, size):
    """Around a few points, far from all others, images one step away from each other: float32 takes them for one."""
    x, _ = clumps(n, size, 2**19, 1, of_each=12)
    return x, classes(n, 3)


def pairs_nearly_equal_from_afar(n, size):
    """As `nearly_equal`; of each class two lie in one place, one query elsewhere, with others nearer to it."""
    place, slot = torch.arange(n) // 11, torch.arange(n) % 11
    x = integers(n, size, 2**23)[place] + integers(n, size, 1, seed=1)
    return x, torch.where(slot < 8, 10 * place + slot // 2, 10 * ((place - 1) % 100) + slot - 8)


CASES = {
    "found at once": clumps(1100, 8, 2**18, 2**10),
    "found late": clumps(1100, 8, 2**10, 2**18),
    "found here and there": clumps(1100, 8, 2**17, 2**16),
    "nearly equal": nearly_equal(1100, 8),
    "nearly equal, many dimensions": nearly_equal(1100, 200),
    "nearly equal from afar": pairs_nearly_equal_from_afar(1100, 8),
    "nearly opposite": (lambda x: torch.cat([x, -x]))(integers(550, 3, 2**19)) + integers(1100, 3, 1)[:1],
    "few ties": integers(1100, 4, 20),
    "many ties": integers(1100, 2, 3),
    "one dimension": integers(1100, 1, 2**20),
    "one dimension, copies": integers(1100, 1, 300),
    "collapsed": torch.full((1100, 3), 7.0),
    "collapsed but one": torch.cat([torch.full((1099, 3), 7.0), torch.zeros(1, 3)]),
    "one far away": torch.cat([integers(1099, 4, 2**8), torch.full((1, 4), 2.0**21)]),
    "first far away": torch.cat([torch.full((1, 4), 2.0**21), integers(1099, 4, 2**8)]),
}


def images(case):
    x = CASES[case]
    x, labels = x if isinstance(x, tuple) else (x, classes(1100, 4))
    return x, labels.clone()


@pytest.fixture
def in_float64(monkeypatch):
    """Counts the queries that were left to float64."""
    count = []
    whole = retrieval.__globals__["scores_between"]
    monkeypatch.setitem(
        retrieval.__globals__, "scores_between", lambda q, *args: count.append(len(q)) or whole(q, *args)
    )
    return count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("open_", [1, 64, 10**6])
def test_every_image_against_all_others(case, open_, monkeypatch):
    """Whatever may be left open, the answer is the same; also where some classes are rare and some are not."""
    monkeypatch.setattr(screening, "OPEN", open_)
    x, labels = images(case)
    labels[:40] = labels[0]
    same(retrieval(x, labels, ks=KS), reference(x, labels))


@pytest.mark.parametrize("case", CASES)
def test_a_separate_gallery(case):
    x, labels = images(case)
    labels[:3] = 10**6  # not in the gallery
    # Some queries have a copy in the gallery: there, nothing is left out.
    pair = x[:300], labels[:300], x[200:], labels[200:]
    same(retrieval(*pair, ks=KS), reference(*pair))


def test_alone_in_their_class():
    x, labels = integers(1100, 4, 1000), classes(1100, 4)
    labels[::5] = torch.arange(220) + 10**6
    same(retrieval(x, labels, ks=KS), reference(x, labels))


def test_most_queries_are_decided_by_the_product(in_float64):
    for case in ("found at once", "found late", "found here and there", "few ties"):
        retrieval(*images(case))
        assert sum(in_float64) < 60, case
        in_float64.clear()
    retrieval(CASES["collapsed"], classes(1100, 4))
    assert in_float64 == [1100]


def test_no_query_has_more_than_a_few_pairs_decided_in_float64(monkeypatch):
    """A tight cloud in every fourth column fills few blocks, but these wholly."""
    counts = []
    pairs = screening.scores_of_pairs

    def spy(queries, gallery, offset, row, column):
        counts.append(int(torch.bincount(row, minlength=1).max()))
        return pairs(queries, gallery, offset, row, column)

    x = integers(1100, 8, 2**10)
    x[::4] = 2**22 + integers(275, 8, 1)
    labels = torch.arange(1100) // 2
    monkeypatch.setattr(screening, "scores_of_pairs", spy)
    same(retrieval(x, labels, ks=KS), reference(x, labels))
    assert max(counts) <= 1100 // screening.OPEN


def test_queries_of_common_classes_are_not_screened(in_float64):
    x = integers(1100, 4, 1000)
    retrieval(x, torch.arange(1100) % 200)  # four or five others of 1,100
    assert sum(in_float64) >= 600  # those with five


@pytest.mark.parametrize("rows", [1, 7, 1100])
def test_cutting_into_chunks_changes_nothing(rows, monkeypatch):
    x, labels = images("found here and there")
    expected = retrieval(x, labels, ks=KS)
    monkeypatch.setattr(screening, "LEAST_ROWS", rows)
    monkeypatch.setattr(screening, "CHUNK", 1)
    seen = []
    assert retrieval(x, labels, ks=KS, progress=lambda chunks: seen.extend(chunks) or iter(chunks)) == expected
    assert max(len(some) for some in seen) == rows
    assert (torch.cat(seen)[:1100] == torch.arange(1100)).all()


@pytest.mark.parametrize("size", [1, 3, 64, 512, 4096])
@pytest.mark.parametrize("kind", ["random", "positive", "parallel", "spread"])
def test_the_bound_holds(size, kind):
    """Also where rounding errors add up: products all of one sign, and of very different sizes."""
    x = torch.randn(600, size, generator=generator())
    if kind == "positive":
        x = x.abs() + 0.1
    if kind == "parallel":
        x = x[:1] * torch.linspace(0.5, 1.5, 600)[:, None]
    if kind == "spread":
        x = x.sign() * 2 ** (20 * torch.rand(600, size, generator=generator()))
    grid, _ = to_grid(x, x)
    screen = Screen(grid, torch.arange(600), 600)
    exact = scores_between(grid, grid, offsets(grid))
    off = (screen._scores(grid, None)[:, :600].double() - exact).abs()
    norm = grid.double().norm(dim=1)
    for column, longest in enumerate(norm.tolist()):
        assert (off[:, column] <= rounding_errors(norm, longest, size)).all()


@pytest.mark.parametrize("size", [1, 512, 2**20])
def test_the_bound_is_that_of_the_book_and_little_more(size):
    norm = torch.tensor([0.0, 3.0, 2.0**25], dtype=torch.float64)
    found = rounding_errors(norm, 7.0, size)
    for q, e in zip(norm.tolist(), found.tolist(), strict=True):
        least, most = ((size + more) * 2**-24 / (1 - (size + more) * 2**-24) * (7 * q + 24.5) for more in (2, 9))
        assert least <= e <= most
    assert rounding_errors(norm, 7.0, 2**20 + 1).eq(torch.inf).all()


def test_pays_for_queries_of_rare_classes(monkeypatch):
    relevant = torch.tensor([0, 1, 2, 3])
    monkeypatch.setattr(screening, "LARGEST", 5)
    for count, size, pays in ((511, 5, [0, 1, 0, 0]), (512, 5, [0, 1, 1, 0]), (512, 6, [0, 0, 0, 0])):
        screen = Screen(torch.zeros(count, size), torch.zeros(count, dtype=torch.long), 1)
        assert screen.pays(relevant).tolist() == pays


def test_precision_set_for_training_is_neither_used_nor_lost(monkeypatch):
    used = []
    product = torch.addmm

    def spy(*args, **kwargs):
        used.append((settings(), torch.is_autocast_enabled("cpu")))
        return product(*args, **kwargs)

    def settings():
        return [backend.matmul.fp32_precision for backend in (torch.backends.mkldnn, torch.backends.cuda)]

    x, labels = images("found here and there")
    expected = retrieval(x, labels, ks=KS)
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "addmm", spy)
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert retrieval(x, labels, ks=KS) == expected
            assert torch.is_autocast_enabled("cpu")
        assert used[0] == (["ieee", "ieee"], False)
        assert settings() == ["bf16", "tf32"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_embeddings_too_large_for_the_bound(monkeypatch, in_float64):
    monkeypatch.setattr(screening, "LARGEST", 7)
    x, labels = images("found at once")
    same(retrieval(x, labels, ks=KS), reference(x, labels))
    assert in_float64 == [1100]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", CASES)
def test_cuda_agrees(case):
    x, labels = images(case)
    same(retrieval(x.cuda(), labels, ks=KS), retrieval(x, labels, ks=KS))
