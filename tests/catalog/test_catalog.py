"""Catalogues from the command line and from Python, kept by LanceDB. What a search has to find is computed anew here,
by comparing embeddings with all others in float64."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from support import write_pictures

import nearkin as nk
from nearkin.catalog import Catalog, indexing, look, upgrade
from nearkin.catalog.catalog import model_of
from nearkin.catalog.lance import LanceStore
from nearkin.data.images import read_image
from nearkin.embed import Model, load

SIDE, SIZE = 24, 16  # as in conftest.py
HIT = {"path", "label", "distance", "match"}


def records(where):
    """What the catalogue that is in use knows, by path."""
    description = json.loads((where / "catalog.json").read_text())
    table = LanceStore(where).table(description["table"], description["model"]["embedding_size"])
    return {record.path: record for record in table.records()}


def entries(where):
    """All that the catalogue holds, by path."""
    description = json.loads((where / "catalog.json").read_text())
    table = LanceStore(where).table(description["table"], description["model"]["embedding_size"])
    return {entry.record.path: entry for entry in table.entries([record.id for record in table.records()])}


def pictures(photos):
    return sorted(photos.rglob("*.png"))


def by_hand(model, query, gallery):
    """Pictures and their distances from an embedding (D,), nearest first."""
    rows = model.embed(gallery).astype(np.float64)
    distances = np.sqrt(((rows - query.astype(np.float64)) ** 2).sum(axis=1))
    return sorted(zip(distances.tolist(), map(str, gallery), strict=True))


def unit(vector):
    return vector / np.linalg.norm(vector)


def agrees(hits, expected):
    """The hits are as far as the expected ones, and each as far as it says: which of equals come first is free."""
    truth = {path: distance for distance, path in expected}
    distances = [hit["distance"] if isinstance(hit, dict) else hit.distance for hit in hits]
    paths = [hit["path"] if isinstance(hit, dict) else hit.path for hit in hits]
    assert len(set(paths)) == len(paths)
    assert distances == pytest.approx([distance for distance, _ in expected[: len(hits)]], abs=2e-4)
    assert distances == pytest.approx([truth[path] for path in paths], abs=2e-4)


def refused(result, *parts):
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.startswith("nearkin: ")
    assert err.count("\n") == 1
    for part in parts:
        assert str(part) in err


def searched(nearkin, where, *more):
    status, out, err = nearkin("search", where, *more, "--json")
    assert status == 0, err
    return json.loads(out)


# Indexing


def test_a_folder_is_walked_to_any_depth(nearkin, run, photos, where, caplog):
    picture = photos / "class-00" / "00.png"
    for place in ("loose.png", "class-01/a/b/c/deep.png", ".hidden.png", ".git/x.png", "class-02/.thumbs/x.png"):
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, photos / place)
    broken = {
        "class-02/empty.png": b"",
        "class-02/cut.png": picture.read_bytes()[:200],
        "notes.txt": b"not a picture",
    }
    for place, content in broken.items():
        (photos / place).write_bytes(content)
    status, out, _ = nearkin("index", run, photos, "--catalog", where)
    assert status == 0
    assert out == f"32 pictures embedded, 0 as they were, 3 unreadable\ncatalogue: {where}\n"
    for place in broken:
        assert any(f"skipped {photos / place}: " in message for message in caplog.messages)
    found = records(where)
    expected = {str(path): path.parent.name for path in photos.glob("class-*/0?.png")}
    expected |= {str(photos / "loose.png"): None, str(photos / "class-01/a/b/c/deep.png"): "class-01"}
    assert {path: record.label for path, record in found.items()} == expected
    assert not any(record.named for record in found.values())


def test_a_catalogue_knows_its_pictures_and_its_model(index, run, photos, where):
    wide = photos / "class-00" / "wide.jpg"
    Image.effect_noise((800, 200), 80).convert("RGB").save(wide)
    index()
    model = load(run)
    description = json.loads((where / "catalog.json").read_text())
    assert description["model"]["sha256"] == model.sha256
    assert description["model"]["image"] == {"size": SIDE, "resize": 28, "fit": "squash"}
    assert description["model"]["embedding_size"] == SIZE
    table = LanceStore(where).table(description["table"], SIZE)
    known = {record.path: record for record in table.records()}
    gallery = [*pictures(photos), wide]
    assert set(known) == set(map(str, gallery))
    entries = {entry.record.path: entry for entry in table.entries([record.id for record in known.values()])}
    for path, vector in zip(gallery, model.embed(gallery), strict=True):
        entry = entries[str(path)]
        assert entry.record.size == path.stat().st_size
        np.testing.assert_allclose(entry.vector, vector, atol=1e-5)
        copy = Image.open(io.BytesIO(entry.thumbnail))
        assert (copy.format, copy.size) == ("JPEG", (160, 40) if path == wide else (32, 32))
    assert len({record.sha256 for record in known.values()}) == 31


def test_what_is_there_is_not_embedded_again(index, photos, embedded, monkeypatch):
    index()
    assert embedded() == 30
    assert index().startswith("0 pictures embedded, 30 as they were\n")
    reads = []
    monkeypatch.setattr(
        look.hashlib,
        "sha256",
        lambda data, original=look.hashlib.sha256: reads.append(len(data)) or original(data),
    )
    assert index().startswith("0 pictures embedded, 30 as they were\n")
    contents = [path.stat().st_size for path in pictures(photos)]
    assert not set(contents) & set(reads), "an untouched file is not even read"
    for path in pictures(photos):
        os.utime(path, (1, 1))
    assert index().startswith("0 pictures embedded, 30 as they were\n")
    assert Counter(contents) <= Counter(reads)
    assert embedded() == 0


def test_a_changed_picture_is_embedded_again(index, photos, where, embedded):
    index()
    embedded()
    changed, other = photos / "class-00" / "00.png", photos / "class-04" / "03.png"
    before = changed.stat()
    shutil.copy(other, changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tools do that keep times
    assert index().startswith("1 picture embedded, 29 as they were\n")
    assert embedded() == 1
    catalog = nk.Catalog.open(where)
    hits = catalog.search(other, k=2).hits
    assert {hit.path for hit in hits} == {str(changed), str(other)}
    assert max(hit.distance for hit in hits) < 1e-3
    assert {hit.label for hit in hits} == {"class-00", "class-04"}


def test_a_picture_that_became_unreadable_stays_as_it_was(index, photos, where, caplog):
    index()
    (photos / "class-00" / "00.png").write_bytes(b"")
    assert index("--prune").startswith("0 pictures embedded, 29 as they were, 1 unreadable\n")
    assert f"skipped {photos / 'class-00' / '00.png'}: empty file" in caplog.messages
    assert len(records(where)) == 30


def test_gone_pictures_leave_on_prune_and_those_of_other_folders_stay(nearkin, index, run, photos, where, tmp_path):
    index()
    others = write_pictures(tmp_path / "photos-of-others", [2], 32)
    assert nearkin("index", run, others, "--catalog", where)[0] == 0
    (photos / "class-00" / "00.png").rename(photos / "class-00" / "new.png")
    shutil.rmtree(photos / "class-01")
    assert index().startswith(
        "0 pictures embedded, 24 as they were, 7 gone, but still in the catalogue (--prune takes them out)\n"
    )
    assert len(records(where)) == 33
    assert index("--prune").startswith("0 pictures embedded, 24 as they were, 7 that are gone removed\n")
    assert set(records(where)) == set(map(str, [*pictures(photos), *pictures(others)]))
    assert index("--prune").startswith("0 pictures embedded, 24 as they were\n")


def test_a_label_follows_the_folder(index, photos, where, embedded):
    index()
    embedded()
    (photos / "class-00").rename(photos / "renamed")
    index("--prune")
    assert Counter(record.label for record in records(where).values())["renamed"] == 6
    assert embedded() == 0


def test_a_picture_that_moved_is_not_embedded_again(nearkin, index, photos, where, embedded):
    index()
    before = entries(where)
    moves = {
        "class-00/00.png": "class-04/deep/new.png",
        "class-01/01.png": "loose.png",
        "class-02/02.png": "\u03a9.jpg",
    }
    for old, new in moves.items():
        (photos / new).parent.mkdir(exist_ok=True)
        (photos / old).rename(photos / new)
    embedded()
    assert index("--prune").startswith("0 pictures embedded, 30 as they were, 3 that are gone removed\n")
    assert embedded() == 0
    after = entries(where)
    assert set(after) == set(map(str, [path for path in photos.rglob("*") if path.is_file()]))
    for old, new in moves.items():
        was, now = before[str(photos / old)], after[str(photos / new)]
        assert np.array_equal(was.vector, now.vector)
        assert was.thumbnail == now.thumbnail
        assert now.record.label == (None if "/" not in new else "class-04")
    assert searched(nearkin, where, photos / "loose.png", "-k", 1)["hits"][0]["path"] == str(photos / "loose.png")


def test_a_whole_folder_that_moved_is_there_once(nearkin, run, photos, where, tmp_path, embedded):
    copies, others = shutil.copytree(photos / "class-01", tmp_path / "copies"), tmp_path / "others"
    write_pictures(others, [2], 31)
    for folder in (photos, copies, others):
        assert nearkin("index", run, folder, "--catalog", where)[0] == 0
    unmounted = pictures(others)
    shutil.rmtree(others)
    assert nearkin("label", where, "mine", photos / "class-01" / "00.png")[0] == 0
    embedded()
    moved = photos.rename(tmp_path / "moved")
    status, out, _ = nearkin("index", run, moved, "--catalog", where)
    assert (status, out.splitlines()[0]) == (
        0,
        "0 pictures embedded, 30 as they were, 30 gone, but still in the catalogue (--prune takes them out)",
    )
    status, out, _ = nearkin("index", run, moved, "--catalog", where, "--prune")
    assert (status, out.splitlines()[0]) == (0, "0 pictures embedded, 30 as they were, 30 that are gone removed")
    assert embedded() == 0
    found = records(where)
    assert set(found) == set(map(str, [*pictures(moved), *pictures(copies), *unmounted]))
    assert found[str(moved / "class-01" / "00.png")].label == "mine"


@pytest.mark.parametrize("command", ["index", "label"])
def test_pictures_that_change_places_keep_their_embeddings_apart(nearkin, index, photos, where, monkeypatch, command):
    """However many are written at once: an embedding is taken only from a row that stays as it is."""
    monkeypatch.setattr(look, "AT_ONCE", 2)
    index()
    before = entries(where)
    first, second, third = (photos / f"class-0{number}" / "00.png" for number in (0, 2, 4))
    first.rename(photos / "aside")
    second.rename(first)
    third.rename(second)
    (photos / "aside").rename(third)
    shutil.copy(second, photos / "copy.png")
    if command == "index":
        index("--prune")
    else:
        assert nearkin("label", where, "mine", *photos.rglob("*.png"))[0] == 0
    after = entries(where)
    assert len(after) == 31
    for old, new in ((first, third), (second, first), (third, second), (third, photos / "copy.png")):
        np.testing.assert_allclose(after[str(new)].vector, before[str(old)].vector, atol=1e-6)
        assert after[str(new)].record.sha256 == before[str(old)].record.sha256


def test_a_persons_label_goes_where_the_picture_goes(nearkin, index, photos, where, embedded):
    index()
    named, other, theirs = photos / "class-00" / "00.png", photos / "loose.png", photos / "class-04" / "05.png"
    shutil.copy(photos / "class-01" / "00.png", other)
    index()
    assert nearkin("label", where, "mine", named)[0] == 0
    assert nearkin("label", where, "theirs", theirs)[0] == 0
    shutil.copy(named, photos / "class-02" / "copy.png")
    index()
    assert records(where)[str(photos / "class-02" / "copy.png")].label == "class-02"
    (photos / "class-02" / "copy.png").unlink()
    embedded()
    for place in (photos / "class-03" / "new.png", other, theirs, photos / "new.png"):  # two are there already
        named = named.rename(place)
        index("--prune")
        assert records(where)[str(place)].label == "mine"
        assert records(where)[str(place)].named
    assert embedded() == 0
    assert nearkin("label", where, "yours", named.rename(photos / "last.png"))[0] == 0
    index("--prune")
    assert {record.label for record in records(where).values() if record.named} == {"yours"}
    assert embedded() == 0


# Searching


@pytest.mark.parametrize("kind", ["jpeg", "turned", "png", "grey", "clear"])
def test_a_picture_is_nearest_to_itself(index, photos, where, kind):
    """However it is decoded: what was embedded is what a search sees."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8))
    picture = noise.resize((1600, 1200), Image.Resampling.BICUBIC)
    path = photos / f"big.{'jpg' if kind in ('jpeg', 'turned') else 'png'}"
    exif = Image.Exif()
    exif[0x0112] = 6
    save = {"turned": {"exif": exif}}.get(kind, {})
    {"grey": picture.convert("L"), "clear": picture.convert("RGBA")}.get(kind, picture).save(path, **save)
    index()
    catalog = nk.Catalog.open(where)
    for query in (path, str(path), path.read_bytes()):
        first = catalog.search(query, k=1).hits[0]
        assert first.path == str(path)
        assert first.distance < 1e-3


