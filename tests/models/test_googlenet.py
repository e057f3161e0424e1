import pytest
import torch
import torch.nn.functional as F
from torchvision.models import GoogLeNet_Weights, googlenet

from nearkin.models import Backbone, Embedder

# input channels, then 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection: Szegedy et al., Table 1
PAPER = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}


@pytest.fixture(scope="module")
def published():
    """torchvision's network with its classifiers and its own way with pixels, random weights and statistics."""
    torch.manual_seed(0)
    network = googlenet(weights=None, aux_logits=True, transform_input=True, init_weights=False)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.05, 1)
        elif key.endswith(("bn.bias", "running_mean")):
            tensor.normal_(std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    file = tmp_path_factory.mktemp("googlenet") / "googlenet-1378be20.pth"
    torch.save(published.state_dict(), file)
    return file


def test_every_tensor_of_the_published_file_has_its_place(published, file):
    module = Backbone("googlenet", str(file)).build()
    state = module.model.state_dict()
    theirs = published.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in state.items())
    left = {key.partition(".")[0] for key in theirs.keys() - state.keys()}
    assert left == {"fc", "aux1", "aux2"}


def test_it_has_as_many_parameters_as_the_paper_and_torchvision_say():
    count = sum(parameter.numel() for parameter in Backbone("googlenet").build().parameters())
    convolutions = [(3, 64, 7), (64, 64, 1), (64, 192, 3)]
    for before, one, reduce, three, reduce_five, five, project in PAPER.values():
        convolutions += [(before, one, 1), (before, reduce, 1), (reduce, three, 3), (before, reduce_five, 1)]
        convolutions += [(reduce_five, five, 3), (before, project, 1)]  # 3 where the paper has 5
    assert count == sum(before * after * kernel**2 + 2 * after for before, after, kernel in convolutions)
    assert count + 1025 * 1000 == GoogLeNet_Weights.IMAGENET1K_V1.meta["num_params"] == 6_624_904


def test_it_is_torchvisions_network_with_torchvisions_pixels(published, file):
    images = torch.randint(256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preset = GoogLeNet_Weights.IMAGENET1K_V1.transforms(crop_size=96, resize_size=96)
    embedder = Embedder(Backbone("googlenet", str(file)).build(), 1000).eval()
    embedder.head.load_state_dict(published.fc.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(embedder(images), published(preset(images)), rtol=1e-3, atol=1e-4)


def test_its_stages_at_224():
    module = Backbone("googlenet").build().eval()
    assert not [name for name in ("fc", "aux1", "avgpool", "dropout") if name in module.stages]
    sides = {"conv": 56, "inception3": 28, "inception4": 14, "inception5": 7}
    expected = {"conv1": (64, 112), "maxpool1": (64, 56), "conv2": (64, 56), "conv3": (192, 56), "maxpool2": (192, 28)}
    expected |= {"maxpool3": (480, 14), "maxpool4": (832, 7)}
    for name, (_, one, _, three, _, five, project) in PAPER.items():
        expected[name] = (one + three + five + project, sides[name[:-1]])
    with torch.no_grad():
        pixels = torch.randn(1, 3, 224, 224)
        found = dict(zip(module.stages, module.features(pixels, module.stages), strict=True))
        assert {name: (f.shape[1], f.shape[2]) for name, f in found.items()} == expected
        torch.testing.assert_close(module(pixels), found["inception5b"])
        two = module.features(pixels, ["maxpool4", "maxpool3"])
        torch.testing.assert_close(two, [found["maxpool4"], found["maxpool3"]])
        torch.testing.assert_close(found["maxpool3"], F.max_pool2d(found["inception3b"], 3, 2, ceil_mode=True))
