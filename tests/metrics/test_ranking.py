"""Copies tie and order is exact, whatever the shapes: against loops and a plain sort."""

import pytest
import torch

from nearkin.metrics import ranking
from nearkin.metrics.ranking import (
    nearest,
    offsets,
    rank_of_first,
    scores,
    scores_between,
    scores_of_pairs,
    to_grid,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def score_all(queries, gallery):
    queries, gallery = to_grid(queries, gallery)
    return scores_between(queries, gallery, offsets(gallery))


@pytest.mark.parametrize("size", [1, 3, 64, 511, 512])
@pytest.mark.parametrize("queries", [1, 2, 17, 100])
@pytest.mark.parametrize("gallery", [7, 100, 1001])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_copies_score_the_same_in_whatever_column(size, queries, gallery, offset):
    """A float32 product fails this at several of these shapes."""
    x = torch.randn(gallery, size, generator=generator()) + offset
    copies = torch.randperm(gallery, generator=generator())[: gallery // 2]
    x[copies] = x[0].clone()
    score = score_all(torch.randn(queries, size, generator=generator(1)) + offset, x)
    assert (score[:, copies] == score[:, :1]).all()


@pytest.mark.parametrize("size", [1, 17, 512, 5000])
def test_every_dot_product_on_the_grid_is_exact(size):
    """In Python's integers, at the largest norms: the same numbers, however they are summed."""
    x = torch.randn(6, size, generator=generator())
    x[1:3] = torch.tensor([[1.0], [-1.0]]) * x[3]  # nearly parallel, nearly opposite: the largest sums
    queries, gallery = to_grid(x[:3], x[3:])
    assert queries.double().square().sum(dim=1).max() < 2**50.001
    rows = [[int(v) for v in row] for row in gallery.tolist()]
    score = scores_between(queries, gallery, offsets(gallery))
    row, column = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    assert torch.equal(scores_of_pairs(queries, gallery, offsets(gallery), row, column), score.flatten())
    for i, query in enumerate([int(v) for v in row] for row in queries.tolist()):
        for j, row in enumerate(rows):
            twice = sum(2 * a * b - b * b for a, b in zip(query, row, strict=True))
            assert score[i, j].item() * 2 == twice


def median(x):
    return x.double().sort(dim=0).values[(len(x) - 1) // 2]


def test_the_grid_keeps_integers_and_dyadic_fractions_apart_and_in_place():
    x = torch.randint(-(2**20), 2**20, (50, 8), generator=generator()).double()
    x[1] = x[2] + torch.eye(8)[0]
    grid, _ = to_grid(x, x)
    unit = grid[1, 0] - grid[2, 0]
    assert unit >= 1
    assert torch.equal(grid.double(), (x - median(x)) * unit)
    scaled, _ = to_grid(x / 1024, x / 1024)
    assert torch.equal(scaled, grid)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_grid_is_as_fine_as_float32(size):
    x = torch.randn(100, size, generator=generator()).double()
    grid, _ = to_grid(x, x)
    moved = x - median(x)
    radius = moved.norm(dim=1).max()
    scale = 2 ** (grid.double().norm() / moved.norm()).log2().round()
    assert (grid / scale - moved).abs().max() <= radius * 2.0 ** (-25 if size > 2 else -24)
    assert grid.abs().max() <= 2**24


def test_the_grid_of_unit_vectors_is_that_of_vectors_on_the_sphere():
    x = 9 * torch.randn(5000, 3, generator=generator())
    unit = torch.nn.functional.normalize(x.double())
    for found, expected in zip(to_grid(x[:100], x, normalize=True), to_grid(unit[:100], unit), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [5e-324, 1e-310, 2.0**-830, 2.0**-800, 1e-100, 1.0, 1e30])
def test_vectors_of_any_length_come_onto_the_sphere(size):
    points = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    grid = ranking.Grid.around(points, normalize=True)
    small = points.clone()
    small[:3] *= size
    assert torch.equal(grid.round(small), grid.round(points))


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e-250])
@pytest.mark.parametrize("columns", [1, 2])
def test_points_at_the_end_of_float64_are_in_order_or_count_as_equal(size, columns):
    grid, _ = to_grid(*[torch.tensor([[0.0] * columns, [size] * columns, [-size] * columns], dtype=torch.float64)] * 2)
    assert grid.isfinite().all()
    assert grid[0].eq(0).all()
    assert torch.equal(grid[1], -grid[2])
    assert (grid[1] >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", [False, True])
def test_an_expanded_tensor_is_what_its_copy_is(dtype, normalize):
    points = torch.tensor([[0.25, 0.5, 3.0]], dtype=dtype).expand(5, 3)
    for _ in range(20):  # what PyTorch's own median finds there is whatever lay in the memory
        grid = ranking.Grid.around(points, normalize=normalize)
        assert torch.equal(grid.origin, ranking.Grid.around(points.clone(), normalize=normalize).origin)


def test_an_offset_common_to_all_costs_no_precision():
    x = torch.randint(-8, 8, (50, 8), generator=generator()).double() / 2**10
    near, _ = to_grid(x, x)
    far, _ = to_grid(x + 2.0**13, x + 2.0**13)
    assert torch.equal(near, far)


def test_chunks_cover_all_queries_and_leave_only_the_query_itself_out(monkeypatch):
    x = torch.randn(10, 3, generator=generator())
    whole = torch.cat([score for _, score in scores(x)])
    assert (whole.isneginf() == torch.eye(10, dtype=torch.bool)).all()
    monkeypatch.setattr(ranking, "CHUNK", 35)
    monkeypatch.setattr(ranking, "LEAST_ROWS", 1)
    parts = list(scores(x))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert torch.equal(torch.cat([score for _, score in parts]), whole)


SCORES = {
    "distinct": torch.randn(20, 150, generator=generator()).double(),
    "ties": torch.randint(0, 9, (20, 150), generator=generator()).double(),
    "two values": torch.randint(0, 2, (20, 150), generator=generator()).double(),
    "one value": torch.full((20, 150), -3.5).double(),
    "one column": torch.randn(20, 1, generator=generator()).double(),
    "ties, some left out": torch.randint(0, 3, (20, 150), generator=generator()).double().log(),  # -inf, 0, 0.69
}


@pytest.mark.parametrize("case", SCORES)
@pytest.mark.parametrize("k", [1, 2, 5, 60, 149, 150])
def test_nearest_is_the_head_of_a_stable_sort(case, k):
    score = SCORES[case]
    k = min(k, score.shape[1])
    assert torch.equal(nearest(score, k), score.sort(dim=1, descending=True, stable=True).indices[:, :k])


@pytest.mark.parametrize("case", [case for case in SCORES if "left out" not in case])
def test_rank_of_first_is_its_place_in_a_stable_sort(case):
    score = SCORES[case]
    wanted = torch.rand(score.shape, generator=generator(1)) < 0.05
    wanted[:, -1] = True
    order = score.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(rank_of_first(score, wanted), wanted.gather(1, order).int().argmax(dim=1))


@pytest.mark.parametrize("size", [2.0**-790, 1.0, float(torch.finfo(torch.float32).max)])
@pytest.mark.parametrize("normalize", [False, True])
def test_points_of_any_size_use_the_whole_grid(size, normalize):
    x = torch.tensor([[size, 0], [0, size], [-size, 0], [0, -size]], dtype=torch.float64)
    grid, _ = to_grid(x, x, normalize)
    assert grid.norm(dim=1).max() >= 2**22
    assert ((grid[:, None] - grid).norm(dim=2) > 2**22).equal(~torch.eye(4, dtype=torch.bool))
