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

from nearkin.data import Preprocessing, cache, read_all, scan
from nearkin.data.cache import Cache
from nearkin.errors import InputError

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


def test_every_size_fit_and_decoder_has_its_own(make_folder, tmp_path, monkeypatch):
    root, folder = make_folder([2, 2]), tmp_path / "cache"
    for preprocessing in (PREPROCESSING, Preprocessing(16), Preprocessing(8), Preprocessing(16, fit="pad")):
        read(root, folder, preprocessing)
    assert len(list(folder.glob("*.pictures"))) == 3
    monkeypatch.setattr("simplejpeg.__version__", "9.9")
    read(root, folder)
    assert len(list(folder.glob("*.pictures"))) == len(list(folder.glob("*.json"))) == 4


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
    assert [path.suffix for path in folder.iterdir()] == [".pictures"]
    read(root, folder)


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


def test_pictures_are_written_in_parts(make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BYTES_AT_ONCE", 0)
    read(make_folder([30, 20]), tmp_path / "cache")
    assert rows(tmp_path / "cache") == 50


def test_a_folder_that_cannot_be_used(make_folder, tmp_path):
    root, file = make_folder([2, 2]), tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(InputError, match=r"data.cache expects a folder that can be written to, but .*file"):
            read(root, folder)
