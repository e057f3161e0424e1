import pytest

from nearkin.errors import InputError


def test_pictures_and_classes_are_those_of_the_tables(small_sop):
    root, products = small_sop(train=4, test=3)
    images, split = products.open(root)
    folder = root / "Stanford_Online_Products"
    rows = []
    for part in ("train", "test"):
        rows += [line.split() for line in (folder / f"Ebay_{part}.txt").read_text().splitlines()[1:]]
    assert images.paths == [folder / path for _, _, _, path in rows]
    assert images.labels.tolist() == [int(number) - 1 for _, number, _, _ in rows]
    assert images.classes == [
        "coffee_maker-00001",
        "bicycle-00002",
        "coffee_maker-00003",
        "bicycle-00004",
        "coffee_maker-00005",
        "bicycle-00006",
        "coffee_maker-00007",
    ]
    assert split.train.tolist() == [0, 1, 2, 3]
    assert split.test.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_id", "id", r"Ebay_test.txt: expected the header 'image_id class_id super_class_id path', found \['id "),
        ("9 5 2 ", "9 5 ", "Ebay_test.txt, line 2: expected image_id class_id super_class_id path, found '9 5 coffee"),
        ("9 5 2 ", "9 five 2 ", "Ebay_test.txt, line 2"),
        ("9 5 2 ", "9 4 2 ", "class 4 is in both Ebay_train.txt and Ebay_test.txt"),
        (
            "9 5 2 ",
            "9 8 2 ",
            "found 8 pictures of 4 classes to train on and 5 of 3 to test on, and 1 class numbered beyond 7",
        ),
    ],
)
def test_damaged_tables_are_one_line(small_sop, old, new, message):
    root, products = small_sop()
    path = root / "Stanford_Online_Products" / "Ebay_test.txt"
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    with pytest.raises(InputError, match=message):
        products.open(root)


def test_a_surplus_class_is_found_though_all_others_are_there(small_sop):
    root, products = small_sop()
    path = root / "Stanford_Online_Products" / "Ebay_test.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace(" 5 ", " 8 ") + "\n")
    with pytest.raises(InputError, match=r"found 8 pictures of 4 classes .* and 1 class numbered beyond 7"):
        products.open(root)


def test_an_empty_or_missing_table(small_sop):
    root, products = small_sop()
    path = root / "Stanford_Online_Products" / "Ebay_train.txt"
    path.write_text("")
    with pytest.raises(InputError, match=r"Ebay_train.txt: expected the header .*, found \[\]"):
        products.open(root)
    path.unlink()
    with pytest.raises(InputError, match=r"no .*Ebay_train.txt; get it with: nearkin data get sop"):
        products.open(root)
