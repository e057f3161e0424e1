"""Training: the whole loop, from a folder of pictures to a scored model.

What happens at a step depends on nothing but the seed, the step and the weights before it: the sampler is a function of
its two counters, and the random numbers of each step (augmentation, dropout) start from (seed, step). So a run that was
stopped and resumed ends, bit for bit on the CPU, where one that was never stopped does. Several processes take the same
steps as one: each has its share of every batch in its network, and all compute the loss of the whole.
"""

import inspect
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, ParamSpec

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LinearLR, LRScheduler, SequentialLR

from nearkin import metrics
from nearkin.calibration import Calibration, calibrate
from nearkin.checkpoint import load_checkpoint, save_checkpoint
from nearkin.data import (
    Augmentation,
    ClassBalancedSampler,
    ClassSplit,
    Data,
    ImageList,
    Pictures,
    Preprocessing,
    TwoStreamSampler,
    prefetch,
    read_all,
)
from nearkin.data.folder import count
from nearkin.data.samplers import SeededBatchSampler
from nearkin.embed import LONGEST, WEIGHTS, Architecture, Model, create_embedder
from nearkin.errors import InputError
from nearkin.evaluate import Protocol
from nearkin.gradient_cache import backward_in_pieces
from nearkin.interruption import interruptible
from nearkin.joint_training import devices, freeze_unused, jointly
from nearkin.journal import JsonLines
from nearkin.losses import RankedListLoss
from nearkin.losses.per_level import PerLevelLoss
from nearkin.models import AnyEmbedder, Backbone, freeze_batch_norm, join_batch_norms
from nearkin.models.embedder import Pool
from nearkin.models.weights import first_line
from nearkin.processes import any_of, average_, noticing, once, rank, share, world_size
from nearkin.progress import Bar, track
from nearkin.rehearsal import blame, rehearse, rehearse_parts, report_halves, report_singles
from nearkin.run_folder import RunFolder
from nearkin.seeds import reseed, step_seed
from nearkin.stopped import Diverged, Preempted, TrainingStopped, compute_loss, diverged, healthy
from nearkin.training_record import TrainingRecord

NEW_LAYER_RATE = 10.0
"""Layers that start from random weights beside a pretrained backbone learn this much faster, as in all three papers."""

CALIBRATION_PICTURES = 1_000
"""The most that the distances between kinds are learnt from, once the training is over."""

LOG_EVERY = 10
"""Steps between two rows of `metrics.jsonl`."""

P = ParamSpec("P")


def alone(function: Callable[P, RunFolder]) -> Callable[P, RunFolder]:
    """Claim the run's folder, the argument `out`, for as long as `function` works on it."""

    @wraps(function)
    def claiming(*args: P.args, **kwargs: P.kwargs) -> RunFolder:
        out = inspect.signature(function).bind(*args, **kwargs).arguments["out"]
        with ExitStack() as claim:
            once(lambda: claim.enter_context(RunFolder(out).claimed()))
            return function(*args, **kwargs)

    return claiming


