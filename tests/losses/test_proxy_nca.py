import pytest
import torch

from nearkin.losses import ProxyNCALoss


def reference(x, y, proxies, scale, softmax):
    """The equation over unit vectors x (N, D) and proxies of any norm (C, D)."""
    total = 0.0
    for i in range(len(x)):
        d2 = [(scale * x[i] - scale * p / p.square().sum().sqrt()).square().sum() for p in proxies]
        others = [-d2[z] for z in range(len(proxies)) if softmax or z != y[i]]
        if len(proxies) > 1:
            total = total + d2[y[i]] + torch.stack(others).logsumexp(0)
    return total / max(len(x), 1)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize(("scale", "spare"), [(3.0, 0), (3.0, 4), (0.1, 1), (10.0, 1)])
def test_matches_the_equation(batch, agrees, scale, spare, softmax):
    x, y = batch
    y = y.unique(return_inverse=True)[1]
    torch.manual_seed(0)
    loss = ProxyNCALoss(max(len(y.unique()) + spare, 1), x.shape[1], scale, softmax).double()
    loss.proxies.data *= torch.logspace(-1, 1, len(loss.proxies))[:, None]  # their norms do not count
    proxies = loss.proxies.detach().clone().requires_grad_()
    agrees(loss, lambda x, y: reference(x, y, proxies, scale, softmax), x, y)

    (reference(x / x.norm(dim=1, keepdim=True), y, proxies, scale, softmax) + 0 * proxies.sum()).backward()
    loss(x, y).backward()
    size = float(proxies.grad.abs().max())
    torch.testing.assert_close(loss.proxies.grad, proxies.grad, rtol=1e-6, atol=1e-6 * size + 1e-12)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 100.0, 1e6, 1e15])
def test_finite_at_any_scale(scale, softmax):
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = ProxyNCALoss(3, 4, scale, softmax)
    value = loss(x, torch.arange(12) % 3)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert loss.proxies.grad.isfinite().all()
    assert loss.proxies.grad.abs().max() > 0


@pytest.mark.parametrize("softmax", [False, True])
def test_one_class_is_a_differentiable_0(softmax):
    x = torch.randn(4, 5, requires_grad=True)
    loss = ProxyNCALoss(1, 5, softmax=softmax)
    value = loss(x, torch.zeros(4).long())
    value.backward()
    assert value == 0
    assert x.grad.eq(0).all()
    assert loss.proxies.grad.eq(0).all()


@pytest.mark.parametrize("softmax", [False, True])
def test_a_batch_of_one_class_still_learns_from_the_other_proxies(softmax):
    x = torch.randn(4, 5, requires_grad=True)
    loss = ProxyNCALoss(3, 5, softmax=softmax)
    loss(x, torch.ones(4).long()).backward()
    assert x.grad.abs().max() > 0
    assert loss.proxies.grad.abs().amax(dim=1).gt(0).all()


def test_proxies_start_as_unit_vectors_of_their_own():
    proxies = ProxyNCALoss(50, 16).proxies
    assert isinstance(proxies, torch.nn.Parameter)
    torch.testing.assert_close(proxies.norm(dim=1), torch.ones(50))
    assert (proxies @ proxies.T).fill_diagonal_(0).abs().max() < 0.95


def test_proxies_find_their_classes():
    torch.manual_seed(0)
    loss = ProxyNCALoss(4, 8)
    x, y = torch.eye(8)[torch.arange(40) % 4], torch.arange(40) % 4
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    assert (x @ loss.proxies.T).argmax(dim=1).equal(y)


@pytest.mark.parametrize(("labels", "range_"), [([0, 0, 3, 1], "from 0 to 3"), ([0, 0, -1, 1], "from -1 to 1")])
def test_rejects_labels_beyond_num_classes(labels, range_):
    with pytest.raises(ValueError, match=f"got num_classes=3 and labels {range_}: set num_classes"):
        ProxyNCALoss(3, 2)(torch.randn(4, 2), torch.tensor(labels))


def test_rejects_embeddings_of_another_size():
    with pytest.raises(ValueError, match="embeddings must have embedding_size=5 columns, got 4"):
        ProxyNCALoss(3, 5)(torch.randn(2, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes and embedding_size must be at least 1, got 0 and 4"),
        ({"embedding_size": 0}, "num_classes and embedding_size must be at least 1, got 3 and 0"),
        ({"scale": 0.0}, r"scale must be above 0 and finite, got 0\.0"),
        ({"scale": float("nan")}, "scale must be above 0 and finite, got nan"),
        ({"scale": float("inf")}, "scale must be above 0 and finite, got inf"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ProxyNCALoss(**{"num_classes": 3, "embedding_size": 4, **arguments})