def test_hits_are_those_of_a_search_by_hand(catalog, run, photos):
    model, gallery = load(run), pictures(photos)
    for query in gallery[::7]:
        expected = by_hand(model, model.embed([query])[0], gallery)
        hits = catalog.search(query, k=7).hits
        assert len(hits) == 7
        agrees(hits, expected)
        assert [hit.label for hit in hits] == [hit.path.split(os.sep)[-2] for hit in hits]
        everything = catalog.search(query, k=1000).hits
        assert len(everything) == 30
        agrees(everything, expected)


def test_several_pictures_are_one_query(catalog, nearkin, run, photos, where):
    model, gallery = load(run), pictures(photos)
    several = [gallery[0], gallery[8], gallery[9]]
    mean = unit(model.embed(several).mean(axis=0))
    np.testing.assert_allclose(catalog.embed(several), mean, atol=1e-6)
    expected = by_hand(model, mean, gallery)
    hits = catalog.search(several, k=5).hits
    assert hits[0].distance != pytest.approx(by_hand(model, model.embed(several[:1])[0], gallery)[0][0], abs=2e-4)
    agrees(hits, expected)
    agrees(searched(nearkin, where, *several, "-k", 5)["hits"], expected)
    with pytest.raises(ValueError, match="one or more pictures"):
        catalog.search([])


