"""Any batch at all: every loss gives a finite value and gradient, or one line that says what is wrong."""

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import FLOATS, USUAL, examples, labels, layouts, matrices
from support import outcome
from test_angular import reference as angular
from test_angular_hinge import reference as angular_hinge
from test_contrastive import reference as contrastive
from test_damlrrm import reference as damlrrm
from test_ddml import reference as ddml
from test_lifted_structure import reference as lifted_structure
from test_margin import draw
from test_margin import reference as margin
from test_npair import multi_class, tuplet
from test_npair_angular import reference as npair_angular
from test_ranked_list import reference as ranked_list
from test_semihard import reference as semihard
from test_spectral_clustering import reference as spectral_clustering
from test_triplet import all_triplets, thirds

from nearkin import losses
from nearkin.gradient_cache import backward_in_pieces
from nearkin.losses.pairs import LONGEST, finite, on_sphere
from nearkin.losses.per_level import PerLevelLoss

pytestmark = pytest.mark.filterwarnings("ignore:SpectralClusteringLoss takes more samples")

CLASSES = 4
OVERFLOW = "loss and gradient must be finite in float"


def any_labels(y):
    return True


def in_pairs(y):
    return all((y == each).sum() == 2 for each in y)


def in_thirds(y):
    if len(y) % 3:
        return False
    anchor, positive, negative = y.view(3, -1)
    return bool((anchor == positive).all() and (anchor != negative).all())


def in_halves(y):
    return len(y) % 2 == 0


def in_range(y):
    return not len(y) or 0 <= y.long().min() <= y.long().max() < CLASSES


FORMS = {  # name -> the loss for embeddings of size D, and which labels it takes
    "contrastive": (lambda size: losses.ContrastiveLoss(), any_labels),
    "contrastive, not on the sphere": (lambda size: losses.ContrastiveLoss(normalize=False), any_labels),
    "DDML": (lambda size: losses.DDMLLoss(), any_labels),
    "DDML, not on the sphere": (lambda size: losses.DDMLLoss(normalize=False), any_labels),
    "triplet": (lambda size: losses.TripletLoss(), any_labels),
    "triplet, not on the sphere": (lambda size: losses.TripletLoss(normalize=False), any_labels),
    "disjoint triplet": (lambda size: losses.TripletLoss(disjoint=True), in_thirds),
    "disjoint triplet, not on the sphere": (lambda size: losses.TripletLoss(disjoint=True, normalize=False), in_thirds),
    "semihard": (lambda size: losses.SemihardTripletLoss(), any_labels),
    "semihard, not on the sphere": (lambda size: losses.SemihardTripletLoss(normalize=False), any_labels),
    "margin": (lambda size: losses.MarginLoss(), any_labels),
    "margin, learned": (lambda size: losses.MarginLoss(num_classes=CLASSES), in_range),
    "margin, not on the sphere": (lambda size: losses.MarginLoss(beta=3.0, normalize=False), any_labels),
    "N-pair": (lambda size: losses.NPairLoss(l2=0.01), any_labels),
    "N-pair on the sphere": (lambda size: losses.NPairLoss(normalize=True), any_labels),
    "N-pair, mc": (lambda size: losses.NPairLoss("mc"), in_pairs),
    "angular": (lambda size: losses.AngularLoss(), any_labels),
    "angular, not on the sphere": (lambda size: losses.AngularLoss(normalize=False), any_labels),
    "angular hinge": (lambda size: losses.AngularHingeLoss(), any_labels),
    "angular hinge, not on the sphere": (lambda size: losses.AngularHingeLoss(normalize=False), any_labels),
    "N-pair & angular": (lambda size: losses.NPairAngularLoss(), any_labels),
    "Proxy-NCA": (lambda size: losses.ProxyNCALoss(CLASSES, size), in_range),
    "Proxy-NCA, softmax": (lambda size: losses.ProxyNCALoss(CLASSES, size, softmax=True), in_range),
    "ranked list": (lambda size: losses.RankedListLoss(), any_labels),
    "ranked list, symmetric": (lambda size: losses.RankedListLoss(symmetric=True, normalize=False), any_labels),
    "lifted structure": (lambda size: losses.LiftedStructureLoss(), any_labels),
    "lifted structure on the sphere": (lambda size: losses.LiftedStructureLoss(normalize=True), any_labels),
    "facility location": (lambda size: losses.FacilityLocationLoss(), any_labels),
    "facility location, not on the sphere": (lambda size: losses.FacilityLocationLoss(normalize=False), any_labels),
    "spectral clustering": (lambda size: losses.SpectralClusteringLoss(), any_labels),
    "spectral clustering on the sphere": (lambda size: losses.SpectralClusteringLoss(normalize=True), any_labels),
    "DAMLRRM": (lambda size: losses.DAMLRRMLoss(), in_halves),
    "DAMLRRM, relative": (lambda size: losses.DAMLRRMLoss(1.0, 0.02, positives="all", relative=True), in_halves),
    "DAMLRRM on the sphere": (lambda size: losses.DAMLRRMLoss(alpha=1.2, normalize=True), in_halves),
    "DAML": (lambda size: losses.DAMLLoss(size, pretraining=0), in_thirds),
    "DAML, pretraining": (lambda size: losses.DAMLLoss(size), in_thirds),
}
WITH_GALLERY = [
    *(name for name in FORMS if name.startswith(("contrastive", "DDML", "triplet", "semihard", "margin", "ranked"))),
    *("N-pair", "N-pair on the sphere"),
]


