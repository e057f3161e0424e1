"""Pictures as they come, sound and damaged, through training, indexing and searching."""

import json
import os
import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import broken, flipped, photograph, seen, sound
from PIL import Image
from support import encoded, outcome

from nearkin import cli
from nearkin.catalog import Catalog
from nearkin.data import Preprocessing, scan
from nearkin.data.cache import Cache
from nearkin.data.images import MAX_BYTES, UnreadableImage, open_picture, picture_size, read_image, to_square
from nearkin.data.pictures import read_all
from nearkin.embed import Architecture, Model
from nearkin.models import Backbone, Embedder

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of what is damaged

SIDE = 16
SMALL = ["--image.size=16", "--embedding_size=8", "--sampler.classes=3", "--sampler.images=3", "--steps=2"]


class Peak:
    """The most memory that this process has held since, in MB."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.before = self.read("VmRSS")

    def read(self, name):
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000

    def grown(self):
        return self.read("VmHWM") - self.before


@pytest.fixture
def peak():
    try:
        return Peak()
    except OSError as error:
        pytest.skip(f"needs to measure its own memory: {error}")


@pytest.mark.parametrize("name", sound())
def test_a_sound_picture_is_what_pillow_shows(name):
    data = sound()[name]
    expected = seen(data)
    np.testing.assert_allclose(read_image(data), expected.astype(int), atol=1)
    assert picture_size(data) == expected.shape[1::-1]


def test_a_broken_one_is_refused_in_one_line_and_takes_no_memory(peak):
    whole = sound()
    for name, data in broken().items():
        picture, line = outcome(UnreadableImage, read_image, data)
        if line:
            assert line.startswith("image: ")
            continue
        # Nothing but what stands behind its pixels was cut off.
        tenth, _, of = name.removeprefix("cut-").partition("-")
        assert int(tenth) == 9
        np.testing.assert_array_equal(picture, read_image(whole[of]))
    assert peak.grown() < 100


@pytest.mark.parametrize("seed", [0, pytest.param(range(1, 40), marks=pytest.mark.slow)])
def test_flipped_bits_are_refused_or_read_as_pillow_reads_them(seed):
    read = Counter()
    for each in np.atleast_1d(seed):
        for name, data in flipped(8, each).items():
            picture, line = outcome(UnreadableImage, read_image, data)
            read[line is None] += 1
            if line is None:
                np.testing.assert_allclose(picture, seen(data).astype(int), atol=1, err_msg=name)
    assert min(read.values()) > 5


class Unreadable:
    """Files of every other kind, and what is said of each; who waits for the pipe is let go after a while."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
        (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
        os.mkfifo(folder / "pipe.jpg")
        (folder / "device.jpg").symlink_to("/dev/zero")
        with open(folder / "film.jpg", "wb") as file:
            file.truncate(MAX_BYTES + 1)  # of which the disk holds nothing
        self.reasons = {
            "link.jpg": "No such file or directory",
            "loop.jpg": "Too many levels of symbolic links",
            "pipe.jpg": "no file, but a pipe or a device",
            "device.jpg": "no file, but a pipe or a device",
            "film.jpg": "1.0 GB, the limit of a file is 1 GB",
        }
        if os.geteuid():  # root may read everything
            (folder / "private.jpg").touch(mode=0)
            self.reasons["private.jpg"] = "Permission denied"
        self.timer = threading.Timer(60, self.let_go, [folder / "pipe.jpg"])
        self.timer.start()

    @staticmethod
    def let_go(pipe):
        os.close(os.open(pipe, os.O_RDWR))


@pytest.fixture
def odd_files():
    made = []

    def make(folder):
        made.append(Unreadable(folder))
        return made[-1].reasons

    yield make
    for each in made:
        each.timer.cancel()


def test_what_is_no_file_is_not_waited_for(odd_files, tmp_path, peak):
    for name, reason in odd_files(tmp_path).items():
        with pytest.raises(OSError, match=reason):
            open_picture(tmp_path / name)
        with pytest.raises(OSError, match=reason):
            read_image(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path / "folder.jpg")
    assert peak.grown() < 100


@pytest.mark.parametrize("cached", [False, True])
def test_training_reads_the_sound_ones_as_they_are(tmp_path, caplog, cached):
    for seed in range(2):
        for name, data in sound(seed).items():
            path = tmp_path / "pictures" / f"class-{seed}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    listed = scan(tmp_path / "pictures")
    kept, pictures = read_all(listed, Preprocessing(SIDE), cache=tmp_path / "cache" if cached else None)
    assert kept.paths == listed.paths
    assert caplog.text == ""
    for path, found in zip(kept.paths, pictures[np.arange(len(kept.paths))].numpy(), strict=True):
        expected = to_square(seen(path.read_bytes()), SIDE).transpose(2, 0, 1).astype(int)
        np.testing.assert_allclose(found, expected, atol=1, err_msg=path.name)


def classes_of(root, files):
    """Files, dealt out to eight classes in turn."""
    for number, (name, data) in enumerate(files.items()):
        path = root / f"class-{number % 8}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_training_leaves_out_whatever_cannot_be_read(tmp_path, caplog):
    files = sound() | broken() | flipped(1)
    classes_of(tmp_path, files)
    listed = scan(tmp_path)
    kept, pictures = read_all(listed, Preprocessing(SIDE), of=10 * len(files))  # so that they are less than a tenth
    names = {path.name for path in kept.paths}
    assert sound().keys() <= names
    assert not [name for name in names & broken().keys() if not name.startswith("cut-9-")]
    assert len(pictures) == len(names)
    assert len(caplog.records) == len(files) - len(names) + 1
    for path, found in zip(kept.paths, pictures[np.arange(len(kept.paths))].numpy(), strict=True):
        again = to_square(read_image(path, at_least=SIDE), SIDE).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, again, err_msg=path.name)