def test_a_crop_is_the_cropped_picture(catalog, nearkin, run, photos, where, tmp_path):
    model, gallery = load(run), pictures(photos)
    query = gallery[13]
    part = read_image(query)[4:24, 10:31]
    expected = by_hand(model, model.embed([part])[0], gallery)
    agrees(catalog.search(query, k=5, crop=(10, 4, 21, 20)).hits, expected)
    agrees(searched(nearkin, where, query, "--crop", "10,4,21,20", "-k", 5)["hits"], expected)
    whole = catalog.search(query, k=5, crop=(0, 0, 32, 32)).hits
    assert whole == catalog.search(query, k=5).hits
    Image.fromarray(part).save(tmp_path / "part.png")
    agrees(catalog.search(tmp_path / "part.png", k=5).hits, expected)


def test_a_label_narrows_the_search(catalog, nearkin, run, photos, where):
    model, gallery = load(run), pictures(photos)
    expected = by_hand(model, model.embed(gallery[:1])[0], sorted((photos / "class-03").iterdir()))
    found = searched(nearkin, where, gallery[0], "--label", "class-03", "-k", 20)["hits"]
    assert len(found) == 6
    agrees(found, expected)
    assert {hit["label"] for hit in found} == {"class-03"}
    assert searched(nearkin, where, gallery[0], "--label", "it's new")["hits"] == []
    assert "nothing found" in nearkin("search", where, gallery[0], "--label", "it's new")[1]


def test_what_programs_get(catalog, nearkin, photos, where):
    query = pictures(photos)[0]
    answer = searched(nearkin, where, query, "-k", 30)
    assert set(answer) == {"hits", "names", "threshold"}
    assert all(set(hit) == HIT for hit in answer["hits"])
    distances = [hit["distance"] for hit in answer["hits"]]
    assert distances == sorted(distances)
    assert answer["threshold"] == catalog.calibration.threshold(0.05, 30)
    assert [hit["match"] for hit in answer["hits"]] == [distance <= answer["threshold"] for distance in distances]
    assert {hit["match"] for hit in answer["hits"]} == {True, False}
    votes = Counter(hit["label"] for hit in answer["hits"][1:] if hit["match"])
    assert {each["label"]: each["votes"] for each in answer["names"]} == votes
    assert [each["votes"] for each in answer["names"]] == sorted(votes.values(), reverse=True)


def test_the_threshold_is_for_as_many_pictures_as_are_searched_among(nearkin, run, photos, where, make_folder):
    """Of a label few: its threshold is theirs."""
    many = make_folder([60, 5], side=32, name="many")
    nearkin("index", run, many, "--catalog", where)
    catalog, query = nk.Catalog.open(where), pictures(photos)[0]
    numbers = {None: 65, "class-00": 60, "class-01": 5, "new": 0}
    thresholds = {label: catalog.search(query, label=label).threshold for label in numbers}
    assert thresholds == {label: catalog.calibration.threshold(0.05, number) for label, number in numbers.items()}
    assert thresholds[None] < thresholds["class-00"] < thresholds["class-01"]
    assert searched(nearkin, where, query, "--label", "class-00")["threshold"] == thresholds["class-00"]


def test_the_chosen_rate_moves_the_threshold(catalog, nearkin, photos, where):
    query = pictures(photos)[0]
    strict, loose = (searched(nearkin, where, query, "-k", 30, "--false-matches", rate) for rate in (0.01, 0.9))
    assert strict["threshold"] < loose["threshold"]
    assert sum(hit["match"] for hit in strict["hits"]) < sum(hit["match"] for hit in loose["hits"])


def test_what_people_get(catalog, nearkin, photos, where, monkeypatch):
    monkeypatch.chdir(photos.parent)
    query = pictures(photos)[0]
    out = nearkin("search", where, query, "-k", 12)[1].splitlines()
    answer = searched(nearkin, where, query, "-k", 12)
    for place, (line, hit) in enumerate(zip(out[:12], answer["hits"], strict=True), start=1):
        shown = os.path.relpath(hit["path"], photos.parent)
        assert line.split() == [
            *(str(place), f"{hit['distance']:.4f}"),
            *("itself" if place == 1 else "match" if hit["match"] else "no match").split(),
            *(hit["label"], shown),
        ]
    assert out[12] == ""
    first = answer["names"][0]
    total = sum(hit["match"] for hit in answer["hits"][1:])
    assert out[13].startswith(f"{first['label']}: {first['votes']} of {total} vote")
    assert out[14] == (
        f"a match is within {answer['threshold']:.4f}: of pictures whose kind is not here, about 5 % should find one, "
        "by 5 classes held out of the training; so few tell it roughly"
    )


@pytest.mark.parametrize("k", [31, 10**5, 10**30])
def test_more_hits_than_pictures_are_all_pictures(catalog, nearkin, photos, where, k):
    query = pictures(photos)[0]
    assert len(searched(nearkin, where, query, "-k", k)["hits"]) == 30
    assert len(searched(nearkin, where, query, "-k", k, "--label", "class-02")["hits"]) == 6
    assert len(catalog.nearest(catalog.embed(query), k, but=catalog.search(query)[0].id)) == 29


