import pytest
import timm
import torch

from nearkin.models import Backbone


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("resnet10t", 512, (2, 512, 2, 2)),
        ("mobilenetv3_small_050", 288, (2, 288, 2, 2)),
        ("vit_tiny_patch16_224", 192, (2, 192, 1, 1)),
        ("swin_tiny_patch4_window7_224", 768, (2, 768, 1, 1)),
    ],
)
def test_any_family_gives_features_of_its_channels(name, channels, shape):
    backbone = Backbone(f"timm:{name}").build().eval()
    side = 224 if shape[-1] == 1 else 64
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, side, side)).shape == shape
    assert backbone.channels == channels
    assert backbone.mean == pytest.approx((0.485, 0.456, 0.406)) or backbone.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet10t", {"layer4": (512, 2, 2), "act1": (64, 32, 32), "layer2": (128, 8, 8)}),
        ("mobilenetv3_small_050", {"blocks.5": (288, 2, 2), "blocks.0": (8, 16, 16)}),
        ("vit_tiny_patch16_224", {"blocks.11": (192, 14, 14), "blocks.3": (192, 14, 14)}),
        ("swin_tiny_patch4_window7_224", {"layers.0": (96, 56, 56), "layers.3": (768, 7, 7)}),
    ],
)
def test_the_stages_of_any_family_are_feature_maps(name, shapes):
    backbone = Backbone(f"timm:{name}").build().eval()
    side = 224 if "224" in name else 64
    with torch.no_grad():
        maps = backbone.features(torch.zeros(1, 3, side, side), list(shapes))
    assert [tuple(found.shape[1:]) for found in maps] == list(shapes.values())


def test_stages_are_what_features_only_gives():
    torch.manual_seed(0)
    backbone = Backbone("timm:resnet10t").build().eval()
    extractor = timm.create_model("resnet10t", features_only=True, out_indices=(1, 3)).eval()
    extractor.load_state_dict(backbone.model.state_dict(), strict=False)
    assert extractor.feature_info.module_name() == [backbone.stages[1], backbone.stages[3]]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.features(pixels, [backbone.stages[1], backbone.stages[3]]), extractor(pixels)
        )
