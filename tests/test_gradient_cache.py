import pytest
import torch
from torch import nn

from nearkin import losses
from nearkin.gradient_cache import backward_in_pieces

LOSSES = {
    "ranked list": losses.RankedListLoss(),
    "lifted structure": losses.LiftedStructureLoss(),
    "angular": losses.AngularLoss(),
    "contrastive, in chunks": losses.ContrastiveLoss(chunk_size=5),
    "Proxy-NCA": losses.ProxyNCALoss(num_classes=7, embedding_size=6),
    "margin, learned": losses.MarginLoss(num_classes=7),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6))


def images(n=14):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 7


def gradients(*modules):
    return [parameter.grad for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize("piece", [1, 4, 14, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_whole_batch(name, piece):
    loss, (x, y) = LOSSES[name].double(), images()
    x, whole, parts = x.double(), network().double(), network().double()
    loss.zero_grad()
    torch.manual_seed(1)
    expected = loss(whole(x), y)
    expected.backward()
    expected_gradients = gradients(whole, loss)

    loss.zero_grad()
    torch.manual_seed(1)
    value = backward_in_pieces(parts, x, lambda embeddings: loss(embeddings, y), piece)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradients(parts, loss), expected_gradients, rtol=1e-9, atol=1e-12)


def test_both_passes_drop_the_same_units():
    torch.manual_seed(0)
    dropped = []
    layer = nn.Dropout(0.5)
    layer.register_forward_hook(lambda module, inputs, output: dropped.append(output.detach() == 0))
    x, y = torch.randn(8, 16), torch.arange(8) // 2
    linear = nn.Linear(16, 4)
    backward_in_pieces(nn.Sequential(layer, linear), x, lambda e: losses.ContrastiveLoss()(e, y), 3)
    first, second = dropped[:3], dropped[3:]
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    assert not first[0].equal(first[1])


@pytest.mark.parametrize("loss", [losses.ContrastiveLoss(), losses.MarginLoss()])  # the latter draws, too
def test_the_random_numbers_go_on_after_one_pass(loss):
    x, y = torch.randn(6, 4), torch.arange(6) // 2
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    torch.manual_seed(0)
    loss(torch.cat([net(x[:3]), net(x[3:])]), y)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backward_in_pieces(net, x, lambda e: loss(e, y), 4)
    assert torch.rand(3).equal(expected)


def test_running_statistics_move_once_for_each_piece():
    x, y = torch.randn(6, 4), torch.arange(6) // 2
    net, other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    backward_in_pieces(net, x, lambda e: losses.ContrastiveLoss()(e, y), 3)
    other(x[:3]), other(x[3:])
    torch.testing.assert_close(net.running_mean, other.running_mean)
    torch.testing.assert_close(net.running_var, other.running_var)
    assert net.num_batches_tracked == 2


def test_gradients_add_to_those_that_are_there():
    loss, (x, y) = losses.ContrastiveLoss(), images()
    net = network()
    backward_in_pieces(net, x, lambda e: loss(e, y), 5)
    once = [gradient.clone() for gradient in gradients(net)]
    backward_in_pieces(net, x, lambda e: loss(e, y), 5)
    torch.testing.assert_close(gradients(net), [2 * gradient for gradient in once])


def test_a_scaled_loss_scales_the_gradient_once():
    loss, (x, y) = losses.ContrastiveLoss(), images()
    net, scaled = network(), network()
    value = backward_in_pieces(net, x, lambda e: loss(e, y), 5)
    scaled_value = backward_in_pieces(scaled, x, lambda e: loss(e, y), 5, lambda value: (1024 * value).backward())
    assert scaled_value.equal(value)
    torch.testing.assert_close(gradients(scaled), [1024 * gradient for gradient in gradients(net)])


@pytest.mark.parametrize(("n", "piece", "sizes"), [(9, 4, [3, 3, 3]), (5, 3, [3, 2]), (3, 2, [2, 1]), (4, 9, [4])])
def test_pieces_are_as_equal_as_they_can_be(n, piece, sizes):
    seen = []
    net = nn.Linear(4, 3)
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    backward_in_pieces(net, torch.randn(n, 4), lambda e: e.square().sum(), piece)
    assert seen == 2 * sizes


def test_a_piece_has_at_least_one_image():
    with pytest.raises(ValueError, match="piece must be at least 1 image, got 0"):
        backward_in_pieces(network(), images()[0], torch.sum, 0)