def make(name, size):
    torch.manual_seed(0)
    return FORMS[name][0](max(size, 1))


def usable(x):
    """Whether embeddings are what a loss takes, by their values and shape."""
    return bool(x.shape[1] and x.isfinite().all() and (x.double().norm(dim=1) <= LONGEST).all())


def compute(loss, *arguments):
    torch.manual_seed(0)  # the margin loss draws its negatives
    return loss(*arguments)


def refused(loss, *arguments):
    """The line that a loss refuses arguments with; None if it takes them."""
    _, line = outcome(ValueError, compute, loss, *arguments)
    assert line is None or ", got " in line
    return line


def gradients(value, inputs):
    return torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)


def test_no_loss_is_left_out():
    assert {type(make(name, 3)).__name__ for name in FORMS} | {"CrossBatchMemory"} == set(losses.__all__)


@pytest.mark.parametrize("name", FORMS)
@examples(12)
@given(data=st.data())
def test_finite_or_refused(name, data):
    values = data.draw(matrices())
    n, size = values.shape
    x, plain = data.draw(layouts(values, data.draw(st.sampled_from(FLOATS))))
    y = data.draw(labels(n + data.draw(st.sampled_from([0] * 9 + [1]))))
    loss, takes = make(name, size), FORMS[name][1]
    learned = list(loss.parameters())
    x.requires_grad_(data.draw(st.booleans()))

    reason = refused(loss, x, y)
    if reason is None or not reason.startswith(OVERFLOW):  # the latter is a valid batch, too
        assert (reason is None) == (usable(plain) and len(y) == n and takes(y)), reason
    event("refused" if reason else "taken")
    if reason:
        return
    value = compute(loss, x, y)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert value.isfinite()
    if value.requires_grad:
        found = gradients(value, [*([x] if x.requires_grad else []), *learned])
        in_half = x.requires_grad and x.dtype == torch.float16  # which ends at 65,504
        assert all(each.isfinite().all() for each in found[int(in_half) :] if each is not None)
        assert not any(each.isnan().any() for each in found if each is not None)
    # However it lies in memory, and whatever its precision, it is the same batch.
    same = plain.float() if plain.dtype.itemsize == 2 else plain
    torch.testing.assert_close(compute(loss, same, y.long()), value, rtol=1e-4, atol=1e-4)