def test_training_names_a_few_bad_ones_and_goes_on(nearkin, odd_files, tmp_path, caplog):
    for seed in range(4):
        classes_of(tmp_path / "pictures", {f"{seed}-{name}": data for name, data in sound(seed).items()})
    kinds = ("cut-5-", "empty", "text", "huge", "drawing", "zeros")
    bad = {name: data for name, data in broken().items() if name.startswith(kinds)}
    classes_of(tmp_path / "pictures", bad)
    reasons = odd_files(tmp_path / "pictures" / "class-0")
    (tmp_path / "pictures" / "class-1" / "folder.jpg").mkdir()

    status, out, err = nearkin("train", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *SMALL)
    assert (status, "Traceback" in err) == (0, False), err
    assert "trained" in out
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("skipped ")]
    said = {Path(line.removeprefix("skipped ").split(": ")[0]).name: line for line in lines}
    assert said.keys() == bad.keys() | reasons.keys()
    assert len(lines) == len(said)
    assert not [line for line in lines if "\n" in line]
    for name, reason in reasons.items():
        assert reason in said[name]


def test_training_stops_where_more_than_a_tenth_is_bad(nearkin, tmp_path):
    classes_of(tmp_path / "pictures", sound() | broken())
    status, out, err = nearkin("train", "--data", tmp_path / "pictures", "--out", tmp_path / "run", *SMALL)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"cannot be read as pictures ({tmp_path}" in err
    assert "more than a tenth is taken for a wrong folder: repair or remove them" in err


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """A run, and a catalogue of one picture of its own."""
    root = tmp_path_factory.mktemp("catalog")
    (root / "run").mkdir()
    torch.manual_seed(0)
    embedder = Embedder(Backbone("convnet").build(), 32).eval()
    Model(embedder, Architecture("convnet", 32, "avg", True, Preprocessing(SIDE)), []).save(root / "run")
    (root / "photos").mkdir()
    (root / "photos" / "first.png").write_bytes(encoded(Image.fromarray(photograph(seed=9)), "PNG"))
    return root


