"""What every loss promises, whatever it computes."""

import copy
import inspect
import math
import pickle

import pytest
import torch

from nearkin import losses

torch.manual_seed(0)  # of the proxies and the generator
LOSSES = {
    "contrastive": losses.ContrastiveLoss(),
    "DDML": losses.DDMLLoss(),
    "triplet": losses.TripletLoss(),
    "disjoint triplet": losses.TripletLoss(disjoint=True),
    "semihard": losses.SemihardTripletLoss(),
    "margin": losses.MarginLoss(),
    "margin, learned": losses.MarginLoss(num_classes=6),
    "margin, not on the sphere": losses.MarginLoss(beta=3.0, normalize=False),
    "N-pair": losses.NPairLoss(),
    "N-pair, mc": losses.NPairLoss("mc"),
    "angular": losses.AngularLoss(),
    "angular hinge": losses.AngularHingeLoss(),
    "N-pair & angular": losses.NPairAngularLoss(),
    "Proxy-NCA": losses.ProxyNCALoss(num_classes=6, embedding_size=6),
    "Proxy-NCA, softmax": losses.ProxyNCALoss(num_classes=6, embedding_size=6, softmax=True),
    "ranked list": losses.RankedListLoss(),
    "ranked list, symmetric": losses.RankedListLoss(symmetric=True),
    "lifted structure": losses.LiftedStructureLoss(),
    "facility location": losses.FacilityLocationLoss(),
    "spectral clustering": losses.SpectralClusteringLoss(),
    "DAMLRRM": losses.DAMLRRMLoss(alpha=3.0),
    "DAMLRRM, neat": losses.DAMLRRMLoss(alpha=3.0, positives="all", streams="neat"),
    "DAMLRRM, shuffled": losses.DAMLRRMLoss(alpha=1.2, streams="shuffled", normalize=True),
    "DAML": losses.DAMLLoss(embedding_size=6, pretraining=0),
    "DAML, pretraining": losses.DAMLLoss(embedding_size=6, pretraining=10**9),
}
# Two samples per class, thirds of (anchor, positive, negative), and halves: a batch that every loss takes.
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 5])
THIRDS = ("disjoint triplet", "DAML", "DAML, pretraining")
ANY_BATCH = [name for name in LOSSES if name not in (*THIRDS, "N-pair, mc")]
ANY_ORDER = [name for name in ANY_BATCH if not name.startswith("DAMLRRM")]  # that one takes halves
LEARNED = [name for name, loss in LOSSES.items() if list(loss.parameters()) and name != "DAML, pretraining"]


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]


@pytest.fixture(params=ANY_BATCH)
def any_batch_loss(request):
    return LOSSES[request.param]


@pytest.fixture(params=ANY_ORDER)
def any_order_loss(request):
    return LOSSES[request.param]


@pytest.fixture(params=LEARNED)
def learned_loss(request):
    return LOSSES[request.param]


def points(dtype=torch.float32, n=12):
    return torch.randn(n, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))


def compute(loss, x, y):
    torch.manual_seed(0)  # the margin loss draws its negatives
    return loss(x, y)


def value_and_gradient(loss, x, y):
    x = x.detach().clone().requires_grad_()
    value = compute(loss, x, y)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def parameter_gradients(loss, x, y):
    return torch.autograd.grad(compute(loss, x, y), list(loss.parameters()))


def test_all_are_exported_and_modules():
    around_others = {"CrossBatchMemory"}
    assert {type(loss).__name__ for loss in LOSSES.values()} | around_others == set(losses.__all__)
    assert all(isinstance(loss, torch.nn.Module) for loss in LOSSES.values())
    assert losses.__all__ == sorted(losses.__all__)


