import pytest

from nearkin.data.cub200 import read_cub200
from nearkin.errors import InputError


def test_classes_are_those_of_the_label_file_in_the_order_of_their_numbers(small_cub):
    root, birds = small_cub(train=4, test=5)
    images, split = birds.open(root)
    folder = root / "CUB_200_2011"
    names = [line.split()[1] for line in (folder / "classes.txt").read_text().splitlines()]
    assert images.classes == names
    name_of = dict(line.split() for line in (folder / "images.txt").read_text().splitlines())
    class_of = dict(line.split() for line in (folder / "image_class_labels.txt").read_text().splitlines())
    expected = {folder / "images" / name: int(class_of[number]) - 1 for number, name in name_of.items()}
    assert dict(zip(images.paths, images.labels.tolist(), strict=True)) == expected
    assert [images.classes[c] for c in split.train] == names[:4]


def test_its_own_split_is_not_read(small_cub):
    root, birds = small_cub()
    (root / "CUB_200_2011" / "train_test_split.txt").unlink()
    assert len(birds.open(root)[0].paths) == 27


def test_files_of_macos_are_passed_over(small_cub):
    root, birds = small_cub()
    assert list((root / "CUB_200_2011").rglob("._*"))
    with open(root / "CUB_200_2011" / "images.txt", "a") as file:
        file.write("28 001.Bird_Y/._Bird_0001.jpg\n")
    assert not any(path.name.startswith("._") for path in birds.open(root)[0].paths)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images.txt", "5 002", "", r"images.txt, line 5: expected an id and a value, found '.Bird_X"),
        ("images.txt", "\n27 ", "\n99 ", "image_class_labels.txt: expected a class for image 99, found nothing"),
        ("image_class_labels.txt", "\n3 1\n", "\n3 one\n", "expected a class for image 3, found one"),
        ("image_class_labels.txt", "\n3 1\n", "\n3 2\n", "image 4 of 002.Bird_X into class 2, which is 001.Bird_Y"),
        ("image_class_labels.txt", "\n3 1\n", "\n3\n", "image_class_labels.txt, line 3: expected an id and a value"),
    ],
)
def test_damaged_lists_are_one_line(small_cub, file, old, new, message):
    root, _ = small_cub()
    path = root / "CUB_200_2011" / file
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_cub200(root)


@pytest.mark.parametrize("file", ["images.txt", "image_class_labels.txt"])
def test_a_list_that_is_missing_or_binary(small_cub, file):
    root, birds = small_cub()
    path = root / "CUB_200_2011" / file
    path.write_bytes(b"\xff\xfe\x00\x01\n")
    with pytest.raises(InputError, match=f"{file}, line 1"):
        birds.open(root)
    path.unlink()
    with pytest.raises(InputError, match=f"there is no .*{file}; get it with"):
        birds.open(root)
