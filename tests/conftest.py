import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from support import write_pictures

from nearkin import cli
from nearkin.data.cars196 import CARS196
from nearkin.data.cub200 import CUB200
from nearkin.data.published import Counts
from nearkin.data.sop import SOP

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """The server's tests last: one process forks for all tests, and trainings would wait for imports that it lacks."""
    items.sort(key=lambda item: item.path.parent.name == "serve")


@pytest.fixture
def make_folder(tmp_path):
    """Pictures as `write_pictures` makes them, in a folder of the test's own."""

    def make(sizes, side=16, name="pictures"):
        return write_pictures(tmp_path / name, sizes, side)

    return make


@pytest.fixture
def disk(tmp_path):
    """Make a disk of so many megabytes: its place, and how to mount it otherwise."""
    place = tmp_path / "disk"

    def make(megabytes):
        place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"]
        mounted = subprocess.run(["mount", *options, place], capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"needs to mount a file system of {megabytes} MB: {mounted.stderr.strip()}")
        return place, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield make
    if place.is_mount():
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def shared():
    def find(name):
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"needs the pictures of {name} in {folder}")
        return folder

    return find


def write_picture(path, colour=(90, 120, 60), grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name) + sum(colour)).integers(-60, 60, (16, 16, 3))
    image = Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))
    (image.convert("L") if grey else image).save(path, "JPEG")


def colour_of(number):
    return tuple(int(value) for value in np.random.default_rng(number).integers(60, 190, 3))


@pytest.fixture
def nearkin(capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def small_cub(tmp_path):
    """CUB-200-2011 in its own layout, `train` + `test` classes of 3 pictures: its root, and the set of that size."""

    def make(train=4, test=5, root=tmp_path / "cub200"):
        folder = root / "CUB_200_2011"
        birds = [
            f"{c:03d}.Bird_{'ZYXWVUTSRQ'[c % 10]}" for c in range(1, train + test + 1)
        ]  # not in order of their names
        images = [f"{bird}/{bird[4:]}_{i:04d}_{796000 + i}.jpg" for bird in birds for i in range(3)]
        for name in images:
            write_picture(folder / "images" / name, colour_of(int(name[:3])))
        write_picture(folder / "images" / birds[0] / "._Bird_0001.jpg")
        ids = range(1, len(images) + 1)
        lines = {
            "images": [f"{i} {name}" for i, name in zip(ids, images, strict=True)],
            "image_class_labels": [f"{i} {int(name[:3])}" for i, name in zip(ids, images, strict=True)],
            "classes": [f"{c} {bird}" for c, bird in enumerate(birds, start=1)],
            "train_test_split": [f"{i} {i % 2}" for i in ids],
            "bounding_boxes": [f"{i} 60.0 27.0 325.0 304.0" for i in ids],
        }
        for name, content in lines.items():
            (folder / f"{name}.txt").write_text("\n".join(content) + "\n")
        return root, replace(CUB200, counts=Counts(3 * train, train, 3 * test, test))

    return make


@pytest.fixture
def small_cars(tmp_path):
    """Cars196 in its own layout, `train` + `test` classes of 2 pictures; the second of each class is grey."""

    def make(train=3, test=3, root=tmp_path / "cars196"):
        fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
        total = train + test
        rows = np.zeros((1, 2 * total), dtype=[(field, object) for field in fields])
        order = np.random.default_rng(0).permutation(2 * total)  # classes are mixed, as in the original
        for number, i in enumerate(order):
            path = f"car_ims/{number + 1:06d}.jpg"
            write_picture(root / path, colour_of(i // 2), grey=i % 2 == 1)
            rows[0, number] = (path, 112, 7, 853, 717, i // 2 + 1, i % 2)
        names = np.zeros((1, total), dtype=object)
        names[0] = [f"Make{'ZYXWVUTSRQ'[c % 10]} C/V Van 20{c:02d}" for c in range(total)]
        savemat(root / "cars_annos.mat", {"annotations": rows, "class_names": names})
        return root, replace(CARS196, counts=Counts(2 * train, train, 2 * test, test))

    return make


@pytest.fixture
def small_sop(tmp_path):
    """Stanford Online Products in its own layout, `train` + `test` classes of 2 pictures."""

    def make(train=4, test=3, root=tmp_path / "sop"):
        folder = root / "Stanford_Online_Products"
        header, kinds = "image_id class_id super_class_id path", ("bicycle", "coffee_maker")
        tables = {"train": [], "test": []}
        for image in range(2 * (train + test)):
            number = image // 2 + 1
            kind = number % 2
            path = f"{kinds[kind]}_final/1110851228{number:02d}_{image % 2}.JPG"
            write_picture(folder / path, colour_of(number))
            tables["train" if number <= train else "test"].append(f"{image + 1} {number} {kind + 1} {path}")
        for part, rows in tables.items():
            (folder / f"Ebay_{part}.txt").write_text("\n".join([header, *rows]) + "\n")
        (folder / "Ebay_info.txt").write_text("\n".join([header, *tables["train"], *tables["test"]]) + "\n")
        return root, replace(SOP, counts=Counts(2 * train, train, 2 * test, test))

    return make


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (os.path.exists(CHROMIUM) and os.path.exists(DRIVER)):
        pytest.skip(f"{CHROMIUM} or {DRIVER} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.add_argument("--headless")
    options.add_argument("--no-sandbox")  # Chromium refuses to run as root, as in a container, with it
    options.add_argument("--disable-gpu")
    options.add_argument("--disable-quic")
    options.add_argument("--no-first-run")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.add_argument("--disable-sync")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()