DEFAULTS = {
    "AngularHingeLoss": {"alpha": 45.0, "normalize": True, "chunk_size": None},
    "AngularLoss": {"alpha": 45.0, "normalize": True, "chunk_size": None},
    "ContrastiveLoss": {"margin": 1.0, "normalize": True, "chunk_size": None},
    "CrossBatchMemory": {"memory_size": 8192, "start": 0, "weight": 1.0},
    "DAMLLoss": {"margin": 1.0, "weights": (1.0, 1.0, 1.0), "pretraining": 200},
    "DAMLRRMLoss": {
        "alpha": 30.0,
        "beta": 0.5,
        "positives": "tree",
        "streams": "both",
        "normalize": False,
        "relative": False,
    },
    "DDMLLoss": {"beta": 10.0, "tau": 3.0, "normalize": True, "chunk_size": None},
    "FacilityLocationLoss": {"gamma": 1.0, "normalize": True},
    "LiftedStructureLoss": {"margin": 1.0, "normalize": False, "chunk_size": None},
    "MarginLoss": {"alpha": 0.2, "beta": 1.2, "num_classes": None, "normalize": True, "chunk_size": None},
    "NPairAngularLoss": {"alpha": 45.0, "weight": 2.0, "normalize": False, "chunk_size": None},
    "NPairLoss": {"form": "tuplet", "l2": 0.0, "normalize": False, "chunk_size": None},
    "ProxyNCALoss": {"scale": 3.0, "softmax": False},
    "RankedListLoss": {
        "alpha": 1.2,
        "margin": 0.4,
        "temperature": 10.0,
        "negative_weight": 1.0,
        "symmetric": False,
        "normalize": True,
        "chunk_size": None,
    },
    "SemihardTripletLoss": {"margin": 0.2, "normalize": True, "chunk_size": None},
    "SpectralClusteringLoss": {"normalize": False},
    "TripletLoss": {"margin": 0.2, "normalize": True, "disjoint": False, "chunk_size": None},
}


@pytest.mark.parametrize("name", losses.__all__)
def test_defaults_are_those_of_the_methods(name):
    parameters = inspect.signature(getattr(losses, name)).parameters.values()
    assert {each.name: each.default for each in parameters if each.default is not each.empty} == DEFAULTS[name]


INCLUDED = [
    ("DAMLLoss", {"embedding_size": 1, "margin": 0, "weights": (0, 0, 0), "pretraining": 0}),
    ("DAMLRRMLoss", {"beta": 0}),
    ("DAMLRRMLoss", {"alpha": 1.99, "normalize": True}),
    ("FacilityLocationLoss", {"gamma": 0}),
    ("MarginLoss", {"alpha": 0, "num_classes": 1}),
    ("NPairAngularLoss", {"weight": 0}),
    ("NPairLoss", {"l2": 0}),
    ("ProxyNCALoss", {"num_classes": 1, "embedding_size": 1}),
    ("RankedListLoss", {"alpha": 0, "margin": 0, "temperature": 0, "negative_weight": 0}),
    ("SemihardTripletLoss", {"margin": 0}),
    ("TripletLoss", {"margin": 0}),
    *((name, {"chunk_size": 1}) for name, defaults in DEFAULTS.items() if "chunk_size" in defaults),
]
EXCLUDED = [
    ("AngularHingeLoss", {"alpha": 90}),
    ("AngularLoss", {"alpha": 0}),
    ("ContrastiveLoss", {"margin": 0}),
    ("DAMLLoss", {"embedding_size": 0}),
    ("DAMLLoss", {"embedding_size": 1, "pretraining": -1}),
    ("DAMLRRMLoss", {"beta": 30}),
    ("DAMLRRMLoss", {"normalize": True, "alpha": 2}),
    ("DDMLLoss", {"beta": 0}),
    ("DDMLLoss", {"tau": 1}),
    ("MarginLoss", {"beta": 0}),
    ("MarginLoss", {"num_classes": 0}),
    ("ProxyNCALoss", {"num_classes": 1, "embedding_size": 1, "scale": 0}),
    *((name, {"chunk_size": 0}) for name, defaults in DEFAULTS.items() if "chunk_size" in defaults),
]


@pytest.mark.parametrize(("name", "arguments"), INCLUDED)
def test_takes_the_ends_that_its_ranges_include(name, arguments):
    loss = getattr(losses, name)(**arguments)
    for argument in arguments.keys() & vars(loss).keys():
        assert getattr(loss, argument) == arguments[argument]


@pytest.mark.parametrize(("name", "arguments"), EXCLUDED)
def test_rejects_the_ends_that_its_ranges_exclude(name, arguments):
    argument, value = list(arguments.items())[-1]
    with pytest.raises(ValueError, match=f"{argument}.*got {value}"):
        getattr(losses, name)(**arguments)


