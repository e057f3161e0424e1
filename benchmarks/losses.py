"""Time of every loss, forward and backward, beside the matrix products that it cannot do without.

    python benchmarks/losses.py [--threads 1] [--device cuda] [--lifted]

The floor is one (N, D) x (D, N) and one (N, N) x (N, D) product. pytorch-metric-learning's form of the same loss
runs in the same process if it is installed; nearkin does not depend on it. Ours, the floor and the peer's take turns,
and each figure is the median. The peer's lifted structure loss takes minutes at N = 512: only with --lifted, once.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nearkin import losses

try:
    import pytorch_metric_learning.losses as peers
    from pytorch_metric_learning.miners import DistanceWeightedMiner
except ImportError:
    peers = None

D, SIZES = 512, (128, 512, 1024, 2048)
PROXIES = {"num_classes": max(SIZES) // 4, "embedding_size": D}
# Loss, samples per class, the peer's class and arguments; it has no loss for the gaps.
CASES: list[tuple[torch.nn.Module, int, str, dict[str, float]]] = [
    (losses.ContrastiveLoss(), 4, "ContrastiveLoss", {}),
    (losses.DDMLLoss(), 4, "", {}),
    (losses.TripletLoss(), 2, "TripletMarginLoss", {"margin": 0.2}),
    (losses.TripletLoss(), 4, "TripletMarginLoss", {"margin": 0.2}),
    (losses.SemihardTripletLoss(), 4, "", {}),
    (losses.MarginLoss(), 4, "MarginLoss", {}),
    (losses.NPairLoss("tuplet"), 2, "", {}),
    (losses.NPairLoss("mc"), 2, "NPairsLoss", {}),
    (losses.AngularLoss(), 2, "AngularLoss", {"alpha": 45}),
    (losses.AngularLoss(), 4, "AngularLoss", {"alpha": 45}),
    (losses.AngularHingeLoss(), 4, "", {}),
    (losses.NPairAngularLoss(), 2, "", {}),
    (losses.ProxyNCALoss(**PROXIES, softmax=True), 4, "ProxyNCALoss", {**PROXIES, "softmax_scale": 9}),
    (losses.RankedListLoss(), 4, "RankedListLoss", {"alpha": 1.2, "margin": 0.4, "Tn": 10}),
    (losses.LiftedStructureLoss(), 4, "LiftedStructureLoss", {"neg_margin": 1, "pos_margin": 0}),
]
SLOW_PEER, SLOW_SIZES = "LiftedStructureLoss", (128, 512)  # beyond, it needs more than 8 GB


def median_ms(steps: list[Callable[[], object]], device: str, repeats: int) -> list[float]:
    """Return the median wall time of each step in milliseconds, taken in turns, after one round to warm up."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats + 1):
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken[1:]) for taken in times]


def once_ms(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def training_step(loss: torch.nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Return a forward and backward as a call without arguments."""
    inputs = [x, *loss.parameters()]
    return lambda: torch.autograd.grad(loss(x, y), inputs)


class MinedMarginLoss(torch.nn.Module):
    """The peer's margin loss, with one distance-weighted negative per positive pair: alone it takes all triplets.

    At N = 2,048 it takes over 8 GB.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.miner = peers.MarginLoss(), DistanceWeightedMiner()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y, self.miner(x, y))


def main() -> None:
    """Print one line per loss and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--lifted", action="store_true", help="the peer's lifted structure loss too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if peers is None:
        print("For the last two columns: pip install pytorch-metric-learning")

    print(f"{'loss':22}{'per class':>10}{'N':>6}{'ms':>9}{'/ floor':>9}{'peer ms':>9}{'/ peer':>9}")
    for loss, per_class, peer_name, peer_arguments in CASES:
        loss.to(args.device)
        for n in SIZES:
            y = torch.arange(n, device=args.device) // per_class
            x = torch.randn(n, D, device=args.device) / D**0.5  # about unit length, in weak classes
            x = (x + 0.3 * x[y * per_class]).requires_grad_()
            weight = torch.randn(n, n, device=args.device)
            z = x.detach()
            steps = [lambda z=z, w=weight: (z @ z.T, w @ z), training_step(loss, x, y)]
            slow = peer_name == SLOW_PEER
            peer = None
            if peers is not None and peer_name and (not slow or (args.lifted and n in SLOW_SIZES)):
                peer_class = MinedMarginLoss if peer_name == "MarginLoss" else getattr(peers, peer_name)
                peer = training_step(peer_class(**peer_arguments).to(args.device), x, y)
            together = peer is not None and not slow
            floor, ours, *rest = median_ms([*steps, peer] if together else steps, args.device, args.repeats)
            line = f"{type(loss).__name__:22}{per_class:10}{n:6}{ours:9.1f}{ours / floor:9.2f}"
            if peer is not None:
                theirs = rest[0] if together else once_ms(peer)
                line += f"{theirs:9.1f}{ours / theirs:9.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