def test_indexing_takes_the_sound_ones_and_names_the_rest(nearkin, odd_files, tmp_path, catalog, caplog):
    photos = tmp_path / "photos"
    classes_of(photos, sound() | broken() | flipped(1))
    reasons = odd_files(photos / "class-0")
    status, out, err = nearkin("index", catalog / "run", photos, "--catalog", tmp_path / "catalog")
    assert (status, "Traceback" in err) == (0, False), err
    skipped = {Path(each.getMessage().split(": ")[0]).name for each in caplog.records}
    assert reasons.keys() <= skipped
    assert not sound().keys() & skipped
    read = (broken() | flipped(1)).keys() - skipped
    assert not [name for name in read if not name.startswith(("cut-9-", "flipped-"))]
    assert f"{len(sound()) + len(read)} pictures embedded, 0 as they were, {len(skipped)} unreadable" in out
    # Each is found by what Pillow shows of it.
    opened = Catalog.open(tmp_path / "catalog")
    for name, data in sound().items():
        hits = opened.search(seen(data), k=len(sound()))
        (mine,) = [hit for hit in hits if Path(hit.path).name == name] or [None]
        assert mine is not None, name
        assert mine.distance < 0.02, name
    status, out, err = nearkin("index", catalog / "run", photos, "--catalog", tmp_path / "catalog")
    assert (status, "0 pictures embedded" in out) == (0, True)


def test_odd_characters_of_a_name_are_shown_and_not_obeyed(tmp_path):
    (tmp_path / "a\n\x1b[2J.jpg").touch()
    shown = f"{tmp_path}/a\\n\\x1b[2J.jpg: empty file"
    assert outcome(UnreadableImage, read_image, tmp_path / "a\n\x1b[2J.jpg") == (None, shown)
    for _ in ("decoded", "kept"):
        cache = Cache(tmp_path / "cache", Preprocessing(SIDE))
        assert [str(each) for each in cache.fill([tmp_path / "a\n\x1b[2J.jpg"])] == [shown]


@pytest.fixture(scope="module")
def indexed(catalog):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["index", str(catalog / "run"), str(catalog / "photos"), "--catalog", str(catalog / "catalog")])
    assert stopped.value.code == 0
    return catalog / "catalog"


EVERY_FOURTH = slice(0, None, 4)


@pytest.mark.parametrize("part", [EVERY_FOURTH, pytest.param(slice(None), marks=pytest.mark.slow)], ids=["some", "all"])
def test_each_as_a_query(nearkin, tmp_path, indexed, part):
    for name, data in list((sound() | broken() | flipped(1)).items())[part]:
        query = tmp_path / name
        query.write_bytes(data)
        status, out, err = nearkin("search", indexed, query, "--json")
        if name in sound():
            assert status == 0, err
            distance = json.loads(out)["hits"][0]["distance"]
            expected = Catalog.open(indexed).search(seen(data))[0].distance
            assert distance == pytest.approx(expected, abs=0.02), name
        elif name in broken() and not name.startswith("cut-9-"):
            assert (status, out) == (2, ""), name
        assert status == 0 or re.fullmatch(f"nearkin: {re.escape(str(query))}: .*; name a picture\n", err), err


def test_queries_that_are_no_files(nearkin, odd_files, tmp_path, indexed):
    reasons = odd_files(tmp_path)
    for name in reasons.keys() - {"pipe.jpg", "device.jpg"}:
        status, out, err = nearkin("search", indexed, tmp_path / name)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert reasons[name] in err


def test_a_query_may_come_through_a_pipe(nearkin, tmp_path, indexed):
    os.mkfifo(tmp_path / "pipe")
    data = encoded(Image.fromarray(photograph(seed=9)), "PNG")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data])
    writer.start()
    status, out, err = nearkin("search", indexed, tmp_path / "pipe", "--json")
    writer.join()
    assert status == 0, err
    assert json.loads(out)["hits"][0]["distance"] < 1e-3
