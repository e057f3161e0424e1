"""`nearkin serve`: uvicorn on one address, until Ctrl-C."""

import logging
import signal
import socket
from contextlib import closing, suppress
from pathlib import Path

import torch
import uvicorn
from starlette.types import ASGIApp

from nearkin.errors import InputError
from nearkin.serve.app import create_app
from nearkin.serve.connection import ASKED, Connection
from nearkin.serve.guard import Guard
from nearkin.serve.live import Live

log = logging.getLogger("nearkin")

BACKLOG = 128
"""Connections that wait to be accepted. All of them are at once, before the first is counted: with many, a process runs
out of files."""

LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")


def serve(
    where: str, host: str = "127.0.0.1", port: int = 8000, token: str | None = None, run: Path | None = None
) -> None:
    """Serve a catalogue until the process is told to stop.

    Args:
        where: Place of the catalogue.
        host: Address to listen on.
        port: Its port; 0 takes a free one.
        token: What requests have to show; needed for any address but this machine's own.
        run: Folder of the model's run, if the catalogue cannot find it.

    Raises:
        InputError: There is no catalogue; the address cannot be listened on, or is open to others without a token.
    """
    if token is None and host not in LOCAL:
        raise InputError(
            f"--host {host} lets others in: set NEARKIN_TOKEN or add --token SECRET, or listen on 127.0.0.1"
        )
    if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
        raise InputError("a token (--token, NEARKIN_TOKEN) is printable ASCII without spaces; choose another")
    live = Live(where, run)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    host = host.strip("[]")
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)  # before the address is told: whoever asks at once waits
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot listen on {host}:{port} ({reason}); name another with --host or --port"
            ) from error
        port = listening.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print(f"{live.catalog.table.count():,} pictures at {address}", flush=True)
        if token is not None:  # which is not printed: this may go to a log
            print("it lets in who opens it with ?token=TOKEN once, or sends Authorization: Bearer TOKEN", flush=True)
        print("Ctrl-C stops it", flush=True)
        app = Guard(create_app(live), token, LOCAL if token is None else ())
        torch.set_num_threads(1)  # requests run side by side
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service is stopped as a person stops it
        with closing(live), suppress(KeyboardInterrupt):
            uvicorn.Server(config(app)).run(sockets=[listening])


def config(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves it."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="error",  # its warnings are of what clients send, who then could fill a disk
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(ASKED),
        timeout_graceful_shutdown=5,
    )
