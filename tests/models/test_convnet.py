import torch

from nearkin.models import ConvNet


def test_it_has_its_shapes_and_its_size():
    net = ConvNet()
    assert net(torch.zeros(2, 3, 28, 28)).shape == (2, 256, 3, 3)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 256, 8, 8)
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256)
    assert sum(p.numel() for p in net.parameters()) == convolutions + 2 * (32 + 64 + 128 + 256)


def test_its_stages_are_its_blocks():
    net = ConvNet().eval()
    pixels = torch.randn(2, 3, 32, 32)
    maps = net.features(pixels, ["block4", "block1", "block3", "block2"])
    assert [tuple(found.shape[1:]) for found in maps] == [(256, 4, 4), (32, 16, 16), (128, 4, 4), (64, 8, 8)]
    torch.testing.assert_close(maps[0], net(pixels))
    torch.testing.assert_close(maps[1], net.blocks[:4](pixels))
    torch.testing.assert_close(maps[2], net.blocks[:12](pixels))
    assert net.stages == ("block1", "block2", "block3", "block4")
