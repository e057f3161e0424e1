"""A catalogue in LanceDB: time to write, to index and to search, beside exact search and what was found of it.

    python benchmarks/catalog.py                    50,000 pictures
    python benchmarks/catalog.py --pictures 200000

The embeddings are made up: a random network of two layers maps points around class centres, of 32 dimensions, to unit
vectors of 512, as trained networks map pictures to vectors of few intrinsic dimensions. Queries are other points of the
same classes. They are written through nearkin's own store as `nearkin index` does, in groups, with a thumbnail each.
A query alone and all of them in one batch are timed with what is told of each hit; recall@10 is the share of the ten
exactly nearest that are found.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nearkin.catalog.lance import LanceStore
from nearkin.catalog.look import AT_ONCE
from nearkin.catalog.store import Entry, Found, Record, Table, Vectors, id_of

SIZE = 512
DIMENSIONS = 32  # intrinsic
OF_A_CLASS = 20
QUERIES, ALONE, K = 1_000, 300, 10
THUMBNAIL = 4_000  # bytes


def embeddings(pictures: int, queries: int) -> tuple[Vectors, Vectors]:
    """Unit vectors (n, SIZE) and queries (q, SIZE), of the same classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(pictures // OF_A_CLASS, 1), DIMENSIONS, generator=generator)
    first = torch.randn(DIMENSIONS, 256, generator=generator)
    second = torch.randn(256, SIZE, generator=generator)

    def draw(number: int) -> Vectors:
        of = torch.randint(len(centres), (number,), generator=generator)
        points = centres[of] + 0.5 * torch.randn(number, DIMENSIONS, generator=generator)
        return np.asarray(F.normalize((points @ first).relu() @ second))

    return draw(pictures), draw(queries)


def entries(vectors: Vectors) -> Iterator[list[Entry]]:
    """As pictures, in the groups in which they are written."""
    random = np.random.default_rng(0)
    for start in range(0, len(vectors), AT_ONCE):
        group = []
        for i in range(start, min(start + AT_ONCE, len(vectors))):
            path = f"/photos/class-{i // OF_A_CLASS:05d}/{i:07d}.jpg"
            content = random.bytes(32).hex()
            record = Record(id_of(path), path, f"class-{i // OF_A_CLASS:05d}", False, content, 100_000, f"100000 {i} 0")
            group.append(Entry(record, random.bytes(THUMBNAIL), vectors[i]))
        yield group


def exact(vectors: Vectors, queries: Vectors) -> list[set[int]]:
    """The K nearest of each query, by the inner products of all."""
    found = []
    for some in torch.from_numpy(queries).split(100):
        found += (some @ torch.from_numpy(vectors).T).topk(K).indices.tolist()
    return [set(each) for each in found]


def report(name: str, vectors: Vectors, queries: Vectors, truth: list[set[int]], table: Table) -> None:
    """Print what single queries and a batch take, and their recall."""
    place = {id_of(f"/photos/class-{i // OF_A_CLASS:05d}/{i:07d}.jpg"): i for i in range(len(vectors))}

    def found(hits: list[list[Found]]) -> float:
        of = [len({place[near.id] for near in each} & true) for each, true in zip(hits, truth, strict=False)]
        return sum(of) / K / len(of)

    alone, hits = each_alone(lambda query: table.nearest(query[None], K)[0], queries[:ALONE])
    batch = clock()
    together = table.nearest(queries, K)
    batch = clock() - batch
    print(
        f"{name:<16} recall@{K} {found(hits):.3f}, a query {np.median(alone):6.2f} ms (95 % within "
        f"{np.quantile(alone, 0.95):6.2f}); {len(queries):,} in a batch {batch:6.2f} s, recall {found(together):.3f}",
        flush=True,
    )


def each_alone(search: Callable[[Vectors], list], queries: Vectors) -> tuple[list[float], list]:
    """Milliseconds of each query, and what it found."""
    search(queries[0])  # what is loaded on first use
    times, hits = [], []
    for query in queries:
        start = clock()
        hits.append(search(query))
        times.append(1000 * (clock() - start))
    return times, hits


clock = time.perf_counter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50_000)
    args = parser.parse_args()

    vectors, queries = embeddings(args.pictures, QUERIES)
    truth = exact(vectors, queries)
    with tempfile.TemporaryDirectory() as folder:
        table = LanceStore(Path(folder)).table("pictures", SIZE)
        start = clock()
        for group in entries(vectors):
            table.put(group)
        written = clock() - start
        start, processor = clock(), time.process_time()
        table.settle()
        settled, processor = clock() - start, time.process_time() - processor
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        raw = vectors.nbytes + args.pictures * THUMBNAIL
        print(
            f"{args.pictures:,} x {SIZE}: written in {written:.1f} s, indexed in {settled:.1f} s "
            f"({processor:.1f} s of all processors); "
            f"{size / 1e6:,.0f} MB, of which vectors and thumbnails {raw / 1e6:,.0f} MB",
            flush=True,
        )
        report("nearkin", vectors, queries, truth, table)
    gallery = torch.from_numpy(vectors)
    alone, _ = each_alone(lambda query: (gallery @ torch.from_numpy(query)).topk(K).indices.tolist(), queries[:ALONE])
    start = clock()
    exact(vectors, queries)
    print(
        f"{'exact, in memory':<16} recall@{K} 1.000, a query {np.median(alone):6.2f} ms (95 % within "
        f"{np.quantile(alone, 0.95):6.2f}); {QUERIES:,} in a batch {clock() - start:6.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
