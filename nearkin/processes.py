"""Several processes that work as one: how many there are, and what passes between them.

`torchrun` starts one command in many processes. All of them hold the same weights, draw the same batches, and work on
their share of each; what has to be known of the whole is gathered. The first alone writes files and speaks. In a
command that was started once there is one process, and everything here is what it says without the others.
"""

import datetime
import logging
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nearkin.errors import InputError

T = TypeVar("T")

PATIENCE = datetime.timedelta(hours=12)
"""How long a process waits for another: one may score for long, and if one ends, torchrun ends the rest."""


_joined = False
"""Whether this command is one of several. Somebody's own distributed program may call what it likes, where it likes."""


GLOO = re.compile(r"gloo/\S+:\d+\]")
"""Where in its source an error of Gloo comes from: its class is that of any other."""


class ProcessLost(RuntimeError):  # noqa: N818
    """Another process that this one works with has ended."""


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started: over NCCL between GPUs, over Gloo between the rest.

    Raises:
        ProcessLost: Another of them ended while this one waited for it.
    """
    # DDP would import this once the group is made, and its default arguments would keep that group alive for good.
    import torch.distributed.nn.functional

    global _joined
    local = int(os.environ["LOCAL_RANK"])
    gpu = local < torch.cuda.device_count()
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    _joined = True
    log = logging.getLogger("nearkin")
    level = log.level
    if rank():
        log.setLevel(logging.ERROR)  # what is worth a line, the first process knows too
    try:
        with noticing():
            yield
    except BaseException as error:
        forget(error)
        raise
    finally:
        log.setLevel(level)
        _joined = False
        # Gloo's threads live as long as anything holds the group, as a network does that averages its gradients over
        # it. A thread that frees the tensors of the last exchange while the interpreter ends would abort the process.
        dist.destroy_process_group()


@contextmanager
def noticing() -> Iterator[None]:
    """Notice that another process has ended. From then on SIGTERM, which torchrun sends, is ignored: the line comes.

    Raises:
        ProcessLost: It has.
    """
    if not _joined:
        yield
        return
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not (type(error) is RuntimeError and GLOO.search(str(error))):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ProcessLost(str(error).partition("\n")[0]) from error


def forget(error: BaseException | None) -> None:
    """Clear the local variables of the functions that an error has left, and those it was raised while handling."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _joined else 0


def share(total: int, of: int | None = None) -> slice:
    """Which of so many things in a row are for one process, this one unless named; no two differ by more than one."""
    each, more = divmod(total, world_size())
    number = rank() if of is None else of
    start = number * each + min(number, more)
    return slice(start, start + each + (number < more))


def gather(rows: Tensor, total: int) -> Tensor:
    """Put the shares (n, ...) of all processes together, in order: (total, ...), on every process.

    Every process takes the same loss of what it gathered, so each knows the whole gradient by its own rows. What their
    networks make of these is then averaged over the processes, as `DistributedDataParallel` does: so it is multiplied
    by their number here.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, total)
    return gathered


def collect(thing: T) -> list[T]:
    """What each process has, on every process."""
    if world_size() == 1:
        return [thing]
    things: list[Any] = [None] * world_size()
    dist.all_gather_object(things, thing)
    return things


def once(work: Callable[[], T]) -> T:
    """What the first process makes of it, on every process; the others do not do the work.

    Raises:
        InputError, OSError: The work did, on every process, so that it is said once.
    """
    if world_size() == 1:
        return work()
    made: list[Any] = [None, None]
    if rank() == 0:
        try:
            made[0] = work()
        except (InputError, OSError) as error:
            made[1] = error
    dist.broadcast_object_list(made)
    done: T
    done, failure = made
    if failure is not None:
        raise failure
    return done


def any_of(*flags: bool) -> list[bool]:
    """Which of the flags is raised on any process."""
    if world_size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(each) for each in raised]


def average_(tensors: Iterable[Tensor]) -> None:
    """Replace tensors, which are the same on every process but for rounding, by their mean."""
    for tensor in tensors if world_size() > 1 else ():
        dist.all_reduce(tensor)
        tensor /= world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int) -> Tensor:
        ctx.total = total
        shares = [share(total, each) for each in range(world_size())]
        assert len(rows) == shares[rank()].stop - shares[rank()].start
        most = shares[0].stop
        padded = rows.new_zeros(most, *rows.shape[1:])  # all send as many
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(received, padded)
        return torch.cat([each[: some.stop - some.start] for each, some in zip(received, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return world_size() * grad[share(ctx.total)], None
