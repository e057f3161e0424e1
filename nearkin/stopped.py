"""A training that cannot go on, or shall not: how that shows, and what a person is told."""

import torch
from torch import Tensor, nn

from nearkin.checkpoint import load_checkpoint
from nearkin.losses.per_level import PerLevelLoss
from nearkin.models import AnyEmbedder
from nearkin.run_folder import RunFolder


class TrainingStopped(RuntimeError):  # noqa: N818
    """The run cannot go on, or was told not to; the message says where it stands and how to go on."""


class Preempted(TrainingStopped):
    """SIGTERM came, and a checkpoint was written."""


class Diverged(TrainingStopped):
    """The loss or the weights became NaN or infinite: the same configuration will do so again."""


def compute_loss(criterion: nn.Module, embeddings: Tensor, labels: Tensor, run: RunFolder, step: int) -> Tensor:
    """The loss of a batch, finite.

    Raises:
        TrainingStopped: The embeddings or their loss are not finite (`Diverged`), or the loss refuses them.
    """
    try:
        value: Tensor = criterion(embeddings, labels)
    except Exception as error:  # looked at only now: each look makes a GPU wait
        if not embeddings.isfinite().all():
            raise Diverged(diverged(run, step, criterion)) from error
        if isinstance(error, ValueError):  # what only this network's distances could show
            raise TrainingStopped(f"loss, at step {step}: {error}") from error
        raise
    if not value.isfinite():
        raise Diverged(diverged(run, step, criterion))
    return value


@torch.no_grad()
def healthy(embedder: AnyEmbedder, views: Tensor, at_once: int) -> bool:
    """Whether all weights and statistics are finite, and so are the embeddings that they give, so many at a time."""
    if not all(tensor.isfinite().all() for tensor in embedder.state_dict().values()):
        return False
    embedder.eval()
    finite = all(bool(embedder(part).isfinite().all()) for part in torch.split(views, at_once))
    embedder.train()
    return finite


def diverged(run: RunFolder, step: int, criterion: nn.Module) -> str:
    """What to tell a person whose loss became NaN or infinite."""
    state = load_checkpoint(run.checkpoint)
    if state is not None:
        good = f"the last good checkpoint is {run.checkpoint} (step {state['step']})"
    else:
        good = f"no checkpoint had been written to {run.path} yet"
    loss = criterion.losses[0] if isinstance(criterion, PerLevelLoss) else criterion
    return (
        f"{type(loss).__name__} became NaN or infinite at step {step}; {good}; "
        "use a lower learning rate (--optimizer.lr) or --clip_gradient"
    )
