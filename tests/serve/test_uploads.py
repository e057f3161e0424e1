"""Hostile uploads, on the wire."""

import socket
import time

import numpy as np
import pytest
from hostile import NOISE, REFUSED, SOUND, black
from support import encoded

from nearkin.data import Preprocessing
from nearkin.serve.problems import Problem
from nearkin.serve.uploads import MOST_BYTES, MOST_PIXELS, uploaded

KINDS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"]


@pytest.fixture(scope="module")
def read(decoders):
    """Decode an upload as a search does."""

    def decode(data):
        with uploaded(data, decoders) as file:
            return decoders.square(file, Preprocessing(32))

    return decode


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_sound_picture_is_refused_in_one_line(server, refused, what):
    data, status, line = REFUSED[what]
    for type in ("image/png", "application/octet-stream", "text/html"):
        refused(server.post("/api/search", content=data, headers={"content-type": type}), status, line)
    refused(server.post("/api/search", content=data, params={"crop": "0,0,1,1"}), status, line)
    refused(server.post("/api/preview", content=data), status, line)


@pytest.mark.parametrize("what", SOUND)
def test_what_is_a_picture_and_more_is_a_picture(server, what):
    start = time.monotonic()
    answer = server.post("/api/search", content=SOUND[what])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "alert" not in answer.text
    assert time.monotonic() - start < 10


def test_a_bomb_is_small_and_never_decoded(decoders):
    assert len(black(60_000, 60_000, 100)) < 10_000
    with pytest.raises(Problem, match="60,000 x 60,000"), uploaded(black(60_000, 60_000, 100), decoders):
        pytest.fail("it would have been decoded")


def test_the_limit_itself_is_let_in(monkeypatch, read):
    assert MOST_PIXELS == 50_000_000
    monkeypatch.setattr("nearkin.serve.uploads.MOST_PIXELS", 90 * 120)
    assert read(encoded(NOISE, "PNG")).shape == (32, 32, 3)
    with pytest.raises(Problem, match="120 x 91 pixels"):
        read(encoded(NOISE.resize((120, 91)), "PNG"))


def pieces(size):
    for _ in range(size // 2**16):
        yield bytes(2**16)


@pytest.mark.parametrize("content", [bytes(21 * 2**20), pieces(21 * 2**20), pieces(64 * 2**20)], ids=type)
def test_bodies_that_are_too_large(server, refused, content):
    refused(server.post("/api/search", content=content), 413, "the body is too large, the limit is 20 MB")


def test_a_body_at_the_limit_is_looked_at(server, refused):
    refused(server.post("/api/search", content=bytes(MOST_BYTES)), 415, "not a picture")


def exchange(server, data, then=b""):
    """Send bytes as they are; what comes back until the server closes."""
    with socket.create_connection((server.base_url.host, server.base_url.port), timeout=30) as connection:
        connection.sendall(data)
        connection.sendall(then)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


@pytest.mark.parametrize("length", [b"-1", b"1e9", b"+5", b"9" * 19, b"9" * 5000, b"0x10", "²".encode("latin-1")])
def test_lengths_that_are_none(server, length):
    head = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + length + b"\r\n\r\n"
    status = exchange(server, head).split(b"\r\n")[0]
    assert status.split()[1] in (b"400", b"413"), status


def test_a_length_that_is_a_lie(served):
    """Less than comes: the rest is no request, for which uvicorn hangs up. More: nobody is there to be answered."""
    head = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    answer = exchange(served.client, head % 10, bytes(100))
    assert not answer or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 415 "))
    exchange(served.client, head % 1000, bytes(10))
    assert served.client.get("/api/health").status_code == 200
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_anywhere_is_one_line_or_a_picture(read, kind):
    random = np.random.default_rng(0)
    sound = encoded(NOISE.resize((12, 9)), kind)
    refusals = []
    for _ in range(150):
        damaged = np.frombuffer(sound, np.uint8).copy()
        places = random.integers(min(len(sound), 200), size=random.integers(1, 6))
        damaged[places] = random.integers(256, size=len(places))
        try:
            read(damaged.tobytes())
        except Problem as problem:
            refusals.append(problem)
    assert len(refusals) > 5
    assert {problem.status for problem in refusals} <= {413, 415}
    assert not [problem.line for problem in refusals if "\n" in problem.line]


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_too_early_is_one_line(read, kind):
    sound = encoded(NOISE, kind)
    assert read(sound).std() > 10
    for tenth in range(1, 10):
        with pytest.raises(Problem, match="the upload cannot be used") as raised:
            read(sound[: len(sound) * tenth // 10])
        assert raised.value.status == 415
        assert "\n" not in raised.value.line