# The equations once more, beside forms that they do not make wait.
REFERENCES = {
    "contrastive": (losses.ContrastiveLoss(0.7), lambda x, y: contrastive(x, y, 0.7)),
    "contrastive, not on the sphere": (losses.ContrastiveLoss(3.1, False), lambda x, y: contrastive(x, y, 3.1)),
    "DDML": (losses.DDMLLoss(), lambda x, y: ddml(x, y, 10.0, 3.0)),
    "triplet": (losses.TripletLoss(0.3), lambda x, y: all_triplets(x, y, 0.3)),
    "triplet, not on the sphere": (losses.TripletLoss(0.3, False), lambda x, y: all_triplets(x, y, 0.3)),
    "semihard": (losses.SemihardTripletLoss(0.3), lambda x, y: semihard(x, y, 0.3)),
    "margin": (losses.MarginLoss(0.23, 0.97), lambda x, y: margin(x, y, draw(x, y), 0.23, lambda anchor: 0.97)),
    "N-pair": (losses.NPairLoss(l2=0.1), lambda x, y: tuplet(x, y, 0.1)),
    "angular": (losses.AngularLoss(40.0), lambda x, y: angular(x, y, 40.0)),
    "angular, not on the sphere": (losses.AngularLoss(40.0, False), lambda x, y: angular(x, y, 40.0)),
    "angular hinge": (losses.AngularHingeLoss(40.0), lambda x, y: angular_hinge(x, y, 40.0)),
    "N-pair & angular": (losses.NPairAngularLoss(40.0), lambda x, y: npair_angular(x, y, 40.0, 2.0)),
    "ranked list": (losses.RankedListLoss(), lambda x, y: ranked_list(x, y, 1.2, 0.4, 10.0, 1.0, False)),
    "lifted structure": (losses.LiftedStructureLoss(), lambda x, y: lifted_structure(x, y, 1.0)),
    "spectral clustering": (losses.SpectralClusteringLoss(), spectral_clustering),
    "DAMLRRM": (losses.DAMLRRMLoss(1.23, 0.31), lambda x, y: damlrrm(x, y, 1.23, 0.31)),
    "N-pair, mc": (losses.NPairLoss("mc"), lambda x, y: multi_class(x, y, 0.0)),
    "disjoint triplet": (losses.TripletLoss(0.3, disjoint=True), lambda x, y: thirds(x, 0.3)),
}
GROUPS = {"DAMLRRM": 2, "N-pair, mc": 2, "disjoint triplet": 3}  # of how many samples a batch is made


@pytest.mark.parametrize("name", REFERENCES)
@examples(6)
@given(data=st.data())
def test_the_value_of_the_equations(name, data):
    loss, reference = REFERENCES[name]
    group = GROUPS.get(name, 1)
    rows = st.integers(0, 7 // group).map(lambda groups: group * groups)
    values = data.draw(matrices(USUAL, rows, st.integers(1, 4), wild=False))
    x, plain = data.draw(layouts(values, torch.float64))
    n = len(x)
    y = data.draw(labels(n))
    if name == "N-pair, mc":
        y = torch.arange(n // 2).repeat(2)
    if name == "disjoint triplet":
        y = torch.cat([torch.arange(n // 3).repeat(2), torch.arange(n // 3) + 1])
    if hasattr(loss, "chunk_size"):
        loss.chunk_size = data.draw(st.sampled_from([None, 1, 2, 5]))
    length = plain.norm(dim=1, keepdim=True)
    unit = torch.where(length > 0, plain / length, 0.0) if loss.normalize else plain

    value = compute(loss, x.requires_grad_(), y)
    size = float(unit.square().max()) if len(x) else 0.0
    torch.testing.assert_close(value, reference(unit, y) + 0 * x.detach().sum(), rtol=1e-6, atol=1e-9 * (1 + size))
    assert gradients(value, [x])[0].isfinite().all()


@pytest.mark.parametrize("name", WITH_GALLERY)
@examples(6)
@given(data=st.data())
def test_any_gallery(name, data):
    dtypes = data.draw(st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)))
    x = data.draw(layouts(data.draw(matrices()), dtypes[0]))[0]
    columns = st.just(x.shape[1]) | st.integers(0, 5)
    gallery = data.draw(layouts(data.draw(matrices(columns=columns)), dtypes[1]))[0]
    y, gallery_labels = data.draw(labels(len(x))), data.draw(labels(len(gallery)))
    loss, takes = make(name, x.shape[1]), FORMS[name][1]
    loss.chunk_size = data.draw(st.sampled_from([None, 1, 3]))
    moving = data.draw(st.sampled_from([[], [x], [gallery], [x, gallery]]))
    for each in moving:
        each.requires_grad_()

    reason = refused(loss, x, y, gallery, gallery_labels)
    if reason is None or not reason.startswith(OVERFLOW):
        fits = usable(x) and usable(gallery) and x.shape[1] == gallery.shape[1]
        assert (reason is None) == (fits and takes(y)), reason
    if reason:
        return
    value = compute(loss, x, y, gallery, gallery_labels)
    assert value.isfinite()
    if moving and value.requires_grad:
        for each, gradient in zip(moving, gradients(value, moving), strict=True):
            assert gradient is None or each.dtype == torch.float16 or gradient.isfinite().all()
            assert gradient is None or not gradient.isnan().any()


@pytest.mark.parametrize(
    ("embeddings", "ids", "line"),
    [
        (torch.zeros(2, 3).numpy(), torch.zeros(2), "must be tensors, got ndarray and Tensor"),
        (torch.zeros(2, 3), ["cat", "dog"], "must be tensors, got Tensor and list"),
        (None, None, "must be tensors, got NoneType and NoneType"),
        (torch.zeros(2, 0), torch.zeros(2).long(), r"D at least 1, got torch.float32 of shape \(2, 0\)"),
        (torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2).long(), "got torch.complex64"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.complex64), "must be integer class ids, got torch.complex64"),
        (torch.tensor([[1.0], [-1.1e16]]), torch.arange(2), r"at most 1e\+16 long, got a row of length 1.1e\+16"),
        (torch.zeros(2, 3).to_sparse(), torch.arange(2), "must be dense, got torch.sparse_coo and torch.strided"),
        (torch.zeros(2, 3), torch.arange(2).to_sparse(), "must be dense, got torch.strided and torch.sparse_coo"),
        (torch.zeros(2, 3), torch.arange(2, device="meta"), "on the device of the embeddings, cpu, got meta"),
        (torch.full((2, 9), 1e30), torch.arange(2), r"at most 1e\+16 long, got a row of length 3e\+30"),
    ],
)
@pytest.mark.parametrize("name", FORMS)
def test_what_was_expected_and_what_came(name, embeddings, ids, line):
    with pytest.raises(ValueError, match=line):
        make(name, 3)(embeddings, ids)


@pytest.mark.parametrize("name", WITH_GALLERY)
def test_a_gallery_on_another_device_is_refused(name):
    x, y = torch.zeros(2, 3), torch.arange(2)
    with pytest.raises(ValueError, match="gallery must be on the device of the embeddings, cpu, got meta"):
        make(name, 3)(x, y, x.to("meta"), y)


def test_the_longest_embeddings_are_taken():
    x = 0.99 * LONGEST * torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]).repeat(3, 1)  # together thrice as long
    x.requires_grad_()
    value = losses.ContrastiveLoss(normalize=False)(x, torch.arange(12) % 2)
    value.backward()
    assert value.item() > LONGEST**2 / 10
    assert x.grad.isfinite().all()


