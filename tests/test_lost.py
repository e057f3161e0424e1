"""A process that has lost another: how it notices, and what a signal may still do to it."""

import signal

import pytest
import torch.distributed as dist

from nearkin import processes
from nearkin.interruption import interruptible, terminable
from nearkin.processes import ProcessLost, noticing
from nearkin.stopped import TrainingStopped

OF_GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset"


@pytest.fixture
def several(monkeypatch):
    monkeypatch.setattr(processes, "_joined", True)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [RuntimeError(f"{OF_GLOO}\nand more"), dist.DistNetworkError(OF_GLOO)])
def test_it_notices_and_sigterm_no_longer_keeps_it_from_saying_so(several, error):
    with pytest.raises(ProcessLost) as raised, terminable(), interruptible(), noticing():
        raise error
    assert str(raised.value) == OF_GLOO
    assert raised.value.__cause__ is error
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("runs/igloos/model.safetensors: [Errno 28]"),
        TrainingStopped(f"stopped; go on with: nearkin train {OF_GLOO}"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_no_loss(several, error):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(type(error)) as raised, terminable(), interruptible(), noticing():
        raise error
    assert raised.value is error
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_process_has_none_to_lose():
    with pytest.raises(RuntimeError, match="Read error") as raised, noticing():
        raise RuntimeError(OF_GLOO)
    assert type(raised.value) is RuntimeError
