import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nearkin.data import ImageList, Preprocessing, cache, read_all, scan
from nearkin.data.cache import Cache, Entry, Index, UnusableCache
from nearkin.data.images import UnreadableImage
from nearkin.errors import InputError
from nearkin.run_folder import RunFolder

PREPROCESSING = Preprocessing(size=12, resize=16)
ROW = 3 * 16 * 16


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that were decoded, by name, in any order."""
    names = []
    decode = Preprocessing.decode

    def noted(self, source):
        names.append(os.path.basename(getattr(source, "name", source)))
        return decode(self, source)

    monkeypatch.setattr(Preprocessing, "decode", noted)
    return names


def reference(paths):
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths])


def read(root, folder, preprocessing=PREPROCESSING):
    """Every picture below a folder through the cache, held against the files themselves."""
    images, pictures = read_all(scan(root), preprocessing, cache=folder)
    if preprocessing.side == 16:
        assert torch.equal(pictures[np.arange(len(images.paths))], reference(images.paths))
    return images, pictures


def rows(folder):
    (pictures,) = folder.glob("*.pictures")
    size = pictures.stat().st_size
    assert size % ROW == 0
    return size // ROW


def test_the_second_time_nothing_is_decoded(make_folder, tmp_path, decoded):
    root = make_folder([3, 4])
    read(root, tmp_path / "a" / "cache")
    assert len(decoded) == 7
    images, pictures = read(root, tmp_path / "a" / "cache")
    assert len(decoded) == 7
    chosen = pictures.select(np.array([6, 1, 1]))
    assert torch.equal(chosen[np.array([2, 0])], reference([images.paths[1], images.paths[6]]))
    assert rows(tmp_path / "a" / "cache") == 7


def test_a_relative_path_is_not_taken_for_that_of_another_folder(tmp_path, monkeypatch):
    for color, place in enumerate(("one", "other")):
        for number in range(2):
            file = tmp_path / place / "photos" / "kind" / f"{number}.bmp"  # of one size whatever it shows
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (40 * color, 40 * number, 0)).save(file)
            os.utime(file, ns=(1, 1))
        monkeypatch.chdir(tmp_path / place)
        read(Path("photos"), tmp_path / "cache")


def test_only_what_is_new_or_changed_is_decoded(make_folder, tmp_path, decoded):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    _, before = read(root, folder)
    held = before[np.arange(7)]
    decoded.clear()
    (root / "class-00" / "01.png").unlink()
    noise = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    Image.fromarray(noise[0]).save(root / "class-01" / "02.png")
    Image.fromarray(noise[1]).save(root / "class-01" / "99.png")
    read(root, folder)
    assert sorted(decoded) == ["02.png", "99.png"]
    assert torch.equal(before[np.arange(7)], held), "what is mapped stays as it is"
    assert rows(folder) == 9


def test_a_change_that_keeps_size_and_name_shows_in_its_time(make_folder, tmp_path, decoded):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    path = root / "class-00" / "00.bmp"
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(path)
        assert path in read(root, folder)[0].paths


def test_a_change_with_the_time_set_back_shows(make_folder, tmp_path):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    path = root / "class-00" / "00.bmp"
    Image.new("RGB", (16, 16), "red").save(path)
    before = path.stat()
    read(root, folder)
    Image.new("RGB", (16, 16), "blue").save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    read(root, folder)


def test_two_files_that_change_places_show(make_folder, tmp_path, decoded):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    paths = [root / f"class-0{c}" / "same.bmp" for c in range(2)]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (16, 16), colour).save(path)
        os.utime(path, ns=(1, 1))  # as out of one archive
    read(root, folder)
    decoded.clear()
    paths[0].rename(tmp_path / "aside")
    paths[1].rename(paths[0])
    (tmp_path / "aside").rename(paths[1])
    read(root, folder)
    assert decoded == []


@pytest.mark.parametrize("other", [0, 1, 2], ids=["size", "modified", "changed"])
def test_one_difference_is_enough(tmp_path, other):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    now = list(cache.state(path.stat()))
    index = Index(files={str(path): Entry(*now, 5)})
    assert index.find(path) == 5
    now[other] += 1
    index.files[str(path)] = Entry(*now, 5)
    assert index.find(path) is None


def test_a_change_right_after_the_reading_shows_the_next_time(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    path, other = root / "class-00" / "00.bmp", tmp_path / "other.bmp"
    Image.new("RGB", (16, 16), "red").save(path)
    Image.new("RGB", (16, 16), "blue").save(other)
    os.utime(path, ns=(1, 1))  # the clock of a file system may stand still for some milliseconds

    class Hasty(cache.Content):
        def __init__(self, content):
            super().__init__(content)
            if content == red:
                path.write_bytes(other.read_bytes())

    red = path.read_bytes()
    monkeypatch.setattr(cache, "Content", Hasty)
    _, pictures = read_all(scan(root), PREPROCESSING, cache=folder)
    assert pictures[[0]][0, :, 0, 0].tolist() == [255, 0, 0], "what is hashed is what is decoded"
    assert path.read_bytes() != red
    read(root, folder)


def test_what_is_behind_a_link_is_not_taken_for_what_lies_beside_it(make_folder, tmp_path):
    for place, colour in (("near", "red"), ("far", "blue")):
        (tmp_path / place / "below").mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / place / "x.bmp")
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "below")
    paths = [tmp_path / "near" / "x.bmp", tmp_path / "near" / "link" / ".." / "x.bmp"]
    images = ImageList(paths, np.array([0, 1]), ["a", "b"])
    _, pictures = read_all(images, PREPROCESSING, cache=tmp_path / "cache")
    assert torch.equal(pictures[[0, 1]], reference(paths))


def test_one_content_under_several_names_has_one_row(make_folder, tmp_path, decoded):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    content = (root / "class-00" / "00.png").read_bytes()
    read(root, folder)
    decoded.clear()
    (root / "class-01" / "copy.png").write_bytes(content)
    os.utime(root / "class-00" / "01.png", (1, 1))
    root.rename(tmp_path / "moved")
    read(tmp_path / "moved", folder)
    assert decoded == []
    assert rows(folder) == 4


def test_a_part_of_the_pictures_uses_the_rows_of_all(make_folder, tmp_path, decoded):
    images, _ = read(make_folder([3, 4]), tmp_path / "cache")
    decoded.clear()
    part, pictures = read_all(images.only(np.array([1])), PREPROCESSING, cache=tmp_path / "cache")
    assert torch.equal(pictures[np.arange(4)], reference(part.paths))
    assert decoded == []


def test_every_size_and_fit_has_its_own(make_folder, tmp_path):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    for preprocessing in (PREPROCESSING, Preprocessing(16), Preprocessing(8), Preprocessing(16, fit="pad")):
        read(root, folder, preprocessing)
    assert len(list(folder.glob("*.pictures"))) == len(list(folder.glob("*.json"))) == 3


@pytest.mark.parametrize(
    "what", ["simplejpeg.__version__", "PIL.__version__", "torch.__version__", "nearkin.data.cache.LAYOUT"]
)
def test_every_decoder_has_its_own(tmp_path, monkeypatch, what):
    before = Cache(tmp_path, PREPROCESSING)
    monkeypatch.setattr(what, "99.9")
    after = Cache(tmp_path, PREPROCESSING)
    assert len({before.pictures, before.json, before.lock, after.pictures, after.json, after.lock}) == 6


def test_unreadable_pictures_are_named_each_time(make_folder, tmp_path, caplog, decoded):
    root, folder = make_folder([10, 10]), tmp_path / "cache"
    (root / "class-00" / "03.png").write_bytes((root / "class-00" / "04.png").read_bytes()[:60])
    for _ in range(2):
        caplog.clear()
        images, _ = read(root, folder)
        assert len(images.paths) == 19
        assert "class-00/03.png: truncated" in caplog.text
    assert rows(folder) == 19
    images.paths[0].unlink()
    missing, _ = read_all(images, PREPROCESSING, cache=folder)
    assert len(missing.paths) == 18
    assert "00.png: No such file or directory" in caplog.text
    for path in images.paths[1:]:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as pictures"):
        read(root, folder)


def test_an_unreadable_picture_makes_no_writer_of_its_reader(make_folder, tmp_path, caplog, decoded, monkeypatch):
    root, folder = make_folder([10, 10]), tmp_path / "cache"
    broken = root / "class-00" / "03.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60])
    read(root, folder)
    decoded.clear()
    with monkeypatch.context() as forbidden:
        forbidden.delattr(Cache, "claimed")
        read(root, folder)
        assert decoded == []
        assert caplog.text.count(f"skipped {broken}: truncated") == 2
        images = scan(root)
        images.paths[0].unlink()
        assert len(read_all(images, PREPROCESSING, cache=folder)[0].paths) == 18
    broken.write_bytes(content)
    assert len(read(root, folder)[0].paths) == 19


def test_what_cannot_be_opened_leaves_the_index_as_it_is(make_folder, tmp_path, caplog):
    folder = tmp_path / "cache"
    images, _ = read(make_folder([10, 10]), folder)
    before = Cache(folder, PREPROCESSING).json.stat()
    images.paths[3].unlink()
    images.paths[3].mkdir()
    assert len(read_all(images, PREPROCESSING, cache=folder)[0].paths) == 19
    assert f"skipped {images.paths[3]}: Is a directory" in caplog.text
    assert Cache(folder, PREPROCESSING).json.stat() == before


def test_what_the_memory_was_too_small_for_is_tried_again(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([10, 10]), tmp_path / "cache"
    decode = Preprocessing.decode

    def too_large(self, source):
        if source.name.endswith("class-00/03.png"):
            raise UnreadableImage(f"{source.name}: cannot be decoded") from MemoryError()
        return decode(self, source)

    with monkeypatch.context() as small:
        small.setattr(Preprocessing, "decode", too_large)
        assert len(read(root, folder)[0].paths) == 19
    assert len(read(root, folder)[0].paths) == 20


@pytest.mark.parametrize("damage", ["cut", "gone", "no index", "index is no JSON", "index of something else"])
def test_files_that_do_not_belong_together_are_made_anew(make_folder, tmp_path, damage):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    _, before = read(root, folder)
    held = before[np.arange(7)]
    files = Cache(folder, PREPROCESSING)
    mapped = files.pictures.stat().st_ino
    if damage == "cut":
        content = files.pictures.read_bytes()[:-1]
        files.pictures.unlink()
        files.pictures.write_bytes(content)
    elif damage == "gone":
        files.pictures.unlink()
    elif damage == "no index":
        files.json.unlink()
    else:
        files.json.write_text("{" if damage == "index is no JSON" else json.dumps({"pictures": 7}))
    read(root, folder)
    assert rows(folder) == 7
    assert files.pictures.stat().st_ino != mapped, "who has the old file mapped must not lose it"
    assert torch.equal(before[np.arange(7)], held)


def in_first_entry(value, at=3):
    """Puts a value into the entry of a file."""

    def change(tree):
        first = next(iter(tree["files"].values()))
        first[at] = value
        return tree

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: None,
        lambda tree: [tree],
        lambda tree: "rows files",
        lambda tree: {**tree, "rows": list(tree["rows"])},
        lambda tree: {**tree, "rows": dict(list(tree["rows"].items())[1:])},
        lambda tree: {"rows": dict.fromkeys(tree["rows"], 0), "files": {}},
        lambda tree: {"rows": dict.fromkeys(tree["rows"], "a"), "files": {}},
        lambda tree: {**tree, "files": list(tree["files"])},
        lambda tree: {**tree, "files": None},
        lambda tree: {**tree, "files": dict.fromkeys(tree["files"], 5)},
        lambda tree: {**tree, "files": {key: [1, 2, 3] for key in tree["files"]}},
        in_first_entry(-1),
        in_first_entry(1.5),
        in_first_entry(7),
        in_first_entry(None),
        in_first_entry([1]),
        in_first_entry("big", at=0),
        in_first_entry({}, at=2),
    ],
)
def test_an_index_that_makes_no_sense_is_made_anew(make_folder, tmp_path, change):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    read(root, folder)
    file = Cache(folder, PREPROCESSING).json
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    read(root, folder)
    assert rows(folder) == 7


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe\x00", b'{"rows": {}}'])
def test_so_is_one_that_cannot_be_parsed(make_folder, tmp_path, content):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    Cache(folder, PREPROCESSING).json.parent.mkdir()
    Cache(folder, PREPROCESSING).json.write_bytes(content)
    read(root, folder)
    assert rows(folder) == 7


def test_what_a_killed_build_left_behind_is_overwritten(make_folder, tmp_path):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    read(root, folder)
    with open(Cache(folder, PREPROCESSING).pictures, "ab") as file:
        file.write(b"x" * (ROW + 5))
    Image.new("RGB", (16, 16), "red").save(root / "class-00" / "new.png")
    read(root, folder)
    assert rows(folder) == 8


def test_a_build_that_is_broken_off_leaves_nothing(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    filling = Cache(folder, PREPROCESSING).fill(scan(root).paths)
    for _ in range(4):
        next(filling)
    filling.close()
    assert rows(folder) == 0
    assert not Cache(folder, PREPROCESSING).json.exists()
    read(root, folder)


def test_ctrl_c_behind_the_index_leaves_its_rows(make_folder, tmp_path, monkeypatch, decoded):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    write_file = cache.write_file

    def pressed(path, content):
        write_file(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as pressing:
        pressing.setattr(cache, "write_file", pressed)
        with pytest.raises(KeyboardInterrupt):
            read(root, folder)
    decoded.clear()
    read(root, folder)
    assert decoded == []


def test_an_index_that_cannot_be_written_is_the_file_that_is_named(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([3, 4]), tmp_path / "cache"

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(cache, "write_file", full)
        with pytest.raises(OSError, match="No space left") as raised:
            read(root, folder)
    assert raised.value.filename == str(Cache(folder, PREPROCESSING).json)
    assert rows(folder) == 0


def test_two_at_once_wait_for_each_other(make_folder, tmp_path, caplog, decoded):
    root, folder = make_folder([3, 4]), tmp_path / "cache"
    filling = Cache(folder, PREPROCESSING).fill(scan(root).paths)
    next(filling)
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as other:
        second = other.submit(read, root, folder)
        waited = threading.Event()
        for _ in range(200):
            if "another process is decoding into it" in caplog.text:
                break
            waited.wait(0.02)
        assert not second.done()
        list(filling)
        second.result()
    assert f"{folder}: another process is decoding into it; waiting for that" in caplog.text
    assert len(decoded) == 7
    assert rows(folder) == 7


def test_nobody_waits_for_a_run_in_the_same_folder_or_for_another_size(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([3, 4]), tmp_path / "cache"

    def fail(*words):
        raise AssertionError(words)  # rather than wait for ever

    monkeypatch.setattr(cache.log, "warning", fail)
    with RunFolder(folder).claimed():
        filling = Cache(folder, PREPROCESSING).fill(scan(root).paths)
        next(filling)
        read(root, folder, Preprocessing(8))
        list(filling)
        read(root, folder)


def test_pictures_are_written_in_parts(make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BYTES_AT_ONCE", 0)
    read(make_folder([30, 20]), tmp_path / "cache")
    assert rows(tmp_path / "cache") == 50


def test_a_folder_that_cannot_be_used(make_folder, tmp_path):
    root, file = make_folder([2, 2]), tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(UnusableCache, match=r"data.cache expects a folder that can be written to, but .*file"):
            read(root, folder)


@pytest.mark.parametrize("name", ["pictures", "json", "lock"])
def test_a_folder_in_the_place_of_a_file(make_folder, tmp_path, name):
    place = getattr(Cache(tmp_path / "cache", PREPROCESSING), name)
    place.mkdir(parents=True)
    with pytest.raises(UnusableCache, match=f"^data.cache expects a file {place}, but that is a folder; remove it"):
        read(make_folder([2, 2]), tmp_path / "cache")
