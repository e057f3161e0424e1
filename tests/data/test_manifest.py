import pyarrow as pa
import pytest
from pyarrow import parquet

from nearkin.data.manifest import read_manifest
from nearkin.errors import InputError

NAMES = ["b/1.jpg", "a/1.jpg", "b/2.jpg", "c/é 1.jpg", "d/1.jpg"]


@pytest.fixture
def write(tmp_path):
    """Five files, and a manifest of rows or of raw bytes beside them."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def make(content, kind="csv"):
        file = tmp_path / f"list.{kind}"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif kind == "csv":
            file.write_text("".join(",".join(map(str, row)) + "\n" for row in content), encoding="utf-8")
        else:
            header, *rows = content
            columns = zip(*rows, strict=True) if rows else [[] for _ in header]
            parquet.write_table(pa.table({k: pa.array(v) for k, v in zip(header, columns, strict=True)}), file)
        return file

    return make


ROWS = [("path", "label"), ("b/1.jpg", "b"), ("a/1.jpg", "a"), ("b/2.jpg", "b"), ("c/é 1.jpg", "é"), ("d/1.jpg", "d")]
SPLITS = ["split", "train", "validation", "train", "test", "test"]
WITH_SPLIT = [(*row, split) for row, split in zip(ROWS, SPLITS, strict=True)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_keep_their_order_and_classes_are_sorted_by_name(write, tmp_path, kind):
    images, split = read_manifest(write(ROWS, kind))
    assert split is None
    assert images.classes == ["a", "b", "d", "é"]
    assert images.paths == [tmp_path / name for name in NAMES]
    assert [images.classes[label] for label in images.labels] == ["b", "a", "b", "é", "d"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_split_is_taken_as_it_is(write, kind):
    images, split = read_manifest(write(WITH_SPLIT, kind))
    named = {part: [images.classes[c] for c in getattr(split, part)] for part in ("train", "validation", "test")}
    assert named == {"train": ["b"], "validation": ["a"], "test": ["d", "é"]}


def test_absolute_paths_columns_in_any_order_and_what_spreadsheets_write(write, tmp_path):
    rows = f'label,path\r\n"b, big",{tmp_path}/b/1.jpg\r\n\r\n"say ""a""",a/1.jpg\r\n'
    images, _ = read_manifest(write(b"\xef\xbb\xbf" + rows.encode()))
    assert images.paths == [tmp_path / "b/1.jpg", tmp_path / "a/1.jpg"]
    assert images.classes == ["b, big", 'say "a"']
    assert images.labels.tolist() == [0, 1]


