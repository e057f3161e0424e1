"""A catalogue that changes while it is served."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from support import wait_for

from nearkin.catalog import Catalog, index, name, upgrade
from nearkin.catalog.store import id_of
from nearkin.serve.live import Live


def test_a_label_given_while_serving_is_seen(client_of, own, photos):
    client = client_of(own / "catalog")
    similar = f"/api/similar/{id_of(str(photos[-1]))}?label=new"
    assert client.get(similar).json()["hits"] == []
    wait_for(lambda: client.get("/api/map").json()["quality"] == "good", seconds=60)
    places = client.get("/api/map").json()["x"]
    name(own / "catalog", "new", photos[:3])
    assert {hit["path"] for hit in client.get(similar).json()["hits"]} == {f"class-00/0{i}.png" for i in range(3)}
    on_map = client.get("/api/map").json()
    assert on_map["labels"].count(on_map["names"].index("new")) == 3
    assert (on_map["quality"], on_map["x"]) == ("good", places), "no place has changed"


def test_a_picture_added_while_serving_is_found_and_mapped(client_of, own, photos):
    client = client_of(own / "catalog")
    wait_for(lambda: client.get("/api/map").json()["quality"] == "good", seconds=60)
    shutil.copy(photos[0], own / "new.png")
    name(own / "catalog", "new", [own / "new.png"])
    id = id_of(str(own / "new.png"))
    assert client.get("/api/health").json()["pictures"] == 63
    found = client.post("/api/search", content=photos[0].read_bytes(), params={"k": 2}).json()
    assert id in [hit["id"] for hit in found["hits"]]
    assert id in client.get("/api/map").json()["ids"]


def test_another_model_is_taken_up_without_an_error(client_of, own, photos):
    client = client_of(own / "catalog")
    paths = ["/api/health", f"/api/similar/{id_of(str(photos[0]))}", f"/api/thumbnail/{id_of(str(photos[0]))}"]
    before = client.get("/api/health").json()["model"]
    answers, changed = [], threading.Event()

    def keep_asking():
        while not changed.is_set():
            answers.extend(client.get(path).status_code for path in paths)
            answers.append(client.post("/api/search", content=photos[0].read_bytes()).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        done = upgrade(own / "catalog", own / "other")
        enough = len(answers) + 20
        wait_for(lambda: len(answers) > enough or not asking.is_alive(), seconds=30)
    finally:
        changed.set()
        asking.join()
    assert done.embedded == 62
    assert len(answers) > 20
    assert set(answers) == {200}
    health = client.get("/api/health").json()
    assert health["model"] != before
    assert health["pictures"] == 62
    (first, *_) = client.get(paths[1]).json()["hits"]
    (_, expected) = Catalog.open(own / "catalog").search(photos[0], 2)  # the first is the picture itself
    assert (first["id"], first["distance"]) == (expected.id, pytest.approx(expected.distance, abs=1e-3))
    assert client.get(paths[1]).json()["threshold"] is None, "the other model does not know one"
    assert client.get("/api/map").json()["total"] == 62


@pytest.mark.slow
def test_a_server_goes_over_to_the_next_model_by_itself(serving, own, photos):
    """Both are processes of their own, as a person has them; one upgrade is killed on its way."""
    upload, ids = photos[0].read_bytes(), [id_of(str(photo)) for photo in photos[:2]]
    command = [sys.executable, "-m", "nearkin", "index", "--upgrade", own / "other", "--catalog", own / "catalog"]
    answers, enough = [], threading.Event()

    def keep_asking(address):
        with httpx.Client(base_url=address, timeout=60) as client:
            while not enough.is_set():
                for path in ("/api/health", "/api/map", f"/api/similar/{ids[0]}", f"/api/thumbnail/{ids[0]}"):
                    answers.append(client.get(path))
                answers.append(client.post("/api/search", content=upload))
                answers.append(client.post(f"/api/why/{ids[0]}", params={"from": ids[1]}))

    def model(client):
        return client.get("/api/health").json()["model"]

    with serving(own / "catalog") as served:
        before = model(served.client)
        asking = threading.Thread(target=keep_asking, args=(served.address,))
        asking.start()
        try:
            killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(lambda: len(list((own / "catalog" / "models").iterdir())) == 2, seconds=60)
            killed.kill()
            killed.wait()
            assert model(served.client) == before
            subprocess.run(command, check=True, capture_output=True)
            wait_for(lambda: model(served.client) != before)
            told = served.client.post("/api/search", content=upload).json()
            assert len(told["hits"]) == 24
            assert told["threshold"] is None, "the other model does not know one"
            asked = len(answers)
            wait_for(lambda: len(answers) > asked + 12, seconds=60)
        finally:
            enough.set()
            asking.join()
    assert {answer.status_code for answer in answers} == {200}, {answer.text for answer in answers if answer.is_error}


def test_a_catalogue_that_is_gone(client_of, own, refused, photos):
    client = client_of(own / "catalog")
    shutil.rmtree(own / "catalog")
    line = "the catalogue cannot be opened any more"
    refused(client.get("/api/health"), 503, line)
    refused(client.post("/api/search", content=photos[0].read_bytes()), 503, line)
    refused(client.get("/api/map"), 503, line)


def test_a_catalogue_made_anew_in_its_place_is_the_one_that_answers(client_of, made, own, photos):
    for each in photos[:5]:  # so many versions that the new one is behind them
        name(own / "catalog", "name", [each])
    client, before = client_of(own / "catalog"), Catalog.open(own / "catalog").description
    shutil.rmtree(own / "catalog")
    fewer = photos[0].parent
    index(own / "catalog", made / "run", fewer)
    assert Catalog.open(own / "catalog").description == before
    assert client.get("/api/health").json()["pictures"] == len(list(fewer.iterdir()))
    found = client.post("/api/search", content=photos[0].read_bytes()).json()
    assert found["hits"][0]["id"] == id_of(str(photos[0]))


def test_the_map_outlives_the_process_that_lays_it_out(own, photos):
    live = Live(str(own / "catalog"))
    try:
        live.map()
        for pid in list(live.maps.worker._processes):
            os.kill(pid, signal.SIGKILL)
        wait_for(live.maps.better.done, seconds=20)
        assert live.ask(live.maps.current).quality == "quick"
        shutil.copy(photos[0], own / "new.png")
        name(own / "catalog", "new", [own / "new.png"])
        assert len(live.ask(live.maps.current).ids) == 63
        wait_for(lambda: live.ask(live.maps.current).quality == "good", seconds=60)
    finally:
        live.close()
    assert live.maps.worker is None