@alone
def train(
    data: Data,
    out: Path,
    image: Preprocessing = Preprocessing(),
    augment: Augmentation = Augmentation(),
    backbone: Backbone = Backbone(),
    embedding_size: int = 128,
    pool: Pool = "avg",
    levels: list[str] | None = None,
    per_level_norm: bool = False,
    normalize: bool | None = None,
    loss: Callable[[], nn.Module] = RankedListLoss,
    sampler: Callable[..., SeededBatchSampler] = ClassBalancedSampler,
    optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    warmup: int = 0,
    steps: int = 1000,
    clip_gradient: float | None = None,
    micro_batch: int | None = None,
    frozen_batch_norm: bool = False,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: str = "auto",
    validate_every: int = 200,
    checkpoint_minutes: float = 5.0,
    protocol: Protocol = Protocol(),
    logger: list[Literal["tensorboard", "wandb"]] | None = None,
    seed: int = 0,
    *,
    config: dict[str, Any],
    overwrite: bool = False,
    resume: bool = False,
) -> RunFolder:
    """Train an embedding and score it, and the untrained network, on classes that neither has seen.

    Args:
        data: Which pictures.
        out: The run's folder.
        image: How a picture becomes what the backbone sees.
        augment: What is varied in training.
        backbone: The network, and the weights it starts from.
        embedding_size: Length of the embeddings, of each level if there are several.
        pool: How the backbone's feature map becomes one vector.
        levels: Stages of the backbone that each get a head and a loss of their own; their embeddings are concatenated.
            On bn_inception the ranked list paper has inception_3c, inception_4e and inception_5b. null is one head on
            the last stage.
        per_level_norm: Put each level on the unit sphere before they are concatenated at test time.
        normalize: Compare embeddings on the unit sphere; null does as the loss does.
        loss: A class of nearkin.losses, or the import path of any other module (embeddings, labels) -> scalar.
        sampler: Which pictures meet in a batch.
        optimizer: A class of torch.optim.
        schedule: A class of torch.optim.lr_scheduler, stepped once per step; null keeps the rate.
        warmup: Steps in which the learning rate rises linearly to its value, before the schedule starts.
        steps: Batches to learn from.
        clip_gradient: Largest norm of the whole gradient; null clips nothing.
        micro_batch: Pictures that are in the network at a time, for batches beyond the memory; null is all. The
            gradient is that of the whole batch, but that batch norms, unless frozen, see one part of it at a time.
        frozen_batch_norm: Keep the batch norms' statistics as the weights brought them.
        precision: 32-true, or bf16-mixed for bfloat16 autocast.
        accelerator: As in Lightning Fabric: auto, cpu, cuda, mps.
        validate_every: Steps between two looks at the held-out training classes, if there are any.
        checkpoint_minutes: Minutes between two checkpoints.
        protocol: How embeddings are scored.
        logger: Where curves go beside metrics.jsonl: tensorboard, wandb.
        seed: Of everything random.
        config: What `config.yaml` of the run shall hold: the arguments above as plain values.
        overwrite: Replace a run that `out` already holds.
        resume: Go on with the run that `out` holds.

    Returns:
        The run's folder, complete.

    Raises:
        InputError: The data, or a combination of arguments, cannot be used; nothing was written.
        TrainingStopped: The loss became NaN (`Diverged`) or refused a batch, or the user pressed Ctrl-C.
    """
    run = RunFolder(out)
    if resume:
        once(lambda: run.check_config(config))
    else:
        once(lambda: run.check_free(overwrite))

    # Whatever can be wrong with the command shows before the pictures are read, which takes the longest.
    for key, given, least in (
        ("steps", steps, 1),
        ("validate_every", validate_every, 1),
        ("embedding_size", embedding_size, 1),
        ("warmup", warmup, 0),
        ("seed", seed, 0),
        ("checkpoint_minutes", checkpoint_minutes, 0),
    ):
        if not given >= least:
            raise InputError(f"{key} must be at least {least}, got {given}")
    if embedding_size > LONGEST:
        raise InputError(f"embedding_size must be at most {LONGEST}, got {embedding_size}")
    if warmup >= steps:
        raise InputError(f"warmup must be shorter than the run of {steps} steps, got {warmup}")
    if clip_gradient is not None and not clip_gradient > 0:
        raise InputError(f"clip_gradient is the largest norm of the gradient, above 0, got {clip_gradient}")
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"micro_batch must be at least 1 picture in the network at a time, got {micro_batch}")
    if per_level_norm and levels is None:
        raise InputError("per_level_norm is for models with several levels; name them with --levels, or leave it out")
    listed, split = data.open(seed)
    scored = protocol.scored(split)
    # Losses with a parameter per class want the training classes numbered from 0 without gaps.
    number = np.full(len(listed.classes), -1)
    number[split.train] = np.arange(len(split.train))
    train_labels = number[listed.labels[listed.of_classes(split.train)]]
    with blame("sampler"):
        rehearsed = sampler(train_labels)
        some_labels = train_labels[next(iter(rehearsed))]
    if len(some_labels) < world_size():
        raise InputError(
            f"a batch of {count(len(some_labels), 'picture')} cannot be divided among {world_size()} processes; "
            "start fewer"
        )
    journal = JsonLines(run)
    with blame("accelerator, precision or logger"):
        loggers = [journal, *further_loggers(logger or [], run, config)] if rank() == 0 else []
        fabric = Fabric(accelerator=accelerator, precision=precision, loggers=loggers, **devices(accelerator))
        fabric.launch()
    torch.manual_seed(seed)
    with blame(f"backbone, given pictures of image.size {image.size}"):
        embedder = create_embedder(backbone.build(), embedding_size, pool, levels, image.size)
    with blame("loss"):
        criterion = loss() if levels is None else PerLevelLoss(loss() for _ in levels)
    with blame("optimizer or schedule"):
        descent = optimizer(parameter_groups(embedder, criterion))
        if backbone.pretrained:
            for group in descent.param_groups[1:]:
                group["lr"] *= NEW_LAYER_RATE
        rates = with_warmup(descent, schedule, warmup)
    rehearse(embedder, criterion, image.size, some_labels, len(split.train))
    if micro_batch is not None:
        rehearse_parts(embedder, image.size, share(len(some_labels), of=0).stop, micro_batch, frozen_batch_norm)
    if not isinstance(rehearsed, TwoStreamSampler):
        report_halves(criterion, some_labels)

    if protocol.classes == "validation":  # the test classes are not even looked at
        listed = listed.only(np.union1d(split.train, split.validation))
    images, pictures = read_all(listed, image, track, cache=data.cache)
    report_singles(images, split)
    # A held-out class either chooses the checkpoint or scores it.
    choosing = split.validation if protocol.classes == "test" else split.validation[:0]
    train_set, validation_set, scored_set = map(images.of_classes, (split.train, choosing, scored))
    for what, chosen in (("training", train_set), (protocol.classes, scored_set)):
        if len(chosen) < 2:
            raise InputError(f"expected at least 2 readable pictures of {what} classes, found {len(chosen)}; add some")
    with blame("sampler"):
        batches = sampler(images.labels[train_set], seed=seed)

    if world_size() > 1:
        freeze_unused(embedder, image.size)
        join_batch_norms(embedder)
    embedder.to(memory_format=torch.channels_last)
    network, descent = fabric.setup(embedder, descent)
    criterion.to(fabric.device)
    if normalize is None:
        normalize = bool(getattr(criterion, "normalize", False))
    known = [images.classes[i] for i in np.union1d(split.train, choosing)]
    architecture = Architecture(
        backbone.name, embedding_size, pool, normalize, image, tuple(levels) if levels else None, per_level_norm
    )
    model = Model(embedder, architecture, known)

    record = TrainingRecord(embedder, fabric.device)
    state: dict[str, Any] = {"embedder": embedder, "loss": criterion, "optimizer": descent, "schedule": rates}
    state["record"] = record
    progress = once(lambda: load_checkpoint(run.checkpoint)) if resume else None
    if progress is not None:
        try:
            for key, part in (*state.items(), ("sampler", batches)):
                part.load_state_dict(progress[key])
            step, seconds, best, untrained = (progress[key] for key in ("step", "seconds", "best", "untrained"))
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{run.checkpoint} is of another training, or of another version of nearkin ({first_line(error)}); "
                "begin the run anew with --overwrite"
            ) from error
    else:
        embeddings = model.embed_pictures(pictures, scored_set)
        untrained = protocol.score(embeddings, images.labels[scored_set])
        step, seconds, best = 0, 0.0, None
    if rank() == 0:
        if not resume:
            run.start(config)
        journal.rewind(step)

    started = time.monotonic() - seconds
    saved = time.monotonic()
    with Bar("training", steps, step) as bar, interruptible() as pressed, noticing():
        for position, indices, batch in feed(batches, pictures, train_set, steps - step):
            embedder.train()
            if frozen_batch_norm:
                freeze_batch_norm(embedder.backbone)
            reseed(step_seed(seed, step), fabric.device)
            mine = share(len(indices))
            views = augment(batch.to(fabric.device), image.size, torch.default_generator, mine, len(indices))
            labels = torch.from_numpy(number[images.labels[indices]]).to(fabric.device)

            descent.zero_grad()
            compare: Callable[[Tensor], Tensor]
            compare = partial(compute_loss, criterion, labels=labels, run=run, step=step + 1)
            if world_size() > 1:
                compare = jointly(compare, len(indices), step_seed(seed, step, 1 + rank()), fabric.device)
            if micro_batch is None:
                value = compare(network(views))
                fabric.backward(value)
            else:
                most = share(len(indices), of=0).stop
                value = backward_in_pieces(network, views, compare, micro_batch, fabric.backward, most)
            average_(p.grad for p in criterion.parameters() if p.grad is not None)
            if clip_gradient is not None:
                nn.utils.clip_grad_norm_([*embedder.parameters(), *criterion.parameters()], clip_gradient)
            descent.step()
            rates.step()

            record.count(indices)
            step += 1
            seconds = time.monotonic() - started
            last = step == steps
            if step % LOG_EVERY == 0 or last:
                row = {"loss": value.item(), "lr": rates.get_last_lr()[0], "seconds": round(seconds, 3)}
                fabric.log_dict(row, step)
                bar.advance(step - bar.done, f"loss {row['loss']:.4f}")
            validates = bool(len(validation_set)) and (step % validate_every == 0 or last)
            due = time.monotonic() - saved >= 60 * checkpoint_minutes
            interrupted, terminated, due = any_of(pressed.interrupt, pressed.terminate, due)
            saves = last or interrupted or terminated or due
            if (validates or saves) and any(any_of(not healthy(embedder, views, micro_batch or len(views)))):
                raise Diverged(diverged(run, step, criterion))
            if validates:
                scores = validate(model, pictures, validation_set, images.labels)
                fabric.log_dict({f"validation/{key}": score for key, score in scores.items()}, step)
                if best is None or scores["recall@1"] > best:
                    best = scores["recall@1"]
                    if rank() == 0:
                        model.save(run.path)
            if saves:
                progress = {"step": step, "seconds": seconds, "best": best, "untrained": untrained}
                if rank() == 0:
                    save_checkpoint(run.checkpoint, {**state, **progress, "sampler": position})
                saved = time.monotonic()
            if (interrupted or terminated) and not last:
                # Of several processes only those that were told to are to end without failure: the rest start again.
                raise (Preempted if pressed.terminate else TrainingStopped)(
                    f"stopped after step {step} of {steps}; go on with: "
                    f"nearkin train {run.path / 'config.yaml'} --resume"
                )

    if best is not None:
        embedder.load_state_dict(once(lambda: load_file(run.path / WEIGHTS)))
    model.calibration = calibrated(model, pictures, images, split, seed)
    embeddings = model.embed_pictures(pictures, scored_set)
    if rank() == 0:
        model.save(run.path)
    trained = protocol.score(embeddings, images.labels[scored_set])
    about = protocol.about(images.labels[scored_set], images.classes)
    training = record.summary(steps, seconds)
    if rank() == 0:
        run.finish({"untrained": untrained, "trained": trained, "protocol": about, "training": training})
    for each in loggers:
        each.finalize("success")
    return run


