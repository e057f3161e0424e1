import pytest
import torch

from nearkin.losses import NPairLoss


def tuplet(x, y, l2):
    total, pairs = 0.0, 0
    for a in range(len(x)):
        for p in range(len(x)):
            if a != p and y[a] == y[p]:
                terms = [x[a] @ x[n] - x[a] @ x[p] for n in range(len(x)) if y[n] != y[a]]
                total = total + torch.stack([x.new_zeros(()), *terms]).logsumexp(0)  # log(1 + Σ exp)
                pairs += 1
    return total / max(pairs, 1) + l2 * x.square().sum() / 2 / max(len(x), 1)


def multi_class(x, y, l2):
    classes = sorted(set(y.tolist()))
    anchors = [x[(y == c).nonzero()[0, 0]] for c in classes]
    positives = [x[(y == c).nonzero()[1, 0]] for c in classes]
    total, norms = 0.0, 0.0
    for i, a in enumerate(anchors):
        terms = [a @ n - a @ positives[i] for j, n in enumerate(positives) if j != i]
        total = total + torch.stack([x.new_zeros(()), *terms]).logsumexp(0)
        norms = norms + a @ a + positives[i] @ positives[i]
    return (total + l2 / 4 * norms) / max(len(classes), 1)


@pytest.mark.parametrize(("l2", "normalize"), [(0.0, False), (0.02, False), (0.0, True), (0.02, True)])
def test_tuplet_matches_the_equation(batch, agrees, l2, normalize):
    agrees(NPairLoss("tuplet", l2, normalize), lambda x, y: tuplet(x, y, l2), *batch)


@pytest.mark.parametrize(("l2", "normalize"), [(0.0, False), (0.02, False), (0.0, True), (0.02, True)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("classes", [0, 1, 2, 6, 40])
def test_mc_matches_the_equation(agrees, classes, scale, l2, normalize):
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(2 * classes, 5, dtype=torch.float64, generator=generator)
    y = (torch.arange(2 * classes) // 2 - 2)[torch.randperm(2 * classes, generator=generator)]
    agrees(NPairLoss("mc", l2, normalize), lambda x, y: multi_class(x, y, l2), x, y)


def test_forms_share_the_penalty():
    x, y = torch.randn(8, 3), torch.arange(8) // 2
    penalties = [NPairLoss(form, 0.4)(x, y) - NPairLoss(form, 0.0)(x, y) for form in ("tuplet", "mc")]
    torch.testing.assert_close(penalties[0], penalties[1])
    torch.testing.assert_close(penalties[0], 0.2 * x.square().sum(dim=1).mean())


def test_a_gallery_adds_no_penalty():
    x, y = torch.randn(8, 3), torch.arange(8) // 2
    torch.testing.assert_close(NPairLoss(l2=0.4)(x, y, x, y), NPairLoss()(x, y, x, y))


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 2], [0]])
def test_mc_rejects_other_than_two_per_class(labels):
    with pytest.raises(ValueError, match="exactly 2 samples of each class, got"):
        NPairLoss("mc")(torch.randn(len(labels), 3), torch.tensor(labels))


def test_rejects_an_unknown_form_and_a_negative_penalty():
    with pytest.raises(ValueError, match='form must be "tuplet" or "mc", got \'mcc\''):
        NPairLoss("mcc")
    with pytest.raises(ValueError, match="l2 must be at least 0 and finite, got -1"):
        NPairLoss(l2=-1)
