import pytest
import torch

from nearkin.models import ConvNet, Embedder, evaluating, freeze_batch_norm


def pictures():
    return torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_lasts_a_moment_and_leaves_no_trace(training):
    embedder = Embedder(ConvNet(), 8).train(training)
    before = {key: value.clone() for key, value in embedder.state_dict().items()}
    with evaluating(embedder):
        assert not embedder.backbone.blocks[2].training
        assert not embedder(pictures()).requires_grad
    with pytest.raises(KeyError), evaluating(embedder):
        raise KeyError
    assert {module.training for module in embedder.modules()} == {training}
    assert all(torch.equal(before[key], value) for key, value in embedder.state_dict().items())


def test_freezing_leaves_statistics_but_not_weights_alone():
    embedder = Embedder(ConvNet(), 8).train()
    freeze_batch_norm(embedder)
    before = {key: value.clone() for key, value in embedder.named_buffers()}
    embedder(pictures()).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in embedder.named_buffers())
    assert all(parameter.grad is not None for parameter in embedder.parameters())
