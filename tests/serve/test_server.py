"""`nearkin serve` from the command line."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from support import wait_for


@pytest.fixture
def other_port():
    """One that another listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "127.0.0.2", "example.org"])
def test_another_address_needs_a_token(nearkin, made, host):
    status, out, error = nearkin("serve", made / "catalog", "--host", host)
    assert (status, out) == (2, "")
    assert error.startswith("nearkin: --host ")
    assert error.endswith(" lets others in: set NEARKIN_TOKEN or add --token SECRET, or listen on 127.0.0.1\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--token", ""], "a token (--token, NEARKIN_TOKEN) is printable ASCII without spaces"),
        (["--token", "a b"], "a token (--token, NEARKIN_TOKEN) is printable ASCII without spaces"),
        (["--token", "é"], "a token (--token, NEARKIN_TOKEN) is printable ASCII without spaces"),
        (["--port", "70000"], "cannot listen on 127.0.0.1:70000 (bind(): port must be 0-65535.)"),
        (["--port", "-1"], "cannot listen on 127.0.0.1:-1 (bind(): port must be 0-65535.)"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--host", "192.0.2.1", "--token", "x"], "cannot listen on 192.0.2.1:8000 (Cannot assign requested address)"),
        (["--host", "no.invalid", "--token", "x"], "cannot listen on no.invalid:8000 ("),
    ],
)
def test_what_cannot_be_served_is_one_line(nearkin, made, options, line):
    status, out, error = nearkin("serve", made / "catalog", *options)
    assert (status, out) == (2, "")
    assert error.startswith(f"nearkin: {line}")
    assert error.count("\n") == 1


def test_a_port_in_use(nearkin, made, other_port):
    status, out, error = nearkin("serve", made / "catalog", "--port", other_port)
    assert (status, out) == (2, "")
    assert error == (
        f"nearkin: cannot listen on 127.0.0.1:{other_port} (Address already in use); "
        "name another with --host or --port\n"
    )


def test_no_catalogue(nearkin, tmp_path):
    status, _, error = nearkin("serve", tmp_path)
    assert status == 2
    assert error.startswith("nearkin: expected a catalogue, but ")


def test_it_listens_on_this_machines_own_address_alone(server):
    assert server.base_url.host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.base_url.port))


def descendants(pid):
    """Ids of the processes that a process has started, and that these have."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = {int(child) for thread in threads for child in thread.read_text().split()}
    return children.union(*(descendants(child) for child in children))


def test_nothing_outlives_a_server_that_is_killed(serving, own, photos):
    with serving(own / "catalog") as served:
        served.client.post("/api/search", content=photos[0].read_bytes())
        served.client.get("/api/map")
        wait_for(lambda: len(descendants(served.process.pid)) >= 4)  # who forks, who watches, a decoder, the map's
        started = descendants(served.process.pid)
        served.process.kill()
        served.process.wait()
        wait_for(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()])


@pytest.mark.slow
def test_a_service_is_told_to_stop(serving, own):
    with serving(own / "catalog") as served:
        served.client.get("/api/map")
        started = descendants(served.process.pid)
        served.process.terminate()
        assert served.process.wait(timeout=20) == 0
        wait_for(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()])


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_all_and_none_complains(serving, own, photos):
    with serving(own / "catalog", start_new_session=True) as served:
        served.client.post("/api/search", content=photos[0].read_bytes())
        served.client.get("/api/map")
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.process.wait(timeout=20) == 0


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_nobody(serving, own):
    """Neither for a request nor for the map, whose process never ends by itself here."""
    with serving(own / "catalog") as served:
        before = descendants(served.process.pid)
        served.client.get("/api/map")
        wait_for(lambda: len(descendants(served.process.pid)) > len(before))
        for pid in descendants(served.process.pid) - before:
            os.kill(pid, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", served.client.base_url.port)) as waiting:
            waiting.sendall(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
            time.sleep(0.2)
            served.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert served.process.poll() is None
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(timeout=4) == 0
            assert waiting.recv(2**16).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    ("token", "options", "line"),
    [
        ("a b", ["--host", "192.0.2.1"], "a token (--token, NEARKIN_TOKEN) is printable ASCII without spaces"),
        ("a b", ["--host", "192.0.2.1", "--token", "x"], "cannot listen on 192.0.2.1:8000"),
        ("x", ["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
        ("x", ["--host", "192.0.2.1", "--token", "a b"], "a token (--token, NEARKIN_TOKEN) is printable ASCII"),
        ("", ["--host", "192.0.2.1"], "--host 192.0.2.1 lets others in: set NEARKIN_TOKEN or add --token SECRET"),
    ],
)
def test_a_token_of_the_environment_counts_where_no_option_does(nearkin, made, monkeypatch, token, options, line):
    monkeypatch.setenv("NEARKIN_TOKEN", token)
    status, _, error = nearkin("serve", made / "catalog", *options)
    assert status == 2
    assert error.startswith(f"nearkin: {line}")


def test_with_a_token_from_start_to_stop(serving, own, refused):
    """It is told to nobody, and Ctrl-C is how the server is meant to be stopped."""
    token = 'a&b=c"d;+%41'
    with serving(own / "catalog", "--host", "0.0.0.0", env={**os.environ, "NEARKIN_TOKEN": token}) as served:
        client = served.client
        port = client.base_url.port
        refused(client.get(f"http://127.0.0.2:{port}/api/map"), 401, "expected the token")
        answer = client.get("/", params={"token": token})
        assert answer.status_code == 303
        assert client.get("/").status_code == 200
        assert client.get("/api/map").json()["total"] == 62
        started = [served.process.pid, *descendants(served.process.pid)]
        assert not [pid for pid in started if token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert not [pid for pid in started[1:] if token.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=20) == 0
        told = served.process.stdout.read()
    assert "?token=TOKEN" in told
    assert token not in told + served.log.read_text()
