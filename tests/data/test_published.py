"""What every data set with a name does, shown on CUB-200-2011; the layouts are in the tests of each."""

import hashlib
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from nearkin.data.published import Counts
from nearkin.data.source import PUBLISHED
from nearkin.errors import InputError
from nearkin.progress import Bar


@pytest.fixture
def packed(small_cub, tmp_path):
    """An archive as it is published, the set that knows its md5, and an empty root."""
    root, birds = small_cub(root=tmp_path / "original")
    archive = tmp_path / "CUB_200_2011.tgz"
    (root / "attributes.txt").write_text("lies beside the folder in the original, too")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "attributes.txt", "attributes.txt")
        tar.add(root / "CUB_200_2011", "CUB_200_2011")
    file = replace(birds.files[0], md5=hashlib.md5(archive.read_bytes()).hexdigest(), urls=())
    return archive, replace(birds, files=(file,)), tmp_path / "empty"


@pytest.mark.parametrize(
    ("name", "counts", "total"),
    [
        ("cub200", Counts(5864, 100, 5924, 100), 11_788),
        ("cars196", Counts(8054, 98, 8131, 98), 16_185),
        ("sop", Counts(59_551, 11_318, 60_502, 11_316), 120_053),
    ],
)
def test_the_real_counts(name, counts, total):
    assert PUBLISHED[name].counts == counts
    assert counts.train_images + counts.test_images == total
    assert PUBLISHED[name].name == name


def test_the_archives_of_the_originals():
    md5s = {file.name: file.md5 for each in PUBLISHED.values() for file in each.files}
    assert md5s == {
        "CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78",
        "car_ims.tgz": "d5c8f0aa497503f355e17dc7886c3f14",
        "cars_annos.mat": "b407c6086d669747186bd1d764ff9dbc",
        "Stanford_Online_Products.zip": "7f73d41a2f44250d4779881525aea32e",
    }


def test_an_archive_that_the_user_has_brought_is_used_and_kept(packed):
    archive, birds, root = packed
    root.mkdir()
    shutil.copy(archive, root)
    birds.get(root, Bar)
    images, split = birds.open(root)
    assert (len(images.paths), len(split.train), len(split.test)) == (27, 4, 5)
    assert sorted(path.name for path in root.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]


def test_getting_it_twice_changes_nothing(packed):
    archive, birds, root = packed
    root.mkdir()
    shutil.copy(archive, root)
    birds.get(root, Bar)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (root / "CUB_200_2011.tgz").unlink()  # no longer needed
    birds.get(root, Bar)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.suffix != ".tgz"}.items() <= times.items()


def test_without_an_address_every_missing_file_is_named_at_once(packed, small_cars, tmp_path):
    _, birds, root = packed
    with pytest.raises(InputError, match=r"bring CUB_200_2011.tgz \(md5 [0-9a-f]{32}\) from https://data.caltech.edu"):
        birds.get(root, Bar)
    assert not root.exists()
    _, cars = small_cars()
    message = r"car_ims.tgz \(md5 d5c8\w+\) and cars_annos.mat \(md5 b407\w+\) from a copy made before 2023"
    with pytest.raises(InputError, match=message) as failed:
        cars.get(tmp_path / "none", Bar)
    assert "http://ai.stanford.edu/~jkrause/car196/" in str(failed.value)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "car_ims.tgz").write_bytes(b"not checked before all is there")
    with pytest.raises(InputError, match=r"bring cars_annos.mat \(md5 \w+\) from"):
        cars.get(tmp_path / "none", Bar)


def test_a_wrong_archive_is_refused_before_it_is_opened(packed):
    archive, birds, root = packed
    root.mkdir()
    (root / archive.name).write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"expected md5 {birds.files[0].md5}, found [0-9a-f]{{32}}"):
        birds.get(root, Bar)
    assert [path.name for path in root.iterdir()] == [archive.name]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"train_images": 13}, "found 12 pictures of 4 classes to train on and 15 of 5 to test on"),
        ({"test_images": 14}, "expected 12 pictures of 4 classes to train on and 14 of 5 to test on, found 12"),
        (
            {"train_classes": 3},
            "found 9 pictures of 3 classes to train on and 15 of 5 to test on, and 1 class numbered",
        ),
        ({"test_classes": 6}, "15 of 6 to test on, found 12 pictures of 4 classes to train on and 15 of 5 to test on"),
    ],
)
def test_a_wrong_count_says_expected_and_found_and_what_to_do(small_cub, change, found):
    root, birds = small_cub()
    with pytest.raises(InputError, match=found) as failed:
        replace(birds, counts=replace(birds.counts, **change)).open(root)
    assert f"move {root / 'CUB_200_2011'} away and run nearkin data get cub200 --root {root}" in str(failed.value)


def test_missing_pictures_are_named_and_counted(small_cub):
    root, birds = small_cub()
    for path in sorted((root / "CUB_200_2011" / "images").rglob("*.jpg"))[4:9]:
        path.unlink()
    message = (
        r"5 of 27 pictures missing or empty: CUB_200_2011/images/002\.\w+/\w+\.jpg, .* and 2 more; "
        r"move .* away and run nearkin"
    )
    with pytest.raises(InputError, match=message):
        birds.open(root)


def test_empty_pictures_count_as_missing(small_cub):
    root, birds = small_cub()
    path = sorted((root / "CUB_200_2011" / "images").rglob("*.jpg"))[4]
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"1 of 27 pictures missing or empty: {path.relative_to(root)}; move"):
        birds.open(root)


def test_a_folder_named_as_the_archive_is_one_line(packed):
    archive, birds, root = packed
    (root / archive.name).mkdir(parents=True)
    with pytest.raises(InputError, match=rf"^{root / archive.name} is a folder, .* move it away and run the command"):
        birds.get(root, Bar)


def test_nothing_there_says_how_to_get_it(small_cub, tmp_path):
    _, birds = small_cub()
    message = (
        r"expected CUB-200-2011 in .*nowhere, but there is no .*; get it with: nearkin data get cub200 --root .*nowhere"
    )
    with pytest.raises(InputError, match=message):
        birds.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected CUB-200-2011 in"):
        birds.open(tmp_path / "file")


def test_the_split_has_no_class_twice_and_no_validation(small_cub):
    root, birds = small_cub(train=6, test=2)
    images, split = birds.open(root)
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.test.tolist() == [6, 7]
    assert split.validation.tolist() == []
    assert np.bincount(images.labels).tolist() == [3] * 8
