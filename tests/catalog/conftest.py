from itertools import count

import numpy as np
import pytest
import torch

from nearkin.calibration import calibrate
from nearkin.catalog import Catalog
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model, create_embedder
from nearkin.models import Backbone

SIDE, SIZE = 24, 16


def untrained(seed, size, known=()):
    """A model of random weights, calibrated on pictures: a folder of each class, if there are any."""
    torch.manual_seed(seed)
    embedder = create_embedder(Backbone().build(), size, "avg", None, SIDE).eval()
    model = Model(embedder, Architecture("convnet", size, "avg", True, Preprocessing(SIDE, 28)))
    if known:
        paths = [path for folder in known for path in sorted(folder.iterdir())]
        labels = [number for number, folder in enumerate(known) for _ in folder.iterdir()]
        model.calibration = calibrate(model.embed(paths), np.array(labels), held_out=True)
    return model


@pytest.fixture
def photos(make_folder):
    """Five kinds of six pictures."""
    return make_folder([6] * 5, side=32, name="photos")


@pytest.fixture
def make_run(tmp_path, photos):
    """A folder as a training leaves it, of a model that another seed makes another."""
    number = count()

    def make(seed=0, size=SIZE, calibrated=True):
        folder = tmp_path / f"run-{next(number)}"
        folder.mkdir()
        untrained(seed, size, sorted(photos.iterdir()) if calibrated else ()).save(folder)
        return folder

    return make


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture
def where(tmp_path):
    return tmp_path / "catalog"


@pytest.fixture
def index(nearkin, run, photos, where):
    """Index the photos, with further arguments; what it printed. It has to succeed."""

    def start(*more):
        status, out, err = nearkin("index", run, photos, "--catalog", where, *more)
        assert status == 0, err
        return out

    return start


@pytest.fixture
def catalog(index, where):
    """The photos, indexed."""
    index()
    return Catalog.open(where)


@pytest.fixture
def embedded(monkeypatch):
    """How many pictures any model has embedded since it was last asked."""
    sizes, original = [], Model.run

    def spy(model, batches):
        rows = original(model, batches)
        sizes.append(len(rows))
        return rows

    monkeypatch.setattr(Model, "run", spy)

    def ask():
        total = sum(sizes)
        sizes.clear()
        return total

    return ask
