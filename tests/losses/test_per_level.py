import pytest
import torch
from torch import nn

from nearkin.losses import NPairLoss, RankedListLoss
from nearkin.losses.per_level import PerLevelLoss


class Learner(nn.Module):
    """A loss with a parameter."""

    def __init__(self, start):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))

    def forward(self, embeddings, labels):
        return self.scale * embeddings.square().sum() + labels.sum() * 0


def test_it_is_the_sum_of_its_levels():
    x = torch.randn(8, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.arange(8) // 2
    value = PerLevelLoss([RankedListLoss(), RankedListLoss(margin=0.2), NPairLoss()])(x, y)
    expected = RankedListLoss()(x[:, :5], y) + RankedListLoss(margin=0.2)(x[:, 5:10], y) + NPairLoss()(x[:, 10:], y)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in (value, expected)]
    torch.testing.assert_close(*gradients)


def test_each_level_has_parameters_of_its_own():
    loss = PerLevelLoss(Learner(start) for start in (1.0, 2.0))
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    value = loss(x, torch.tensor([0]))
    value.backward()
    assert value.item() == 1 * (1 + 4) + 2 * (9 + 16)
    assert [parameter.grad.item() for parameter in loss.parameters()] == [5, 25]


def test_it_says_whether_its_losses_normalise():
    assert PerLevelLoss([RankedListLoss()]).normalize
    assert not PerLevelLoss([NPairLoss()]).normalize
    assert not PerLevelLoss([Learner(1.0)]).normalize
    assert PerLevelLoss([RankedListLoss(), NPairLoss()]).normalize  # the first decides


def test_rejects_embeddings_too_short_for_its_levels():
    with pytest.raises(ValueError, match="of 3 levels of one size, got shape"):
        PerLevelLoss([NPairLoss(), NPairLoss(), NPairLoss()])(torch.ones(4, 2), torch.arange(4) // 2)