def parameter_groups(embedder: AnyEmbedder, criterion: nn.Module) -> list[dict[str, Any]]:
    """The backbone's parameters, then those that no pretrained weights ever cover: the heads', the loss's if any."""
    groups = [list(part.parameters()) for part in (embedder.backbone, embedder.head, criterion)]
    return [{"params": group} for group in (groups if groups[2] else groups[:2])]


def with_warmup(optimizer: Optimizer, schedule: Callable[[Optimizer], LRScheduler] | None, warmup: int) -> LRScheduler:
    """A linear rise over `warmup` steps, then the schedule."""
    if warmup == 0:
        return schedule(optimizer) if schedule else ConstantLR(optimizer, factor=1.0)
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    rest = schedule(optimizer) if schedule else ConstantLR(optimizer, factor=1.0)
    return SequentialLR(optimizer, [rise, rest], milestones=[warmup])


def feed(
    batches: SeededBatchSampler, pictures: Pictures, train_set: NDArray[np.int64], steps: int
) -> Iterator[tuple[dict[str, int], NDArray[np.int64], Tensor]]:
    """Yield for each step the sampler's state behind it, the indices of its pictures, and these, decoded ahead.

    Of several processes each has the same indices, and the pictures of its share of them.
    """
    drawn: deque[tuple[dict[str, int], NDArray[np.int64]]] = deque()

    def draw() -> Iterator[NDArray[np.int64]]:
        epochs = itertools.chain.from_iterable(itertools.repeat(batches))
        for chosen in itertools.islice(epochs, steps):
            indices = train_set[chosen]
            drawn.append((batches.state_dict(), indices))
            yield indices

    for batch in prefetch(lambda indices: pictures[indices[share(len(indices))]], draw()):
        yield *drawn.popleft(), batch


