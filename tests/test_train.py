import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from nearkin import config, embed, metrics
from nearkin.checkpoint import load_checkpoint
from nearkin.data import ClassBalancedSampler, Preprocessing
from nearkin.embed import Architecture, Model
from nearkin.errors import InputError
from nearkin.evaluate import evaluate_run
from nearkin.losses import CrossBatchMemory, RankedListLoss
from nearkin.models import Backbone, ConvNet, Embedder
from nearkin.run_folder import RunFolder
from nearkin.stopped import Diverged, TrainingStopped, healthy
from nearkin.train import parameter_groups, train, with_warmup

SMALL = ["--image.size", "16", "--embedding_size", "8", "--sampler.classes", "3", "--sampler.images", "3"]


@pytest.fixture
def run(make_folder, tmp_path):
    """Train on ten small classes: `run("name", "--steps", "5")` gives the run's folder."""
    root = make_folder([6] * 10)

    def start(name, *arguments, overwrite=False, resume=False):
        given = ["--data", str(root), "--out", str(tmp_path / name), *SMALL, "--steps", "12", *map(str, arguments)]
        return train(**config.read(given).build(), overwrite=overwrite, resume=resume)

    start.root = Troubled.root = root
    return start


def weights(run):
    return load_file(run.path / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Troubled(nn.Module):
    """Ranked list loss that meets with trouble at one step, counted over all instances."""

    step, trouble, root = 0, None, None

    def __init__(self) -> None:
        super().__init__()
        self.loss = RankedListLoss()
        self.normalize = True

    def forward(self, embeddings, labels):
        Troubled.step += self.training
        value = self.loss(embeddings, labels)
        if self.training and Troubled.step == 7:
            if Troubled.trouble == "nan":
                return value * float("nan")
            if Troubled.trouble == "nan gradient":
                return value + (embeddings * 0).sqrt().sum()
            if Troubled.trouble == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            if Troubled.trouble == "vanish":
                Troubled.root.rename(Troubled.root.parent / "elsewhere")
        return value


@pytest.fixture
def trouble(monkeypatch):
    def prepare(kind):
        monkeypatch.setattr(Troubled, "step", 0)
        monkeypatch.setattr(Troubled, "trouble", kind)
        return ["--loss", f"{__name__}.Troubled"]

    return prepare


def test_a_run_is_complete_and_learns(run):
    finished = run("a", "--steps", 60, "--optimizer.lr", "3e-3")
    assert {path.name for path in finished.path.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "model.safetensors",
        "model.json",
        "last.ckpt",
    }
    result = finished.result()
    keys = {"recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "nmi", "f1"}
    assert result["untrained"].keys() == result["trained"].keys() == keys
    assert result["trained"]["map@r"] > result["untrained"]["map@r"]
    assert result["protocol"]["test_classes"] == 5
    assert result["protocol"]["test_images"] == 30
    history = finished.history()
    assert [row["step"] for row in history] == [10, 20, 30, 40, 50, 60]
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_model_loads_and_gives_the_scored_embeddings(run):
    finished = run("a")
    model = embed.load(finished.path)
    assert model.trained_classes == [f"class-{c:02d}" for c in range(5)]
    paths = sorted(run.root.glob("class-0[5-9]/*.png"))
    embeddings = model.embed(paths)
    assert embeddings.shape == (30, 8)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    scores = metrics.evaluate(embeddings, np.repeat(np.arange(5), 6))
    assert scores == pytest.approx(finished.result()["trained"])


def test_its_config_repeats_it_and_another_seed_does_not(run, tmp_path):
    first = run("a")
    again = config.read([str(first.path / "config.yaml"), "--out", str(tmp_path / "b")])
    repeated = train(**again.build())
    assert same(weights(first), weights(repeated))
    assert not same(weights(first), weights(run("c", "--seed", 1)))


def test_stopped_by_ctrl_c_it_resumes_to_the_same_weights(run, trouble):
    handler = signal.getsignal(signal.SIGINT)
    whole = run("whole", *trouble(None))
    arguments = trouble("interrupt")
    with pytest.raises(TrainingStopped, match=r"stopped after step 7 of 12; go on with: .*config.yaml --resume"):
        run("stopped", *arguments)
    resumed = run("stopped", *arguments, resume=True)
    assert same(weights(whole), weights(resumed))
    assert [row["step"] for row in resumed.history()] == [row["step"] for row in whole.history()]
    assert signal.getsignal(signal.SIGINT) is handler


def test_resuming_restores_schedule_and_validation(run, trouble):
    options = ["--schedule", "CosineAnnealingLR", "--warmup", "4", "--data.validation", "0.4", "--validate_every", "5"]
    whole = run("whole", *options, *trouble(None))
    with pytest.raises(TrainingStopped):
        run("stopped", *options, *trouble("interrupt"))
    resumed = run("stopped", *options, *trouble("interrupt"), resume=True)
    assert same(weights(whole), weights(resumed))
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in each.history()] for each in (whole, resumed)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", ["nan", "nan gradient"])
def test_a_nan_stops_with_the_step_the_loss_and_the_last_good_checkpoint(run, trouble, kind):
    step = 7
    message = rf"Troubled became NaN or infinite at step {step}; the last good checkpoint is .*last.ckpt \(step 6\)"
    with pytest.raises(Diverged, match=message):
        run("a", *trouble(kind), "--checkpoint_minutes", 0)


def test_a_nan_before_the_first_checkpoint_says_so(run, trouble):
    with pytest.raises(TrainingStopped, match=r"step 7; no checkpoint had been written"):
        run("a", *trouble("nan"))


@pytest.mark.parametrize(
    "options", [[], ["--steps", 1], ["--data.validation", 0.4, "--validate_every", 1], ["--checkpoint_minutes", 0]]
)
def test_weights_that_overflow_are_reported_as_the_loss(run, tmp_path, options):
    with pytest.raises(TrainingStopped, match="RankedListLoss became NaN or infinite at step"):
        run("a", "--optimizer", "SGD", "--optimizer.lr", "1e30", *options)
    assert not (tmp_path / "a" / "last.ckpt").exists()
    assert not (tmp_path / "a" / "model.safetensors").exists()


def held_out(run, fold, seed=0):
    order = np.random.default_rng(seed).permutation(5)
    return sorted(f"class-{c:02d}" for c in order[round(fold * 2) : round((fold + 1) * 2)])


@pytest.mark.parametrize("fold", [0, 1])
def test_held_out_classes_score_and_test_classes_are_not_even_decoded(run, monkeypatch, fold):
    decoded = set()
    decode = Preprocessing.decode
    monkeypatch.setattr(Preprocessing, "decode", lambda self, path: decoded.add(path) or decode(self, path))
    options = ["--data.validation", "0.4", "--data.fold", fold, "--protocol.classes", "validation"]
    finished = run("a", *options, "--validate_every", "3")
    assert {path.parent.name for path in decoded} == {f"class-{c:02d}" for c in range(5)}
    result = finished.result()
    assert result["protocol"]["scored"] == held_out(run, fold)
    assert (result["protocol"]["test_classes"], result["protocol"]["test_images"]) == (2, 12)

    model = embed.load(finished.path)
    assert sorted(model.trained_classes + held_out(run, fold)) == [f"class-{c:02d}" for c in range(5)]
    scored = [path for name in held_out(run, fold) for path in sorted((run.root / name).iterdir())]
    scores = metrics.evaluate(model.embed(scored), np.repeat([0, 1], 6))
    assert scores == pytest.approx(result["trained"])
    assert evaluate_run(finished.path)["trained"] == pytest.approx(result["trained"])
    # They score, so they did not choose: the weights are those of the last step.
    assert not any("validation/recall@1" in row for row in finished.history())
    assert same(weights(finished), load_checkpoint(finished.checkpoint)["embedder"])


def test_scoring_held_out_classes_needs_some(run, tmp_path):
    with pytest.raises(InputError, match=r"needs training classes held out: add --data.validation 0.25"):
        run("a", "--protocol.classes", "validation")
    assert not (tmp_path / "a").exists()


def test_what_training_cost_and_was_shown_is_recorded(run):
    finished = run("a", "--seed", "3")
    training = finished.result()["training"]
    assert (training["steps"], training["pictures"]) == (12, 12 * 9)
    assert training["peak_memory_of"] == "process, resident"
    assert 50 < training["peak_memory_mb"] < 50_000
    assert training["seconds"] == finished.history()[-1]["seconds"]

    # The batches again, from the sampler alone.
    sampler = ClassBalancedSampler(np.repeat(np.arange(5), 6), classes=3, images=3, seed=3)
    batches = itertools.chain.from_iterable(itertools.repeat(sampler))
    digest = hashlib.sha256(b"").digest()
    for batch in itertools.islice(batches, 12):
        digest = hashlib.sha256(digest + b"".join(i.to_bytes(8, "little") for i in batch)).digest()
    assert training["data_order"] == digest.hex()


def test_records_tell_runs_apart_by_what_differs_and_by_nothing_else(run):
    record = {
        name: run(name, *options).result()["training"]
        for name, options in {
            "first": [],
            "other loss": ["--loss", "ContrastiveLoss"],
            "other seed": ["--seed", "1"],
            "other batches": ["--sampler.images", "4"],
            "longer": ["--steps", "13"],
            "other size": ["--embedding_size", "9"],
        }.items()
    }
    equal = {
        fact: {name for name, each in record.items() if each[fact] == record["first"][fact]}
        for fact in ("initial_weights", "data_order", "pictures")
    }
    assert equal == {
        "initial_weights": {"first", "other loss", "other batches", "longer"},
        "data_order": {"first", "other loss", "other size"},
        "pictures": {"first", "other loss", "other seed", "other size"},
    }


def test_a_resumed_run_has_the_record_of_one_never_stopped(run, trouble):
    whole = run("whole", *trouble(None)).result()["training"]
    with pytest.raises(TrainingStopped):
        run("stopped", *trouble("interrupt"))
    resumed = run("stopped", *trouble("interrupt"), resume=True).result()["training"]
    for key in ("steps", "pictures", "initial_weights", "data_order"):
        assert resumed[key] == whole[key]


def test_test_pictures_choose_nothing(run, make_folder):
    options = ["--data.validation", "0.4", "--validate_every", "3"]
    first = run("a", *options)
    for path in run.root.glob("class-0[5-9]/*.png"):
        path.write_bytes((run.root / "class-00" / "00.png").read_bytes())
    second = run("b", *options)
    assert same(weights(first), weights(second))
    assert first.result() != second.result()


def test_the_best_validation_is_what_is_kept(run):
    finished = run("a", "--data.validation", "0.4", "--validate_every", "3", "--optimizer.lr", "0.3")
    seen = {row["step"]: row["validation/recall@1"] for row in finished.history() if "validation/recall@1" in row}
    assert list(seen) == [3, 6, 9, 12]
    best = max(seen, key=lambda step: (seen[step], -step))
    assert best != 12, "the rate is meant to be so high that the last is not the best"
    alone = run(
        "b", "--data.validation", "0.4", "--validate_every", str(best), "--optimizer.lr", "0.3", "--steps", best
    )
    assert same(weights(finished), weights(alone))
    assert not same(weights(finished), load_checkpoint(finished.checkpoint)["embedder"])


def test_the_head_learns_ten_times_faster_beside_a_pretrained_backbone(run, tmp_path):
    torch.manual_seed(0)
    torch.save(ConvNet().state_dict(), tmp_path / "weights.pt")
    options = ["--optimizer", "SGD", "--optimizer.lr", "0.01", "--steps", "2"]
    pretrained = run("a", *options, "--backbone.weights", tmp_path / "weights.pt")
    groups = load_checkpoint(pretrained.checkpoint)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.01, 0.1]
    groups = load_checkpoint(run("b", *options).checkpoint)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.01, 0.01]
    options += ["--loss", "ProxyNCALoss"]
    for name, source, rates in (("c", "none", [0.01] * 3), ("d", tmp_path / "weights.pt", [0.01, 0.1, 0.1])):
        groups = load_checkpoint(run(name, *options, "--backbone.weights", source).checkpoint)["optimizer"]
        assert [group["lr"] for group in groups["param_groups"]] == rates


