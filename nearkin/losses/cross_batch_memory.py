"""Cross-batch memory (XBM): the embeddings of past batches as a gallery.

Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020.

Shape key: N = batch size, D = embedding size, M = size of the memory.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nearkin.losses.pairs import check_batch


class CrossBatchMemory(nn.Module):
    """Add to a loss over the batch the same loss of the batch against the embeddings of the batches before it.

    The value is loss(batch) + weight · loss(batch, memory). The memory holds the last `memory_size` embeddings, as they
    were when their batch came; no gradient flows into them. The network moves little from step to step, so they are
    nearly what it would make of those pictures now. A batch joins the memory after its loss, in training mode only:
    no embedding is compared with itself. The memory is part of the state_dict, its labels where those of the last
    batch were. O(N M D) time, and memory for M embeddings and for N M pairs, of which a `chunk_size` of the loss holds
    only some rows.

    What is remembered differs from step to step, which `torch.compile` of the whole would take for another program each
    time. Compile the loss inside: `CrossBatchMemory(torch.compile(loss), ...)`.

    Args:
        loss: Takes (embeddings, labels, gallery, gallery_labels), as most losses of nearkin over pairs do. It is tried
            on two samples.
        embedding_size: D.
        memory_size: M, at least 1. The paper holds up to the whole training set.
        start: Batches before the memory counts, at least 0: at first the network moves fast. 1,000 in the paper.
        weight: Of the loss against the memory, at least 0 and finite.

    Raises:
        ValueError: An argument is out of its range, or the loss takes no gallery, or refuses the one it is tried on;
            the embeddings are not of embedding_size.
    """

    memory: Tensor
    memory_labels: Tensor

    def __init__(
        self, loss: nn.Module, embedding_size: int, memory_size: int = 8192, start: int = 0, weight: float = 1.0
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("embedding_size", embedding_size, 1),
            ("memory_size", memory_size, 1),
            ("start", start, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= weight < torch.inf:
            raise ValueError(f"weight must be at least 0 and finite, got {weight}")
        _try_with_gallery(loss, embedding_size)
        self.loss = loss
        self.start, self.weight = start, weight
        self.normalize = bool(getattr(loss, "normalize", False))
        self.register_buffer("memory", torch.zeros(memory_size, embedding_size))
        self.register_buffer("memory_labels", torch.zeros(memory_size, dtype=torch.long))
        # Numbers of the host, in the state_dict all the same: to ask a GPU for them would wait for it.
        self.batches = 0
        self.seen = 0  # embeddings, of which the last memory_size are held, number i in row i % memory_size

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Map embeddings (N, D) and class ids (N,) to a scalar."""
        if embeddings.ndim == 2 and embeddings.shape[1] != self.memory.shape[1]:
            raise ValueError(
                f"embeddings must be of embedding_size={self.memory.shape[1]}, got {embeddings.shape[1]}: "
                "set embedding_size to the length of the embeddings"
            )
        value: Tensor = self.loss(embeddings, labels)
        held = min(self.seen, len(self.memory))
        if held and self.batches >= self.start:
            # Copies, for this batch joins the memory before the backward, where a loss may need its gallery again.
            past, past_labels = self.memory[:held].clone(), self.memory_labels[:held].clone()
            value = value + self.weight * self.loss(embeddings, labels, past, past_labels)
        if self.training:
            self._remember(check_batch(embeddings, labels).detach(), labels)
        return value

    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        size = len(self.memory)
        # The losses compare labels where those of the batch are: on the CPU that waits for no GPU.
        self.memory_labels = self.memory_labels.to(labels.device)
        for memory, new in ((self.memory, embeddings[-size:]), (self.memory_labels, labels[-size:])):
            first = (self.seen + len(embeddings) - len(new)) % size
            to_the_end = min(len(new), size - first)
            memory[first : first + to_the_end] = new[:to_the_end]
            memory[: len(new) - to_the_end] = new[to_the_end:]
        self.seen += len(embeddings)
        self.batches += 1

    def get_extra_state(self) -> dict[str, int]:
        """How much has been seen, for the state_dict."""
        return {"batches": self.batches, "seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        """Take up where a state_dict was written."""
        self.batches, self.seen = state["batches"], state["seen"]


def _try_with_gallery(loss: nn.Module, embedding_size: int) -> None:
    # Some losses take a gallery in one of their forms only: that should not show in mid-training.
    device = next((each.device for each in loss.parameters()), None)
    x, labels = torch.ones(2, embedding_size, device=device), torch.zeros(2, dtype=torch.long, device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss(x, labels, x, labels)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"loss must take a gallery, as ContrastiveLoss does, {type(loss).__name__} does not: {error}"
        ) from error
