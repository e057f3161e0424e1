"""What the server answers on the wire, beside the catalogue asked directly."""

import base64
import gzip
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from support import encoded, wait_for

from nearkin.catalog import name
from nearkin.catalog.answers import certainty
from nearkin.catalog.store import id_of
from nearkin.serve.guard import HEADERS
from nearkin.serve.uploads import MOST_BYTES

NOISE = Image.fromarray(np.random.default_rng(2).integers(256, size=(90, 120, 3), dtype=np.uint8))


def same(told, answer):
    """Check that what was told is the answer that the catalogue gives itself."""
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in answer.hits]
    assert [hit["label"] for hit in told["hits"]] == [hit.label for hit in answer.hits]
    assert [hit["match"] for hit in told["hits"]] == [hit.match for hit in answer.hits]
    np.testing.assert_allclose(
        [hit["distance"] for hit in told["hits"]], [hit.distance for hit in answer.hits], 1e-4, 1e-6
    )
    assert told["threshold"] == answer.threshold
    assert told["names"] == [{"label": label, "votes": votes} for label, votes in answer.names]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_search_is_the_catalogues_own(server, catalog, kind):
    upload = encoded(NOISE, kind)
    answer = server.post("/api/search", content=upload)
    assert answer.status_code == 200
    same(answer.json(), catalog.search(upload, 24))


def test_a_search_takes_number_label_crop_and_rate(server, catalog):
    upload = encoded(NOISE, "PNG")
    asked = {"k": 7, "label": "class-03", "crop": "10,20,50,60", "false_matches": 0.4}
    told = server.post("/api/search", content=upload, params=asked).json()
    same(told, catalog.search(upload, 7, "class-03", (10, 20, 50, 60), 0.4))
    assert len(told["hits"]) == 7
    assert {hit["label"] for hit in told["hits"]} == {"class-03"}
    whole = server.post("/api/search", content=upload, params={**asked, "crop": "0,0,120,90"}).json()
    assert told["hits"] != whole["hits"]
    assert told["threshold"] > server.post("/api/search", content=upload).json()["threshold"]


def test_an_answer_says_what_its_threshold_rests_on(server, catalog, photos):
    told = server.post("/api/search", content=photos[0].read_bytes(), params={"false_matches": 0.2}).json()
    assert told["certainty"] == certainty(catalog.search(photos[0], 24, false_matches=0.2), catalog.calibration)
    assert "about 20 % should find one, by 6 classes held out of the training" in told["certainty"]


def test_of_a_path_two_names_are_told(server, photos, made):
    answer = server.post("/api/search", content=photos[0].read_bytes())
    first = answer.json()["hits"][0]
    assert first["path"] == "class-00/00.png"
    assert first["distance"] < 1e-3
    assert str(made) not in answer.text


def test_an_upload_that_the_catalogue_holds_does_not_vote_for_itself(server, catalog, photos):
    upload = photos[12].read_bytes()
    told = server.post("/api/search", content=upload).json()
    same(told, catalog.search(upload, 24))
    assert [hit["id"] for hit in told["hits"] if hit["itself"]] == [id_of(str(photos[12]))]
    assert sum(name["votes"] for name in told["names"]) == sum(hit["match"] for hit in told["hits"]) - 1


def test_similar_pictures_are_those_of_the_embedding_that_is_there(server, catalog, photos):
    id = id_of(str(photos[12]))
    (entry,) = catalog.table.entries([id])
    told = server.get(f"/api/similar/{id}", params={"k": 5}).json()
    with_itself = catalog.nearest(entry.vector, 6)
    assert with_itself[0].id == id
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in with_itself[1:]]
    same(told, catalog.nearest(entry.vector, 5, but=id))
    votes = sum(name["votes"] for name in told["names"])
    assert votes == sum(hit.match for hit in with_itself) - 1, "a picture does not vote for itself"


def test_similar_to_a_part_of_a_picture(server, catalog, photos):
    told = server.get(f"/api/similar/{id_of(str(photos[12]))}", params={"crop": "8,8,24,32", "label": "class-02"})
    same(told.json(), catalog.search(photos[12], 24, "class-02", (8, 8, 24, 32)))