def test_frozen_batch_norm_keeps_its_statistics(run):
    frozen, moving = (weights(run(str(choice), "--frozen_batch_norm", choice)) for choice in ("true", "false"))
    means = [key for key in frozen if key.endswith("running_mean")]
    assert len(means) == 4
    assert all(frozen[key].eq(0).all() for key in means)
    assert not any(moving[key].eq(0).all() for key in means)
    assert any(not torch.equal(frozen[key], moving[key]) for key in frozen if key.endswith("weight"))


def test_bfloat16_clipping_and_tensorboard(run):
    finished = run("a", "--precision", "bf16-mixed", "--clip_gradient", "0.001", "--logger", "tensorboard")
    assert list((finished.path / "tensorboard").glob("events.*"))
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(finished).values())
    assert not same(weights(finished), weights(run("b", "--precision", "bf16-mixed")))


LEVELS = ["--levels", "[block2, block4]"]


def test_levels_are_scored_together_and_alone(run):
    finished = run("a", *LEVELS)
    model = embed.load(finished.path)
    assert model.architecture.levels == ("block2", "block4")
    paths = sorted(run.root.glob("class-0[5-9]/*.png"))
    whole = model.embed(paths)
    assert whole.shape == (30, 2 * 8)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    labels = np.repeat(np.arange(5), 6)
    assert metrics.evaluate(whole, labels) == pytest.approx(finished.result()["trained"])

    images = torch.stack([torch.from_numpy(model.architecture.image.decode(path)) for path in paths])
    with torch.no_grad():
        raw = model.embedder(images.permute(0, 3, 1, 2)).numpy()
    assert np.allclose(whole, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    for levels, columns in ((["block2"], slice(8)), (["block4"], slice(8, None)), (["block2", "block4"], slice(None))):
        part = raw[:, columns] / np.linalg.norm(raw[:, columns], axis=1, keepdims=True)
        assert np.allclose(model.of_levels(levels, whole), part, atol=1e-5)
        assert evaluate_run(finished.path, levels=levels)["trained"] == pytest.approx(metrics.evaluate(part, labels))
    swapped = model.of_levels(["block4", "block2"], whole)
    assert np.allclose(swapped, np.roll(whole, 8, axis=1), atol=1e-6)
    with pytest.raises(InputError, match=r"no level 'block3'; did you mean block[24]\?"):
        evaluate_run(finished.path, levels=["block3"])


def test_each_level_can_be_normalised_first(run):
    finished = run("a", *LEVELS, "--per_level_norm", "true")
    model = embed.load(finished.path)
    whole = model.embed(sorted(run.root.glob("class-0[5-9]/*.png")))
    for columns in (slice(8), slice(8, None)):
        assert np.allclose(np.linalg.norm(whole[:, columns], axis=1), 0.5**0.5, atol=1e-6)
    unequal = np.linalg.norm(embed.load(run("b", *LEVELS).path).embed([*run.root.glob("*/00.png")])[:, :8], axis=1)
    assert not np.allclose(unequal, 0.5**0.5, atol=1e-2)


def test_raw_levels_stay_raw(run):
    finished = run("a", *LEVELS, "--loss", "NPairLoss")
    model = embed.load(finished.path)
    whole = model.embed(sorted(run.root.glob("class-0[5-9]/*.png")))
    assert not np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-2)
    assert np.array_equal(model.of_levels(["block4"], whole), whole[:, 8:])


