"""Clients that keep the server waiting, that are too many, or that speak no HTTP: on the wire."""

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import uvicorn
from support import wait_for

from nearkin.serve.guard import HEADERS, Guard
from nearkin.serve.server import config

TICK = 0.02
SHORT = 0.3
GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def listening(monkeypatch):
    """Serve an application as `nearkin serve` does, in a thread, with little patience: its server and its port."""
    monkeypatch.setattr("nearkin.serve.connection.TICK", TICK)
    with ExitStack() as stack:

        def start(app, **patience):
            for name, seconds in patience.items():
                monkeypatch.setattr(f"nearkin.serve.connection.{name}", seconds)
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = uvicorn.Server(config(app))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            wait_for(lambda: server.started)
            return server, listening.getsockname()[1]

        yield start


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def until_closed(connection):
    """What comes until the server hangs up."""
    got = bytearray()
    with suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            got += part
    return bytes(got)


def is_greeted(connection):
    got = b""
    while not got.endswith(b"hello"):
        part = connection.recv(2**16)
        assert part, got
        got += part
    return True


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def drip(connection, data, pause=TICK):
    """Send byte by byte until the server hangs up: how long that took."""
    start = time.monotonic()
    with suppress(OSError):
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)
    return time.monotonic() - start


def test_who_says_nothing_is_cut(listening):
    server, port = listening(hello, ASKED=SHORT)
    start = time.monotonic()
    with connect(port) as silent:
        assert until_closed(silent) == b""
    assert time.monotonic() - start >= SHORT
    wait_for(lambda: not server.server_state.connections)


@pytest.mark.parametrize("before", [b"", GET, 3 * GET, POST + b"Content-Length: 9999\r\n\r\n"], ids=repr)
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(listening, before):
    """The first one, a later one, or what is left of a request that is answered."""
    _, port = listening(hello, ASKED=SHORT)
    with connect(port) as slow:
        slow.sendall(before)
        assert SHORT / 2 < drip(slow, b"x" * 500) < 5


def test_who_asks_in_time_again_and_again_stays(listening):
    _, port = listening(hello, ASKED=SHORT)
    with connect(port) as steady:
        for _ in range(8):
            steady.sendall(GET)
            assert is_greeted(steady)
            time.sleep(SHORT / 4)


def test_work_of_ours_is_waited_for(listening):
    release = threading.Event()

    async def slow(scope, receive, send):
        while not release.is_set():
            await asyncio.sleep(TICK)
        await hello(scope, receive, send)

    _, port = listening(slow, ASKED=SHORT, TAKEN=SHORT)
    with connect(port) as patient:
        patient.sendall(GET)
        time.sleep(3 * SHORT)
        release.set()
        assert is_greeted(patient)


@pytest.mark.parametrize("requests", [1, 2])
def test_an_answer_that_is_not_taken_is_given_up(listening, requests):
    """Of two, the second would wait for its turn to be sent, and hold a place among those that are answered."""

    async def much(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(2**24)})

    guard = Guard(much, None)
    server, port = listening(guard, TAKEN=SHORT, ASKED=SHORT)
    with connect(port) as lazy:
        lazy.sendall(requests * GET)
        wait_for(lambda: server.server_state.connections)
        wait_for(lambda: not server.server_state.connections)
        wait_for(lambda: not guard.running)
        assert len(until_closed(lazy)) < 2**24


