import numpy as np
import pytest
from scipy.io import loadmat, savemat

from nearkin.data.images import read_image
from nearkin.errors import InputError


def test_pictures_classes_and_names_are_those_of_the_annotations(small_cars):
    root, cars = small_cars(train=3, test=4)
    images, split = cars.open(root)
    content = loadmat(root / "cars_annos.mat")
    assert len(images.paths) == content["annotations"].shape[1] == 14
    for i, row in enumerate(content["annotations"][0]):
        path, number = row["relative_im_path"][0], row["class"][0, 0]
        assert images.paths[i] == root / path
        assert images.labels[i] == number - 1
        name = content["class_names"][0, number - 1][0]
        assert images.classes[images.labels[i]] == f"{number:03d}.{name}"
    assert split.train.tolist() == [0, 1, 2]
    assert split.test.tolist() == [3, 4, 5, 6]


def test_grey_pictures_become_rgb(small_cars):
    root, cars = small_cars()
    shapes = [read_image(path).shape for path in cars.open(root)[0].paths]
    assert shapes == [(16, 16, 3)] * 12


def rewritten(root, **changes):
    content = {key: value for key, value in loadmat(root / "cars_annos.mat").items() if key[0] != "_"}
    savemat(root / "cars_annos.mat", {key: value for key, value in (content | changes).items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": None},
        {"class_names": None},
        {"class_names": np.array([["only one"]], dtype=object)},
        {"annotations": np.ones((1, 3))},
    ],
)
def test_annotations_without_what_is_needed_are_refused(small_cars, changes):
    root, cars = small_cars()
    rewritten(root, **changes)
    with pytest.raises(InputError, match=r"cars_annos.mat: expected a MATLAB file with the annotations of Cars196"):
        cars.open(root)


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_truncated_file_is_refused(small_cars, share):
    root, cars = small_cars()
    content = (root / "cars_annos.mat").read_bytes()
    (root / "cars_annos.mat").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cannot be read \(.*\); bring it again"):
        cars.open(root)


def test_a_missing_file_says_how_to_get_it(small_cars):
    root, cars = small_cars()
    (root / "cars_annos.mat").unlink()
    with pytest.raises(InputError, match=r"no .*cars_annos.mat; get it with: nearkin data get cars196"):
        cars.open(root)
    with pytest.raises(InputError, match=r"Cars196 cannot be downloaded: bring cars_annos.mat \(md5"):
        cars.get(root, None)
