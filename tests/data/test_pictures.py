import threading

import numpy as np
import pytest
import torch
from PIL import Image

from nearkin.data import Pictures, Preprocessing, prefetch, read_all, scan
from nearkin.data import pictures as module
from nearkin.errors import InputError

PREPROCESSING = Preprocessing(size=12, resize=16)


def reference(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("keep_bytes", [2**30, 0], ids=["kept", "decoded again"])
def test_gives_the_pictures_asked_for(make_folder, monkeypatch, keep_bytes):
    monkeypatch.setattr(module, "KEEP_BYTES", keep_bytes)
    images = scan(make_folder([3, 4]))
    pictures = Pictures(images.paths, PREPROCESSING)
    for indices in ([6, 0, 0, 3], [0], [5, 6]):
        batch = pictures[np.array(indices)]
        assert batch.dtype == torch.uint8
        assert torch.equal(batch, torch.stack([reference(images.paths[i]) for i in indices]))


def test_decodes_once_while_all_fit(make_folder):
    images = scan(make_folder([3, 4]))
    pictures = Pictures(images.paths, PREPROCESSING)
    first = pictures[np.arange(7)]
    for path in images.paths:
        path.unlink()
    assert torch.equal(pictures[np.arange(7)], first)
    assert torch.equal(pictures.select(np.array([4, 2]))[np.array([1])], first[[2]])


def test_a_file_that_is_gone_is_unreadable(make_folder, caplog):
    images = scan(make_folder([10, 10]))
    images.paths[3].unlink()
    kept, pictures = read_all(images, PREPROCESSING)
    assert len(pictures) == len(kept.paths) == 19
    assert "03.png: No such file or directory" in caplog.text


def test_a_part_is_held_against_the_whole(make_folder):
    images = scan(make_folder([10]))
    for path in images.paths[:3]:
        path.write_bytes(b"")
    assert len(read_all(images, PREPROCESSING, of=30)[1]) == 7
    with pytest.raises(InputError, match="3 files of 10 cannot be read"):
        read_all(images, PREPROCESSING, of=29)
    for path in images.paths[3:]:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 10 files can be read as a picture"):
        read_all(images, PREPROCESSING, of=1000)


def test_unreadable_files_are_named_counted_and_left_out(make_folder, caplog):
    root = make_folder([10, 10, 10])
    (root / "class-01" / "03.png").write_bytes((root / "class-01" / "03.png").read_bytes()[:60])
    (root / "class-02" / "notes.txt").write_text("not a picture")
    images, pictures = read_all(scan(root), PREPROCESSING)
    assert len(images.paths) == len(images.labels) == len(pictures) == 29
    assert np.bincount(images.labels).tolist() == [10, 9, 10]
    assert "class-01/03.png" in caplog.text
    assert "class-02/notes.txt" in caplog.text
    assert "2 files of 31 cannot be read as pictures: skipped" in caplog.text
    assert torch.equal(pictures[np.array([13])][0], reference(images.paths[13]))


def test_more_than_a_tenth_of_unreadable_files_stops(make_folder):
    root = make_folder([10, 10])
    for i in range(3):
        (root / "class-00" / f"{i:02d}.png").write_bytes(b"")
    with pytest.raises(InputError, match="3 files of 20 cannot be read as pictures"):
        read_all(scan(root), PREPROCESSING)


def test_prefetch_keeps_the_order_and_decodes_ahead(make_folder):
    images = scan(make_folder([8]))
    pictures = Pictures(images.paths, PREPROCESSING)
    drawn = []

    def batches():
        for i in range(8):
            drawn.append(i)
            yield np.array([i])

    for i, batch in enumerate(prefetch(pictures.__getitem__, batches(), ahead=2)):
        assert torch.equal(batch[0], reference(images.paths[i]))
        assert len(drawn) == min(i + 3, 8)
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_prefetch_passes_errors_on(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ValueError, match=r"a\.png"):
        list(prefetch(Pictures([tmp_path / "a.png"], PREPROCESSING).__getitem__, [np.array([0])]))


@pytest.mark.parametrize(
    ("size", "resize", "message"), [(0, None, "1 to 4096, got 0"), (32, 16, r"image\.size=32 to 4096, got 16")]
)
def test_impossible_sizes_are_refused(size, resize, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(size, resize)
