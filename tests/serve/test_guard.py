"""Who is let in, and how many at once: an application behind the guard, in this process."""

import asyncio
import json
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from nearkin.serve.guard import COOKIE, HEADERS, Guard

TOKEN = 'a&b=c"d;e,+%41'


async def echo(scope, receive, send):
    """Answer with the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def client(token=None, hosts=(), **more):
    options = {"base_url": "http://127.0.0.1:8000", "follow_redirects": False, **more}
    return TestClient(Guard(echo, token, hosts), **options)


def test_without_the_token_nothing_but_health(refused):
    outside = client(TOKEN)
    for path in ("/", "/api/search", "/api/openapi.json", "/docs", "/api/healthy", "/api/health/"):
        answer = outside.get(path)
        refused(answer, 401, "expected the token: open /?token=TOKEN, or send Authorization: Bearer TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert HEADERS.items() <= dict(answer.headers).items()
    assert outside.get("/api/health").status_code == 200


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + TOKEN[:-1], "Basic " + TOKEN])
def test_a_wrong_token(shown, refused):
    refused(client(TOKEN).get("/api/search", headers={"authorization": shown}), 401, "expected the token")
    refused(client(TOKEN, cookies={COOKIE: "wrong"}).get("/api/search"), 401, "expected the token")
    refused(client(TOKEN).get("/", params={"token": shown}), 401, "expected the token")


def test_the_token_in_a_header():
    assert client(TOKEN).get("/api/search", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_in_the_address_becomes_a_cookie(refused):
    browser = client(TOKEN)
    answer = browser.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["cache-control"] == "no-store"
    for part in ("Path=/", "HttpOnly", "SameSite=Strict"):
        assert part in answer.headers["set-cookie"]
    assert browser.get("/").status_code == 200
    assert browser.get("/api/search").status_code == 200
    refused(client(TOKEN).get("/api/search", params={"token": TOKEN}), 401, "expected the token")


@pytest.mark.parametrize("cookie", ["", "=", ";;;", f"{COOKIE}", f"{COOKIE}=", "\x00=a", f'{COOKIE}="', "a b=c\xff"])
def test_odd_cookies(cookie, refused):
    refused(client(TOKEN).get("/", headers={"cookie": cookie.encode("latin-1")}), 401, "expected the token")


@pytest.mark.parametrize("other", ['a={"x":1}', "x=a b", "ab[c]=1", 'a="', "=", ""])
def test_the_cookie_counts_beside_those_of_others(other):
    cookie = "; ".join(filter(None, (other, f"{COOKIE}={quote(TOKEN, safe='')}")))
    assert client(TOKEN).get("/", headers={"cookie": cookie}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]:8000", "[::1]"])
def test_own_names(host):
    local = ("127.0.0.1", "localhost", "[::1]")
    assert client(hosts=local).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", ":8000", "127.0.0.1:8000:8000", "[::1"]
)
def test_other_names(host, refused):
    local = ("127.0.0.1", "localhost", "[::1]")
    refused(client(hosts=local).get("/", headers={"host": host}), 421, "this server is not ")


async def ask(guard, receive=None, headers=(), path="/"):
    """What the guard sends for one request."""
    sent = []

    async def nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "query_string": b"", "headers": list(headers), "method": "POST"}
    await guard(scope, receive or nothing, send)
    return sent


def in_pieces(*sizes, pause=0.0):
    """The body of a request that comes in pieces."""
    left = list(sizes)

    async def receive():
        await asyncio.sleep(pause)
        size = left.pop(0)
        return {"type": "http.request", "body": bytes(size), "more_body": bool(left)}

    return receive


def refusal(sent):
    """Status and line of what a guard has sent, which has the headers of all."""
    assert {(name.encode(), value.encode()) for name, value in HEADERS.items()} <= set(sent[0]["headers"])
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"]


def test_above_its_capacity_it_refuses_at_once():
    async def scenario():
        done = asyncio.Event()

        async def slow(scope, receive, send):
            await done.wait()
            await echo(scope, receive, send)

        guard = Guard(slow, None, most_at_once=2)
        inside = [asyncio.create_task(ask(guard)) for _ in range(2)]
        await asyncio.sleep(0)
        async with asyncio.timeout(5):  # those inside are not waited for
            beyond = [await ask(guard) for _ in range(3)]
        assert not any(task.done() for task in inside)
        done.set()
        return beyond, [await task for task in inside], await ask(guard)

    beyond, inside, after = asyncio.run(scenario())
    for sent in beyond:
        assert refusal(sent) == (503, "too many requests at once, come again in a second")
        assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert [sent[0]["status"] for sent in (*inside, after)] == [200, 200, 200]


def test_whoever_fails_gives_the_place_back():
    async def fail(scope, receive, send):
        raise RuntimeError

    guard = Guard(fail, None, most_at_once=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            asyncio.run(ask(guard))


def test_a_refused_body_is_read_for_a_while_and_no_longer(monkeypatch):
    monkeypatch.setattr("nearkin.serve.guard.LINGER", 0.05)
    guard = Guard(echo, "token")
    read = []

    async def some():
        read.append(1)
        return {"type": "http.request", "body": b"x", "more_body": len(read) < 5}

    async def never():
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def silent():
        await asyncio.Event().wait()

    start, body, end = asyncio.run(ask(guard, some))
    assert len(read) == 5
    assert (start["status"], body["more_body"], end["body"]) == (401, True, b"")
    for receive in (never, silent):
        assert asyncio.run(asyncio.wait_for(ask(guard, receive), 5))[0]["status"] == 401


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("nearkin.serve.guard.PATIENCE", 0.1)
    monkeypatch.setattr("nearkin.serve.guard.LINGER", 0.1)
    guard = Guard(echo, None)
    drop_by_drop = in_pieces(*[1] * 10**6, pause=0.01)
    assert refusal(asyncio.run(asyncio.wait_for(ask(guard, drop_by_drop), 5))) == (408, "the body came too slowly")
    assert guard.held == 0
    monkeypatch.setattr("nearkin.serve.guard.SLOWEST", 10)
    steadily = in_pieces(*[1] * 30, pause=0.01)
    assert asyncio.run(ask(guard, steadily))[1]["body"] == b"30", "which takes as long, but comes as fast as is asked"


def test_a_body_is_counted_and_not_believed():
    read = []

    async def much():
        read.append(1)
        return {"type": "http.request", "body": bytes(2**20), "more_body": len(read) < 64}

    sent = asyncio.run(ask(Guard(echo, None), much, [(b"content-length", b"10")]))
    assert refusal(sent) == (413, "the body is too large, the limit is 20 MB")
    assert len(read) == 64, "the rest is read, and lost, for whoever sends it to see the answer"


def test_a_length_and_chunks_are_one_too_many():
    both = [(b"content-length", b"10"), (b"transfer-encoding", b"chunked")]
    assert refusal(asyncio.run(ask(Guard(echo, None), None, both)))[0] == 400


def test_who_sends_slowly_has_no_place_yet():
    async def scenario():
        guard = Guard(echo, None, most_at_once=1)
        slow = [asyncio.create_task(ask(guard, in_pieces(1, 1, pause=0.1))) for _ in range(5)]
        await asyncio.sleep(0.05)
        first = await ask(guard)
        assert not any(task.done() for task in slow)
        return first, await asyncio.gather(*slow)

    first, slow = asyncio.run(scenario())
    assert first[0]["status"] == 200
    assert {sent[0]["status"] for sent in slow} == {200}


def test_bodies_are_bounded_in_sum():
    """Ten that come in at once, a fifth of what may be held each: the fifth and those behind it are too much."""

    async def scenario():
        done = asyncio.Event()

        async def slow(scope, receive, send):
            await done.wait()
            await echo(scope, receive, send)

        guard = Guard(slow, None, most_held=100)
        all_of_them = [asyncio.create_task(ask(guard, in_pieces(10, 15))) for _ in range(10)]
        refused = set()
        async with asyncio.timeout(5):
            while len(refused) < 6:
                refused = {task for task in all_of_them if task.done()}
                await asyncio.sleep(0.001)
        assert guard.held == 100
        done.set()
        answered = [await task for task in all_of_them if task not in refused]
        assert guard.held == 0
        return [task.result() for task in refused], answered, await ask(guard, in_pieces(100))

    refused, answered, after = asyncio.run(scenario())
    assert {refusal(sent) for sent in refused} == {(503, "too many uploads at once, come again in a second")}
    assert [sent[1]["body"] for sent in (*answered, after)] == [b"25"] * 4 + [b"100"]


@pytest.mark.parametrize("sizes", [(5,), (5, 5)])
def test_whoever_leaves_while_sending_is_forgotten(sizes):
    async def leave():
        if left:
            return {"type": "http.request", "body": bytes(left.pop()), "more_body": True}
        return {"type": "http.disconnect"}

    left = list(sizes)
    guard = Guard(echo, None)
    assert asyncio.run(ask(guard, leave)) == [], "nobody is there to be answered"
    assert (guard.held, guard.running) == (0, 0)


def test_whoever_fails_gives_back_what_is_held():
    async def fail(scope, receive, send):
        raise RuntimeError

    guard = Guard(fail, None)
    with pytest.raises(RuntimeError):
        asyncio.run(ask(guard, in_pieces(10)))
    assert guard.held == 0
