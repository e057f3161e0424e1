"""Indexing on a Ray cluster: actors on its machines look at groups of pictures, and this process writes.

An actor that dies is started again, and its group is looked at once more: what is written is the same. The pictures and
the run have to lie under the same path on every machine.
"""

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nearkin.catalog.look import AT_ONCE, Job, Seen, prepare, see
from nearkin.catalog.store import Record, id_of
from nearkin.embed import load
from nearkin.errors import InputError
from nearkin.progress import Bar


class Looker:
    """The actor: reads the pictures of a group and embeds them.

    Args:
        run: Folder of the run whose model embeds.
        moved: As in `look`.
    """

    def __init__(self, run: Path, moved: dict[str, Record]) -> None:
        self.model, self.moved = load(run), moved
        self.threads = ThreadPoolExecutor(os.cpu_count())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Map {"group": pickled jobs and the rows that are known of them} to {"seen": pickled `Seen`}."""
        group, known = pickle.loads(row["group"])
        image = self.model.architecture.image
        results = list(self.threads.map(lambda job: prepare(job, known, self.moved, image), group))
        return {"seen": pickle.dumps(see(self.model, group, results)), "jobs": len(group)}


def look_on_ray(
    address: str, run: Path, jobs: Sequence[Job], known: dict[str, Record], moved: dict[str, Record]
) -> Generator[Seen, None, None]:
    """As `look`, by the actors of a cluster: one for each of its GPUs, or, if it has none, for each CPU.

    Args:
        address: Of the cluster; "auto" finds the one that this machine is in, "local" starts one here.
        run: Folder of the run whose model embeds.
        jobs, known, moved: As in `look`.

    Raises:
        InputError: Ray is not installed, or there is no cluster of this address.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("--ray needs a package that is not here: pip install 'nearkin[ray]'") from error

    no_cluster = f"expected the address of a Ray cluster, HOST:PORT, but none answers at {address}"
    start_one = "start one with ray start --head, or take --ray local"
    host, colon, port = address.rpartition(":")
    if colon:  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise InputError(f"{no_cluster} ({error}); {start_one}") from error
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on actors that may be started again
    try:
        with warnings.catch_warnings():  # LanceDB's, of forks: Ray's are other programs at once
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"{no_cluster}; {start_one}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        kind = "GPU" if resources.get("GPU") else "CPU"
        groups = [jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)]
        rows = []
        for group in groups:
            ids = [id_of(str(job.path)) for job in group]
            rows.append({"group": pickle.dumps((group, {each: known[each] for each in ids if each in known}))})
        actors = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(len(groups), int(resources[kind]))))
        looked_at = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
            Looker,  # type: ignore[arg-type]
            fn_constructor_args=(run.expanduser().resolve(), moved),
            compute=actors,
            num_cpus=1 if kind == "CPU" else None,
            num_gpus=1 if kind == "GPU" else None,
        )
        with Bar("indexing", len(jobs)) as bar:
            for row in looked_at.iter_rows():
                yield pickle.loads(row["seen"])
                bar.advance(row["jobs"])
    finally:
        ray.shutdown()