def test_a_loss_that_is_beyond_its_type_is_refused_and_not_infinite():
    x = torch.tensor([[-5e15], [5e15]])
    loss = losses.DDMLLoss(beta=1e10, normalize=False)
    with pytest.raises(ValueError, match="loss and gradient must be finite in float32, got NaN or infinity: bring the"):
        loss(x, torch.zeros(2).long())
    assert loss(x.double(), torch.zeros(2).long()).item() == pytest.approx(5e31)


def test_a_gradient_that_is_beyond_its_type_is_refused_and_not_infinite():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) * 1e-43  # it grows as they shrink
    with pytest.raises(ValueError, match="loss and gradient must be finite in float32"):
        losses.SpectralClusteringLoss()(x, torch.arange(12) % 3)
    assert losses.SpectralClusteringLoss()(x.double(), torch.arange(12) % 3).item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", [name for name in FORMS if "not on the" not in name])
def test_one_embedding_of_zeros_does_not_end_a_training(name, dtype):
    """PyTorch's `normalize` would give it a gradient of 1e12, which is infinity in half precision."""
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[5] = 0
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 1, 0, 3, 2])
    if in_pairs is FORMS[name][1]:
        y = torch.arange(12) % 6
    loss = make(name, 6)
    (gradient,) = gradients(compute(loss, x.requires_grad_(), y), [x])
    assert gradient.isfinite().all()
    if loss.normalize:
        assert gradient[5].eq(0).all()
    assert 0 < gradient.abs().max() < 100


class ListMemory:
    """What `CrossBatchMemory` computes, with a list for its memory."""

    def __init__(self, loss, size, start, weight):
        self.loss, self.size, self.start, self.weight = loss, size, start, weight
        self.held, self.batches = [], 0

    def __call__(self, x, y):
        value = compute(self.loss, x, y)
        if self.held and self.batches >= self.start:
            past, ids = (torch.stack(each) for each in zip(*self.held, strict=True))
            value = value + self.weight * compute(self.loss, x, y, past.float(), ids)
        self.held = [*self.held, *zip(x.detach(), y.long(), strict=True)][-self.size :]
        self.batches += 1
        return value


