"""Time and memory of evaluation at the size of Stanford Online Products, against the matrix product and peers.

    python benchmarks/evaluation.py                the retrieval metrics, Recall@1, 10, 100, 1000
    python benchmarks/evaluation.py --peers        pytorch-metric-learning and open-metric-learning on the same arrays
    python benchmarks/evaluation.py --clustering   k-means from both starts, and faiss's, which has to be installed
    python benchmarks/evaluation.py --images 6050 --classes 1131 --clustering    a tenth of it
    python benchmarks/evaluation.py --images 1000000 --queries 20000             some queries against a million

Times are ratios to the float32 product of the same matrices, in tiles of one reused buffer, in the same process:
seconds alone say more about the machine and its other users. CPU seconds are of all threads together. Memory is the
peak of the process above what it held, the data included, before the call. Linux only.

nearkin depends on none of the peers. pytorch-metric-learning needs faiss-cpu. It has no Recall@K beyond K = 1: those
are added here in the way that its documentation gives, and it is timed without them as well.
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

from nearkin.metrics import evaluate, kmeans, nmi, pairwise_f1, retrieval

SOP_IMAGES, SOP_CLASSES = 60_502, 11_316
LEAST_IMAGES = 2  # of a class
KS = (1, 10, 100, 1000)
# Scores held at a time, 128 MB.
CHUNK = 2**25


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


def product(queries: Tensor, gallery: Tensor) -> None:
    """All dot products, a tile at a time, into one buffer."""
    step = max(128, CHUNK // len(gallery))
    tile = torch.empty(step, len(gallery))
    for some in torch.split(queries, step):
        torch.mm(some, gallery.T, out=tile[: len(some)])


PML_METRICS = ("precision_at_1", "mean_average_precision_at_r", "r_precision")


def pytorch_metric_learning_without_recall(x: Tensor, labels: Tensor) -> dict[str, float]:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    return AccuracyCalculator(include=PML_METRICS, k="max_bin_count").get_accuracy(x, labels)


def pytorch_metric_learning(x: Tensor, labels: Tensor) -> dict[str, float]:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    class Calculator(AccuracyCalculator):  # type: ignore[misc]
        def calculate_recall(self, knn_labels: Tensor, query_labels: Tensor, **_: Any) -> list[float]:
            hit = knn_labels == query_labels[:, None]
            return [float(hit[:, :k].any(dim=1).float().mean()) for k in KS]

        def requires_knn(self) -> list[str]:
            return [*super().requires_knn(), "recall"]

    found = Calculator(include=(*PML_METRICS, "recall"), k=max(KS)).get_accuracy(x, labels)
    return found | dict(zip((f"recall@{k}" for k in KS), found.pop("recall"), strict=True))


def open_metric_learning(x: Tensor, labels: Tensor) -> dict[str, Any]:
    from oml.functional.knn import batched_knn
    from oml.functional.metrics import calc_retrieval_metrics

    everyone = torch.arange(len(x))
    _, retrieved, relevant = batched_knn(x, everyone, everyone, top_n=max(KS), labels_gt=labels)
    found = calc_retrieval_metrics(retrieved, relevant, cmc_top_k=KS, precision_top_k=(), map_top_k=(), verbose=False)
    return {f"recall@{k}": float(value) for k, value in found["cmc"].items()}


def faiss_kmeans(x: Tensor, k: int, iterations: int) -> tuple[Any, float]:
    """Assignments (N,) and the objective of faiss's k-means, trained on all points."""
    import faiss

    clusters = faiss.Kmeans(x.shape[1], k, niter=iterations, max_points_per_centroid=len(x), min_points_per_centroid=1)
    clusters.train(x.numpy())
    distances, assignments = clusters.index.search(x.numpy(), 1)
    return assignments[:, 0], float(distances.sum())


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
    parser.add_argument("--queries", type=int, help="only so many, against all others; the time for all is computed")
    parser.add_argument("--clustering", action="store_true")
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()

    x, labels = clustered(args.images, args.classes, args.size, args.noise)
    evaluate(x[:500], labels[:500])  # load everything that is loaded on first use
    print(f"{args.images:,} x {args.size}, {args.classes:,} classes, {torch.get_num_threads()} threads", flush=True)

    unit: list[float] = []  # wall and CPU seconds of the float32 product

    def report(name: str, call: Callable[[], Any]) -> Any:
        result, wall, cpu, peak = measure(call)
        unit[:] = unit or [wall, cpu]
        times = f"{wall:7.1f} s ({wall / unit[0]:5.2f}x)  CPU {cpu:7.1f} s ({cpu / unit[1]:5.2f}x)"
        print(f"{name:<40} {times}  + {peak:6.0f} MB", flush=True)
        return result

    def show(scores: dict[str, float]) -> None:
        print({name: round(float(value), 4) for name, value in scores.items()}, flush=True)

    if args.queries:
        asked, found = (x[: args.queries], labels[: args.queries]), (x[args.queries :], labels[args.queries :])
        report("float32 product", partial(product, asked[0], found[0]))
        wall = time.perf_counter()
        show(report("retrieval", partial(retrieval, *asked, *found, ks=KS)))
        wall = time.perf_counter() - wall
        print(f"all {args.images:,} against themselves: {wall * args.images / args.queries:,.0f} s")
        return

    report("float32 product", partial(product, x, x))
    show(report("retrieval", partial(retrieval, x, labels, ks=KS)))
    report("float32 product, again", partial(product, x, x))
    if args.peers:
        for peer in (pytorch_metric_learning_without_recall, pytorch_metric_learning, open_metric_learning):
            show(report(peer.__name__, partial(peer, x, labels)))

    if args.clustering:
        for init in ("random", "k-means++"):
            clusters = report(f"k-means, {init}", partial(kmeans, x, args.classes, init=init, iterations=20))
            agreement = nmi(labels, clusters.assignments), pairwise_f1(labels, clusters.assignments)
            print(f"objective {clusters.objective:.1f}, NMI {agreement[0]:.4f}, F1 {agreement[1]:.4f}", flush=True)
        assignments, objective = report("k-means, faiss", partial(faiss_kmeans, x, args.classes, 20))
        print(f"objective {objective:.1f}, NMI {nmi(labels, assignments):.4f}", flush=True)


if __name__ == "__main__":
    main()