def validate(
    model: Model, pictures: Pictures, validation_set: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Retrieval scores of the held-out training classes."""
    embeddings = model.embed_pictures(pictures, validation_set)
    return metrics.evaluate(embeddings, labels[validation_set], ks=(1,), clustering=False)


def calibrated(model: Model, pictures: Pictures, images: ImageList, split: ClassSplit, seed: int) -> Calibration | None:
    """How near strangers come, by pictures of the held-out training classes, or of the others where none are."""
    held_out = len(split.validation) > 0
    known = images.of_classes(split.validation if held_out else split.train)
    some = np.sort(np.random.default_rng(seed).permutation(known)[:CALIBRATION_PICTURES])
    return calibrate(model.embed_pictures(pictures, some), images.labels[some], held_out)


def further_loggers(kinds: Sequence[str], run: RunFolder, config: dict[str, Any]) -> list[Logger]:
    """Fabric's loggers beside `metrics.jsonl`.

    Raises:
        ValueError: The package of one is not installed.
    """
    loggers: list[Logger] = []
    for kind in kinds:
        if find_spec(kind) is None:
            raise ValueError(f"--logger {kind} needs a package that is not here: pip install 'nearkin[{kind}]'")
        if kind == "tensorboard":
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            loggers.append(TensorBoardLogger(run.path, name="tensorboard", version=""))
        else:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(name=run.path.name, save_dir=run.path, project="nearkin", config=config))
    return loggers
