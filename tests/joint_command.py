"""nearkin, started by torchrun: it ends with 70 if threads of Gloo outlive the group that they work for.

Such a thread aborts the process if it gives back the memory of the last exchange while the interpreter ends.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from nearkin import cli


def threads_of_gloo():
    """Of those that work for a group: how many this process has."""
    names = []
    for file in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            names.append(file.read_text().strip())
    return names.count("pt_gloo_runloop")


def counted(destroy):
    def counting():
        working = threads_of_gloo()
        destroy()
        if not working or threads_of_gloo():
            sys.stderr.write(f"{working} threads of Gloo, and behind the end of their group {threads_of_gloo()}\n")
            os._exit(70)
        ended.append(working)

    return counting


if __name__ == "__main__":
    ended = []
    dist.destroy_process_group = counted(dist.destroy_process_group)
    try:
        cli.main()
    finally:
        if not ended:
            sys.stderr.write("the threads of Gloo were not looked at\n")
            os._exit(71)
