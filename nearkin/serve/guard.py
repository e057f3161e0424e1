"""What stands between the network and the application: size of bodies, who may ask, how many at once, headers.

Plain ASGI: it sees every request before any of it is read.
"""

import asyncio
import hmac
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, quote, unquote

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearkin.serve.problems import Problem
from nearkin.serve.uploads import MOST_BYTES

MOST_AT_ONCE = 128
"""Requests that are being answered; those beyond are told at once to come again."""

PATIENCE = 120.0
"""Seconds within which a body has to be there: whoever is slower would hold a place for nothing."""

LINGER = 5.0
"""Seconds that a refused body is still read for: a client that is cut off while it sends never sees why."""

COOKIE = "nearkin_token"

HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """An application behind limits.

    Args:
        app: What answers.
        token: What a request has to show; None lets all in.
        hosts: Names under which the server may be asked; empty allows all. A page elsewhere that has its own name
            resolve to this machine (DNS rebinding) does not know one of these.
        most_at_once: As `MOST_AT_ONCE`.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, hosts: Sequence[str] = (), most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self.app, self.token, self.hosts, self.most_at_once = app, token, frozenset(hosts), most_at_once
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["type"] == "http"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self.check(scope, headers)
        except Problem as problem:
            await refuse(problem, receive, send_with_headers)
            return
        if self.token is not None and scope["path"] == "/" and "token" in query(scope):
            await welcome(self.token, send_with_headers)
            return
        self.running += 1
        try:
            await self.app(scope, Limited(receive), send_with_headers)
        finally:
            self.running -= 1

    def check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Let a request pass.

        Raises:
            Problem: Not this one.
        """
        host = re.sub(r":\d*$", "", headers.get("host", ""))
        if self.hosts and host not in self.hosts:
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, f"this server is not {host or 'without a name'}")
        if self.token is not None and scope["path"] != "/api/health" and not self.knows(scope, headers):
            raise Problem(
                HTTPStatus.UNAUTHORIZED, "expected the token: open /?token=TOKEN, or send Authorization: Bearer TOKEN"
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Problem(HTTPStatus.BAD_REQUEST, "content-length is no number")
        if int(length) > MOST_BYTES:
            raise too_large()
        if self.running >= self.most_at_once:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once, come again in a second")

    def knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether a request shows the token: in its header, in the cookie, or, to the page alone, in its address."""
        assert self.token is not None
        shown = [headers.get("authorization", "").removeprefix("Bearer ")]
        # Others on this machine set cookies, too, and not all of them as SimpleCookie would have them.
        shown += [unquote(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))]
        if scope["path"] == "/":
            shown += query(scope).get("token", [])
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in shown)


class Limited:
    """The body of a request, up to the limits, whatever its length was said to be."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.bytes = receive, 0
        self.until = asyncio.get_running_loop().time() + PATIENCE

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.receive()
        except TimeoutError as error:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT, f"the body was not there within {PATIENCE:.0f} seconds"
            ) from error
        self.bytes += len(message.get("body", b""))
        if self.bytes > MOST_BYTES:
            raise too_large()
        return message


def query(scope: Scope) -> dict[str, list[str]]:
    """What stands behind the question mark of the address."""
    return parse_qs(scope["query_string"].decode("latin-1"))


def too_large() -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is too large, the limit is {MOST_BYTES // 2**20} MB")


async def refuse(problem: Problem, receive: Receive, send: Send) -> None:
    body = json.dumps({"detail": problem.line}).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the body then is not read
    ]
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", b"1"))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


async def welcome(token: str, send: Send) -> None:
    """Keep the token in a cookie and take it out of the address, where others might read it."""
    kept = f"{COOKIE}={quote(token, safe='')}; Path=/; HttpOnly; SameSite=Strict"
    headers = [
        (b"location", b"/"),
        (b"set-cookie", kept.encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
