import math

import pytest
import torch
import torch.nn.functional as F

from nearkin.models import Backbone, BNInception, Embedder

SHAPES_AT_224 = {
    "inception_3a": (256, 28, 28),
    "inception_3b": (320, 28, 28),
    "inception_3c": (576, 14, 14),
    "inception_4a": (576, 14, 14),
    "inception_4b": (576, 14, 14),
    "inception_4c": (608, 14, 14),
    "inception_4d": (608, 14, 14),
    "inception_4e": (1056, 7, 7),
    "inception_5a": (1024, 7, 7),
    "inception_5b": (1024, 7, 7),
}


def reference(weights, pixels):
    """Every inception module's output from the tensors of the file, blue, green, red in, loops for the pooling."""

    def unit(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        x = F.conv2d(x, kernel, weights[f"{name}.bias"], stride, padding=(kernel.shape[-1] - 1) // 2)
        gain, shift, mean, variance = (
            weights[f"{name}_bn.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * gain + shift).clamp(min=0)

    def pool(x, stride, padding, how):
        side = x.shape[-1]
        count = math.ceil((side + 2 * padding - 3) / stride) + 1  # as many windows as cover the map, padding included
        out = x.new_empty(*x.shape[:2], count, count)
        for i in range(count):
            for j in range(count):
                top, left = i * stride - padding, j * stride - padding
                window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
                out[:, :, i, j] = window.amax((2, 3)) if how == "max" else window.sum((2, 3)) / 9
        return out

    def inception(name, x, pooling):
        return torch.cat(
            [
                unit(f"{name}_1x1", x),
                unit(f"{name}_3x3", unit(f"{name}_3x3_reduce", x)),
                double(name, x, 1),
                unit(f"{name}_pool_proj", pool(x, 1, 1, pooling)),
            ],
            dim=1,
        )

    def halving(name, x):
        three = unit(f"{name}_3x3", unit(f"{name}_3x3_reduce", x), stride=2)
        return torch.cat([three, double(name, x, 2), pool(x, 2, 0, "max")], dim=1)

    def double(name, x, stride):
        x = unit(f"{name}_double_3x3_1", unit(f"{name}_double_3x3_reduce", x))
        return unit(f"{name}_double_3x3_2", x, stride)

    out = {}
    x = pool(unit("conv1_7x7_s2", pixels, stride=2), 2, 0, "max")
    x = pool(unit("conv2_3x3", unit("conv2_3x3_reduce", x)), 2, 0, "max")
    out["inception_3a"] = inception("inception_3a", x, "average")
    out["inception_3b"] = inception("inception_3b", out["inception_3a"], "average")
    out["inception_3c"] = halving("inception_3c", out["inception_3b"])
    out["inception_4a"] = inception("inception_4a", out["inception_3c"], "average")
    out["inception_4b"] = inception("inception_4b", out["inception_4a"], "average")
    out["inception_4c"] = inception("inception_4c", out["inception_4b"], "average")
    out["inception_4d"] = inception("inception_4d", out["inception_4c"], "average")
    out["inception_4e"] = halving("inception_4e", out["inception_4d"])
    out["inception_5a"] = inception("inception_5a", out["inception_4e"], "average")
    out["inception_5b"] = inception("inception_5b", out["inception_5a"], "max")
    return out


def test_every_tensor_of_the_published_file_has_its_place(convolutions, published, published_file):
    module = Backbone("bn_inception", str(published_file)).build()
    state = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    expected = {}
    for name, (after, before, kernel) in convolutions.items():
        expected |= {f"{name}.weight": (after, before, kernel, kernel), f"{name}.bias": (after,)}
        expected |= {f"{name}_bn.{part}": (after,) for part in ("weight", "bias", "running_mean", "running_var")}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert len(expected) == 6 * 69
    assert published.keys() - state.keys() == {"last_linear.weight", "last_linear.bias"}
    assert all(torch.equal(value, published[key].view(value.shape)) for key, value in state.items())


def test_it_has_as_many_parameters_as_others_count(convolutions):
    count = sum(parameter.numel() for parameter in BNInception().parameters())
    assert count == sum(after * before * kernel**2 + 3 * after for after, before, kernel in convolutions.values())
    # with the classifier, as github.com/osmr/imgclsmob lists the network converted from the same file
    assert count + 1025 * 1000 == 11_295_240


@pytest.mark.parametrize("side", [64, 101])
def test_every_stage_is_what_the_file_computes(published, published_file, side):
    images = torch.randint(256, (2, 3, side, side), generator=torch.Generator().manual_seed(1)).double()
    weights = {key: value.double() for key, value in published.items()}
    blue_green_red = torch.stack([images[:, 2] - 104, images[:, 1] - 117, images[:, 0] - 128], dim=1)
    expected = reference(weights, blue_green_red)

    module = Backbone("bn_inception", str(published_file)).build().double().eval()
    pixels = images - torch.tensor([128.0, 117.0, 104.0]).view(3, 1, 1)  # red, green, blue
    with torch.no_grad():
        found = dict(zip(module.stages, module.features(pixels, module.stages), strict=True))
        assert found.keys() == expected.keys()
        for name, features in expected.items():
            torch.testing.assert_close(found[name], features, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: n + text)
        torch.testing.assert_close(module(pixels), expected["inception_5b"], rtol=1e-9, atol=1e-9)
        two = module.features(pixels, ["inception_4e", "inception_3c"])
        torch.testing.assert_close(two[0], expected["inception_4e"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(two[1], expected["inception_3c"], rtol=1e-9, atol=1e-9)


def test_its_first_convolution_sees_blue_green_red_less_their_means():
    module = BNInception().eval()
    seen = []
    module.conv1_7x7_s2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        Embedder(module, 4).eval()(images)
    means = (104, 117, 128)
    for colour in range(3):
        expected = images[:, 2 - colour].float() - means[colour]
        torch.testing.assert_close(seen[0][:, colour], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("side", [224, 227])
def test_shapes_at_the_papers_sizes(side):
    module = BNInception().eval()
    with torch.no_grad():
        maps = module.features(torch.zeros(1, 3, side, side), module.stages)
    assert {name: tuple(found.shape[1:]) for name, found in zip(module.stages, maps, strict=True)} == SHAPES_AT_224


def test_sizes_that_do_not_fit_are_refused():
    module = BNInception().eval()
    with torch.no_grad():
        for side in range(16, 104):
            if side >= 31 and (side + 1) % 32 < 8:
                assert module(torch.zeros(1, 3, side, side)).shape[2] == (side + 1) // 32
            else:
                with pytest.raises(ValueError, match=rf"bn_inception takes sides of 32 k - 1 .* got {side}"):
                    module(torch.zeros(1, 3, side, side))


def test_it_learns_everywhere():
    module = BNInception().train()
    module(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(buffer.ne(0).any() for key, buffer in module.named_buffers() if key.endswith("running_mean"))
