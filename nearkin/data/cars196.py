"""Cars196: 16,185 photographs of 196 models of cars.

Krause et al., "3D Object Representations for Fine-Grained Categorization", ICCV workshop 3dRR, 2013. Classes 1 to 98
train and 99 to 196 test, as in Song et al., CVPR 2016; the field `test` of the annotations divides the pictures of
every class instead, and is not used. Nor are the bounding boxes.
"""

from pathlib import Path

from nearkin.data.download import RemoteFile
from nearkin.data.published import Annotations, Counts, PublishedSet
from nearkin.errors import InputError

FOLDER = "car_ims"
ANNOTATIONS = "cars_annos.mat"
SOURCE = "a copy made before 2023, when Stanford took http://ai.stanford.edu/~jkrause/car196/ down,"


def read_cars196(root: Path) -> Annotations:
    """Read `annotations` (1, n) and `class_names` (1, 196) from `cars_annos.mat`.

    A class is named "001.AM General Hummer SUV 2000": its number keeps names apart and in order.

    Raises:
        InputError: The file cannot be read, or lacks a field.
        FileNotFoundError: It is missing.
    """
    from scipy.io import loadmat

    file = root / ANNOTATIONS
    with open(file, "rb") as stream:
        try:
            content = loadmat(stream)
            rows, names = content["annotations"][0], content["class_names"][0]
            paths = [root / str(each.item()) for each in rows["relative_im_path"]]
            class_ids = [int(each.item()) for each in rows["class"]]
            class_names = {number: f"{number:03d}.{names[number - 1].item()}" for number in set(class_ids)}
        except Exception as error:  # SciPy tells of damaged bytes in many ways
            raise InputError(
                f"{file}: expected a MATLAB file with the annotations of Cars196, but it cannot be read ({error}); "
                "bring it again"
            ) from error
    return Annotations(paths, class_ids, class_names)


CARS196 = PublishedSet(
    name="cars196",
    title="Cars196",
    files=(
        RemoteFile(name="car_ims.tgz", md5="d5c8f0aa497503f355e17dc7886c3f14", source=SOURCE, folder=FOLDER),
        RemoteFile(name=ANNOTATIONS, md5="b407c6086d669747186bd1d764ff9dbc", source=SOURCE),
    ),
    folder=FOLDER,
    read=read_cars196,
    counts=Counts(train_images=8054, train_classes=98, test_images=8131, test_classes=98),
)