@examples(20)
@given(data=st.data())
def test_any_sequence_of_batches_is_remembered(data):
    loss = losses.ContrastiveLoss(chunk_size=data.draw(st.sampled_from([None, 2])))
    size, start, weight = data.draw(st.tuples(st.integers(1, 12), st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0])))
    memory = losses.CrossBatchMemory(loss, 3, size, start, weight)
    expected = ListMemory(loss, size, start, weight)
    for _ in range(data.draw(st.integers(1, 5))):
        values = data.draw(matrices(columns=st.sampled_from([3] * 9 + [2])))
        x = data.draw(layouts(values, data.draw(st.sampled_from(FLOATS))))[0].requires_grad_()
        y = data.draw(labels(len(x)))
        reason = refused(memory.eval(), x, y)
        assert (reason is None) == (usable(x) and x.shape[1] == 3), reason
        if reason:  # and nothing of it is remembered
            assert refused(memory.train(), x, y)
            continue
        value = compute(memory.train(), x, y)
        torch.testing.assert_close(value, expected(x, y), rtol=1e-4, atol=1e-4)
        (gradient,) = gradients(value, [x])
        assert x.dtype == torch.float16 or gradient.isfinite().all()


@examples(15)
@given(data=st.data())
def test_any_number_of_levels(data):
    count, size, spare = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 0, 1])))
    values = data.draw(matrices(USUAL, columns=st.just(count * size + spare), wild=False))
    x = data.draw(layouts(values, data.draw(st.sampled_from(FLOATS))))[0].requires_grad_()
    y = data.draw(labels(len(x)))
    loss = PerLevelLoss(losses.ContrastiveLoss() for _ in range(count))
    if spare and count > 1:
        assert refused(loss, x, y) == (
            f"embeddings must be (N, L · D) of {count} levels of one size, got shape {tuple(x.shape)}: "
            "give one loss for each level"
        )
        return
    value = loss(x, y)
    levels = torch.split(x.float(), size + spare, dim=1)
    torch.testing.assert_close(value.float(), sum(losses.ContrastiveLoss()(level, y) for level in levels))
    assert gradients(value, [x])[0].isfinite().all() or x.dtype == torch.float16


def test_no_level_is_refused():
    with pytest.raises(ValueError, match="losses must be one for each level, at least one, got none"):
        PerLevelLoss([])


@pytest.mark.parametrize("name", ["contrastive", "margin, learned", "DAMLRRM"])
@examples(8)
@given(data=st.data())
def test_any_batch_in_any_pieces(name, data):
    values = data.draw(matrices(USUAL, columns=st.just(4), wild=False))
    images = data.draw(layouts(values, torch.float64))[0]
    y = data.draw(labels(len(images))).long() % CLASSES
    piece = data.draw(st.integers(-1, 10))
    torch.manual_seed(0)
    network, loss = torch.nn.Linear(4, 3).double(), make(name, 3)
    whole = [*network.parameters(), *loss.parameters()]

    def of_batch(embeddings):
        return compute(loss, embeddings, y)

    if piece < 1:
        with pytest.raises(ValueError, match=f"piece must be at least 1 image, got {piece}"):
            backward_in_pieces(network, images, of_batch, piece)
        return
    if not FORMS[name][1](y):
        with pytest.raises(ValueError, match="got"):
            backward_in_pieces(network, images, of_batch, piece)
        assert all(each.grad is None for each in whole)
        return
    expected = of_batch(network(images))
    value = backward_in_pieces(network, images, of_batch, piece)
    torch.testing.assert_close(value, expected.detach())
    for each, gradient in zip(whole, gradients(expected, whole), strict=True):
        torch.testing.assert_close(each.grad, gradient)
        assert each.grad.isfinite().all()


def test_only_what_has_no_direction_loses_its_gradient():
    x = torch.tensor([[2e-12], [1e-12], [5e-13], [0.0]], requires_grad=True)
    assert on_sphere(x).tolist() == [[1.0], [0.0], [0.0], [0.0]]


def test_finite_values_whose_sum_is_not():
    assert finite(torch.tensor([3e38, 3e38]))
    assert not finite(torch.tensor([3e38, torch.inf]))
    assert not finite(torch.tensor([torch.nan]))
