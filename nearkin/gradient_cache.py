"""Batches larger than the memory: in pieces through the network, at once through the loss.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021 ("GradCache").

Shape key: N = batch size, D = embedding size.
"""

import math
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
    most: int | None = None,
) -> Tensor:
    """Add the gradient of loss(network(images)) to all parameters, with the activations of one piece in memory.

    The pieces go through the network twice: first without a graph, for the embeddings (N, D), of which the loss and its
    gradient are taken as of one batch; then once more each, to carry its part of that gradient into the network. The
    second pass repeats the random numbers of the first, of the CPU and of the images' device. The gradient is that of
    the whole batch wherever an embedding depends on its own picture alone. Batch norm in training mode sees one piece
    at a time instead, and its running statistics move once for each piece.

    Args:
        network: Maps images to embeddings (N, D).
        images: (N, ...).
        loss: Maps embeddings (N, D) to a scalar.
        piece: Images that are in the network at a time, at least 1; the pieces are as equal as they can be.
        backward: What carries the loss's gradient back, such as Fabric's. If it scales the loss, gradients are scaled.
        most: Images of the process that has the most, of several: all of them have to take as many pieces.

    Returns:
        The value of the loss, detached.

    Raises:
        ValueError: piece is below 1.
    """
    if piece < 1:
        raise ValueError(f"piece must be at least 1 image, got {piece}")
    pieces = torch.tensor_split(images, max(1, math.ceil((most or len(images)) / piece)))
    kind = images.device.type
    devices = [] if kind == "cpu" else [images.device]
    generator = torch.get_device_module(kind)

    statistics = [buffer.clone() for buffer in network.buffers()]
    embedded, random = [], []
    with torch.no_grad():
        for each in pieces:
            random.append((torch.get_rng_state(), [generator.get_rng_state(device) for device in devices]))
            embedded.append(network(each))
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)  # the second pass moves them, once

    embeddings = torch.cat(embedded).requires_grad_()
    value = loss(embeddings)
    backward(value)
    gradient = embeddings.grad
    if gradient is None:  # a loss that is constant
        return value.detach()
    shares = torch.tensor_split(gradient, len(pieces))
    for each, share, (state, device_states) in zip(pieces, shares, random, strict=True):
        with torch.random.fork_rng(devices, device_type=kind):
            torch.set_rng_state(state)
            for device, device_state in zip(devices, device_states, strict=True):
                generator.set_rng_state(device_state, device)
            again = network(each)
        # Fabric wants every backward for itself, but what it may scale is scaled: the share stands as it is.
        carried = share.to(again.dtype)
        again.register_hook(lambda _, carried=carried: carried)
        backward(again.sum())
    return value.detach()
