import os
from pathlib import Path

import numpy as np
import pytest

from nearkin.data import ImageList, scan, split_classes
from nearkin.data.folder import files_below
from nearkin.errors import InputError


def image_list(classes):
    return ImageList([], np.zeros(0, dtype=np.int64), [f"c{i}" for i in range(classes)])


def test_classes_and_files_are_sorted_and_hidden_ones_passed_over(tmp_path):
    hidden = ("a/.DS_Store", "a/._1.png", "a/.thumbs/1.png", ".git/x.png")
    for name in ("b/2.jpg", "b/10.jpg", "a/deep/er/1.png", "loose.png", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = scan(tmp_path)
    assert found.classes == ["a", "b"]
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == ["a/deep/er/1.png", "b/10.jpg", "b/2.jpg"]
    assert found.labels.tolist() == [0, 1, 1]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def refuse(path):  # by hand: root may list every folder
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        list(files_below(tmp_path / "a"))


def test_an_empty_class_folder_is_named(tmp_path, caplog):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "1.png").touch()
    (tmp_path / "hollow").mkdir()
    assert scan(tmp_path).classes == ["full"]
    assert "1 class folder without a file: hollow" in caplog.text


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match="missing does not exist"):
        scan(tmp_path / "missing")
    (tmp_path / "1.png").touch()
    with pytest.raises(InputError, match=r"holds no class folder with a file in it \(1 loose files\)"):
        scan(tmp_path)
    with pytest.raises(InputError, match=r"1\.png is a file"):
        scan(tmp_path / "1.png")


@pytest.mark.parametrize(("total", "train"), [(4, 2), (5, 3), (242, 121), (65, 33)])
def test_first_half_rounded_up_trains(total, train):
    split = split_classes(image_list(total), 0.0, seed=0)
    assert split.train.tolist() == list(range(train))
    assert split.test.tolist() == list(range(train, total))
    assert len(split.validation) == 0


def test_validation_classes_are_training_classes():
    split = split_classes(image_list(100), 0.2, seed=1)
    assert len(split.validation) == 10
    assert sorted([*split.train, *split.validation]) == list(range(50))
    assert split.test.tolist() == list(range(50, 100))
    assert split.validation.tolist() != split_classes(image_list(100), 0.2, seed=2).validation.tolist()


@pytest.mark.parametrize(("total", "folds"), [(16, 4), (17, 4), (100, 3), (101, 7), (242, 5), (14, 3)])
def test_folds_of_a_seed_are_disjoint_equal_and_complete(total, folds):
    splits = [split_classes(image_list(total), 1 / folds, seed=3, fold=fold) for fold in range(folds)]
    half = (total + 1) // 2
    assert sorted(c for split in splits for c in split.validation) == list(range(half))
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits:
        assert sorted([*split.train, *split.validation]) == list(range(half))
        assert split.test.tolist() == list(range(half, total))
    other = split_classes(image_list(total), 1 / folds, seed=4, fold=1)
    assert other.validation.tolist() != splits[1].validation.tolist()


def test_a_fold_is_a_part_of_the_shuffled_training_classes():
    order = np.random.default_rng(5).permutation(40)
    third_quarter = split_classes(image_list(80), 0.25, seed=5, fold=2).validation
    assert third_quarter.tolist() == sorted(order[20:30].tolist())


@pytest.mark.parametrize(
    ("validation", "fold", "message"),
    [
        (0.25, 4, r"data.fold must be in \[0, 4\), the parts of size data.validation=0.25, got 4"),
        (0.25, -1, r"\[0, 4\).* got -1"),
        (0.3, 3, r"\[0, 3\).* got 3"),
        (0.0, 1, r"\[0, 1\).* got 1"),
    ],
)
def test_folds_that_there_are_not(validation, fold, message):
    with pytest.raises(InputError, match=message):
        split_classes(image_list(100), validation, seed=0, fold=fold)


def test_only_some_classes_keep_ids_and_names():
    paths = [Path(f"{i}.png") for i in range(6)]
    images = ImageList(paths, np.array([0, 0, 1, 1, 2, 2]), ["a", "b", "c"])
    chosen = images.only(np.array([0, 2]))
    assert [path.name for path in chosen.paths] == ["0.png", "1.png", "4.png", "5.png"]
    assert chosen.labels.tolist() == [0, 0, 2, 2]
    assert chosen.classes == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("total", "validation", "message"),
    [
        (3, 0.0, "at least 4 classes .* found 3: c0, c1, c2"),
        (10, 1.0, r"in \[0, 1\), got 1.0"),
        (10, -0.1, r"in \[0, 1\), got -0.1"),
        (10, 0.1, "holds out 0 of 5"),
        (10, 0.9, "holds out 4 of 5"),
    ],
)
def test_impossible_splits_are_refused(total, validation, message):
    with pytest.raises(InputError, match=message):
        split_classes(image_list(total), validation, seed=0)