def test_why_tells_the_regions_of_both(server, photos):
    hit, query = id_of(str(photos[3])), id_of(str(photos[44]))
    told = server.post(f"/api/why/{hit}", params={"from": query}).json()
    assert list(told) == ["query", "hit"]
    for side in told.values():
        share = np.array(side["share"])
        assert share.shape == (4, 4)
        assert share.min() >= 0
        assert share.max() == 1
        assert side["region"] == [0, 0, 1, 1]
    upload = server.post(f"/api/why/{hit}", content=photos[44].read_bytes()).json()
    assert upload == told
    other_way = server.post(f"/api/why/{query}", params={"from": hit}).json()
    assert other_way["query"] == told["hit"]
    part = server.post(f"/api/why/{hit}", params={"from": query, "crop": "0,0,20,20"}).json()
    assert part["query"]["share"] != told["query"]["share"]


def test_the_map_is_quick_and_then_good(client_of, own, catalog):
    client = client_of(own / "catalog")
    first = client.get("/api/map")
    quick = first.json()
    assert quick["quality"] == "quick"
    labels = {record.id: record.label for record in catalog.table.records()}
    assert quick["ids"] == sorted(labels)
    assert quick["total"] == len(labels) == 62
    assert [quick["names"][i] for i in quick["labels"]] == [labels[id] for id in quick["ids"]]
    assert first.headers["content-encoding"] == "gzip"
    plain = client.get("/api/map", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers

    wait_for(lambda: client.get("/api/map").json()["quality"] == "good", seconds=60)
    second = client.get("/api/map", headers={"if-none-match": first.headers["etag"]})
    good = second.json()
    assert second.status_code == 200
    assert good["ids"] == quick["ids"]
    assert good["x"] != quick["x"]
    for each in (quick, good):
        spans = [max(each[axis]) - min(each[axis]) for axis in "xy"]
        assert max(spans) == pytest.approx(2, abs=1e-3)
    third = client.get("/api/map", headers={"if-none-match": second.headers["etag"]})
    assert third.status_code == 304
    assert third.content == b""
    assert third.headers["etag"] == second.headers["etag"]


def test_another_servers_map_has_another_tag(client_of, own, photos):
    one = client_of(own / "catalog").get("/api/map").headers["etag"]
    name(own / "catalog", "odd", photos[:1])
    assert client_of(own / "catalog").get("/api/map").headers["etag"] != one


def test_the_map_is_packed_for_the_wire(served):
    with served.client.stream("GET", "/api/map") as answer:
        raw = b"".join(answer.iter_raw())
    assert json.loads(gzip.decompress(raw))["total"] == 62


def test_pictures_are_shown_upright_small_and_anew(server, made):
    id = id_of(str(made / "photos" / "class-00" / "turned.jpg"))
    assert server.get(f"/api/size/{id}").json() == {"width": 600, "height": 1500}
    for path, size in ((f"/api/picture/{id}", (410, 1024)), (f"/api/thumbnail/{id}", (64, 160))):
        answer = server.get(path)
        assert answer.headers["content-type"] == "image/jpeg"
        image = Image.open(io.BytesIO(answer.content))
        assert (image.format, image.size) == ("JPEG", size)
        assert not image.getexif()


def test_an_upload_is_shown_as_any_browser_can(server, made):
    turned = (made / "photos" / "class-00" / "turned.jpg").read_bytes()
    found = server.post("/api/preview", content=turned).json()
    assert (found["width"], found["height"]) == (600, 1500)
    kind, _, data = found["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (410, 1024))


def test_a_script_in_a_picture_is_never_served(server, made, polyglot):
    assert b"alert" in polyglot
    id = id_of(str(made / "photos" / "class-01" / "script.gif"))
    for path in ("picture", "thumbnail"):
        answer = server.get(f"/api/{path}/{id}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8\xff")
        assert b"alert" not in answer.content
    shown = server.post("/api/preview", content=polyglot).json()["image"]
    assert b"alert" not in base64.b64decode(shown.partition(",")[2])
    found = server.post("/api/search", content=polyglot, headers={"content-type": "text/javascript"})
    assert found.json()["hits"][0]["path"] == "class-01/script.gif"
    assert found.headers["content-type"] == "application/json"


def test_health(server, catalog):
    health = {"status": "ok", "pictures": 62, "model": catalog.model.sha256[:12], "classes": 6, "held_out": True}
    assert server.get("/api/health").json() == health
    described = server.get("/api/openapi.json").json()["components"]["schemas"]["Health"]
    assert described["properties"].keys() == health.keys()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/api/health", 200), ("/api/map", 200), ("/api/nothing", 404), ("/api/search", 405)],
)
def test_only_the_head_of_an_answer(server, path, status):
    head, whole = server.head(path), server.get(path)
    assert head.status_code == status
    assert head.content == b"" != whole.content
    assert head.headers.items() - {("date", head.headers["date"])} <= whole.headers.items()
    assert HEADERS.items() <= dict(head.headers).items()


@pytest.mark.parametrize("path", ["/api/similar/{}", "/api/thumbnail/{}", "/api/picture/{}", "/api/size/{}"])
def test_no_such_picture(server, refused, path):
    refused(server.get(path.format("0" * 32)), 404, "the catalogue holds no such picture")
    for id in ("0" * 31, "0" * 33, "A" * 32, "..%2f..%2fetc%2fpasswd", "%00" * 32):
        refused(server.get(path.format(id)), 404 if "%2f" in id else 422, "")


def test_why_of_no_such_picture(server, refused, photos):
    there, not_there = id_of(str(photos[0])), "0" * 32
    refused(server.post(f"/api/why/{not_there}", params={"from": there}), 404, "the catalogue holds no such picture")
    refused(server.post(f"/api/why/{there}", params={"from": not_there}), 404, "the catalogue holds no such picture")
    refused(server.post(f"/api/why/{there}", params={"from": "x"}), 422, "from: ")
    refused(server.post(f"/api/why/{there}"), 400, "expected a picture, got an empty body")


@pytest.mark.parametrize("what", ["gone", "damaged"])
def test_files_that_are_gone_or_damaged_since(client_of, own, refused, what):
    file = own / "soon.png"
    NOISE.save(file)
    name(own / "catalog", "soon", [file])
    id, client = id_of(str(file)), client_of(own / "catalog")
    assert client.get(f"/api/picture/{id}").status_code == 200
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000])
    line = "the file of soon.png is gone or damaged since it was indexed"
    for path in (f"/api/picture/{id}", f"/api/similar/{id}?crop=0,0,9,9"):
        refused(client.get(path), 404, line)
    if what == "gone":
        refused(client.get(f"/api/size/{id}"), 404, line)
    else:  # it looks no farther than the header
        assert client.get(f"/api/size/{id}").json() == {"width": NOISE.width, "height": NOISE.height}
    refused(client.post(f"/api/why/{id}?from={id}"), 404, line)
    assert client.get(f"/api/thumbnail/{id}").status_code == 200, "these are in the catalogue itself"
    assert len(client.get(f"/api/similar/{id}").json()["hits"]) == 24


