"""What stands between the network and the application: who may ask, how many at once, size of bodies, headers.

Plain ASGI: it sees every request before any of it is read. A request has its place among those that are answered once
its body is there: whoever sends slowly holds a connection, and no place.
"""

import asyncio
import hmac
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, quote, unquote

from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearkin.serve.problems import Problem
from nearkin.serve.uploads import MOST_BYTES

MOST_AT_ONCE = 128
"""Requests that are being answered; those beyond are told at once to come again."""

MOST_HELD = 10 * MOST_BYTES
"""Bytes of bodies, in sum, that are coming in or being answered; beyond, requests are told to come again."""

PATIENCE = 20.0
"""Seconds that a body may take to come in."""

SLOWEST = 2**16
"""Bytes of a body for which it may take a second more: an upload at its limit has five minutes."""

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
        most_held: As `MOST_HELD`.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        hosts: Sequence[str] = (),
        most_at_once: int = MOST_AT_ONCE,
        most_held: int = MOST_HELD,
    ) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)
        self.most_at_once, self.most_held = most_at_once, most_held
        self.running = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        assert scope["type"] == "http"

        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # of the answer, uvicorn leaves the body out
        body = Body(self, receive)
        try:
            self.check(scope)
            if self.token is not None and scope["path"] == "/" and "token" in query(scope):
                await welcome(self.token, send_with_headers)
                return
            await body.read()
            self.check_places()
            await self.answer(scope, body.replay(), send_with_headers)
        except Problem as problem:
            body.forget()
            await refuse(problem, body, send_with_headers)
        except ClientDisconnect:
            pass  # nobody is there to be answered
        except asyncio.CancelledError:  # which uvicorn would log as a fault of ours
            if not begun:
                body.more = False  # there is no time to read the rest
                stopping = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the server is being stopped")
                await refuse(stopping, body, send_with_headers)
        finally:
            body.forget()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running -= 1

    def check(self, scope: Scope) -> None:
        """Let a request pass.

        Raises:
            Problem: Not this one.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if self.hosts and host not in self.hosts:
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, f"this server is not {host or 'without a name'}")
        if self.token is not None and scope["path"] != "/api/health" and not self.knows(scope, headers):
            raise Problem(
                HTTPStatus.UNAUTHORIZED, "expected the token: open /?token=TOKEN, or send Authorization: Bearer TOKEN"
            )
        if headers.keys() >= {"content-length", "transfer-encoding"}:  # a proxy before us may believe the other one
            raise Problem(HTTPStatus.BAD_REQUEST, "a request has a content-length or comes in chunks, not both")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Problem(HTTPStatus.BAD_REQUEST, "content-length is no number")
        if int(length) > MOST_BYTES:
            raise too_large()
        self.check_places()

    def check_places(self) -> None:
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


class Body:
    """The body of a request in memory, up to the limits, whatever its length was said to be.

    Args:
        guard: Counts the bytes of all of them.
        receive: Where it comes from.
    """

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.guard, self.receive, self.more = guard, receive, True
        self.data, self.held = bytearray(), 0

    async def read(self) -> None:
        """Read all of it.

        Raises:
            Problem: Too large, too slow, or more than can be held beside the others.
            ClientDisconnect: Whoever sends it has gone.
        """
        until = asyncio.get_running_loop().time() + PATIENCE
        while self.more:
            try:
                async with asyncio.timeout_at(until):
                    chunk = await self.next()
            except TimeoutError as error:
                raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the body came too slowly") from error
            self.data += chunk
            self.held += len(chunk)
            self.guard.held += len(chunk)
            until += len(chunk) / SLOWEST
            if self.held > MOST_BYTES:
                raise too_large()
            if self.guard.held > self.guard.most_held:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads at once, come again in a second")

    async def next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.more = message.get("more_body", False)
        return bytes(message.get("body", b""))

    def replay(self) -> Receive:
        """For the application: what was read in one piece, then whatever comes."""
        data = bytes(self.data)
        self.data.clear()  # it counts as held, but not twice
        read = iter([{"type": "http.request", "body": data, "more_body": False}])

        async def receive() -> Message:
            return next(read, None) or await self.receive()

        return receive

    def forget(self) -> None:
        """Give back what is held."""
        self.data.clear()
        self.guard.held -= self.held
        self.held = 0

    async def skip(self) -> None:
        """Read what comes of the rest in a while."""
        with suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(LINGER):
                while self.more:
                    await self.next()


def query(scope: Scope) -> dict[str, list[str]]:
    """What stands behind the question mark of the address."""
    return parse_qs(scope["query_string"].decode("latin-1"))


def too_large() -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is too large, the limit is {MOST_BYTES // 2**20} MB")


async def refuse(problem: Problem, body: Body, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": problem.body, "more_body": True})
    await body.skip()
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
