"""Time and memory of evaluation at the size of Stanford Online Products, against plain matrix products.

    python benchmarks/evaluation.py                the retrieval metrics, Recall@1, 10, 100, 1000
    python benchmarks/evaluation.py --clustering   k-means, NMI and F1 as well
    python benchmarks/evaluation.py --images 6050 --classes 1131 --clustering    a tenth of it

Times are ratios to a product of the same matrices, in tiles of the same height, in the same process: seconds alone say
more about the machine and its other users. CPU seconds are of all threads together. Memory is the peak of the
process above what it held, the data included, before the call. Linux only.
"""

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nearkin.metrics import evaluate, kmeans, nmi, pairwise_f1, ranking, retrieval

SOP_IMAGES, SOP_CLASSES = 60_502, 11_316
LEAST_IMAGES = 2  # of a class


def clustered(images: int, classes: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    """Unit embeddings (N, D) around one random center per class, and their labels (N,), in random order."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat(
        [
            torch.arange(classes).repeat(LEAST_IMAGES),
            torch.randint(classes, (images - LEAST_IMAGES * classes,), generator=generator),
        ]
    )[torch.randperm(images, generator=generator)]
    centers = torch.randn(classes, size, generator=generator)
    spread = torch.randn(images, size, generator=generator)
    return F.normalize(centers[labels].add_(spread.mul_(noise))), labels


def product(x: Tensor) -> None:
    """All dot products, a tile at a time, each thrown away."""
    step = max(1, ranking.CHUNK // len(x))
    for start in range(0, len(x), step):
        x[start : start + step] @ x.T


def measure(call: Callable[[], Any]) -> tuple[Any, float, float, float]:
    """Return what the call returns, wall seconds, CPU seconds, and the peak of memory above the start in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return result, wall, cpu, memory("VmHWM") - before


def memory(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=SOP_IMAGES)
    parser.add_argument("--classes", type=int, default=SOP_CLASSES)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--noise", type=float, default=2.5, help="standard deviation within a class; 1 between classes")
    parser.add_argument("--clustering", action="store_true")
    args = parser.parse_args()

    x, labels = clustered(args.images, args.classes, args.size, args.noise)
    evaluate(x[:500], labels[:500])  # load everything that is loaded on first use
    print(f"{args.images:,} x {args.size}, {args.classes:,} classes, {torch.get_num_threads()} threads", flush=True)

    unit: list[float] = []  # wall and CPU seconds of the float32 product

    def report(name: str, call: Callable[[], Any]) -> Any:
        result, wall, cpu, peak = measure(call)
        unit[:] = unit or [wall, cpu]
        times = f"{wall:7.1f} s ({wall / unit[0]:5.2f}x)  CPU {cpu:7.1f} s ({cpu / unit[1]:5.2f}x)"
        print(f"{name:<28} {times}  + {peak:6.0f} MB", flush=True)
        return result

    report("float32 product", partial(product, x))
    report("float64 product", lambda: product(x.double()))
    scores = report("retrieval", partial(retrieval, x, labels, ks=(1, 10, 100, 1000)))
    report("retrieval, K up to 8", partial(retrieval, x, labels))
    report("float32 product, again", partial(product, x))
    print({name: round(value, 4) for name, value in scores.items()})

    if args.clustering:
        for init in ("random", "k-means++"):
            clusters = report(f"k-means, {init}", partial(kmeans, x, args.classes, init=init))
            agreement = nmi(labels, clusters.assignments), pairwise_f1(labels, clusters.assignments)
            print(f"objective {clusters.objective:.1f}, NMI {agreement[0]:.4f}, F1 {agreement[1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