def test_an_answer_that_is_taken_slowly_arrives(listening):
    size = 2**24

    async def much(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    _, port = listening(much, ASKED=SHORT, TAKEN=30)
    with connect(port) as slow:
        slow.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        time.sleep(3 * SHORT)
        assert len(until_closed(slow)) > size


def test_more_connections_than_are_allowed_are_told_so(listening, monkeypatch):
    monkeypatch.setattr("nearkin.serve.connection.MOST_CONNECTIONS", 3)
    server, port = listening(hello)
    with ExitStack() as stack:
        inside = [stack.enter_context(connect(port)) for _ in range(3)]
        wait_for(lambda: len(server.server_state.connections) == 3)
        for _ in range(5):
            with connect(port) as beyond:
                status, headers, body = answer_of(until_closed(beyond))
            assert status == 503
            assert headers["retry-after"] == "1"
            assert HEADERS.items() <= headers.items()
            assert json.loads(body) == {"detail": "too many connections, come again in a second"}
        for each in inside:
            each.sendall(GET)
            assert is_greeted(each)
        inside[0].close()
        wait_for(lambda: len(server.server_state.connections) == 2)
        with connect(port) as again:
            again.sendall(GET)
            assert is_greeted(again)


def answer_of(data):
    """Status, headers and body."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


NO_HTTP = {
    "garbage": b"\x00\xff garbage \r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xc8\x01" + bytes(200),
    "no version": b"GET /\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n",
    "a target that is not ASCII": b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a header with a space": GET[:-2] + b"A b: c\r\n\r\n",
    "a header without a colon": GET[:-2] + b"nonsense\r\n\r\n",
    "a zero in a header": GET[:-2] + b"A: b\x00c\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "chunks of no size": CHUNKED + b"zz\r\nabc\r\n",
    "chunks of negative size": CHUNKED + b"-5\r\nabc\r\n",
    "chunks of endless size": CHUNKED + 30 * b"f" + b"\r\nabc\r\n",
    "chunks that are longer than said": CHUNKED + b"2\r\nabcdef\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("what", NO_HTTP)
def test_what_is_no_http_is_refused_in_one_line(served, what):
    with connect(served.client.base_url.port) as odd:
        odd.sendall(NO_HTTP[what])
        status, headers, body = answer_of(until_closed(odd))
    assert status == 400
    assert HEADERS.items() <= headers.items()
    assert list(json.loads(body)) == ["detail"]
    assert served.log.read_text() == ""


@pytest.mark.parametrize(
    ("before", "statuses"),
    [
        pytest.param(CHUNKED, [b"400"], id="in its body"),
        pytest.param(CHUNKED.replace(b"127.0.0.1", b"evil.example"), [b"421"], id="while it is refused"),
        pytest.param(GET, [b"200", b"400"], id="once it is answered"),
    ],
)
@pytest.mark.parametrize("garbage", [b"zz\r\ngarbage\r\n\r\n", b"\x00\xff garbage \r\n\r\n"])
def test_garbage_behind_a_request(served, before, statuses, garbage):
    with connect(served.client.base_url.port) as odd:
        odd.sendall(before)
        time.sleep(0.1)
        odd.sendall(garbage)
        assert re.findall(rb"HTTP/1.1 (\d+)", until_closed(odd)) == statuses
    assert served.log.read_text() == ""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + 15_000 * b"a" + GET[5:], 404),
        (b"GET /?" + 15_000 * b"a" + GET[5:], 200),
        (b"GET /%ff%00%zz" + GET[5:], 404),
        (b"GET http://evil.example/" + GET[5:], 404),
        (b"OPTIONS *" + GET[5:], 404),
        (b"CONNECT evil.example:80" + GET[5:], 404),
        (b"TRACE /" + GET[5:], 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421),
        (b"GET / HTTP/1.0\r\n\r\n", 421),
        (GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (GET[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (GET[:-2] + b"Expect: 999\r\n\r\n", 200),
    ],
)
def test_odd_requests(served, data, status):
    with connect(served.client.base_url.port) as odd:
        odd.sendall(data)
        assert answer_of(odd.recv(2**16))[0] == status
    assert served.log.read_text() == ""


@pytest.mark.parametrize("head", [b"GET /", GET[:-2] + b"A: "])
def test_a_head_without_end_is_refused(served, head):
    with connect(served.client.base_url.port) as odd:
        with suppress(OSError):
            odd.sendall(head)
            for _ in range(200):
                odd.sendall(1000 * b"a")
                time.sleep(0.001)
        assert until_closed(odd)[:13] in (b"HTTP/1.1 400 ", b"")  # the line is lost where it crosses what is still sent
    assert served.log.read_text() == ""