def test_columns_are_straight_whatever_the_letters(nearkin, index, photos, where):
    """A letter of Chinese is as wide as two of Latin."""
    (photos / "class-00").rename(photos / "日本の旗")
    index()
    lines = nearkin("search", where, photos / "日本の旗" / "00.png", "-k", 30)[1].splitlines()[:30]
    assert {"日本の旗" in line for line in lines} == {True, False}
    assert len({cell_len(line.partition("/")[0]) for line in lines}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("hits", [1, 3000])
def test_who_reads_no_further_is_no_error(run, where, make_folder, hits):
    photos = make_folder([hits], side=8, name="many")
    command = [sys.executable, "-m", "nearkin"]
    subprocess.run([*command, "index", run, photos, "--catalog", where], check=True)
    search = [*command, "search", where, photos / "class-00" / "00.png", "-k", str(hits)]
    process = subprocess.Popen(search, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(240) == 1
    assert process.stderr.read() == ""


def test_a_terminal_without_some_letters_shows_their_numbers(nearkin, index, photos, where, monkeypatch):
    (photos / "class-00").rename(photos / "Ω")
    index()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert nearkin("search", where, photos / "Ω" / "00.png")[0] == 0
    assert rb"\u03a9" in written.getvalue()


def test_a_stranger_has_no_match_and_no_names(catalog, nearkin, where, tmp_path):
    stranger = tmp_path / "stranger.png"
    Image.fromarray(np.tile(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), (16, 32, 1))).save(stranger)
    answer = searched(nearkin, where, stranger)
    assert [hit["match"] for hit in answer["hits"]] == [False] * 10
    assert answer["names"] == []
    assert "no match: nothing here is near enough" in nearkin("search", where, stranger)[1]


def test_without_a_calibration_nothing_is_called_a_match(nearkin, make_run, photos, where):
    nearkin("index", make_run(calibrated=False), photos, "--catalog", where)
    query = pictures(photos)[0]
    answer = searched(nearkin, where, query, "-k", 3)
    assert answer["threshold"] is None
    assert [hit["match"] for hit in answer["hits"]] == [None] * 3
    assert sum(each["votes"] for each in answer["names"]) == 2
    assert "no threshold for a match" in nearkin("search", where, query)[1]


def test_from_python(index, run, photos, where):
    index()
    model, catalog, query = nk.load(run), nk.Catalog.open(str(where)), pictures(photos)[3]
    hits = catalog.search(str(query), k=4)
    assert [*hits] == hits.hits == hits[:4]
    assert (len(hits), hits[0].path) == (4, str(query))
    agrees(hits, by_hand(model, model.embed([query])[0], pictures(photos)))
    array = catalog.search(read_image(query), k=4)
    assert [hit.path for hit in array] == [hit.path for hit in hits]
    assert [hit.itself for hit in array] == [False] * 4, "an array has no content to know it by"


@pytest.mark.parametrize("as_what", ["path", "bytes", "file", "elsewhere"])
def test_a_picture_has_no_vote_on_itself(index, nearkin, photos, where, tmp_path, as_what):
    """Named in another way than all its neighbours, it is what they are."""
    index()
    query = photos / "class-03" / "02.png"
    nearkin("label", where, "mine", query)
    elsewhere = shutil.copy(query, tmp_path / "elsewhere.png")
    catalog = nk.Catalog.open(where)
    asked = {"path": query, "bytes": query.read_bytes(), "file": io.BytesIO(query.read_bytes()), "elsewhere": elsewhere}
    answer = catalog.search(asked[as_what], k=6, false_matches=0.999)
    assert [hit.itself for hit in answer] == [True] + [False] * 5
    assert (answer[0].path, answer[0].label, answer[0].match) == (str(query), "mine", True)
    assert answer.names == Counter(hit.label for hit in answer[1:]).most_common()
    assert "mine" not in dict(answer.names)


def test_what_people_get_of_a_picture_that_is_in_the_catalogue(nearkin, index, photos, where):
    index()
    alone, query = photos / "class-00" / "alone.png", photos / "class-01" / "00.png"
    Image.fromarray(np.tile(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), (16, 32, 1))).save(alone)
    index()
    assert "no match: nothing else here is near enough" in nearkin("search", where, alone)[1]
    assert "no names: nothing was found but the picture itself" in nearkin("search", where, alone, "-k", 1)[1]
    shutil.copy(query, photos / "class-02" / "copy.png")
    index()
    lines = nearkin("search", where, query, "-k", 4, "--false-matches", 0.999)[1].splitlines()
    assert [line.split()[2] for line in lines[:4]] == ["itself", "itself", "match", "match"]
    assert " of 2 votes" in lines[5]


def test_of_several_pictures_each_is_itself(index, photos, where):
    index()
    queries = [photos / "class-01" / "00.png", photos / "class-01" / "01.png"]
    hits = nk.Catalog.open(where).search(queries, k=30)
    assert {hit.path for hit in hits if hit.itself} == set(map(str, queries))
    cut = nk.Catalog.open(where).search(queries[0], k=30, crop=(0, 0, 20, 20))
    assert {hit.path for hit in cut if hit.itself} == {str(queries[0])}, "a part of it is still it"


def test_a_picture_may_come_through_a_pipe(catalog, nearkin, photos, where, tmp_path):
    query, pipe = pictures(photos)[4], tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(pipe.write_bytes, query.read_bytes())
        assert searched(nearkin, where, pipe) == searched(nearkin, where, query)


# Names by example


def test_pictures_are_named_by_example(nearkin, catalog, photos, where, tmp_path, embedded):
    new = write_pictures(tmp_path / "new", [0, 2], 32) / "class-01"
    named = [photos / "class-00" / "00.png", *sorted(new.iterdir())]
    status, out, _ = nearkin("label", where, 'it\'s "Ω"', *named)
    assert (status, out) == (0, 'it\'s "Ω": 3 pictures named, 2 of them new\n')
    assert embedded() == 2
    found = records(where)
    assert {path for path, record in found.items() if record.label == 'it\'s "Ω"'} == set(map(str, named))
    assert [found[str(path)].named for path in named] == [True] * 3
    another = tmp_path / "another.bmp"
    Image.open(named[1]).save(another)
    answer = searched(nearkin, where, another, "-k", 1)
    assert answer["names"] == [{"label": 'it\'s "Ω"', "votes": 1}]
    assert len(searched(nearkin, where, named[1], "--label", 'it\'s "Ω"')["hits"]) == 3


def test_a_persons_label_outlives_the_folders(nearkin, index, photos, where, embedded):
    index()
    picture = photos / "class-00" / "00.png"
    assert nearkin("label", where, "mine", picture)[0] == 0
    embedded()
    index()
    assert records(where)[str(picture)].label == "mine"
    shutil.copy(photos / "class-04" / "00.png", picture)
    assert index().startswith("1 picture embedded")
    assert records(where)[str(picture)].label == "mine"
    assert nearkin("label", where, "yours", picture)[0] == 0
    assert records(where)[str(picture)].label == "yours"


