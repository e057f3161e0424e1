import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model
from nearkin.models import ConvNet, Embedder, MultiLevelEmbedder
from nearkin.why import contributions, explain, region

LEVELS = ("block2", "block4")


def model(pool="avg", levels=None, per_level_norm=False, bias=False):
    torch.manual_seed(0)
    backbone = ConvNet((4, 8, 16, 32))
    if levels is None:
        embedder = Embedder(backbone, 6, pool)
        if not bias:
            torch.nn.init.zeros_(embedder.head.bias)
    else:
        embedder = MultiLevelEmbedder(backbone, levels, 6, 32, pool)
    architecture = Architecture("convnet", 6, pool, True, Preprocessing(32), levels, per_level_norm)
    return Model(embedder.eval(), architecture)


def pictures(side=32):
    return np.random.default_rng(0).integers(256, size=(2, side, side, 3), dtype=np.uint8)


def images():
    return torch.from_numpy(pictures()).permute(0, 3, 1, 2)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_the_parts_are_each_regions_own_and_add_up_to_the_cosine(pool):
    """Region by region: what it brings into the pooled vector, through the head, along the other's embedding."""
    m = model(pool)
    parts = contributions(m, images())
    with torch.no_grad():
        (maps,) = m.embedder.maps(images())
        embeddings = m.embedder(images())
    unit = F.normalize(embeddings)
    expected = torch.zeros(2, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                for c in range(32):
                    value = maps[n, c, i, j]
                    largest = value > 0 and value == maps[n, c].max()
                    brought = value / 16 if pool == "avg" else value * largest
                    along = m.embedder.head.weight[:, c] @ unit[1 - n] / embeddings[n].norm()
                    expected[n, i, j] += brought * along.detach()
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts.sum(dim=(1, 2)), (unit[0] @ unit[1]).expand(2), rtol=1e-4, atol=1e-6)


def test_a_bias_is_of_no_region():
    m = model(bias=True)
    embeddings = m.embedder(images()).detach()
    unit = F.normalize(embeddings)
    without = [(embeddings[n] - m.embedder.head.bias.detach()) / embeddings[n].norm() @ unit[1 - n] for n in range(2)]
    torch.testing.assert_close(contributions(m, images()).sum(dim=(1, 2)), torch.stack(without), rtol=1e-4, atol=1e-6)


def test_taking_a_region_away_takes_its_part_away():
    m = model()
    parts = contributions(m, images())
    with torch.no_grad():
        (maps,) = m.embedder.maps(images())
        embeddings = m.embedder.embed_maps([maps])
        for n in range(2):
            without = maps.clone()
            without[n, :, 1, 2] = 0
            lost = (embeddings - m.embedder.embed_maps([without]))[n] @ embeddings[1 - n]
            torch.testing.assert_close(parts[n, 1, 2], lost / embeddings.norm(dim=1).prod(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("per_level_norm", [False, True])
def test_levels_bring_their_parts_in_their_proportion(per_level_norm):
    """Each level is laid over the largest map, and neither its size there nor another's length changes its sum."""
    m = model(levels=LEVELS, per_level_norm=per_level_norm)
    with torch.no_grad():
        m.embedder.head[0][-1].weight *= 50  # one level is much longer than the other
    parts = contributions(m, images())
    assert parts.shape == (2, 8, 8)

    maps = [each.detach().requires_grad_() for each in m.embedder.maps(images())]
    levels = [head(each) for head, each in zip(m.embedder.head, maps, strict=True)]
    lengths = [level.detach().norm(dim=1) for level in levels]
    if not per_level_norm:
        lengths = [torch.stack(lengths).square().sum(dim=0).sqrt()] * 2
    for n in range(2):
        total = 0
        for level, each, length in zip(levels, maps, lengths, strict=True):
            product = level[n] @ level[1 - n].detach() / length.prod() / (2 if per_level_norm else 1)
            (slope,) = torch.autograd.grad(product, each, retain_graph=True)
            total += (slope[n] * each[n]).sum()
        torch.testing.assert_close(parts[n].sum(), total.detach(), rtol=1e-4, atol=1e-6)


def test_the_last_level_alone_is_laid_over_the_largest_map():
    m = model(levels=LEVELS)
    with torch.no_grad():
        m.embedder.head[0][-1].weight.zero_()
        last = m.embedder.maps(images())[1]
        unit = F.normalize(m.embedder(images()))
    own = model(levels=("block4",))
    weights = {key: value for key, value in m.embedder.state_dict().items() if not key.startswith("head.0.")}
    own.embedder.load_state_dict({key.replace("head.1.", "head.0."): value for key, value in weights.items()})
    alone = contributions(own, images())
    assert alone.shape[1:] == last.shape[2:] == (4, 4)
    both = contributions(m, images())
    torch.testing.assert_close(both.sum(dim=(1, 2)), (unit[0] @ unit[1]).expand(2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both, F.interpolate(alone[None], (8, 8), mode="bilinear")[0] / 4)


def test_shares_are_within_0_and_1_and_leave_the_model_alone():
    m = model(bias=True)
    before = {key: value.clone() for key, value in m.embedder.state_dict().items()}
    query, hit = pictures()
    shares = explain(m, query, hit)
    parts = contributions(m, images())
    for share, part in zip(shares, parts, strict=True):
        assert share.min() == 0
        assert share.max() == 1
        np.testing.assert_array_equal(share > 0, part.numpy() > 0)
        np.testing.assert_allclose(share, (part.clamp_min(0) / part.max()).numpy(), rtol=1e-6)
    assert all(parameter.grad is None for parameter in m.embedder.parameters())
    assert all(torch.equal(before[key], value) for key, value in m.embedder.state_dict().items())
    swapped = explain(m, hit, query)
    np.testing.assert_array_equal(swapped.query, shares.hit)


def test_pictures_that_have_nothing_in_common_are_no_error():
    m = model()
    with torch.no_grad():
        m.embedder.head.weight.zero_()
    query, hit = pictures()
    for share in explain(m, query, hit):
        assert not share.any()


def test_it_works_while_gradients_are_off():
    query, hit = pictures()
    m = model()
    with torch.no_grad():
        off = explain(m, query, hit)
    np.testing.assert_array_equal(off.query, explain(m, query, hit).query)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [32, 24])
@pytest.mark.parametrize(("width", "height"), [(320, 160), (96, 192), (64, 64)])
def test_the_region_is_what_the_model_sees(fit, size, width, height):
    """A picture whose colours are its coordinates: those that the model sees tell where they came from."""
    image = Preprocessing(size, 32, fit)
    left, top, across, down = region(image, width, height)
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    picture = np.stack([200 * x, 200 * y, np.zeros_like(x)], axis=2).round().astype(np.uint8)
    margin = (32 - size) // 2
    seen = image.decode(picture)[margin : margin + size, margin : margin + size].astype(float)
    for row, column in np.ndindex(size, size):
        if seen[row, column, 2] < 1:  # else the white around a padded one
            assert seen[row, column, 0] / 200 == pytest.approx(left + across * (column + 0.5) / size, abs=0.02)
            assert seen[row, column, 1] / 200 == pytest.approx(top + down * (row + 0.5) / size, abs=0.02)
