"""Time and memory of the losses with `chunk_size`, beside the matrix products that they cannot do without.

    python benchmarks/losses_in_chunks.py                          N = 1,024 to 65,536, a chunk of 512 rows: an hour
    python benchmarks/losses_in_chunks.py --sizes 65536 --losses RankedListLoss AngularLoss

The products are (N, D) x (D, N), and for the gradient (N, N) x (N, D): once where the matrix of slopes is symmetric or
the gallery constant, else twice. They are timed in the same chunks, into memory that is used again, and above 16,384
rows for every eighth chunk. Memory is the peak of the process above what it held, the inputs included. Linux only.
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nearkin import losses

D, PER_CLASS = 512, 4
PRODUCTS = {  # of the three; samples per class where it is not four
    "ContrastiveLoss": 2,
    "DDMLLoss": 2,
    "RankedListLoss": 2,
    "NPairLoss": 3,
    "LiftedStructureLoss": 3,
    "AngularLoss": 3,
    "NPairAngularLoss": 3,
    "MarginLoss": 3,
    "TripletLoss": 3,
    "SemihardTripletLoss": 3,
    "AngularHingeLoss": 3,
}


def measure(call: Callable[[], object]) -> tuple[float, float, float]:
    """Wall and CPU seconds of a call, and the peak of memory above the start in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu, memory("VmHWM") - before


def memory(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def products(x: Tensor, chunk: int, count: int) -> tuple[float, float]:
    """Wall and CPU seconds of the products, two or three."""
    starts = range(0, len(x), chunk * (8 if len(x) > 16_384 else 1))
    rows, by_row, by_column = x.new_empty(chunk, len(x)), x.new_empty(chunk, D), torch.zeros_like(x)

    def some() -> None:
        for start in starts:
            torch.mm(x[start : start + chunk], x.T, out=rows)
            torch.mm(rows, x, out=by_row)
            if count == 3:
                by_column.addmm_(rows.T, x[start : start + chunk])

    wall, cpu, _ = measure(some)
    share = len(starts) * chunk / len(x)
    return wall / share, cpu / share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16_384, 65_536], help="N")
    parser.add_argument("--losses", nargs="+", default=list(PRODUCTS), choices=list(PRODUCTS), metavar="LOSS")
    parser.add_argument("--chunk-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"D = {D}, {PER_CLASS} per class, float32, {args.threads} threads, chunks of {args.chunk_size}", flush=True)
    print(f"{'loss':22}{'N':>7}{'s':>9}{'CPU s':>9}{'products':>10}{'/ products':>12}{'CPU / CPU':>11}{'+ MB':>8}")
    for n in args.sizes:
        torch.manual_seed(0)
        y = torch.arange(n) // PER_CLASS
        x = torch.randn(n, D) / D**0.5  # about unit length, in weak classes
        x = (x + 0.3 * x[y * PER_CLASS]).requires_grad_()
        for name in args.losses:
            loss = getattr(losses, name)(chunk_size=args.chunk_size)
            loss(x[:64], y[:64]).backward()  # load everything that is loaded on first use
            x.grad = None

            def step(loss: torch.nn.Module = loss, x: Tensor = x, y: Tensor = y) -> None:
                loss(x, y).backward()

            before = products(x.detach(), args.chunk_size, PRODUCTS[name])
            wall, cpu, peak = measure(step)
            after = products(x.detach(), args.chunk_size, PRODUCTS[name])
            x.grad = None
            floor, floor_cpu = ((a + b) / 2 for a, b in zip(before, after, strict=True))
            print(
                f"{name:22}{n:7}{wall:9.2f}{cpu:9.2f}{PRODUCTS[name]:10}{wall / floor:12.2f}{cpu / floor_cpu:11.2f}"
                f"{peak:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
