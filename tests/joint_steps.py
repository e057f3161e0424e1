"""Three steps of each loss, by however many processes run this: `python joint_steps.py FILE`, or by torchrun.

Every process writes what it ended with to FILE.<its number>.
"""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.append(str(Path(__file__).parent / "losses"))
from test_every_loss import LABELS, LOSSES

from nearkin import losses
from nearkin.gradient_cache import backward_in_pieces
from nearkin.joint_training import jointly
from nearkin.models import join_batch_norms
from nearkin.processes import average_, joined, rank, share, world_size
from nearkin.terminal import several

ODD = torch.arange(14) % 5  # no number of processes divides it
MEMORY = losses.CrossBatchMemory(losses.ContrastiveLoss(), embedding_size=6, memory_size=20)
# The loss, its labels, pictures in the network at a time.
CASES = {
    **{name: (loss, LABELS, None) for name, loss in LOSSES.items()},
    "odd batch": (losses.RankedListLoss(), ODD, None),
    "odd batch, margin, learned": (losses.MarginLoss(num_classes=5), ODD, None),
    "memory of past batches": (MEMORY, ODD, None),
    "in pieces": (losses.LiftedStructureLoss(), ODD, 3),
    "in pieces, margin, learned": (losses.MarginLoss(num_classes=5), ODD, 3),
    "in pieces, more than one process needs": (losses.RankedListLoss(), ODD, 4),  # 5, 5 and 4 in three processes
}


def steps(loss, labels, piece):
    """Gradients of the first step, and all weights and statistics after three, by name."""
    torch.manual_seed(0)
    # A batch in pieces is another one to a batch norm; and before one, a bias has no gradient.
    norm = nn.BatchNorm2d(4) if piece is None else nn.Identity()
    layers = [nn.Conv2d(3, 4, 3, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 6)]
    network = nn.Sequential(*layers).double()
    loss = copy.deepcopy(loss).double()
    several = world_size() > 1
    if several:
        join_batch_norms(network)
    called = DistributedDataParallel(network) if several else network
    parameters = [*network.named_parameters(), *loss.named_parameters()]
    descent = torch.optim.SGD([each for _, each in parameters], lr=0.05, momentum=0.9)
    found = {}
    for step in range(3):
        images = torch.randn(len(labels), 3, 6, 6, generator=torch.Generator().manual_seed(step)).double()
        descent.zero_grad()
        torch.manual_seed(step)  # of what the loss draws

        def compare(embeddings):
            return loss(embeddings, labels)

        if several:
            compare = jointly(compare, len(labels), rank(), torch.device("cpu"))
        mine = images[share(len(labels))]
        if piece is None:
            value = compare(called(mine))
            value.backward()
        else:
            value = backward_in_pieces(called, mine, compare, piece, most=share(len(labels), of=0).stop)
        average_(each.grad for each in loss.parameters() if each.grad is not None)
        found[f"value {step}"] = value.detach()
        if step == 0:
            found |= {f"gradient of {name}": each.grad.clone() for name, each in parameters if each.grad is not None}
        descent.step()
    return found | network.state_dict() | {name: each.detach() for name, each in loss.named_parameters()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined() if several() else nullcontext():
        found = {name: steps(*case) for name, case in CASES.items()}
        numbers = torch.tensor([float(rank()), -3.0])
        average_([numbers])
        torch.save((found, numbers), f"{sys.argv[1]}.{rank()}")