def test_a_picture_named_twice_or_by_a_link_is_there_once(nearkin, index, photos, where, monkeypatch):
    link = photos / "class-00" / "link.png"
    link.symlink_to(photos / "class-03" / "00.png")
    index()
    monkeypatch.chdir(photos / "class-00")
    assert nearkin("label", where, "two", "link.png", link, "../class-00/link.png")[0] == 0
    found = records(where)
    assert len(found) == 31
    assert {path for path, record in found.items() if record.label == "two"} == {str(link)}


def test_a_picture_is_read_once_to_be_named(nearkin, catalog, photos, where, tmp_path, monkeypatch):
    new = [photos / "class-00" / "00.png", *sorted((write_pictures(tmp_path / "new", [4], 31) / "class-00").iterdir())]
    decoded, original = [], look.read_image
    monkeypatch.setattr(look, "THUMBNAIL", 8)  # for which these pictures would be read again
    monkeypatch.setattr(look, "read_image", lambda *all, **more: decoded.append(all) or original(*all, **more))
    assert nearkin("label", where, "name", *new)[0] == 0
    assert len(decoded) == len(new) - 1


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_one_unreadable_picture_and_nothing_is_named(nearkin, catalog, photos, where, tmp_path, content, monkeypatch):
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    before = records(where)
    refused(nearkin("label", where, "name", photos / "class-00" / "00.png", bad), bad, "nothing was named")
    many = sorted(write_pictures(tmp_path / "more", [5], 32).rglob("*.png"))
    monkeypatch.setattr(look, "AT_ONCE", 2)
    refused(nearkin("label", where, "name", *many, bad), bad, "nothing was named")
    refused(nearkin("label", where, " ", photos / "class-00" / "00.png"), "an empty one")
    assert records(where) == before


# Another model


def test_another_model_is_refused_by_name(nearkin, catalog, make_run, run, photos, where):
    other = make_run(seed=1)
    hashes = [load(each).sha256[:12] for each in (run, other)]
    before, query = records(where), pictures(photos)[0]
    for command in (
        ("index", other, photos, "--catalog", where),
        ("search", where, query, "--run", other),
        ("label", where, "name", query, "--run", other),
    ):
        refused(nearkin(*command), *hashes, "--upgrade")
    assert records(where) == before
    copy = shutil.copytree(run, run.parent / "copy")
    assert nearkin("search", where, query, "--run", copy)[0] == 0


def test_other_preprocessing_is_another_model(nearkin, catalog, run, photos, where):
    description = json.loads((run / "model.json").read_text())
    description["image"]["size"] = 28
    (run / "model.json").write_text(json.dumps(description))
    for command in (("index", run, photos, "--catalog", where), ("search", where, pictures(photos)[0], "--run", run)):
        refused(nearkin(*command), "the same weights but other preprocessing", "index the pictures anew")


def test_a_catalogue_without_its_pictures_is_no_empty_one(nearkin, catalog, photos, where):
    tables = where / "tables"
    before = sorted(tables.iterdir())
    for table in before:
        shutil.rmtree(table)
    refused(nearkin("search", where, pictures(photos)[0]), "its pictures are gone")
    assert not any(tables.iterdir())  # a reader makes nothing


def test_a_change_over_while_it_is_opened(catalog, make_run, photos, where, monkeypatch):
    """The description was read, then another model took over and the table went."""
    real, other = model_of, make_run(seed=1)

    def slow(store, description, run=None):
        monkeypatch.undo()
        model = real(store, description, run)
        upgrade(where, other)
        return model

    monkeypatch.setattr("nearkin.catalog.catalog.model_of", slow)
    opened = Catalog.open(where)
    assert opened.model.sha256 == load(other).sha256
    assert len(opened.search(pictures(photos)[0], k=30)) == 30


def test_a_catalogue_outlives_its_run(catalog, nearkin, run, photos, where):
    shutil.rmtree(run)
    assert nearkin("search", where, pictures(photos)[0])[0] == 0


def test_an_upgrade_changes_over_to_another_model(nearkin, catalog, make_run, run, photos, where, embedded):
    query = pictures(photos)[0]
    nearkin("label", where, "mine", query)
    before, other = records(where), make_run(seed=1)
    embedded()
    status, out, _ = nearkin("index", "--upgrade", other, "--catalog", where)
    assert (status, out) == (0, f"30 pictures embedded, 0 as they were\ncatalogue: {where}\n")
    assert embedded() == 30
    assert records(where) == before
    model = load(other)
    expected = by_hand(model, model.embed([query])[0], pictures(photos))
    agrees(searched(nearkin, where, query, "-k", 30)["hits"], expected)
    refused(nearkin("index", run, photos, "--catalog", where), load(run).sha256[:12], model.sha256[:12])
    assert nearkin("index", other, photos, "--catalog", where)[1].startswith("0 pictures embedded, 30 as they were\n")
    assert len(LanceStore(where).tables()) == 1
    embedded()
    assert nearkin("index", "--upgrade", other, "--catalog", where)[1].startswith("0 pictures embedded, 30")
    assert nearkin("index", "--upgrade", run, "--catalog", where)[1].startswith("30 pictures embedded, 0")
    assert records(where) == before
    model = load(run)
    agrees(searched(nearkin, where, query)["hits"], by_hand(model, model.embed([query])[0], pictures(photos)))


def test_an_upgrade_to_another_size_of_embeddings(nearkin, catalog, make_run, photos, where):
    assert nearkin("index", "--upgrade", make_run(seed=1, size=24), "--catalog", where)[0] == 0
    assert searched(nearkin, where, pictures(photos)[7], "-k", 1)["hits"][0]["path"] == str(pictures(photos)[7])
    assert nk.Catalog.open(where).table.vectors()[1].shape == (30, 24)


def test_an_upgrade_leaves_no_picture_behind_unless_asked(nearkin, catalog, make_run, photos, where):
    other, before = make_run(seed=1), records(where)
    (photos / "class-01" / "05.png").unlink()
    (photos / "class-02" / "a: b.png").write_bytes((photos / "class-02" / "00.png").read_bytes())
    description = (where / "catalog.json").read_bytes()
    refused(nearkin("index", "--upgrade", other, "--catalog", where), "1 picture of 30", "05.png", "--prune")
    assert (where / "catalog.json").read_bytes() == description
    assert records(where) == before
    status, out, _ = nearkin("index", "--upgrade", other, "--catalog", where, "--prune")
    assert (status, out.splitlines()[0]) == (0, "0 pictures embedded, 29 as they were, 1 that are gone removed")
    assert set(before) - set(records(where)) == {str(photos / "class-01" / "05.png")}


def test_pruning_in_an_upgrade_to_the_same_model_goes_by_path(nearkin, index, run, photos, where):
    odd = photos / "class-00" / "a: b.png"
    shutil.copy(photos / "class-00" / "00.png", odd)
    index()
    odd.unlink()
    assert nearkin("index", "--upgrade", run, "--catalog", where, "--prune")[0] == 0
    assert set(records(where)) == set(map(str, pictures(photos)))


