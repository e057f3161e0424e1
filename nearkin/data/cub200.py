"""CUB-200-2011: 11,788 photographs of 200 species of birds.

Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", technical report CNS-TR-2011-001, Caltech, 2011. Classes 1 to 100
train and 101 to 200 test, as in Song et al., CVPR 2016; the `train_test_split.txt` that comes with it divides the
pictures of every class instead, and is not used. Nor are the bounding boxes.
"""

from pathlib import Path

from nearkin.data.download import RemoteFile
from nearkin.data.published import Annotations, Counts, PublishedSet
from nearkin.errors import InputError

FOLDER = "CUB_200_2011"


def read_cub200(root: Path) -> Annotations:
    """Read `images.txt` ("id folder/file") and `image_class_labels.txt` ("id class"); a folder is named as its class.

    Raises:
        InputError: A line or an id does not fit.
        FileNotFoundError: One of the two is missing.
    """
    classes_file = root / FOLDER / "image_class_labels.txt"
    class_of = dict(pairs(classes_file))
    paths: list[Path] = []
    class_ids: list[int] = []
    class_names: dict[int, str] = {}
    for image_id, name in pairs(root / FOLDER / "images.txt"):
        folder, _, file = name.rpartition("/")
        if file.startswith("._"):  # what macOS leaves beside files in archives
            continue
        class_id = class_of.get(image_id, "")
        if not class_id.isdecimal():
            raise InputError(
                f"{classes_file}: expected a class for image {image_id}, found {class_id or 'nothing'}; unpack it again"
            )
        if class_names.setdefault(int(class_id), folder) != folder:
            raise InputError(
                f"{classes_file}: puts image {image_id} of {folder} into class {class_id}, which is "
                f"{class_names[int(class_id)]}; unpack it again"
            )
        paths.append(root / FOLDER / "images" / name)
        class_ids.append(int(class_id))
    return Annotations(paths, class_ids, class_names)


def pairs(file: Path) -> list[tuple[str, str]]:
    """The lines "key value" of a file."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        key, _, value = line.strip().partition(" ")
        if not value:
            raise InputError(f"{file}, line {number}: expected an id and a value, found {line!r}; unpack it again")
        found.append((key, value))
    return found


CUB200 = PublishedSet(
    name="cub200",
    title="CUB-200-2011",
    files=(
        RemoteFile(
            name="CUB_200_2011.tgz",
            md5="97eceeb196236b17998738112f37df78",
            source="https://data.caltech.edu/records/65de6-vp158",
            urls=("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",),
            folder=FOLDER,
        ),
    ),
    folder=FOLDER,
    read=read_cub200,
    counts=Counts(train_images=5864, train_classes=100, test_images=5924, test_classes=100),
)