NUMBERS = [
    (name, each.name)
    for name in sorted({type(loss).__name__ for loss in LOSSES.values()})
    for each in inspect.signature(getattr(losses, name)).parameters.values()
    if each.annotation is float
]


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_rejects_arguments_that_are_not_finite(name, argument, value):
    sizes = {"ProxyNCALoss": {"num_classes": 6, "embedding_size": 6}, "DAMLLoss": {"embedding_size": 6}}
    with pytest.raises(ValueError, match=f"{argument}.*{value}"):
        getattr(losses, name)(**sizes.get(name, {}), **{argument: value})


def test_a_multiple_of_the_loss_has_that_multiple_of_the_gradient(loss):
    value, gradient = value_and_gradient(loss, points(), LABELS)
    tripled, tripled_gradient = value_and_gradient(lambda x, y: 3 * loss(x, y), points(), LABELS)
    torch.testing.assert_close((tripled, tripled_gradient), (3 * value, 3 * gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_a_scalar_of_the_input_type(loss, dtype):
    value, gradient = value_and_gradient(loss, points(dtype), LABELS)
    assert (value.shape, value.dtype, gradient.dtype) == ((), dtype, dtype)
    assert value > 0
    assert gradient.abs().max() > 0


def test_float32_is_close_to_float64(loss):
    value, gradient = value_and_gradient(loss, points(), LABELS)
    exact, exact_gradient = value_and_gradient(loss, points().double(), LABELS)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-5 * float(exact_gradient.abs().max()))


def test_autocast_changes_nothing(loss):
    x = points().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = compute(loss, x, LABELS)
    value.backward()
    torch.testing.assert_close((value.detach(), x.grad), value_and_gradient(loss, points(), LABELS), rtol=0, atol=0)


def test_a_backward_inside_autocast_changes_nothing(loss):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value_and_gradient(loss, points(), LABELS)
    torch.testing.assert_close(inside, value_and_gradient(loss, points(), LABELS), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    x = points().to(dtype)
    value, gradient = value_and_gradient(loss, x, LABELS)
    expected, expected_gradient = value_and_gradient(loss, x.float(), LABELS)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


def test_parameters_receive_one_gradient_in_every_precision(learned_loss):
    expected = parameter_gradients(learned_loss, points(), LABELS)
    assert all(gradient.abs().max() > 0 for gradient in expected)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = parameter_gradients(learned_loss, points(), LABELS)
    torch.testing.assert_close(autocast, expected, rtol=0, atol=0)
    exact = parameter_gradients(learned_loss, points().double(), LABELS)
    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        half = parameter_gradients(learned_loss, points().to(dtype), LABELS)
        torch.testing.assert_close(half, parameter_gradients(learned_loss, points().to(dtype).float(), LABELS))


def test_takes_embeddings_without_gradient_and_not_contiguous(loss):
    expected = compute(loss, points(), LABELS)
    torch.testing.assert_close(compute(loss, points().T.contiguous().T, LABELS), expected)
    torch.testing.assert_close(compute(loss, points().repeat_interleave(2, dim=1)[:, ::2], LABELS), expected)
    torch.testing.assert_close(compute(loss, points(), LABELS.repeat_interleave(2)[::2]), expected)
    with torch.inference_mode():
        torch.testing.assert_close(compute(loss, points(), LABELS), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_takes_any_integer_labels(loss, dtype):
    torch.testing.assert_close(compute(loss, points(), LABELS.to(dtype)), compute(loss, points(), LABELS))


def test_takes_booleans_for_two_classes(any_batch_loss):
    y = torch.arange(12) % 3 == 0
    torch.testing.assert_close(compute(any_batch_loss, points(), y), compute(any_batch_loss, points(), y.long()))


def test_inputs_are_left_alone(loss):
    x, y = points(), LABELS.clone()
    compute(loss, x, y)
    assert x.equal(points())
    assert y.equal(LABELS)


def test_order_and_names_of_classes_do_not_matter(any_order_loss):
    x, y = points(torch.float64), torch.tensor([0, 3, 0, 1, 0, 2, 2, 0, 4, 1, 0, 5])
    if isinstance(any_order_loss, losses.MarginLoss):
        y = y.eq(4).long()  # one negative for every anchor with positives: no choice in the draw
    value, gradient = value_and_gradient(any_order_loss, x, y)
    order = torch.randperm(12)
    new_names = y if list(any_order_loss.parameters()) else 100 - 7 * y  # what is learned for a class goes by its id
    renamed, permuted_gradient = value_and_gradient(any_order_loss, x[order], new_names[order])
    torch.testing.assert_close(renamed, value)
    torch.testing.assert_close(permuted_gradient, gradient[order])


FROM_EITHER = losses.ContrastiveLoss | losses.DDMLLoss | losses.RankedListLoss | losses.DAMLRRMLoss


@pytest.mark.parametrize("labels", [[0] * 4, [0, 1, 2, 3], [5], []])
def test_nothing_to_learn_is_a_differentiable_0(any_batch_loss, labels):
    if isinstance(any_batch_loss, FROM_EITHER):
        labels = labels[:1]  # these learn from positives alone, and from negatives alone
    if isinstance(any_batch_loss, losses.DAMLRRMLoss):
        labels = []  # and this takes halves
    if isinstance(any_batch_loss, losses.MarginLoss) and labels == [0] * 4:
        labels = labels[:1]  # this from positives alone
    if isinstance(any_batch_loss, losses.ProxyNCALoss):
        labels = []  # this from a single sample
    value, gradient = value_and_gradient(any_batch_loss, 1e3 * points(n=len(labels)), torch.tensor(labels).long())
    assert value == 0
    assert gradient.eq(0).all()


@pytest.mark.parametrize("point", [torch.zeros(6), torch.ones(6), 1e3 * torch.arange(6.0), torch.full((6,), 1e-30)])
def test_finite_where_all_points_are_equal(loss, point):
    value, gradient = value_and_gradient(loss, point.repeat(12, 1), LABELS)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rejects_embeddings_that_are_not_finite(loss, bad):
    x = points()
    x[3, 2] = bad
    x[7] = bad
    with pytest.raises(ValueError, match="embeddings must be finite, got NaN or infinity in 2 of 12 rows"):
        loss(x, LABELS)


def test_takes_finite_embeddings_whose_sum_is_not(loss):
    x = points().to(torch.float16) * 0 + torch.tensor(60000.0, dtype=torch.float16)
    assert compute(loss, x, LABELS).isfinite()


def test_rejects_labels_of_another_length(loss):
    with pytest.raises(ValueError, match=r"labels must have shape \(12,\), .* got \(11,\)"):
        loss(points(), LABELS[:11])
    with pytest.raises(ValueError, match=r"labels must have shape \(12,\), .* got \(12, 1\)"):
        loss(points(), LABELS[:, None])


def test_rejects_float_labels(loss):
    with pytest.raises(ValueError, match=r"labels must be integer class ids, got torch.float32: .* labels.long\(\)"):
        loss(points(), LABELS.float())


def test_rejects_embeddings_that_are_not_a_float_matrix(loss):
    with pytest.raises(ValueError, match=r"embeddings must be .* \(N, D\), .* got torch.float32 of shape \(12, 6, 1\)"):
        loss(points()[..., None], LABELS)
    with pytest.raises(ValueError, match=r"embeddings must be a floating-point matrix .* got torch.int64"):
        loss(points().long(), LABELS)


def test_compiles_without_a_break(loss):
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        value_and_gradient(compiled, points(), LABELS), value_and_gradient(loss, points(), LABELS)
    )
    if loss in [LOSSES[name] for name in LEARNED]:
        torch.testing.assert_close(
            parameter_gradients(compiled, points(), LABELS), parameter_gradients(loss, points(), LABELS)
        )


def test_keeps_memory_of_a_few_matrices_for_the_backward(any_batch_loss):
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(96, 6).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute(any_batch_loss, x, torch.arange(96) % 3)  # 32 per class
    assert sum(saved.values()) < 5 * 4 * 96**2


def test_has_no_state_but_its_arguments_and_what_it_learns(loss):
    counted = {"steps"} if isinstance(loss, losses.DAMLLoss) else set()  # its two phases
    assert loss.state_dict().keys() == dict(loss.named_parameters()).keys() | counted
    torch.testing.assert_close(
        compute(pickle.loads(pickle.dumps(loss)), points(), LABELS), compute(loss, points(), LABELS)
    )


def test_only_these_learn_something_of_their_own():
    assert LEARNED == ["margin, learned", "Proxy-NCA", "Proxy-NCA, softmax", "DAML"]
