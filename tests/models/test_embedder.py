import pytest
import torch

from nearkin.models import ConvNet, Embedder


def pictures(n=3, side=32):
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
    assert all(key.startswith(("backbone.", "head.")) for key in embedder.state_dict())


def test_embedding_size_is_checked():
    with pytest.raises(ValueError, match="embedding_size must be at least 1, got 0"):
        Embedder(ConvNet(), 0)
