import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nearkin.data import download
from nearkin.data.download import RemoteFile, fetch
from nearkin.errors import InputError
from nearkin.progress import Bar

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """One file over real HTTP. Each request takes the next of `behaviours`; afterwards all goes well."""

    url: str
    content: bytes = CONTENT
    behaviours: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)

    def answer(self, handler):
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        behaviour, _, number = (self.behaviours.pop(0) if self.behaviours else "well").partition(" ")
        if behaviour == "status":
            return handler.send_error(int(number))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour != "whole" else 0
        if start >= len(self.content):
            return handler.send_error(416)
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            first = 0 if behaviour == "elsewhere" else start
            handler.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Type", "text/html" if behaviour == "page" else "application/gzip")
        if behaviour == "chunked":
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.write(b"100000\r\n" + body[:200_000])  # promises 1 MB, and is gone
        else:
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if behaviour == "slowly":
                with suppress(ConnectionError):
                    for i in range(0, len(body), 50_000):
                        handler.wfile.write(body[i : i + 50_000])
                        time.sleep(0.05)
            else:
                handler.wfile.write(body[: int(number)] if number else body)
        handler.close_connection = True
        return None


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            shown.answer(self)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shown = Server(f"http://127.0.0.1:{http.server_port}/file.tgz")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield shown
    http.shutdown()
    thread.join()
    http.server_close()


def file_at(*urls, md5=MD5):
    return RemoteFile("file.tgz", md5, "https://example.org/record", urls)


def listing(root):
    return sorted(path.name for path in root.iterdir())


def test_a_download_is_whole_and_takes_its_name_at_the_end(server, tmp_path):
    path = fetch(file_at(server.url), tmp_path, Bar)
    assert path == tmp_path / "file.tgz"
    assert path.read_bytes() == CONTENT
    assert listing(tmp_path) == ["file.tgz"]
    assert server.ranges == [None]


def test_a_connection_cut_in_the_middle_goes_on_where_it_stopped(server, tmp_path):
    server.behaviours = ["cut 700000", "cut 1200000", "chunked"]
    assert fetch(file_at(server.url), tmp_path, Bar).read_bytes() == CONTENT
    assert server.ranges[:3] == [None, "bytes=700000-", "bytes=1900000-"]
    assert len(server.ranges) == 4
    assert 2_000_000 < int(server.ranges[3][6:-1]) <= 2_100_000


def test_what_an_earlier_command_left_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:2_999_000])
    assert fetch(file_at(server.url), tmp_path, Bar).read_bytes() == CONTENT
    assert server.ranges == ["bytes=2999000-"]


def test_a_part_that_is_already_whole_is_recognised(server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT)
    assert fetch(file_at(server.url), tmp_path, Bar).read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000000-"]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    (tmp_path / "file.tgz.part").write_bytes(b"x" * 1000)
    server.behaviours = ["whole"]
    assert fetch(file_at(server.url), tmp_path, Bar).read_bytes() == CONTENT


def test_a_server_that_begins_anew_and_breaks_off_each_time_is_given_up(server, tmp_path):
    server.behaviours = ["whole 500000"] * 50
    with pytest.raises(InputError, match=r"broke off after 500,000 bytes\): run the command again"):
        fetch(file_at(server.url), tmp_path, Bar)
    assert len(server.ranges) == 2
    assert listing(tmp_path) == ["file.tgz.part"]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("status 404", "the server answers 404 Not Found"),
        ("status 503", "the server answers 503 Service Unavailable"),
        ("page", "sends a web page in place of the file"),
        ("elsewhere", "was asked for the bytes from 1,000 on and sends others"),
    ],
)
def test_an_address_that_fails_leaves_what_is_there_and_the_next_one_is_tried(server, tmp_path, behaviour, message):
    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1000])
    server.behaviours = [behaviour]
    with pytest.raises(InputError, match=message) as failed:
        fetch(file_at(server.url), tmp_path, Bar)
    assert f"bring file.tgz (md5 {MD5}) from https://example.org/record into {tmp_path}" in str(failed.value)
    assert (tmp_path / "file.tgz.part").read_bytes() == CONTENT[:1000]
    server.behaviours = [behaviour]
    assert fetch(file_at(server.url, server.url), tmp_path, Bar).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1000-"


def test_no_network_names_the_file_to_bring(tmp_path):
    with pytest.raises(
        InputError, match=r"http://127.0.0.1:9/f: .*refused.* bring file.tgz \(md5 .*\) from https://example.org"
    ):
        fetch(file_at("http://127.0.0.1:9/f"), tmp_path, Bar)
    with pytest.raises(InputError, match=r"nowhere.invalid.*bring file.tgz \(md5 .*\) from https://example.org"):
        fetch(file_at("http://nowhere.invalid/f"), tmp_path, Bar)
    assert listing(tmp_path) == []


def test_a_server_that_falls_silent_is_a_broken_connection(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # accepts, never answers
    with pytest.raises(InputError, match="timed out"):
        fetch(file_at(f"http://127.0.0.1:{silent.server_port}/f"), tmp_path, Bar)
    silent.server_close()


def test_a_download_with_another_md5_is_removed_and_says_both(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    found = hashlib.md5(server.content).hexdigest()
    with pytest.raises(InputError, match=f"expected md5 {MD5}, found {found}; removed.*run the command again"):
        fetch(file_at(server.url), tmp_path, Bar)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("content", [CONTENT[:1000], b"", CONTENT[::-1]])
def test_a_wrong_file_that_the_user_brought_is_left_alone(server, tmp_path, content):
    (tmp_path / "file.tgz").write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    message = rf"file.tgz: expected md5 {MD5}, found {found} \({len(content):,} bytes\).*move it away"
    with pytest.raises(InputError, match=message):
        fetch(file_at(server.url), tmp_path, Bar)
    assert (tmp_path / "file.tgz").read_bytes() == content
    assert server.ranges == []


def test_a_right_file_that_the_user_brought_needs_no_network(tmp_path):
    (tmp_path / "file.tgz").write_bytes(CONTENT)
    assert fetch(file_at("http://127.0.0.1:9/f"), tmp_path, Bar) == tmp_path / "file.tgz"


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_where_it_was(server, tmp_path):
    server.behaviours = ["slowly"]
    command = (
        "import sys, pathlib; from nearkin.data.download import *; from nearkin.progress import Bar;"
        "fetch(RemoteFile('file.tgz', sys.argv[1], 'x', (sys.argv[2],)), pathlib.Path(sys.argv[3]), Bar)"
    )
    process = subprocess.Popen([sys.executable, "-c", command, MD5, server.url, str(tmp_path)])
    part = tmp_path / "file.tgz.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 500_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 500_000 < have < len(CONTENT)
    assert fetch(file_at(server.url), tmp_path, Bar).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-"]


def test_progress_counts_megabytes_from_where_it_goes_on(server, tmp_path):
    bars = []

    class Seen(Bar):
        def __init__(self, what, total, done=0):
            super().__init__(what, total, done)
            bars.append(self)

    (tmp_path / "file.tgz.part").write_bytes(CONTENT[:1_500_000])
    fetch(file_at(server.url), tmp_path, Seen)
    assert [(bar.what, bar.total, bar.first, bar.done) for bar in bars] == [("file.tgz, MB", 3, 1, 3)]
