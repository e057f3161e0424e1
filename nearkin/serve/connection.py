"""A connection: for how long it may keep the server waiting, how many there may be, and the answer to what is no HTTP.

uvicorn ends a connection that is silent after an answer. For a first request, for the rest of one, and for an answer to
be taken it would wait without end.
"""

import asyncio
from http import HTTPStatus
from math import inf
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nearkin.serve.guard import HEADERS
from nearkin.serve.problems import Problem

MOST_CONNECTIONS = 256
"""Open at the same time; a browser has up to six. Most systems let a process open 1,024
files, and the catalogue needs some."""

ASKED = 10.0
"""Seconds within which the head of a request has to be there, from the opening on or from the answer before."""

TAKEN = 60.0
"""Seconds within which an answer has to be taken, but for what the system holds for the client."""

TICK = 1.0
"""Seconds between two looks."""


class Connection(H11Protocol):
    """uvicorn's, within limits."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waits: tuple[float, Any] = inf, None  # seconds, at most, and the request before which or in which
        self.since = self.loop.time()
        if len(self.connections) > MOST_CONNECTIONS:
            self.refuse(Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections, come again in a second"))
        self.look()

    def look(self) -> None:
        """Cut the connection if it has waited for the client for too long, and look again in a second."""
        if self not in self.connections:
            return
        if self.transport.get_write_buffer_size():
            limit = TAKEN
        elif self.cycle is None or self.cycle.response_complete:
            limit = ASKED
        else:
            limit = inf  # the guard bounds the body, and the rest is ours
        waits, now = (limit, self.cycle), self.loop.time()
        if waits != self.waits:
            self.waits, self.since = waits, now
        if now > self.since + limit:
            self.transport.abort()  # to close it would wait for what is not taken
        else:
            self.loop.call_later(TICK, self.look)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP. uvicorn itself fails where an answer has begun, or has ended before its request."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.refuse(Problem(HTTPStatus.BAD_REQUEST, "this is no valid HTTP request"))
        self.transport.close()

    def refuse(self, problem: Problem) -> None:
        """Answer outside of any request, and hang up."""
        headers = {**problem.headers, **HEADERS}
        lines = [f"HTTP/1.1 {problem.status.value} {problem.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + problem.body)
        self.transport.close()
