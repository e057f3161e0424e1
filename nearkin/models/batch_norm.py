"""Batch norm over the joint batch of several processes.

PyTorch has one for GPUs alone; this one also runs where Gloo does. Names of weights and statistics stay.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class JointBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance in training are those of all processes' pictures together.

    Args:
        norm: The batch norm that it does the work of, whose weights and statistics it takes over. timm's carries the
            activation behind it, too.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        nn.Module.__init__(self)
        for key in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
            setattr(self, key, getattr(norm, key))
        self._parameters, self._buffers, self._modules = norm._parameters, norm._buffers, norm._modules
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, C, ...) to the same shape."""
        if not self.training:
            return self._behind(super().forward(x))
        wide = x if x.dtype == torch.double else x.float()
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = torch.tensor([wide.numel() // wide.shape[1]], device=x.device, dtype=wide.dtype)
        dist.all_reduce(count)
        mean = _sum_over_processes(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(dims)) / count
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        y = centred * scale.view(shape)
        if self.affine:
            y = y + self.bias.view(shape)
        return self._behind(y.to(x.dtype))

    def _behind(self, x: Tensor) -> Tensor:
        for part in self.children():  # of timm's: what it drops, then the activation
            x = part(x)
        return x

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, new)
        self.running_var.lerp_(variance, new)

    def _check_input_dim(self, input: Any) -> None:
        """Any: the one that it stands for has been tried."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)  # what each process makes of the sum
        return grad


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total


def join_batch_norms(network: nn.Module) -> None:
    """Make every batch norm below a network one over the joint batch of all processes."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            setattr(network, name, JointBatchNorm(child))
        else:
            join_batch_norms(child)