class Scaled(nn.Module):
    """Ranked list loss times a number that is learnt, and that starts anew in each instance."""

    started = 0

    def __init__(self) -> None:
        super().__init__()
        Scaled.started += 1
        self.loss, self.scale = RankedListLoss(), nn.Parameter(torch.tensor(float(Scaled.started)))

    def forward(self, embeddings, labels):
        return self.scale * self.loss(embeddings, labels)


def test_each_level_has_a_loss_of_its_own(run, monkeypatch):
    monkeypatch.setattr(Scaled, "started", 0)
    options = ["--loss", f"{__name__}.Scaled", "--optimizer", "SGD", "--optimizer.lr", "0.01"]
    finished = run("a", *LEVELS, *options, "--steps", "1")
    scales = load_checkpoint(finished.checkpoint)["loss"]
    moved = [scales[f"losses.{level}.scale"].item() - (level + 1) for level in range(2)]
    assert all(step < 0 for step in moved)
    assert moved[0] != moved[1]
    assert finished.history()[0]["loss"] == pytest.approx(-100 * (moved[0] + 2 * moved[1]), rel=1e-4)


class TroubledScaled(Troubled):
    """`Troubled`, times a number that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, embeddings, labels):
        return self.scale * super().forward(embeddings, labels)


def test_what_the_loss_learns_resumes(run, trouble):
    options = ["--loss", f"{__name__}.TroubledScaled", "--schedule", "CosineAnnealingLR", "--warmup", "4"]
    trouble(None)
    whole = run("whole", *options)
    trouble("interrupt")
    with pytest.raises(TrainingStopped, match="stopped after step 7 of 12"):
        run("stopped", *options)
    resumed = run("stopped", *options, resume=True)
    assert same(weights(whole), weights(resumed))
    (scale,), (again,) = (load_checkpoint(each.checkpoint)["loss"].values() for each in (whole, resumed))
    assert scale == again != 1


class TroubledMemory(Troubled):
    def __init__(self) -> None:
        super().__init__()
        self.loss = CrossBatchMemory(RankedListLoss(), embedding_size=8, memory_size=20)


def test_a_memory_of_past_batches_resumes(run, trouble):
    options = ["--loss", f"{__name__}.TroubledMemory"]
    trouble(None)
    whole = run("whole", *options)
    trouble("interrupt")
    with pytest.raises(TrainingStopped, match="stopped after step 7 of 12"):
        run("stopped", *options)
    resumed = run("stopped", *options, resume=True)
    assert same(weights(whole), weights(resumed))
    assert not same(weights(whole), weights(run("alone")))


def test_a_memory_of_past_batches_is_a_loss_on_the_command_line(run):
    options = ["--loss", "CrossBatchMemory", "--loss.loss", "ContrastiveLoss", "--loss.memory_size", 20]
    assert not same(weights(run("memory", *options)), weights(run("none", "--loss", "ContrastiveLoss")))


@pytest.mark.parametrize("micro_batch", [1, 4, 9, 100])
def test_in_parts_a_batch_moves_the_weights_as_in_one(run, micro_batch):
    options = ["--optimizer", "SGD", "--optimizer.lr", 0.1, "--frozen_batch_norm", "true"]
    whole, parts = run("whole", *options, "--steps", 3), run("p", *options, "--steps", 3, "--micro_batch", micro_batch)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-5, atol=1e-6)
    assert not same(weights(whole), weights(run("less", *options, "--steps", 2)))


def test_in_parts_and_in_mixed_precision_as_in_one(run):
    options = ["--optimizer", "SGD", "--optimizer.lr", 0.1, "--frozen_batch_norm", "true", "--precision", "bf16-mixed"]
    whole, parts = (run(name, *options, "--steps", 2, *more) for name, more in (("w", []), ("p", ["--micro_batch", 4])))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=0.02, atol=1e-3)


def test_no_more_than_a_part_is_ever_in_the_network(run, monkeypatch):
    sizes = []
    forward = Embedder.forward

    def noted(self, images):
        if not torch.is_inference_mode_enabled():  # scoring has a batch of its own
            sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Embedder, "forward", noted)
    run("a", "--steps", 4, "--micro_batch", 4, "--validate_every", 2, "--data.validation", 0.4)
    assert max(sizes) <= 4


def test_one_embedding_that_is_not_finite_is_unhealthy():
    views = torch.ones(5, 3)
    assert healthy(nn.Flatten(), views, 2)
    views[2, 1] = torch.nan
    assert not healthy(nn.Flatten(), views, 2)


@pytest.mark.parametrize("kind", ["nan", "interrupt"])
def test_trouble_in_parts_ends_as_it_does_in_one(run, trouble, kind):
    with pytest.raises(TrainingStopped, match="step 7"):
        run("a", *trouble(kind), "--micro_batch", 4)


def test_levels_resume_to_the_same_weights(run, trouble):
    whole = run("whole", *LEVELS, *trouble(None))
    arguments = trouble("interrupt")
    with pytest.raises(
        TrainingStopped, match="stopped after step 4 of 12"
    ):  # two levels: the loss is asked twice a step
        run("stopped", *LEVELS, *arguments)
    resumed = run("stopped", *LEVELS, *arguments, resume=True)
    assert same(weights(whole), weights(resumed))
    for key in ("untrained", "trained", "protocol"):
        assert whole.result()[key] == resumed.result()[key]


def test_frozen_batch_norm_is_the_backbones(run):
    finished = run("a", *LEVELS, "--frozen_batch_norm", "true")
    means = {key: value for key, value in weights(finished).items() if key.endswith("running_mean")}
    assert {key.partition(".")[0] for key, value in means.items() if value.any()} == {"head"}
    assert {key.partition(".")[0] for key, value in means.items() if not value.any()} == {"backbone"}


def test_runs_from_before_there_were_levels_load(run):
    finished = run("a")
    before = embed.load(finished.path).embed([run.root / "class-09" / "00.png"])
    file = finished.path / "model.json"
    description = json.loads(file.read_text())
    del description["levels"], description["per_level_norm"]
    file.write_text(json.dumps(description))
    model = embed.load(finished.path)
    assert np.array_equal(model.embed([run.root / "class-09" / "00.png"]), before)
    with pytest.raises(InputError, match="this one has a single head"):
        evaluate_run(finished.path, levels=["block4"])


@pytest.mark.parametrize("sampler", ["NPairSampler", "DisjointTripletSampler"])
def test_other_batches_with_the_losses_they_are_for(run, sampler):
    loss = {
        "NPairSampler": ["--loss", "NPairLoss"],
        "DisjointTripletSampler": ["--loss", "TripletLoss", "--loss.disjoint", "true"],
    }
    arguments = ["--data", str(run.root), "--image.size", "16", "--sampler", sampler, "--sampler.batch_size", "6"]
    settings = config.read([*arguments, *loss[sampler], "--steps", "3", "--out", str(run.root.parent / "a")])
    finished = train(**settings.build())
    normalized = json.loads((finished.path / "model.json").read_text())["normalize"]
    assert normalized == (sampler != "NPairSampler")


@pytest.mark.parametrize("loss", ["ProxyNCALoss", "MarginLoss"])
def test_losses_with_a_parameter_per_class(run, loss):
    options = ["--loss", loss, "--data.validation", 0.4] + (["--loss.num_classes", 3] if loss == "MarginLoss" else [])
    whole = run("whole", *options)
    (parameter,) = load_checkpoint(whole.checkpoint)["loss"].values()
    assert len(parameter) == 3  # of the 5 training classes, 2 are held out
    assert all(np.isfinite(row["loss"]) for row in whole.history() if "loss" in row)


def test_a_class_that_the_loss_has_no_parameter_for_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"loss, given a batch of the sampler: .*num_classes"):
        run("a", "--loss", "ProxyNCALoss", "--loss.num_classes", 2, "--sampler.classes", 5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("levels", [[], LEVELS])
@pytest.mark.parametrize("loss", ["ProxyNCALoss", "MarginLoss"])
def test_so_is_one_that_the_first_batch_does_not_hold(make_folder, tmp_path, loss, levels):
    arguments = ["--data", str(make_folder([4] * 24)), *SMALL, "--sampler.classes", "2", "--steps", "1"]

    def start(*options, overwrite=False):
        given = [*arguments, "--out", str(tmp_path / "a"), "--loss", loss, *levels, *options]
        return train(**config.read(given).build(), overwrite=overwrite)

    first = start("--loss.num_classes", "12")
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    message = r"^loss, given a batch of the 12 training classes: .* got num_classes=11 .*: set num_classes to"
    with pytest.raises(InputError, match=message):
        start("--loss.num_classes", "11", overwrite=True)
    assert before == {path.name: path.read_bytes() for path in first.path.iterdir()}


def test_classes_with_one_picture_are_named(make_folder, tmp_path, caplog):
    root = make_folder([6, 6, 1, 6, 6, 6, 1, 6])
    train(**config.read(["--data", str(root), "--out", str(tmp_path / "a"), *SMALL, "--steps", "2"]).build())
    assert "1 training class with one picture, left out of the batches: class-02" in caplog.text
    assert "1 test class with one picture, their pictures count as misses: class-06" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler.classes", "6"], "sampler: the batch asks for 6 classes, but only 5 training classes"),
        (["--sampler.images", "1"], "images per class must be at least 2"),
        (["--loss.alpha", "-1"], r"loss: .*-1"),
        (["--optimizer.lr", "-1"], "optimizer or schedule: .*-1"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--backbone", "convnett"], "unknown backbone 'convnett'; did you mean convnet?"),
        (["--backbone", "timm:resnet81"], "did you mean timm:resnet18"),
        (["--backbone.weights", "nowhere.pt"], "no file nowhere.pt"),
        (["--backbone", "bn_inception"], r"given pictures of image.size 16: bn_inception takes sides .* got 16"),
        (["--levels", "block5"], "no stage 'block5'; did you mean block4"),
        (["--levels", "[block4, block4]"], "each once, got block4, block4"),
        (["--levels", "[]"], "each once, got none"),
        (["--per_level_norm", "true"], "per_level_norm is for models with several levels"),
        (["--accelerator", "gpux"], "accelerator, precision or logger"),
        (["--data.validation", "0.1"], "holds out"),
        (["--warmup", "12"], "warmup must be shorter than the run of 12 steps, got 12"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--embedding_size", "0"], "embedding_size must be at least 1, got 0"),
        (["--loss", "CrossBatchMemory", "--loss.loss", "LiftedStructureLoss"], "loss: loss must take a gallery"),
        (["--micro_batch", "0"], "micro_batch must be at least 1 picture in the network at a time, got 0"),
        (["--micro_batch", "1", *LEVELS], "micro_batch leaves a picture alone, raise it: Expected more than 1 value"),
        (["--clip_gradient", "-1"], "clip_gradient is the largest norm .*, above 0, got -1"),
        (["--protocol.ks", "[0]"], r"protocol.ks expects .* at least 1, got \[0\]"),
        (["--protocol.kmeans_restarts", "0"], "protocol.kmeans_restarts must be at least 1, got 0"),
        (["--loss", "NPairLoss", "--loss.form", "mc"], "loss, given a batch of the sampler: .*exactly 2 samples"),
        (["--loss", "TripletLoss", "--loss.disjoint", "true"], "loss, given a batch of the sampler: disjoint triplets"),
        (["--image.size", "4"], "backbone, given pictures of image.size 4: "),
        (["--backbone", "timm:vit_tiny_patch16_224"], "backbone, given pictures of image.size 16: .*224"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(run, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run("a", *arguments)
    assert not (tmp_path / "a").exists()


def test_a_multiple_that_the_networks_distances_make_too_large_stops_the_run(run):
    options = ["--loss", "DAMLRRMLoss", "--loss.normalize", "true", "--loss.relative", "true", "--sampler.images", 4]
    with pytest.raises(TrainingStopped, match=r"^loss, at step 1: alpha must be below 2 .*got 1000.0 times"):
        run("a", *options, "--loss.alpha", 1000)
    assert run("b", *options, "--loss.alpha", 1).result()


@pytest.mark.parametrize("levels", [[], LEVELS])
def test_halves_without_a_common_class_are_reported(run, caplog, levels):
    options = ["--loss", "DAMLRRMLoss", "--steps", 1, *levels]
    warning = "no picture of the second half has a classmate in the first; .*: --sampler TwoStreamSampler"
    run("a", *options, "--sampler.classes", 4)
    (record,) = caplog.records
    assert re.search(warning, record.message)
    caplog.clear()
    run("b", *options, "--sampler.classes", 4, "--loss.streams", "neat")
    run("c", *options, "--sampler", "TwoStreamSampler", "--sampler.classes", 2, "--sampler.images", 2)
    run("d", *options, "--sampler.images", 4)  # of three classes one lies in both halves
    assert not caplog.records


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed: its absence cannot be met with here")
def test_a_logger_that_is_not_installed_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"pip install 'nearkin\[wandb\]'"):
        run("a", "--logger", "wandb")
    assert not (tmp_path / "a").exists()


def test_files_of_the_users_own_are_not_taken_for_a_run(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").write_text("mine")
    with pytest.raises(InputError, match=r"is not a run, yet holds what a run would replace: report.html"):
        run("a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]
    assert (tmp_path / "a" / "report.html").read_text() == "mine"


def test_a_second_process_may_not_train_into_the_same_folder(run, tmp_path):
    hold = "import sys, time; from pathlib import Path; from nearkin.run_folder import RunFolder\n"
    hold += "with RunFolder(Path(sys.argv[1])).claimed(): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path / "a"], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process is training into"):
            run("a")
        other.kill()
    assert run("a").result()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(run):
    with pytest.raises(InputError, match=r"--out expects a folder that can be written to, but /proc/x/run cannot be"):
        run("/proc/x/run")
    with pytest.raises(InputError, match="File name too long"):
        run("x" * 300)


def test_a_run_that_was_moved_goes_on_where_it_is(run, tmp_path, trouble):
    arguments = trouble("interrupt")
    with pytest.raises(TrainingStopped):
        run("stopped", *arguments)
    (tmp_path / "stopped").rename(tmp_path / "moved")
    settings = config.read([str(tmp_path / "moved" / "config.yaml")])
    assert train(**settings.build(), resume=True).path == tmp_path / "moved"
    assert not (tmp_path / "stopped").exists()


def test_test_classes_without_a_readable_picture_are_refused(make_folder, tmp_path):
    root = make_folder([40, 40, 2, 2])
    for path in root.glob("class-0[23]/*.png"):
        path.write_bytes(b"")
    arguments = ["--data", str(root), "--out", str(tmp_path / "a"), "--image.size", "16", "--sampler.classes", "2"]
    with pytest.raises(InputError, match="at least 2 readable pictures of test classes, found 0"):
        train(**config.read(arguments).build())
    assert not (tmp_path / "a").exists()


def test_a_run_is_not_overwritten_by_accident(run):
    first = run("a")
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    with pytest.raises(InputError, match="already holds a run; go on with it by --resume, replace it by --overwrite"):
        run("a", "--seed", 1)
    with pytest.raises(InputError, match="seed was 0, is 1"):
        run("a", "--seed", 1, resume=True)
    assert before == {path.name: path.read_bytes() for path in first.path.iterdir()}
    (first.path / "notes.txt").write_text("mine")
    second = run("a", "--seed", 1, overwrite=True)
    assert (second.path / "notes.txt").read_text() == "mine"
    assert (second.path / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_replacing_a_run_removes_its_curves(run):
    first = run("a", "--logger", "tensorboard")
    (old,) = (first.path / "tensorboard").glob("events.*")
    second = run("a", "--logger", "tensorboard", "--seed", 1, overwrite=True)
    (new,) = (second.path / "tensorboard").glob("events.*")
    assert new.name != old.name


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_named(run, name):
    finished = run("a")
    (finished.path / name).write_bytes(b"\x89PNG {\n{")
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        _ = finished.config(), finished.result(), finished.history()


def test_resume_needs_a_run_and_a_whole_checkpoint(run):
    with pytest.raises(InputError, match=r"--resume expects a run in .* but there is none"):
        run("a", resume=True)
    finished = run("a")
    finished.checkpoint.write_bytes(finished.checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last.ckpt is damaged, .* remove it"):
        run("a", resume=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone"])
def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_used(run, caplog, damage):
    whole, stopped = run("a"), run("b", "--checkpoint_minutes", "0")
    before = load_checkpoint(stopped.path / "previous.ckpt")["step"]
    assert (before, load_checkpoint(stopped.checkpoint)["step"]) == (11, 12)
    content = bytearray(stopped.checkpoint.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    stopped.checkpoint.write_bytes({"truncated": content[:-1000], "empty": b""}.get(damage, content))
    if damage == "gone":  # killed between the two renames
        stopped.checkpoint.unlink()
    resumed = run("b", "--checkpoint_minutes", "0", resume=True)
    assert same(weights(whole), weights(resumed))
    assert load_checkpoint(stopped.path / "previous.ckpt")["step"] == 11
    said = [each for each in caplog.messages if "last.ckpt is damaged" in each]
    assert len(said) == (damage != "gone")
    assert all(each.endswith("going on from the one before it, of step 11") for each in said)


def test_every_truncation_of_a_checkpoint_is_recognised(run):
    file = run("a").checkpoint
    content = file.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 97)):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"last.ckpt is damaged, .* remove it"):
            load_checkpoint(file)


def test_pictures_that_vanish_during_a_training_are_one_line(run, nearkin, trouble, monkeypatch):
    monkeypatch.setattr("nearkin.data.pictures.KEEP_BYTES", 0)  # as with a set too large to stay in memory
    options = [*SMALL, "--steps", "12", "--checkpoint_minutes", "0", *trouble("vanish")]
    where = ["--data", run.root, "--out", run.root.parent / "a"]
    code, _, err = nearkin("train", *where, *options)
    shutil.move(run.root.parent / "elsewhere", run.root)
    line = err.splitlines()[-1]
    assert code == 2
    assert line.startswith(f"nearkin: {run.root}/class-0")
    assert "No such file or directory, though it could be read before; bring it back, and go on with: nearkin" in line
    code, _, err = nearkin("train", *where, *options, "--resume")
    assert code == 0, err
    monkeypatch.undo()
    trouble(None)
    assert same(weights(RunFolder(run.root.parent / "a")), weights(run("b", *trouble(None))))


def test_one_picture_is_not_taken_for_a_sequence_of_them(run, tmp_path):
    image = Preprocessing(16)
    model = Model(Embedder(ConvNet(), 8), Architecture("convnet", 8, "avg", True, image))
    path = next(run.root.rglob("*.png"))
    pixels = np.array(Image.open(path))
    for one in (path, str(path), path.read_bytes(), Image.open(path), pixels, pixels[..., 0]):
        with pytest.raises(TypeError, match=r"^expected a sequence of pictures, got one \w+: embed\(\[picture\]\)$"):
            model.embed(one)
        assert model.embed([one]).shape == (1, 8)
    for several in (np.stack([pixels, pixels]), np.stack([pixels[..., 0]] * 2)):
        assert model.embed(several).shape == (2, 8)


def test_warmup_then_schedule():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = with_warmup(optimizer, lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5), warmup=3)
    seen = []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5, 0.25])


def test_the_losss_own_parameters_are_a_group_of_their_own():
    embedder, criterion = Embedder(Backbone().build(), 4), nn.Linear(2, 2)
    groups = [group["params"] for group in parameter_groups(embedder, criterion)]
    assert groups == [list(part.parameters()) for part in (embedder.backbone, embedder.head, criterion)]
    assert len(parameter_groups(embedder, RankedListLoss())) == 2
