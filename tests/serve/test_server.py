"""`nearkin serve` from the command line."""

import signal
import socket

import httpx
import pytest


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
    assert error.endswith(" lets others in: add --token SECRET, or listen on 127.0.0.1\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--token", ""], "--token expects printable ASCII without spaces"),
        (["--token", "a b"], "--token expects printable ASCII without spaces"),
        (["--token", "é"], "--token expects printable ASCII without spaces"),
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


def test_with_a_token_from_start_to_stop(serving, own, refused):
    """The address that is printed lets a browser in, and Ctrl-C is how the server is meant to be stopped."""
    with serving(own / "catalog", "--host", "0.0.0.0", "--token", 'a&b=c"d;+%41') as served:
        client = served.client
        port = httpx.URL(served.address).port
        refused(client.get(f"http://127.0.0.2:{port}/api/map"), 401, "expected the token")
        answer = client.get(served.address)
        assert answer.status_code == 303
        assert client.get(f"http://0.0.0.0:{port}/").status_code == 200
        assert client.get(f"http://0.0.0.0:{port}/api/map").json()["total"] == 62
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=20) == 0
    assert served.log.read_text() == ""
