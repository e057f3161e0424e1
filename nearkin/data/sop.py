"""Stanford Online Products: 120,053 photographs of 22,634 products, from offers on eBay.

Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016. Classes 1 to 11,318 train
(`Ebay_train.txt`) and 11,319 to 22,634 test (`Ebay_test.txt`).
"""

from pathlib import Path

from nearkin.data.download import RemoteFile
from nearkin.data.published import Annotations, Counts, PublishedSet
from nearkin.errors import InputError

FOLDER = "Stanford_Online_Products"
HEADER = ["image_id", "class_id", "super_class_id", "path"]


def read_sop(root: Path) -> Annotations:
    """Read `Ebay_train.txt` and `Ebay_test.txt`, tables of HEADER.

    Classes have no names of their own: "bicycle-00001" is class 1, below `bicycle_final/`.

    Raises:
        InputError: A line does not fit, or a class is in both tables.
        FileNotFoundError: A table is missing.
    """
    tables = [read_table(root / FOLDER / f"Ebay_{part}.txt") for part in ("train", "test")]
    train, test = ({class_id for class_id, _ in table} for table in tables)
    if train & test:
        raise InputError(
            f"{root / FOLDER}: class {min(train & test)} is in both Ebay_train.txt and Ebay_test.txt, which share none "
            "in the original; unpack them again"
        )
    rows = tables[0] + tables[1]
    return Annotations(
        paths=[root / FOLDER / path for _, path in rows],
        class_ids=[class_id for class_id, _ in rows],
        class_names={number: f"{path.partition('_final/')[0]}-{number:05d}" for number, path in rows},
    )


def read_table(file: Path) -> list[tuple[int, str]]:
    """Class ids and paths."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].split() != HEADER:
        raise InputError(f"{file}: expected the header {' '.join(HEADER)!r}, found {lines[:1]}; unpack it again")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if len(fields) != len(HEADER) or not fields[1].isdecimal():
            raise InputError(f"{file}, line {number}: expected {' '.join(HEADER)}, found {line!r}; unpack it again")
        rows.append((int(fields[1]), fields[3]))
    return rows


SOP = PublishedSet(
    name="sop",
    title="Stanford Online Products",
    files=(
        RemoteFile(
            name="Stanford_Online_Products.zip",
            md5="7f73d41a2f44250d4779881525aea32e",
            source="https://cvgl.stanford.edu/projects/lifted_struct/",
            urls=(
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                # The authors' own second copy.
                "https://drive.usercontent.google.com/download?id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&confirm=t",
            ),
            folder=FOLDER,
        ),
    ),
    folder=FOLDER,
    read=read_sop,
    counts=Counts(train_images=59551, train_classes=11318, test_images=60502, test_classes=11316),
)