def test_whole_numbers_and_categories_of_a_parquet_file_are_labels(write, tmp_path):
    images, _ = read_manifest(write([("path", "label"), ("b/1.jpg", 10), ("a/1.jpg", 9)], "parquet"))
    assert images.classes == ["10", "9"]  # by name
    table = pa.table({"path": ["b/1.jpg", "a/1.jpg"], "label": pa.array(["x", "w"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "list.parquet")
    assert read_manifest(tmp_path / "list.parquet")[0].classes == ["w", "x"]


def test_rows_are_counted_over_the_row_groups_of_a_parquet_file(write, tmp_path):
    table = pa.table({"path": [*NAMES, "gone.jpg"], "label": list("babcde")})
    parquet.write_table(table, tmp_path / "list.parquet", row_group_size=2)
    with pytest.raises(InputError, match=r"list.parquet, row 6: there is no file .*/gone.jpg"):
        read_manifest(tmp_path / "list.parquet")


def changed(row, *values):
    return [values if i == row else each for i, each in enumerate(WITH_SPLIT)]


MISTAKES = [
    (changed(2, "gone.jpg", "a", "train"), r"there is no file .*/gone.jpg; paths are absolute or relative to"),
    (changed(2, "a", "a", "train"), "there is no file"),  # a folder
    (changed(2, "", "a", "train"), "path is empty; fill it in or remove the row"),
    (changed(2, "a/1.jpg", "", "train"), "label is empty; fill it in or remove the row"),
    (changed(2, "a/1.jpg", "a", "Train"), "expected the split to be train, validation or test, found 'Train'"),
    (changed(2, "a/1.jpg", "a", ""), "expected the split to be train, validation or test, found ''"),
    (changed(2, "a/1.jpg", "b", "test"), r"class b is in test here and in train in row {first}; put it into one split"),
    (changed(2, "a/1.jpg", "b", "validation"), r"class b is in validation here and in train in row {first}"),
    (changed(2, "b/1.jpg", "b", "train"), r"b/1.jpg is already in row {first}; list every picture once"),
    (changed(2, "a/../b/1.jpg", "b", "train"), r"a/../b/1.jpg is already in row {first}"),
]


@pytest.mark.parametrize(("rows", "message"), MISTAKES)
@pytest.mark.parametrize(("kind", "first"), [("csv", 2), ("parquet", 1)])
def test_a_wrong_row_is_named_by_its_number(write, rows, message, kind, first):
    with pytest.raises(InputError, match=rf"list.{kind}, row {first + 1}: {message.format(first=first)}") as failed:
        read_manifest(write(rows, kind))
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "row 2: label is empty"), (1.5, r"text or a whole number, found 1.5"), (True, "found True")],
)
def test_labels_of_a_parquet_file_that_are_no_names(write, tmp_path, label, message):
    parquet.write_table(pa.table({"path": NAMES[:2], "label": [label, label]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=message.replace("row 2", "row 1")):
        read_manifest(tmp_path / "list.parquet")


def test_a_column_whose_name_is_not_utf8(write):
    whole = write(ROWS, "parquet").read_bytes()
    with pytest.raises(InputError, match=r"is not a Parquet file, or a damaged one .*utf-8"):
        read_manifest(write(whole.replace(b"label", b"la\xffel"), "parquet"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_that_differ_by_a_zero_at_their_end_are_two(write, kind):
    rows = [("a/1.jpg", "a\0", "test"), ("b/1.jpg", "a", "train"), ("b/2.jpg", "\0", "test")]
    images, split = read_manifest(write([("path", "label", "split"), *rows], kind))
    assert images.classes == ["\0", "a", "a\0"]
    assert images.labels.tolist() == [2, 1, 0]
    assert split.test.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([("a\n1.jpg", "a", "test")], r"there is no file .*a\\n1.jpg;"),
        ([("a/1.jpg", "a\x1b[2J", "test"), ("b/1.jpg", "a\x1b[2J", "train")], r"class a\\x1b\[2J is in train"),
    ],
)
def test_odd_characters_are_shown_and_not_obeyed(write, rows, shown):
    with pytest.raises(InputError, match=shown) as refused:
        read_manifest(write([("path", "label", "split"), *rows], "parquet"))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (("path", "class"), "found 'path', 'class'"),
        (("path",), "found 'path'"),
        (("path", "label", "spilt"), "found 'path', 'label', 'spilt'"),
        (("", "path", "label"), "found '', 'path', 'label'"),
        (("path;label",), "found 'path;label'"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_missing_and_unknown_columns(write, header, found, kind):
    rows = [header, tuple("x" for _ in header)]
    with pytest.raises(InputError, match=f"expected the columns path, label and, if wanted, split; {found}"):
        read_manifest(write(rows, kind))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the columns .* found none"),
        (b"path,label\n", "expected a row for every picture, found none"),
        (b"path,label,label\n", "found 'path', 'label', 'label'"),
        (b"path,label\nb/1.jpg,b\na/1.jpg\n", "row 3: expected 2 columns, found 1"),
        (b"path,label\nb/1.jpg,b,c\n", "row 2: expected 2 columns, found 3"),
        ("path,label\nb/1.jpg,b\nc/é 1.jpg,é\n".encode("latin-1"), r"row 3: not UTF-8 \(.*\); save the file as UTF-8"),
        ("path,label\nb/1.jpg,b\n".encode("utf-16"), "row 1: not UTF-8"),
        (b'path,label\nb/1.jpg,"b\n', r"not a CSV file \(unexpected end of data\)"),
        (b'path,label\nb/1.jpg,"b"c\n', "line 2: not a CSV file"),
        (b"path,label\nb\0.jpg,b\n", "row 2: there is no file"),
        (b"path,label\n" + b"x" * 5000 + b",b\n", "row 2: there is no file"),
    ],
)
def test_damaged_csv(write, content, message):
    with pytest.raises(InputError, match=message) as failed:
        read_manifest(write(content))
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path,label\n", "truncated"])
def test_damaged_parquet(write, content):
    if content == "truncated":
        content = write(ROWS, "parquet").read_bytes()[:-20]
    with pytest.raises(InputError, match=r"list.parquet is not a Parquet file, or a damaged one") as failed:
        read_manifest(write(content, "parquet"))
    assert "\n" not in str(failed.value)


def test_parquet_text_that_is_not_utf8(tmp_path, write):
    write(ROWS)
    broken = pa.Array.from_buffers(pa.utf8(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.table({"path": pa.array(["b/1.jpg"]), "label": broken})
    parquet.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"list.parquet, row 1: not UTF-8"):
        read_manifest(tmp_path / "list.parquet")