def test_an_upgrade_that_was_stopped_goes_on_with_what_has_changed_since(
    nearkin, catalog, make_run, run, photos, where, embedded, monkeypatch
):
    other, query = make_run(seed=1), pictures(photos)[0]
    monkeypatch.setattr(look, "AT_ONCE", 4)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        status, _, err = nearkin("index", "--upgrade", other, "--catalog", where)
    assert (status, err) == (
        1,
        f"nearkin: stopped; what is written stays, the rest goes on with: nearkin index "
        f"--upgrade {other} --catalog {where}\n",
    )
    shutil.copy(photos / "class-04" / "00.png", query)  # embedded before it changed
    (photos / "class-00" / "01.png").unlink()
    assert nearkin("index", run, photos, "--catalog", where, "--prune")[0] == 0
    assert nearkin("label", where, "mine", photos / "class-00" / "02.png")[0] == 0
    embedded()
    assert nearkin("index", "--upgrade", other, "--catalog", where)[1].startswith("19 pictures embedded, 10 as")
    assert embedded() == 19  # 12 of 30 were done, of which one has gone and one has changed
    found = records(where)
    assert set(found) == set(map(str, pictures(photos)))
    assert found[str(photos / "class-00" / "02.png")].label == "mine"
    assert searched(nearkin, where, photos / "class-04" / "00.png", "-k", 2)["hits"][1]["distance"] < 1e-3


SLOW = """
import sys, time
from nearkin import cli
from nearkin.catalog import look
from nearkin.embed import Model
look.AT_ONCE = 2
run = Model.run
def slow(model, batches):
    time.sleep(0.2)
    return run(model, batches)
Model.run = slow
cli.main(sys.argv[1:])
"""


