import pytest
import timm
import torch
from safetensors.torch import save_file

from nearkin.errors import InputError
from nearkin.models import Backbone, ConvNet, Embedder, freeze_batch_norm


def pictures(n=3, side=32):
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_convnet_has_its_shapes_and_its_size():
    net = ConvNet()
    assert net(torch.zeros(2, 3, 28, 28)).shape == (2, 256, 3, 3)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 256, 8, 8)
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256)
    assert sum(p.numel() for p in net.parameters()) == convolutions + 2 * (32 + 64 + 128 + 256)


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("resnet10t", 512, (2, 512, 2, 2)),
        ("mobilenetv3_small_050", 288, (2, 288, 2, 2)),
        ("vit_tiny_patch16_224", 192, (2, 192, 1, 1)),
        ("swin_tiny_patch4_window7_224", 768, (2, 768, 1, 1)),
    ],
)
def test_any_family_of_timm_gives_features_of_its_channels(name, channels, shape):
    backbone = Backbone(f"timm:{name}").build().eval()
    side = 224 if shape[-1] == 1 else 64
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, side, side)).shape == shape
    assert backbone.channels == channels
    assert backbone.mean == pytest.approx((0.485, 0.456, 0.406)) or backbone.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_the_embedder_is_normalise_backbone_pool_head(pool):
    embedder = Embedder(ConvNet(), 8, pool).eval()
    images = pictures()
    with torch.no_grad():
        pixels = (images / 255 - 0.5) / 0.25
        features = embedder.backbone(pixels).flatten(2)
        pooled = features.mean(2) if pool == "avg" else features.max(2).values
        expected = pooled @ embedder.head.weight.T + embedder.head.bias
        torch.testing.assert_close(embedder(images), expected, rtol=1e-4, atol=1e-5)
    assert not any(key in embedder.state_dict() for key in ("mean", "std"))


def test_freezing_leaves_statistics_but_not_weights_alone():
    embedder = Embedder(ConvNet(), 8).train()
    freeze_batch_norm(embedder)
    before = {key: value.clone() for key, value in embedder.named_buffers()}
    embedder(pictures()).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in embedder.named_buffers())
    assert all(parameter.grad is not None for parameter in embedder.parameters())


@pytest.mark.parametrize("form", ["pt", "pth of a training script", "safetensors"])
def test_weights_from_a_file(tmp_path, form):
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=7)  # its classifier is not wanted and does not matter
    file = tmp_path / f"weights.{form.split()[0]}"
    if form == "safetensors":
        save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict() if form == "pt" else {"state_dict": source.state_dict(), "epoch": 3}, file)
    built = Backbone("timm:resnet10t", str(file)).build()
    wanted = source.state_dict()
    assert all(torch.equal(value, wanted[key.removeprefix("model.")]) for key, value in built.state_dict().items())


def test_files_that_do_not_fit_are_refused(tmp_path):
    torch.save(ConvNet((8, 16, 32, 64)).state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(InputError, match=r"blocks.0.weight should have shape \(32, 3, 3, 3\), has \(8, 3, 3, 3\)"):
        Backbone("convnet", str(tmp_path / "narrow.pt")).build()
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"lacks 20 of the backbone's 24 tensors \(first: blocks.0.weight\)"):
        Backbone("convnet", str(tmp_path / "other.pt")).build()
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as a safetensors or torch state dict"):
        Backbone("convnet", str(tmp_path / "text.safetensors")).build()


class Opener:
    def __reduce__(self):
        return (open, ("/tmp/nearkin-was-here", "w"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"blocks.0.weight": Opener()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="cannot be read"):
        Backbone("convnet", str(tmp_path / "evil.pt")).build()


def test_imagenet_weights_that_cannot_be_fetched_say_what_to_bring(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"bring model.safetensors from huggingface.co/timm/resnet10t.*--backbone.weights FILE"
    ):
        Backbone("timm:resnet10t", "imagenet").build()
    with pytest.raises(InputError, match="convnet has no ImageNet weights"):
        Backbone("convnet", "imagenet").build()


def test_embedding_size_is_checked():
    with pytest.raises(ValueError, match="embedding_size must be at least 1, got 0"):
        Embedder(ConvNet(), 0)