@pytest.mark.parametrize(
    "label",
    [
        "",
        "' OR '1'='1",
        "class-00' --",
        "class-00\\",
        "\\' OR 1=1 --",
        "\0",
        "class-00\0",
        "%",
        "\n",
        "\u202e",
        "🙂" * 99,
    ],
)
def test_a_label_is_a_value_and_nothing_else(server, label):
    answer = server.get(f"/api/similar/{'0' * 32}", params={"label": label})
    assert answer.status_code == 404
    answer = server.post("/api/search", content=encoded(NOISE, "PNG"), params={"label": label})
    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"] == []


@pytest.mark.parametrize("label", ["O'Hara", 'a"; DROP TABLE x; --', "\\", "<img src=x onerror=alert(1)>", "猫\u202e"])
def test_hostile_labels_are_found_and_told_as_they_are(client_of, own, photos, label):
    name(own / "catalog", label, [photos[5]])
    client = client_of(own / "catalog")
    (hit,) = client.get(f"/api/similar/{id_of(str(photos[6]))}", params={"label": label}).json()["hits"]
    assert (hit["id"], hit["label"]) == (id_of(str(photos[5])), label)
    assert label in client.get("/api/map").json()["names"]


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("k=0", "k: Input should be greater than or equal to 1"),
        ("k=201", "k: Input should be less than or equal to 200"),
        ("k=many", "k: Input should be a valid integer"),
        ("k=1e400", "k: "),
        ("false_matches=0", "false_matches: Input should be greater than 0"),
        ("false_matches=1", "false_matches: Input should be less than 1"),
        ("false_matches=nan", "false_matches: "),
        ("false_matches=inf", "false_matches: "),
        ("crop=all", "crop: String should match pattern"),
        ("crop=1,2,3", "crop: "),
        ("crop=1,2,3,-4", "crop: "),
        ("crop=1,2,3,4,5", "crop: "),
        ("crop=1,2,3,4%0a", "crop: "),
        ("crop=%D9%A1,2,3,4", "crop: "),  # a digit, but Arabic
        (f"label={'x' * 1001}", "label: String should have at most 1000 characters"),
    ],
)
def test_parameters_out_of_range(server, refused, photos, query, line):
    refused(server.post(f"/api/search?{query}", content=photos[0].read_bytes()), 422, line)
    refused(server.get(f"/api/similar/{id_of(str(photos[0]))}?{query}"), 422, line)


