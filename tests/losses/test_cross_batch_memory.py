import pytest
import torch
from torch import nn

from nearkin.losses import (
    ContrastiveLoss,
    CrossBatchMemory,
    LiftedStructureLoss,
    MarginLoss,
    NPairLoss,
    RankedListLoss,
    TripletLoss,
)


def batches(count=6, n=8, size=5):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(n, size, generator=generator), torch.randint(4, (n,), generator=generator)


def gradient(value, x):
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("loss", [ContrastiveLoss(), NPairLoss(), RankedListLoss(), ContrastiveLoss(chunk_size=3)])
@pytest.mark.parametrize("memory_size", [1, 8, 13, 20, 1000])
@pytest.mark.parametrize(("start", "weight"), [(0, 0.7), (2, 0.7), (0, 0.0)])
def test_is_the_loss_of_the_batch_and_of_the_batch_against_the_last_embeddings(loss, memory_size, start, weight):
    memory = CrossBatchMemory(loss, 5, memory_size=memory_size, start=start, weight=weight)
    past, past_labels = torch.zeros(0, 5), torch.zeros(0).long()
    for number, (x, y) in enumerate(batches()):
        x.requires_grad_()
        expected = loss(x, y)
        if number >= max(start, 1):
            expected = expected + weight * loss(x, y, past[-memory_size:], past_labels[-memory_size:])
        value = memory(x, y)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient(value, x), gradient(expected, x), rtol=1e-5, atol=1e-7)
        assert not memory.memory.requires_grad
        past, past_labels = torch.cat([past, x.detach()]), torch.cat([past_labels, y])


def test_a_batch_larger_than_the_memory_leaves_its_end():
    memory = CrossBatchMemory(ContrastiveLoss(), 5, memory_size=3)
    x, y = next(batches())
    memory(x, y)
    assert sorted(memory.memory.tolist()) == sorted(x[-3:].tolist())


def test_a_small_batch_after_a_large_one_replaces_the_oldest():
    memory = CrossBatchMemory(ContrastiveLoss(), 5, memory_size=5)
    (x, y), (other, other_labels) = batches(2)
    memory(x, y)
    memory(other[:2], other_labels[:2])
    assert sorted(memory.memory.tolist()) == sorted([*x[-3:].tolist(), *other[:2].tolist()])


def test_scoring_leaves_the_memory_alone():
    memory = CrossBatchMemory(ContrastiveLoss(), 5)
    (x, y), (other, other_labels) = batches(2)
    memory(x, y)
    before = memory.eval()(other, other_labels)
    torch.testing.assert_close(memory(other, other_labels), before)
    assert (memory.seen, memory.batches) == (8, 1)


def test_the_state_goes_on_where_it_was_written(tmp_path):
    first, second = (CrossBatchMemory(ContrastiveLoss(), 5, memory_size=13, start=1) for _ in range(2))
    *some, (x, y) = batches()
    for batch in some:
        first(*batch)
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert second(x, y).equal(first(x, y))


def test_half_precision_is_remembered_in_single():
    memory = CrossBatchMemory(ContrastiveLoss(), 5)
    for x, y in batches(2):
        assert memory(x.bfloat16(), y).isfinite()
    assert memory.memory.dtype == torch.float32


def test_compares_on_the_sphere_as_the_loss_does():
    assert CrossBatchMemory(ContrastiveLoss(), 5).normalize
    assert not CrossBatchMemory(ContrastiveLoss(normalize=False), 5).normalize


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"memory_size": 0}, "memory_size must be at least 1, got 0"),
        ({"start": -1}, "start must be at least 0, got -1"),
        ({"weight": -0.5}, r"weight must be at least 0 and finite, got -0\.5"),
        ({"weight": float("nan")}, "weight must be at least 0 and finite, got nan"),
        ({"weight": float("inf")}, "weight must be at least 0 and finite, got inf"),
    ],
)
def test_rejects_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossBatchMemory(ContrastiveLoss(), **{"embedding_size": 5, **arguments})


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (LiftedStructureLoss(), "takes 3 positional arguments but 5 were given"),
        (NPairLoss("mc"), 'form="mc" compares a batch with itself'),
        (TripletLoss(disjoint=True), "disjoint triplets lie in one batch"),
    ],
)
def test_rejects_a_loss_that_takes_no_gallery(loss, reason):
    with pytest.raises(ValueError, match=f"loss must take a gallery, .* {type(loss).__name__} does not: .*{reason}"):
        CrossBatchMemory(loss, 5)


def test_trying_the_loss_draws_no_random_numbers():
    state = torch.get_rng_state()
    CrossBatchMemory(MarginLoss(num_classes=1), 5)
    assert torch.get_rng_state().equal(state)


class KeepsItsGallery(nn.Module):
    def forward(self, x, labels, gallery=None, gallery_labels=None):
        return (x @ (x if gallery is None else gallery).T).square().mean()


def test_a_loss_may_keep_the_gallery_for_its_backward():
    memory = CrossBatchMemory(KeepsItsGallery(), 5, memory_size=8)
    assert not memory.normalize  # nor does the loss say that it does
    (past, past_labels), (x, y) = batches(2)
    memory(past, past_labels)
    found = gradient(memory(x.requires_grad_(), y), x)
    expected = gradient(KeepsItsGallery()(x, y) + KeepsItsGallery()(x, y, past), x)
    torch.testing.assert_close(found, expected)


def test_the_loss_inside_may_be_compiled():
    compiled = CrossBatchMemory(torch.compile(ContrastiveLoss(), fullgraph=True, backend="aot_eager"), 5, 64)
    plain = CrossBatchMemory(ContrastiveLoss(), 5, 64)
    for x, y in batches(12):
        torch.testing.assert_close(compiled(x, y), plain(x, y))


def test_rejects_embeddings_of_another_size():
    with pytest.raises(ValueError, match="must be of embedding_size=5, got 4"):
        CrossBatchMemory(ContrastiveLoss(), 5)(torch.randn(3, 4), torch.arange(3))
