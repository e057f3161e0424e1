import numpy as np
import pytest

from nearkin.data import Data
from nearkin.data.source import PUBLISHED, short_form
from nearkin.errors import InputError


@pytest.fixture
def manifest(make_folder, tmp_path):
    """A manifest of classes with two pictures each; `parts` says the split of each class."""

    def make(parts):
        root = make_folder([2] * len(parts))
        rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(root.rglob("*.png"))]
        lines = [f"{row},{part}" if part else row for row, part in zip(rows, np.repeat(parts, 2), strict=True)]
        header = "path,label,split" if parts[0] else "path,label"
        (tmp_path / "list.csv").write_text("\n".join([header, *lines]))
        return Data(tmp_path / "list.csv")

    return make


def test_a_folder_and_a_manifest_without_split_give_the_same(manifest, tmp_path):
    listed = manifest([""] * 7)
    for validation, seed in ((0.0, 0), (0.5, 0), (0.5, 3)):
        images, split = Data(listed.root, validation=validation).open(seed)
        other, expected = Data(tmp_path / "pictures", validation=validation).open(seed)
        assert images.paths == other.paths
        assert images.classes == other.classes
        assert images.labels.tolist() == other.labels.tolist()
        for part in ("train", "validation", "test"):
            assert getattr(split, part).tolist() == getattr(expected, part).tolist()


@pytest.mark.parametrize("place", ["cache", "class-00/cache", "link/cache"])
def test_a_cache_may_not_become_a_class(make_folder, tmp_path, place):
    root = make_folder([2] * 4)
    (tmp_path / "link").symlink_to(root)
    cache = (tmp_path if place.startswith("link") else root) / place
    with pytest.raises(InputError, match=f"^data.cache expects a folder outside .*, got {cache}; name another$"):
        Data(tmp_path / "elsewhere" / ".." / root.name, cache=cache).open(0)


def test_a_cache_may_lie_where_no_class_is_looked_for(make_folder, small_cub, monkeypatch, tmp_path):
    root = make_folder([2] * 4)
    for cache in (root, tmp_path, tmp_path / "pictures-decoded"):
        assert len(Data(root, cache=cache).open(0)[0].classes) == 4
    place, small = small_cub()
    monkeypatch.setitem(PUBLISHED, "cub200", small)
    assert len(Data(place, "cub200", cache=place / "cache").open(0)[0].classes) == 9


def test_a_given_split_holds_out_training_classes_only(manifest):
    parts = ["test", "train", "train", "test", "train", "train", "train"]
    listed = manifest(parts)
    seen = set()
    for seed in range(20):
        _, split = Data(listed.root, validation=0.4).open(seed)
        assert split.test.tolist() == [0, 3]
        assert len(split.validation) == 2
        assert sorted([*split.train, *split.validation]) == [1, 2, 4, 5, 6]
        seen.add(tuple(split.validation))
    assert len(seen) > 5
    assert Data(listed.root).open(0)[1].train.tolist() == [1, 2, 4, 5, 6]


def test_validation_classes_of_a_manifest_are_used_and_not_doubled(manifest):
    listed = manifest(["train", "validation", "train", "test", "test"])
    _, split = listed.open(0)
    assert (split.train.tolist(), split.validation.tolist(), split.test.tolist()) == ([0, 2], [1], [3, 4])
    with pytest.raises(InputError, match=r"names its own validation classes, and data.validation 0.5 would"):
        Data(listed.root, validation=0.5).open(0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train", "train", "test"], "at least 2 classes to train on and 2 to test on, found 2 and 1"),
        (["train", "test", "test"], "found 1 and 2"),
        (["train"] * 4, "found 4 and 0"),
        (["", "", ""], "at least 4 classes"),
    ],
)
def test_too_few_classes(manifest, parts, message):
    with pytest.raises(InputError, match=message):
        manifest(parts).open(0)


@pytest.mark.parametrize("name", ["cub200", "cars196", "sop"])
def test_a_data_set_with_a_name(name, small_cub, small_cars, small_sop, monkeypatch):
    root, small = {"cub200": small_cub, "cars196": small_cars, "sop": small_sop}[name](train=6, test=3)
    monkeypatch.setitem(PUBLISHED, name, small)
    images, split = Data(root, name).open(0)
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.test.tolist() == [6, 7, 8]
    assert len(images.classes) == len(set(images.classes)) == 9
    _, held = Data(root, name, validation=0.5).open(1)
    assert len(held.validation) == 3
    assert sorted([*held.train, *held.validation]) == [0, 1, 2, 3, 4, 5]
    assert held.test.tolist() == [6, 7, 8]
    with pytest.raises(InputError, match=r"data.validation 0.1 holds out 1 of 6 training classes"):
        Data(root, name, validation=0.1).open(1)


@pytest.mark.parametrize("name", ["cub200", "cars196", "sop"])
def test_the_folder_of_a_known_set_without_its_name_is_recognised(name, small_cub, small_cars, small_sop):
    root, _ = {"cub200": small_cub, "cars196": small_cars, "sop": small_sop}[name]()
    with pytest.raises(InputError, match=f"say --data {name} --data.root {root}"):
        Data(root).open(0)


def test_a_real_one_refuses_a_small_tree(small_cub):
    root, _ = small_cub()
    with pytest.raises(InputError, match=r"expected 5,864 pictures of 100 classes to train on and 5,924 of 100"):
        Data(root, "cub200").open(0)


def test_what_does_not_exist(tmp_path):
    with pytest.raises(
        InputError, match=r"a manifest \(.csv or .parquet\) or a data set \(cub200, cars196, sop\), but"
    ):
        Data(tmp_path / "missing.csv").open(0)
    with pytest.raises(InputError, match=r"unknown data set 'cub2000'; did you mean cub200?"):
        Data(tmp_path, "cub2000").open(0)
    (tmp_path / "list.txt").write_text("path,label\n")
    with pytest.raises(InputError, match=r"list.txt is a file; name the folder, or a .csv or .parquet, with --data"):
        Data(tmp_path / "list.txt").open(0)


def test_a_folder_may_be_called_as_a_manifest(make_folder):
    root = make_folder([1] * 4, name="shop.csv")
    assert len(Data(root).open(0)[0].classes) == 4


def test_short_forms_and_default_roots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_form("cub200") == {"name": "cub200", "root": None}
    assert short_form("./cub200") == {"name": None, "root": "./cub200"}
    assert Data.at(None, "sop") == Data(tmp_path / "data" / "sop", "sop")
    assert Data.at("x/y", None) == Data(tmp_path / "x" / "y")
    assert Data.of({"root": "/p", "validation": 0.2}) == Data(tmp_path / "/p", None, 0.2)  # of an older run
    with pytest.raises(InputError, match="no pictures"):
        Data.at(None, None)