@pytest.mark.parametrize("crop", ["0,0,49,48", "48,0,1,1", "0,0,0,5", "999999,999999,999999,999999"])
def test_crops_outside_the_picture(server, refused, photos, crop):
    line = f"expected a crop x,y,w,h inside the picture of 48 x 48 pixels, got {crop}"
    id = id_of(str(photos[0]))
    refused(server.post("/api/search", content=photos[0].read_bytes(), params={"crop": crop}), 400, line)
    refused(server.get(f"/api/similar/{id}", params={"crop": crop}), 400, line)
    refused(server.post(f"/api/why/{id}", params={"from": id, "crop": crop}), 400, line)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/assets/app.py", 404),
        ("GET", "/assets/..%2fapp.py", 404),
        ("GET", "/assets/%2e%2e/app.py", 404),
        ("GET", "/assets//etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/api/search", 405),
        ("DELETE", "/api/health", 405),
        ("OPTIONS", "/api/search", 405),
    ],
)
def test_what_is_not_there(server, refused, method, path, status):
    refused(server.request(method, path), status, "")


def test_every_answer_has_the_headers_and_none_allows_another_site(server, photos):
    id = id_of(str(photos[0]))
    paths = ["/", "/docs", "/api/openapi.json", "/assets/page.css", "/favicon.ico", "/api/health", "/api/map"]
    paths += [f"/api/{what}/{id}" for what in ("similar", "thumbnail", "picture", "size")]
    answers = [server.get(path, headers={"origin": "http://evil.example"}) for path in paths]
    assert {answer.status_code for answer in answers} == {200, 204}
    preflight = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answers += [
        server.get("/api/nothing"),
        server.get("/api/health", headers={"host": "evil.example"}),
        server.post("/api/search"),
        server.post("/api/search?k=0", content=b"x"),
        server.options("/api/search", headers=preflight),
        server.post("/api/search", content=b"x" * (MOST_BYTES + 1)),
    ]
    assert [answer.status_code for answer in answers[-6:]] == [404, 421, 400, 422, 405, 413]
    for answer in answers:
        assert HEADERS.items() <= dict(answer.headers).items()
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers


def test_the_pages_ask_nobody_else(server):
    for page in ("/", "/docs"):
        named = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", server.get(page).text)
        assert named
        for each in named:
            assert re.match(r"/(?!/)|#|data:", each), each
            if each.startswith("/"):
                assert server.get(each).is_success


def test_what_goes_wrong_inside_is_one_line(client_of, own, monkeypatch, refused):
    def fail(self):
        raise RuntimeError(f"a secret of {own}")

    client = client_of(own / "catalog")
    monkeypatch.setattr("nearkin.serve.live.Live.health", fail)
    client._transport.raise_server_exceptions = False
    answer = client.get("/api/health")
    refused(answer, 500, "something went wrong here; the server's terminal shows what")
    assert HEADERS.items() <= dict(answer.headers).items()