def slowly(*arguments):
    """The command in a process of its own, two pictures at a time."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_rows(store, name, rows, process, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if name in store.tables() and store.table(name, SIZE).count() >= rows:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_an_upgrade_that_is_killed_goes_on_and_the_catalogue_is_whole_meanwhile(
    nearkin, catalog, make_run, run, photos, where, embedded
):
    other, query = make_run(seed=1), pictures(photos)[0]
    before = searched(nearkin, where, query, "-k", 30)
    process = slowly("index", "--upgrade", other, "--catalog", where)
    store, name = LanceStore(where), f"pictures_{load(other).sha256[:12]}"
    wait_for_rows(store, name, 6, process)
    assert searched(nearkin, where, query, "-k", 30) == before
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert searched(nearkin, where, query, "-k", 30) == before
    written = store.table(name, SIZE).count()
    assert 6 <= written < 30
    embedded()
    status, out, _ = nearkin("index", "--upgrade", other, "--catalog", where)
    assert (status, out.splitlines()[0]) == (0, f"{30 - written} pictures embedded, {written} as they were")
    assert embedded() == 30 - written
    model = load(other)
    agrees(searched(nearkin, where, query, "-k", 30)["hits"], by_hand(model, model.embed([query])[0], pictures(photos)))


# What can go wrong


def interrupt_after(patch, calls):
    """Ctrl-C at the embedding of a later group."""
    original, left = Model.run, [calls]

    def run(model, batches):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(model, batches)

    patch.setattr(Model, "run", run)


def test_ctrl_c_is_one_line_and_the_rest_goes_on(nearkin, index, run, photos, where, embedded, monkeypatch):
    monkeypatch.setattr(look, "AT_ONCE", 4)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        status, out, err = nearkin("index", run, photos, "--catalog", where)
    assert (status, out) == (1, "")
    assert err == (
        "nearkin: stopped; what is written stays, the rest goes on with: "
        f"nearkin index {run} {photos} --catalog {where}\n"
    )
    assert len(records(where)) == 8
    assert len(searched(nearkin, where, pictures(photos)[0], "-k", 30)["hits"]) == 8
    embedded()
    assert index().startswith("22 pictures embedded, 8 as they were\n")
    assert embedded() == 22


@pytest.mark.slow
def test_ctrl_c_from_a_terminal(run, photos, where):
    process = slowly("index", run, photos, "--catalog", where)
    name = f"pictures_{load(run).sha256[:12]}"
    wait_for_rows(LanceStore(where), name, 4, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("nearkin: stopped; what is written stays")
    assert err.count("\n") == 1


HOSTILE = "\x1b[2J\x07\x9b31m\u202eΩ\u2028x"
SHOWN = r"\x1b[2J\x07\x9b31m\u202eΩ\u2028x"


def test_what_a_terminal_would_obey_is_shown(nearkin, run, photos, where, tmp_path, monkeypatch):
    """Not one character of a label or path that is no text arrives as it is, on stdout, on stderr or in the log."""
    monkeypatch.setattr(logging.root, "handlers", [])  # so that the command installs its own
    folder = tmp_path / HOSTILE
    photos.rename(folder)
    (folder / "class-00").rename(folder / HOSTILE)
    picture = folder / HOSTILE / "00.png"
    (folder / f"{HOSTILE}.png").write_text("x")
    catalogue = tmp_path / "catalogue \u202e"  # LanceDB cannot have control characters
    said = [
        nearkin("index", run, folder, "--catalog", catalogue),
        nearkin("search", catalogue, picture),
        nearkin("search", catalogue, picture, "--label", HOSTILE),
        nearkin("search", catalogue, folder / f"{HOSTILE}.png"),
        nearkin("search", catalogue, tmp_path / "nothing"),
        nearkin("label", catalogue, f"new {HOSTILE}", picture),
        nearkin("index", run, tmp_path / HOSTILE / HOSTILE / HOSTILE, "--catalog", catalogue),
        nearkin("index", f"--{HOSTILE}"),
        nearkin(HOSTILE),
        nearkin("index", run, folder, "--catalog", catalogue / HOSTILE),
    ]
    assert [status for status, _, _ in said] == [0, 0, 0, 2, 2, 0, 2, 2, 2, 2]
    assert "without control characters" in said[-1][2]
    for _, out, err in said:
        assert all(each.isprintable() for each in (out + err).replace("\n", ""))
    assert r"catalogue \u202e" in said[0][1]
    assert f"skipped {tmp_path}/{SHOWN}/{SHOWN}.png: " in said[0][2]
    line = said[1][1].splitlines()[0]
    assert line.startswith("  1   0.0000  itself    " + SHOWN)
    assert line.endswith(f"{SHOWN}/00.png")
    assert said[5][1].startswith(f"new {SHOWN}: ")
    assert searched(nearkin, catalogue, picture, "-k", 1)["hits"][0]["label"] == f"new {HOSTILE}"


def test_what_is_not_unicode_is_one_line(nearkin, index, run, photos, where, tmp_path):
    index()
    before, picture = records(where), pictures(photos)[0]
    odd = Path(shutil.copy(picture, tmp_path / "\udcff.png"))
    refused(nearkin("label", where, "a\udcff", picture), r"expected a label in UTF-8, got a\udcff; name another")
    refused(nearkin("search", where, picture, "--label", "a\udcff"), r"expected a label in UTF-8, got a\udcff")
    refused(nearkin("label", where, "name", odd), r"\udcff.png: its name is not UTF-8; rename it; nothing was named")
    refused(nearkin("index", run, odd, "--catalog", where), r"\udcff.png is a file")
    folder = tmp_path / "\udcfe"
    shutil.copytree(photos, folder)
    refused(nearkin("index", run, folder, "--catalog", where), "of the 30 files in", "its name is not UTF-8; rename it")
    refused(nearkin("index", run, photos, "--catalog", tmp_path / "\udcfd"), "a name in UTF-8", r"\udcfd")
    assert searched(nearkin, where, odd) == searched(nearkin, where, picture)
    assert records(where) == before


def test_no_catalogue_is_one_line_and_nothing_is_made(nearkin, photos, where, tmp_path):
    query = pictures(photos)[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for place in (where, tmp_path / "empty", tmp_path / "file", tmp_path / "file" / "below"):
        for command in (("search", place, query), ("label", place, "name", query)):
            refused(nearkin(*command), place, "expected a catalogue", "nearkin index RUN PHOTOS")
    assert not where.exists()
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_without_a_picture_is_one_line_and_nothing_is_made(nearkin, run, where, tmp_path, caplog):
    nothing = tmp_path / "nothing"
    (nothing / "below").mkdir(parents=True)
    (nothing / "a.jpg").write_text("text")
    (nothing / "below" / "b.png").write_bytes(b"")
    for more in ([], ["--prune"]):
        refused(
            nearkin("index", run, nothing, "--catalog", where, *more),
            f"of the 2 files in {nothing} none can be read ({nothing}/a.jpg: not a picture",
            "name another",
        )
    assert not where.exists()
    assert not caplog.messages


def test_a_folder_whose_pictures_all_became_unreadable_is_one_line_and_nothing_is_lost(
    nearkin, index, run, photos, where
):
    """As of a disk that is not mounted."""
    index()
    before = records(where)
    first, *others = pictures(photos)
    for path in others:
        path.unlink()
    first.write_bytes(b"")
    refused(nearkin("index", run, photos, "--catalog", where, "--prune"), "of the 1 file in", f"{first}: empty file")
    assert records(where) == before


@pytest.mark.parametrize("left", [False, True], ids=["gone", "as what was mounted"])
def test_a_folder_that_vanishes_while_it_is_indexed(nearkin, run, photos, where, monkeypatch, caplog, left):
    away, original = photos.parent / "away", indexing.write
    monkeypatch.setattr(look, "AT_ONCE", 4)

    def write(table, seen):
        original(table, seen)
        if not away.exists():
            photos.rename(away)
            if left:
                photos.mkdir()

    monkeypatch.setattr(indexing, "write", write)
    refused(nearkin("index", run, photos, "--catalog", where), f"{photos} is gone", "run the command again")
    there = len(records(where))
    assert 4 <= there < 30
    assert caplog.text == ""
    away.rename(photos)  # in place of the empty one, too
    monkeypatch.setattr(indexing, "write", original)
    status, out, _ = nearkin("index", run, photos, "--catalog", where)
    assert (status, f"{30 - there} pictures embedded, {there} as they were" in out) == (0, True)
    assert len(records(where)) == 30


@pytest.mark.parametrize("place", ["catalog", "class-00/deep/catalog"])
def test_a_catalogue_among_the_pictures_is_not_walked(nearkin, index, run, photos, where, place, caplog):
    inside = photos / place
    index()
    assert nearkin("index", run, photos, "--catalog", inside)[0] == 0
    for catalogue in (where, inside):  # its own, and another's
        status, out, _ = nearkin("index", run, photos, "--catalog", catalogue)
        assert (status, out.splitlines()[0]) == (0, "0 pictures embedded, 30 as they were")
    (inside / "catalog.json").unlink()
    assert nearkin("index", run, photos, "--catalog", inside)[1].startswith("0 pictures embedded, 30 as they were\n")
    assert not caplog.messages


def test_a_file_called_like_a_description_hides_no_pictures(index, photos):
    (photos / "catalog.json").write_text("{}")
    assert index().startswith("30 pictures embedded, 0 as they were, 1 unreadable\n")


def test_a_catalogue_cannot_be_in_a_file(nearkin, run, photos, tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(nearkin("index", run, photos, "--catalog", place), place, "--catalog")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2, "table": "t", "model": {}}', "\xff"]
)
def test_a_description_that_is_none_is_one_line(nearkin, catalog, run, photos, where, text):
    good, query = (where / "catalog.json").read_bytes(), pictures(photos)[0]
    (where / "catalog.json").write_bytes(text.encode("latin-1"))
    for command in (
        ("search", where, query),
        ("label", where, "name", query),
        ("index", run, photos, "--catalog", where),
        ("index", "--upgrade", run, "--catalog", where),
    ):
        refused(nearkin(*command), where, "index the pictures anew")
    (where / "catalog.json").write_bytes(good)
    assert nearkin("search", where, query)[0] == 0


def test_a_lost_description_is_written_anew_and_nothing_embedded_again(index, catalog, where, embedded):
    (where / "catalog.json").unlink()
    assert index().startswith("0 pictures embedded, 30 as they were\n")
    assert embedded() == 0


def test_a_lost_model_is_one_line(nearkin, catalog, run, photos, where):
    shutil.rmtree(where / "models")
    refused(nearkin("search", where, pictures(photos)[0]), where / "models", "not there", "--run")
    assert nearkin("search", where, pictures(photos)[0], "--run", run)[0] == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "version"])
def test_a_damaged_catalogue_is_one_line(nearkin, catalog, run, photos, where, damage):
    table, query = next((where / "tables").iterdir()), pictures(photos)[0]
    for file in table.rglob("*.manifest" if damage == "version" else "*.lance"):
        if damage == "gone":
            file.unlink()
        else:
            os.truncate(file, 10)
    for command in (
        ("search", where, query),
        ("index", run, photos, "--catalog", where),
        ("label", where, "name", query),
        ("index", "--upgrade", run, "--catalog", where),
    ):
        status, out, err = nearkin(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("nearkin: the catalogue: damaged (")
        assert err.endswith("; remove the folder and index the pictures anew, or name another\n")
        assert ".rs:" not in err


def test_a_full_disk_is_one_line_and_nothing_is_lost(nearkin, run, photos, disk, make_folder):
    place, remount = disk(2)
    where, query = place / "catalog", pictures(photos)[0]
    assert nearkin("index", run, photos, "--catalog", where)[0] == 0
    before = searched(nearkin, where, query, "-k", 30)
    filler = place / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    more = make_folder([9] * 3, side=31, name="more")
    refused(nearkin("index", run, more, "--catalog", where), "No space left on device; free some space")
    refused(nearkin("label", where, "name", query), "No space left on device")
    assert searched(nearkin, where, query, "-k", 30) == before
    filler.unlink()
    remount("size=20m")
    assert nearkin("index", run, more, "--catalog", where)[1].startswith("27 pictures embedded, 0 as they were\n")
    assert len(records(where)) == 57


def test_a_catalogue_that_cannot_be_written_to_can_be_searched(nearkin, run, photos, disk, make_run):
    place, remount = disk(2)
    where, query = place / "catalog", pictures(photos)[0]
    nearkin("index", run, photos, "--catalog", where)
    before = searched(nearkin, where, query)
    remount("ro")
    assert searched(nearkin, where, query) == before
    for command in (
        ("index", run, photos, "--catalog", where),
        ("index", run, photos, "--catalog", place / "new"),
        ("index", "--upgrade", make_run(1), "--catalog", where),
        ("label", where, "name", query),
    ):
        refused(nearkin(*command), place, "Read-only file system")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index",), "--catalog"),
        (("index", "--catalog", "C"), "expected a run and a folder of pictures"),
        (("index", "RUN", "--catalog", "C"), "expected a run and a folder of pictures"),
        (("index", "RUN", "PHOTOS", "--catalog", "C", "--upgrade", "RUN"), "--upgrade takes the run alone"),
        (("index", "RUN", "PHOTOS", "--catalogue", "C"), "--catalog"),
        (("index", "nowhere", "PHOTOS", "--catalog", "C"), "nowhere holds no model.safetensors"),
        (("index", "RUN", "nowhere", "--catalog", "C"), "nowhere does not exist"),
        (("index", "RUN", "PHOTO", "--catalog", "C"), "is a file"),
        (("index", "RUN", "EMPTY", "--catalog", "C"), "holds no picture"),
        (("index", "RUN", "PHOTOS", "--catalog", "PHOTOS"), "a catalogue is a folder of its own"),
        (("index", "RUN", "CATALOG", "--catalog", "C"), "holds no picture"),
        (("index", "--upgrade", "RUN", "--catalog", "C"), "holds none"),
        (("index", "--upgrade", "nowhere", "--catalog", "CATALOG"), "nowhere holds no model.safetensors"),
        (("search", "CATALOG"), "IMAGE"),
        (("search", "CATALOG", "nowhere.png"), "nowhere.png"),
        (("search", "CATALOG", "EMPTY"), "directory"),
        (("search", "CATALOG", "PHOTO", "-k", "0"), "at least 1 hit, got k=0"),
        (("search", "CATALOG", "PHOTO", "-k", "ten"), "'ten'"),
        (("search", "CATALOG", "PHOTO", "--jsn"), "unknown argument --jsn; did you mean --json?; see"),
        (("search", "CATALOG", "PHOTO", "--lable=x"), "unknown argument --lable; did you mean --label?; see"),
        (("index", "RUN", "PHOTOS", "PHOTOS", "--catalog", "C"), "unknown argument /"),
        (("search", "CATALOG", "PHOTO", "--false-matches", "0"), "between 0 and 1, got 0"),
        (("search", "CATALOG", "PHOTO", "--false-matches", "1"), "between 0 and 1, got 1"),
        (("search", "CATALOG", "PHOTO", "--false-matches", "nan"), "between 0 and 1, got nan"),
        (("search", "CATALOG", "PHOTO", "--crop", "0,0,4"), "expected four whole numbers x,y,w,h, got '0,0,4'"),
        (("search", "CATALOG", "PHOTO", "--crop", "a,b,c,d"), "'a,b,c,d'"),
        (("search", "CATALOG", "PHOTO", "--crop", "0,0,0,4"), "inside the picture of 32 x 32 pixels, got 0,0,0,4"),
        (("search", "CATALOG", "PHOTO", "--crop", "30,0,3,3"), "inside the picture of 32 x 32 pixels, got 30,0,3,3"),
        (("search", "CATALOG", "PHOTO", "--crop=-1,0,3,3"), "inside the picture of 32 x 32 pixels, got -1,0,3,3"),
        (("label", "CATALOG", "name"), "IMAGE"),
        (("label", "CATALOG", "", "PHOTO"), "an empty one"),
        (("label", "C", "name", "PHOTO"), "holds none"),
    ],
)
def test_a_mistake_is_one_line(nearkin, run, photos, where, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if "CATALOG" in arguments:
        nearkin("index", run, photos, "--catalog", where)
    places = {"RUN": run, "PHOTOS": photos, "PHOTO": pictures(photos)[0], "EMPTY": tmp_path / "empty", "CATALOG": where}
    refused(nearkin(*(places.get(each, each) for each in arguments)), message)


# Larger catalogues


def test_small_appends_are_merged(nearkin, index, run, photos, where, monkeypatch):
    monkeypatch.setattr("nearkin.catalog.lance.PIECES", 5)
    monkeypatch.setattr(look, "AT_ONCE", 2)
    index()
    name = json.loads((where / "catalog.json").read_text())["table"]
    table = LanceStore(where).table(name, SIZE)
    assert table.table.stats()["fragment_stats"]["num_fragments"] == 1
    assert len(records(where)) == 30


def test_above_a_size_there_is_an_index_and_below_it_none(index, photos, where, monkeypatch, make_folder, nearkin, run):
    index()
    catalog = nk.Catalog.open(where)
    assert catalog.table.table.list_indices() == []
    monkeypatch.setattr("nearkin.catalog.lance.INDEXED_FROM", 20)
    index()
    catalog = nk.Catalog.open(where)
    assert [each.name for each in catalog.table.table.list_indices()] == ["vector_idx"]
    query = pictures(photos)[0]
    model = load(run)
    expected = by_hand(model, model.embed([query])[0], pictures(photos))
    agrees(catalog.search(query, k=10).hits, expected)
    agrees(
        catalog.search(query, k=10, label="class-04").hits,
        by_hand(model, model.embed([query])[0], sorted((photos / "class-04").iterdir())),
    )
    more = make_folder([3], side=32, name="more")
    assert nearkin("index", run, more, "--catalog", where)[0] == 0  # beside the index
    assert catalog.search(next(iter(pictures(more))), k=1).hits[0].distance < 1e-3
