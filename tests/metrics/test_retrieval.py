"""Against a loop over the definitions: distances one by one, then a sort by (distance, index)."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from nearkin.metrics import inputs, map_at_r, r_precision, ranking, recall_at_k, retrieval

KS = (1, 2, 3, 8, 40, 100, 1000)


def reference(queries, query_labels, gallery=None, gallery_labels=None, ks=KS):
    """The three metrics in exact arithmetic: every float is a fraction, so that nothing rounds."""
    alone = gallery is None
    gallery, gallery_labels = (queries, query_labels) if alone else (gallery, gallery_labels)
    queries, gallery = np.asarray(queries, dtype=np.float64), np.asarray(gallery, dtype=np.float64)
    exact = np.vectorize(lambda value: int(value) if value == int(value) else Fraction(value), otypes=[object])
    queries, gallery = exact(queries), exact(gallery)
    recall, average_precision, precision_at_r = {k: [] for k in ks}, [], []
    for i, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        distance = ((gallery - query) ** 2).sum(axis=1)
        order = sorted((d, j) for j, d in enumerate(distance) if not (alone and i == j))
        hit = [int(gallery_labels[j]) == int(label) for _, j in order]
        r = sum(hit)
        for k in ks:
            recall[k].append(any(hit[:k]))
        average_precision.append(sum(sum(hit[: n + 1]) / (n + 1) for n in range(r) if hit[n]) / max(r, 1))
        precision_at_r.append(sum(hit[:r]) / max(r, 1))
    result = {f"recall@{k}": np.mean(recall[k]) for k in ks}
    return {**result, "map@r": np.mean(average_precision), "r_precision": np.mean(precision_at_r)}


def same(found, expected):
    """Ranks are exact, so only the last bits of the averages may differ."""
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


def clusters(n, classes, size, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centers = torch.randn(classes, size, generator=generator)
    return centers[labels] + noise * torch.randn(n, size, generator=generator), labels


def integers(n, low, high, size, seed=0):
    return torch.randint(low, high, (n, size), generator=torch.Generator().manual_seed(seed)).float()


def collapsed(n):
    return torch.full((n, 3), 0.1)


def with_copies(n, seed=0):
    """Four vectors in five copies of one another, of classes at random, among others."""
    x, labels = clusters(n, 6, 7, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for source, copies in enumerate(order[: n * 4 // 5].split(n // 5)):
        x[copies] = x[order[-1 - source]].clone()
    return x, labels


SELF = {
    "floats": clusters(90, 6, 5),
    "few of each class": clusters(90, 30, 5, noise=0.5),
    "singletons": (clusters(50, 5, 4)[0], torch.arange(50) // 2 * (torch.arange(50) % 3 > 0) + torch.arange(50)),
    "all singletons": (clusters(20, 5, 4)[0], torch.arange(20)),
    "one class": (clusters(40, 5, 4)[0], torch.zeros(40, dtype=torch.long)),
    "one class and one other": (clusters(40, 5, 4)[0], (torch.arange(40) == 17).long()),
    "integers, many ties": (integers(120, -1, 2, 3), torch.arange(120) % 7),
    "bits, mostly ties": (integers(120, 0, 2, 2), torch.arange(120) % 5),
    "copies of the query": with_copies(100),
    "collapsed": (collapsed(60), torch.arange(60) % 4),
    "collapsed in one dimension": (torch.full((60, 1), 3.0), torch.arange(60) // 15),
    "copies far from the origin": (with_copies(60)[0] * 1e-3 + 1e3, with_copies(60)[1]),
    "large": (clusters(60, 6, 5)[0] * 1e18, clusters(60, 6, 5)[1]),
    "small": (clusters(60, 6, 5)[0] * 1e-25, clusters(60, 6, 5)[1]),
    "small beyond float32": (clusters(60, 6, 5)[0].double() * 1e-170, clusters(60, 6, 5)[1]),
    "two images": (torch.tensor([[0.0], [1.0]]), torch.tensor([4, 4])),
    "one image": (torch.tensor([[0.0]]), torch.tensor([4])),
}


@pytest.mark.parametrize("case", SELF)
def test_every_image_against_all_others(case):
    x, labels = SELF[case]
    same(retrieval(x, labels, ks=KS), reference(x, labels))


@pytest.mark.parametrize("case", SELF)
def test_a_separate_gallery(case):
    x, labels = SELF[case]
    cut = len(x) // 3 + 1
    # The first of the gallery are copies of queries: there, nothing is left out.
    queries, gallery = slice(0, cut), slice(cut // 2, None)
    same(
        retrieval(x[queries], labels[queries], x[gallery], labels[gallery], ks=KS),
        reference(x[queries], labels[queries], x[gallery], labels[gallery]),
    )


def test_queries_whose_class_the_gallery_lacks_are_misses():
    x, labels = clusters(40, 4, 5)
    found = retrieval(x, labels, x, labels % 2, ks=(1, 40, 41))
    present = float((labels < 2).double().mean())
    same(found, reference(x, labels, x, labels % 2, ks=(1, 40, 41)))
    assert found["recall@40"] == found["recall@41"] == present < 1


@pytest.mark.parametrize("case", ["floats", "copies of the query", "integers, many ties", "collapsed"])
@pytest.mark.parametrize("chunk", [1, 7 * 120, 2**20])
def test_cutting_into_chunks_changes_nothing(case, chunk, monkeypatch):
    x, labels = SELF[case]
    expected = retrieval(x, labels, ks=KS)
    monkeypatch.setattr(ranking, "CHUNK", chunk)
    monkeypatch.setattr(ranking, "LEAST_ROWS", 1)
    monkeypatch.setattr(ranking, "TILE", 7)
    monkeypatch.setattr(inputs, "TILE", 7)
    same(retrieval(x, labels, ks=KS), expected)
    x = x.clone()
    x[17, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        retrieval(x, labels)


def test_large_and_many_enough_to_take_every_path(monkeypatch):
    """Some queries find their class in the short list, some beyond it; some lists end among ties."""
    monkeypatch.setattr(ranking, "CHUNK", 300 * 41)
    monkeypatch.setattr(ranking, "LEAST_ROWS", 1)
    x = integers(300, 0, 4, 4, seed=1)
    labels = torch.cat([torch.arange(250) % 90, torch.full((50,), 90)])
    same(retrieval(x, labels, ks=KS), reference(x, labels))


def test_order_of_the_images_matters_only_among_ties():
    x, labels = clusters(200, 10, 8)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    same(retrieval(x[order], labels[order]), retrieval(x, labels))


def test_ties_go_to_the_lower_index():
    x = torch.tensor([[0.0], [1.0], [-1.0], [5.0]])
    assert recall_at_k(x, torch.tensor([7, 7, 8, 9]), ks=(1,))[1] == pytest.approx(2 / 4)  # 0 finds 1, 1 finds 0
    assert recall_at_k(x, torch.tensor([7, 8, 7, 9]), ks=(1,))[1] == pytest.approx(1 / 4)  # 0 finds 1, 2 finds 0


def test_copies_of_the_query_stay_in_its_gallery():
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    labels = torch.tensor([1, 2, 1, 1])
    # 0 finds 1, wrong; 1 finds 0, wrong; 2 finds 0, right, though 0 and 1 tie with itself; 3 finds 0, right.
    assert recall_at_k(x, labels, ks=(1,)) == {1: 0.5}


def test_normalize_compares_directions():
    x, labels = clusters(80, 6, 4)
    unit = torch.nn.functional.normalize(x.double())
    scale = 2.0 ** torch.randint(-3, 4, (80, 1), generator=torch.Generator().manual_seed(0))
    expected = reference(unit, labels)
    same(retrieval(x, labels, ks=KS, normalize=True), expected)
    same(retrieval(x * scale, labels, ks=KS, normalize=True), expected)
    assert retrieval(x * scale, labels, ks=KS) != pytest.approx(expected)
    same(
        retrieval(x[:30] * scale[:30], labels[:30], x[30:] * 3, labels[30:], ks=KS, normalize=True),
        reference(unit[:30], labels[:30], unit[30:], labels[30:]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_type_from_numpy_and_torch(dtype):
    x, labels = clusters(60, 6, 5)
    x = x.to(dtype)
    expected = reference(x.double(), labels)
    same(retrieval(x.requires_grad_(), labels, ks=KS), expected)
    if dtype != torch.bfloat16:  # unknown to NumPy
        same(retrieval(x.detach().numpy(), labels.numpy(), ks=KS), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_found_in_every_type(dtype, value):
    x, labels = clusters(60, 6, 5)
    x[7, 1] = value
    for autocast in (False, True):
        with torch.autocast("cpu", enabled=autocast), pytest.raises(ValueError, match=r"finite .* row 7"):
            retrieval(x.to(dtype), labels)


def test_the_largest_of_every_type_are_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.tensor([[0.0], [0.0], [torch.finfo(dtype).max], [torch.finfo(dtype).max]]).to(dtype)
        assert recall_at_k(x, torch.tensor([1, 1, 2, 2]), ks=(1,)) == {1: 1}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_every_integer_type_of_embeddings(dtype):
    x, labels = integers(60, 0, 9, 3), torch.arange(60) % 7
    assert retrieval(x.numpy().astype(dtype), labels) == retrieval(x, labels)
    assert retrieval(torch.from_numpy(x.numpy().astype(dtype)), labels) == retrieval(x, labels)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_every_integer_type_of_labels(dtype):
    x, labels = clusters(60, 6, 5)
    expected = retrieval(x, labels)
    assert retrieval(x, labels.numpy().astype(dtype)) == expected
    assert retrieval(x, torch.from_numpy(labels.numpy().astype(dtype))) == expected


def test_labels_are_only_names():
    x, labels = clusters(60, 6, 5)
    assert retrieval(x, -(10**12) * labels - 3) == retrieval(x, labels)


@pytest.mark.parametrize("short", [2.0**-43, 2.0**-120, 2.0**-700])
def test_normalize_compares_directions_of_vectors_however_short(short):
    x, labels = clusters(80, 6, 4)
    short = torch.tensor([1.0, short], dtype=torch.float64).repeat(40)[:, None]
    same(retrieval(x * short, labels, normalize=True), retrieval(x, labels, normalize=True))


def test_zeros_stay_zeros_when_normalized():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1e-30, 0.0], [5.0, 1.0]])
    assert recall_at_k(x, torch.tensor([1, 1, 2, 2]), ks=(1,), normalize=True) == {1: 1}


def test_copies_still_tie_when_normalized():
    x, labels = with_copies(100)
    same(retrieval(x, labels, ks=KS, normalize=True), reference(torch.nn.functional.normalize(x.double()), labels))


def test_three_functions_are_one_protocol():
    x, labels = with_copies(60)
    for pair in ((x, labels), (x[:20], labels[:20], x[20:], labels[20:])):
        expected = reference(*pair)
        same(recall_at_k(*pair, ks=KS), {k: expected[f"recall@{k}"] for k in KS})
        assert map_at_r(*pair) == pytest.approx(expected["map@r"], rel=1e-12)
        assert r_precision(*pair) == pytest.approx(expected["r_precision"], rel=1e-12)


X, Y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": ()}, r"ks must be .* got \[\]"),
        ({"ks": (0, 1)}, r"ks must be .* at least 1, got \[0, 1\]"),
        ({"queries": torch.zeros(4)}, r"embeddings must be \(N, D\) .* got shape \(4,\)"),
        ({"queries": torch.zeros(0, 3), "query_labels": Y[:0]}, r"embeddings .* got shape \(0, 3\)"),
        ({"queries": torch.zeros(4, 0)}, r"embeddings .* got shape \(4, 0\)"),
        ({"queries": X * torch.nan}, "embeddings must be finite .* row 0"),
        ({"queries": torch.cat([X[:2], X[2:] - torch.inf])}, "embeddings must be finite .* row 2"),
        ({"queries": X.double() + 1e200}, "embeddings must be finite in float32"),
        ({"queries": X.to(torch.complex64)}, "embeddings must be of one of the types .* got complex64"),
        ({"queries": X.bool()}, "embeddings must be of one of the types float16, .*, int64, got bool"),
        ({"queries": X.to(torch.uint16)}, "got uint16"),
        ({"queries": X.to(torch.float8_e4m3fn)}, "got float8_e4m3fn"),
        ({"queries": X.to_sparse()}, "embeddings must be dense, got torch.sparse_coo"),
        ({"queries": X.numpy().astype(np.uint32)}, "got uint32"),
        ({"queries": X.numpy().astype(">f4")}, "got >f4"),
        ({"queries": np.array([["a", "b"]] * 4)}, "got <U1"),
        ({"queries": np.array([[1, None]] * 4)}, "got object"),
        ({"queries": None}, "got object"),
        ({"query_labels": Y[:3]}, "labels .* each of the 4 embeddings, got 3"),
        ({"query_labels": Y[:, None]}, r"labels must be \(N,\) .* got shape \(4, 1\)"),
        ({"query_labels": Y.float()}, "labels must be integers, got float32"),
        ({"query_labels": np.array(list("abcd"))}, "labels must be integers, got <U1"),
        ({"gallery": X}, "given together"),
        ({"gallery_labels": Y}, "given together"),
        ({"gallery": torch.zeros(4, 2), "gallery_labels": Y}, "one size D, got 3 and 2"),
        ({"gallery": X + torch.nan, "gallery_labels": Y}, "gallery must be finite"),
        ({"gallery": X, "gallery_labels": Y[:2]}, "gallery_labels must have one entry for each of the 4"),
        ({"gallery": X[:0], "gallery_labels": Y[:0]}, r"gallery must be .* got shape \(0, 3\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval(**{"queries": X, "query_labels": Y, **arguments})


def test_input_is_not_changed():
    x, labels = clusters(30, 4, 5)
    x = x.double()
    before = x.clone()
    retrieval(x, labels, normalize=True)
    retrieval(x, labels, x, labels)
    assert torch.equal(x, before)
    frozen = x.numpy()
    frozen.flags.writeable = False
    retrieval(frozen[::-1], labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees():
    for x, labels in SELF.values():
        same(retrieval(x.cuda(), labels.cuda(), ks=KS), retrieval(x, labels, ks=KS))
        same(retrieval(x.cuda(), labels.cuda(), x, labels, ks=KS), retrieval(x, labels, x, labels, ks=KS))
