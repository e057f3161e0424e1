"""Hostile uploads, on the wire."""

import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support import encoded

from nearkin.serve.problems import Problem
from nearkin.serve.uploads import MOST_BYTES, MOST_PIXELS, read_upload

NOISE = Image.fromarray(np.random.default_rng(2).integers(256, size=(90, 120, 3), dtype=np.uint8))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height, rows):
    """A PNG of grey pixels, zeros, of which only some rows are there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif_bomb():
    """A GIF of one by one pixels with a frame of 65,535 x 65,535."""
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x44\x01\x00\x3b"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"


def many_scans():
    """A progressive JPEG whose last scan comes 500 times: each is work for all of the picture."""
    sound = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    last = sound.rindex(b"\xff\xda")
    return sound[:last] + 500 * sound[last:-2] + sound[-2:]


REFUSED = {
    "too many scans": (many_scans(), 415, "the JPEG has more than 100 scans"),
    "nothing": (b"", 400, "expected a picture, got an empty body"),
    "an SVG": (SVG, 415, "the upload cannot be used: not a picture"),
    "HTML": (HTML, 415, "not a picture"),
    "zeros": (bytes(100), 415, "not a picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "not a picture"),
    "a PNG's name alone": (b"\x89PNG\r\n\x1a\n", 415, "the upload cannot be used"),
    "HTML that begins as a PNG": (b"\x89PNG\r\n\x1a\n" + HTML, 415, "the upload cannot be used"),
    "half a PNG": (encoded(NOISE, "PNG")[:9000], 415, "truncated"),
    "half a JPEG": (encoded(NOISE, "JPEG")[:2000], 415, "truncated"),
    "half a WebP": (encoded(NOISE, "WEBP")[:2000], 415, "the upload cannot be used"),
    "half a TIFF": (encoded(NOISE, "TIFF")[:2000], 415, "the upload cannot be used"),
    "a bomb": (bomb(60_000, 60_000, 100), 413, "the picture has 60,000 x 60,000 pixels, the limit is 50 megapixels"),
    "a whole bomb": (bomb(10_000, 6_000, 6_000), 413, "the picture has 10,000 x 6,000 pixels"),
    "a bomb of a GIF": (gif_bomb(), 415, "the upload cannot be used"),
    "a bomb of a PPM": (b"P6 60000 60000 255\n", 413, "60,000 x 60,000"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_sound_picture_is_refused_in_one_line(server, refused, what):
    data, status, line = REFUSED[what]
    for type in ("image/png", "application/octet-stream", "text/html"):
        refused(server.post("/api/search", content=data, headers={"content-type": type}), status, line)
    refused(server.post("/api/search", content=data, params={"crop": "0,0,1,1"}), status, line)
    refused(server.post("/api/preview", content=data), status, line)


def test_a_bomb_is_small_and_never_decoded(monkeypatch):
    assert len(bomb(60_000, 60_000, 100)) < 10_000
    monkeypatch.setattr("nearkin.serve.uploads.read_image", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(Problem, match="60,000 x 60,000"):
        read_upload(bomb(60_000, 60_000, 100))


def test_the_limit_itself_is_let_in(monkeypatch):
    assert MOST_PIXELS == 50_000_000
    monkeypatch.setattr("nearkin.serve.uploads.MOST_PIXELS", 90 * 120)
    assert read_upload(encoded(NOISE, "PNG")).shape == (90, 120, 3)
    with pytest.raises(Problem, match="120 x 91 pixels"):
        read_upload(encoded(NOISE.resize((120, 91)), "PNG"))


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


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is damaged
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_damage_anywhere_is_one_line_or_a_picture(kind):
    random = np.random.default_rng(0)
    sound = encoded(NOISE.resize((12, 9)), kind)
    refusals = []
    for _ in range(150):
        damaged = np.frombuffer(sound, np.uint8).copy()
        places = random.integers(min(len(sound), 200), size=random.integers(1, 6))
        damaged[places] = random.integers(256, size=len(places))
        try:
            read_upload(damaged.tobytes())
        except Problem as problem:
            refusals.append(problem)
    assert len(refusals) > 5
    assert {problem.status for problem in refusals} <= {413, 415}
    assert not [problem.line for problem in refusals if "\n" in problem.line]
