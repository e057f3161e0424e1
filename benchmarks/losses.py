"""Time of each loss, forward and backward, beside the matrix products that it cannot do without.

python benchmarks/losses.py [--threads 1] [--device cuda]

One (N, D) x (D, N) and one (N, N) x (N, D) product are the floor. pytorch-metric-learning's form of the same loss
runs in the same process where that package is there (pip install pytorch-metric-learning; no dependency of nearkin).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nearkin import losses

try:
    from pytorch_metric_learning import losses as peer
except ImportError:
    peer = None

D, SIZES = 512, (128, 512, 2048)
# Name, samples per class, our loss, its counterpart's class and arguments. The peer enumerates Lifted's
# triplets: over a minute at 512, out of memory at 2,048.
CASES = [
    ("contrastive", 4, losses.ContrastiveLoss(), "ContrastiveLoss", {}),
    ("triplet", 4, losses.TripletLoss(), "TripletMarginLoss", {"margin": 0.2}),
    ("triplet, 2 per class", 2, losses.TripletLoss(), "TripletMarginLoss", {"margin": 0.2}),
    ("semihard", 4, losses.SemihardTripletLoss(), None, {}),
    ("N-pair, tuplet", 2, losses.NPairLoss(), None, {}),
    ("N-pair, mc", 2, losses.NPairLoss("mc"), "NPairsLoss", {}),
    ("angular", 4, losses.AngularLoss(), "AngularLoss", {"alpha": 45}),
    ("angular, 2 per class", 2, losses.AngularLoss(), "AngularLoss", {"alpha": 45}),
    ("angular hinge", 4, losses.AngularHingeLoss(), None, {}),
    ("N-pair & angular", 2, losses.NPairAngularLoss(), None, {}),
    ("ranked list", 4, losses.RankedListLoss(), "RankedListLoss", {"margin": 0.4, "Tn": 10, "alpha": 1.2}),
    ("lifted structure", 4, losses.LiftedStructureLoss(), None, {}),
]


def median_ms(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall time of a call in milliseconds, the first call left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def forward_backward(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step's work as a call without arguments."""
    return lambda: loss(x.grad_zero() if hasattr(x, "grad_zero") else x, y).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
