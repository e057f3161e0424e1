"""Processes that this one starts: forked from a server that has imported once what they need, gone when this one is."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext


def forking(preload: str) -> ForkServerContext:
    """What starts processes, cheaply and from any thread. To be called in the main thread.

    A terminal sends Ctrl-C to every process: to the server of these it means nothing, nor to them unless they say so.

    Args:
        preload: Module that is imported before them, and what it imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is ignored now is for good
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return context


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, a kill included."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
