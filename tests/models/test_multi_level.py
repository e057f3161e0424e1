import math

import pytest
import torch

from nearkin.errors import InputError
from nearkin.models import Backbone, BNInception, ConvNet, MultiLevelEmbedder

RLL = ["inception_3c", "inception_4e", "inception_5b"]


def pictures(n=4, side=64):
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(x, gain, shift, mean, variance):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    x = (x - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt()
    return x * gain.view(shape) + shift.view(shape)


def reference(weights, x, training):
    """The head of L and M from its weights by name; windows that reach over the edge average what they hold."""
    side = x.shape[-1]
    window = min(5, side)
    count = math.ceil((side - window) / 3) + 1
    pooled = x.new_empty(*x.shape[:2], count, count)
    for i in range(count):
        for j in range(count):
            pooled[:, :, i, j] = x[:, :, 3 * i : 3 * i + window, 3 * j : 3 * j + window].mean((2, 3))

    def statistics(x, key):
        if not training:
            return weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        return x.mean(axes), x.var(axes, unbiased=False)

    x = torch.einsum("oc,nchw->nohw", weights["1.weight"][:, :, 0, 0], pooled)
    x = normalised(x, weights["2.weight"], weights["2.bias"], *statistics(x, "2")).clamp(min=0)
    x = x.reshape(len(x), -1) @ weights["5.weight"].T
    x = normalised(x, weights["6.weight"], weights["6.bias"], *statistics(x, "6")).clamp(min=0)
    return x @ weights["8.weight"].T


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", [20, 28, 64, 88])
def test_heads_are_those_of_the_paper_and_stand_side_by_side(training, side):
    torch.manual_seed(side)
    embedder = MultiLevelEmbedder(ConvNet((4, 8, 16, 32)), ["block2", "block4", "block3"], 6, side)
    embedder.double().train(training)
    images = pictures(side=side)
    pixels = (images.double() / 255 - 0.5) / 0.25
    heads = [{key: value.clone() for key, value in head.state_dict().items()} for head in embedder.head]
    with torch.no_grad():
        two, four, three = embedder.backbone.features(pixels, ["block2", "block4", "block3"])
        expected = [
            reference(heads[0], two, training),
            four.mean((2, 3)) @ heads[1]["2.weight"].T,
            reference(heads[2], three, training),
        ]
        torch.testing.assert_close(embedder(images), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-5)


def test_the_last_stage_is_pooled_as_asked():
    embedder = MultiLevelEmbedder(ConvNet(), ["block4"], 6, 32, pool="max").eval()
    images = pictures(side=32)
    with torch.no_grad():
        features = embedder.backbone((images / 255 - 0.5) / 0.25)
        expected = features.amax((2, 3)) @ embedder.head[0][2].weight.T
        torch.testing.assert_close(embedder(images), expected, rtol=1e-4, atol=1e-5)


def test_ranked_lists_three_heads_on_bn_inception():
    embedder = MultiLevelEmbedder(BNInception(), RLL, 512, 227).eval()
    low, middle, high = embedder.head
    # 14 x 14 and 7 x 7 pooled by 5 x 5, stride 3, rounded up: 4 x 4 and 2 x 2
    sizes = [sum(parameter.numel() for parameter in head.parameters()) for head in (low, middle, high)]
    assert sizes[0] == 576 * 128 + 2 * 128 + 128 * 16 * 1024 + 2 * 1024 + 1024 * 512
    assert sizes[1] == 1056 * 128 + 2 * 128 + 128 * 4 * 1024 + 2 * 1024 + 1024 * 512
    assert sizes[2] == 1024 * 512
    assert not [name for name, _ in embedder.head.named_parameters() if name.endswith(("1.bias", "5.bias", "8.bias"))]
    images = pictures(1, 227)
    with torch.no_grad():
        embeddings = embedder(images)
        assert embeddings.shape == (1, 3 * 512)
        maps = embedder.backbone.features(embedder.pixels(images), RLL)
        for i in range(3):
            expected = embedder.head[i](maps[i])
            torch.testing.assert_close(embeddings[:, 512 * i : 512 * (i + 1)], expected, rtol=1e-4, atol=1e-6)
        for i in range(2):
            expected = reference(embedder.head[i].state_dict(), maps[i], training=False)
            torch.testing.assert_close(embedder.head[i](maps[i]), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "levels", "side"),
    [
        ("bn_inception", RLL, 64),
        ("googlenet", ["maxpool3", "maxpool4", "inception5b"], 64),
        ("timm:resnet10t", ["layer2", "layer4"], 64),
        ("timm:mobilenetv3_small_050", ["blocks.3", "blocks.5"], 64),
        ("timm:vit_tiny_patch16_224", ["blocks.5", "blocks.11"], 224),
    ],
)
def test_every_backbone_learns_at_every_level(name, levels, side):
    backbone = Backbone(name).build().train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    embedder = MultiLevelEmbedder(backbone, levels, 8, side).train()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items()), "it was only looked at"
    embeddings = embedder(pictures(3, side))
    assert embeddings.shape == (3, 8 * len(levels))
    for i in range(len(levels)):
        embedder.zero_grad()
        embeddings[:, 8 * i : 8 * (i + 1)].square().sum().backward(retain_graph=True)
        learning = {j for j, head in enumerate(embedder.head) for p in head.parameters() if p.grad.any()}
        assert learning == {i}
        assert any(p.grad is not None and p.grad.any() for p in backbone.parameters())


def test_it_compiles_whole_and_runs_in_bfloat16():
    embedder = MultiLevelEmbedder(BNInception(), RLL, 16, 32).eval()
    images = pictures(2, 32)
    with torch.no_grad():
        expected = embedder(images)
        torch.testing.assert_close(torch.compile(embedder, backend="eager", fullgraph=True)(images), expected)
        with torch.autocast("cpu", torch.bfloat16):
            low = embedder(images)
    assert low.dtype == torch.bfloat16
    assert (low - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (["inception_3d"], r"levels: the backbone has no stage 'inception_3d'; did you mean inception_4d\?"),
        (["inception3c", "inception_5b"], r"no stage 'inception3c'; did you mean inception_3c\?"),
        (["x"], "no stage 'x'; known: inception_3a, inception_3b"),
        ([], "one or more stages, each once, got none"),
        (["inception_5b", "inception_5b"], "each once, got inception_5b, inception_5b"),
    ],
)
def test_levels_that_cannot_be(levels, message):
    with pytest.raises(InputError, match=message):
        MultiLevelEmbedder(BNInception(), levels, 8, 64)
    with pytest.raises(ValueError, match="embedding_size must be at least 1, got 0"):
        MultiLevelEmbedder(BNInception(), RLL, 0, 64)
