"""nearkin, started by torchrun: it ends with 70 if threads of Gloo would have outlived the group that they work for.

Such a thread aborts the process if it gives back the memory of the last exchange while the interpreter ends.
"""

import os
import sys
from pathlib import Path

import torch.distributed as dist

from nearkin import cli


def threads_of_gloo():
    """Of those that work for a group: how many this process has."""
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    return names.count("pt_gloo_runloop")


def counted(destroy):
    def counting():
        before.append(threads_of_gloo())
        destroy()

    return counting


if __name__ == "__main__":
    before = []
    dist.destroy_process_group = counted(dist.destroy_process_group)
    try:
        cli.main()
    finally:
        left = threads_of_gloo()
        if not before or not before[0] or left:
            sys.stderr.write(f"threads of Gloo: {before} and, behind the end, {left}\n")
            os._exit(70)
