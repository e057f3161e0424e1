"""Batches larger than the memory: in pieces through the network, at once through the loss.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021 ("GradCache").

Shape key: N = batch size, D = embedding size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Backward = Callable[[Tensor], None]


def backward_in_pieces(
    network: nn.Module,
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    piece: int,
    backward: Backward = Tensor.backward,
) -> Tensor:
    """Add the gradient of loss(network(images)) to all parameters, with the activations of one piece in memory.

    The pieces go through the network twice: first without a graph, for the embeddings (N, D), of which the loss and its
    gradient are taken as of one batch; then once more each, to carry its part of that gradient into the network. The
    second pass repeats the random numbers of the first. The gradient is that of the whole batch wherever an embedding
    depends on its own picture alone. Batch norm in training mode sees one piece at a time instead, and its running
    statistics move once for each piece.

    Args:
        network: Maps images to embeddings (N, D).
        images: (N, ...).
        loss: Maps embeddings (N, D) to a scalar.
        piece: Images that are in the network at a time, at least 1.
        backward: What carries a scalar's gradient back, such as Fabric's.

    Returns:
        The value of the loss, detached.

    Raises:
        ValueError: piece is below 1.
    """
    if piece < 1:
        raise ValueError(f"piece must be at least 1 image, got {piece}")
    pieces = torch.split(images, piece)
    devices = [images.device] if images.device.type == "cuda" else []

    statistics = [buffer.clone() for buffer in network.buffers()]
    embedded, random = [], []
    with torch.no_grad():
        for each in pieces:
            random.append((torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]))
            embedded.append(network(each))
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)  # the second pass moves them, once

    embeddings = torch.cat(embedded).requires_grad_()
    value = loss(embeddings)
    backward(value)
    gradient = embeddings.grad
    if gradient is None:  # a loss that is constant
        return value.detach()
    for each, share, (state, device_states) in zip(pieces, torch.split(gradient, piece), random, strict=True):
        with torch.random.fork_rng(devices):
            torch.set_rng_state(state)
            for device, device_state in zip(devices, device_states, strict=True):
                torch.cuda.set_rng_state(device_state, device)
            again = network(each)
        backward((again * share.to(again.dtype)).sum())
    return value.detach()
