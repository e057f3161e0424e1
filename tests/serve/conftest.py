"""A small catalogue, and a server of it in a process of its own."""

import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from starlette.testclient import TestClient
from support import encoded, resize, wait_for, write_pictures

from nearkin.calibration import Calibration
from nearkin.catalog import Catalog, index
from nearkin.children import forking
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model
from nearkin.models import Backbone, Embedder
from nearkin.serve.app import create_app
from nearkin.serve.decoding import Decoders
from nearkin.serve.guard import Guard
from nearkin.serve.live import Live


def save_model(folder, seed, calibration=None):
    """A run's folder, of a network with random weights."""
    folder.mkdir()
    torch.manual_seed(seed)
    embedder = Embedder(Backbone("convnet").build(), 32).eval()
    Model(embedder, Architecture("convnet", 32, "avg", True, Preprocessing(32)), [], calibration).save(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def forkserver_of_their_own():
    """A server's processes are forked from one that has its imports, and not those of a training before."""
    forkserver._forkserver._stop()


class Served(NamedTuple):
    address: str
    client: httpx.Client
    process: subprocess.Popen
    log: Path


@contextmanager
def serving(where, *options, **process):
    """`nearkin serve` on a free port, until the test is done with it."""
    log = where.parent / "server.log"
    command = [sys.executable, "-m", "nearkin", "serve", str(where), "--port", "0", *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, **process)
    try:
        address = process.stdout.readline().partition(" pictures at ")[2].strip()
        assert address, log.read_text()
        with httpx.Client(base_url=address, timeout=60) as client:
            yield Served(address, client, process, log)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()
    if process.returncode != -signal.SIGKILL:
        assert log.read_text() == "", "no client can make it say something"


@pytest.fixture(scope="session")
def context():
    return forking("nearkin.serve.decoding")


@pytest.fixture(scope="session")
def decoders(context):
    decoders = Decoders(context)
    yield decoders
    decoders.close()


@pytest.fixture(scope="session")
def calibration():
    return Calibration(list(np.linspace(0.01, 0.6, 100)), strangers=50, classes=6, held_out=True)


@pytest.fixture(scope="session")
def polyglot():
    """A sound GIF, and a script to whoever believes that it is one."""
    noise = np.random.default_rng(1).integers(256, size=(40, 60, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), "GIF") + b"*/=1;alert(document.cookie)//"


@pytest.fixture(scope="session")
def made(tmp_path_factory, calibration, polyglot):
    """A folder with `run`, `photos` and `catalog`.

    The photos are six kinds of ten pictures, a JPEG that is 600 x 1,500 when upright, and a GIF that is a script too.
    """
    root = tmp_path_factory.mktemp("served")
    write_pictures(root / "photos", [10] * 6, side=48)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    noise = np.random.default_rng(0).integers(256, size=(60, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1500, 600)).save(root / "photos" / "class-00" / "turned.jpg", exif=exif)
    (root / "photos" / "class-01" / "script.gif").write_bytes(polyglot)
    save_model(root / "run", 0, calibration)
    index(root / "catalog", root / "run", root / "photos")
    return root


@pytest.fixture(scope="session", name="serving")
def serving_as_fixture():
    return serving


@pytest.fixture(scope="session")
def served(made):
    with serving(made / "catalog") as served:
        yield served


@pytest.fixture(scope="session")
def server(served):
    return served.client


@pytest.fixture
def own(made, tmp_path):
    """`catalog` for a test to change, and `other`, the run of another model; the pictures stay where they are."""
    shutil.copytree(made / "catalog", tmp_path / "catalog")
    save_model(tmp_path / "other", 1)
    return tmp_path


@pytest.fixture
def client_of():
    """A client of a catalogue that is served in this process, as `nearkin serve` does."""
    with ExitStack() as stack:

        def open_client(where, token=None, hosts=("127.0.0.1",), **limits):
            live = stack.enter_context(closing(Live(str(where))))
            app = Guard(create_app(live), token, hosts, **limits)
            client = TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)
            return stack.enter_context(client)

        yield open_client


@pytest.fixture(scope="session")
def catalog(made):
    return Catalog.open(made / "catalog")


@pytest.fixture(scope="session")
def photos(made):
    return sorted((made / "photos").rglob("*.png"))


@pytest.fixture(scope="session")
def refused():
    """Check that an answer is a refusal in one line that tells nothing of the machine."""

    def check(response, status, line):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        body = response.json()
        assert list(body) == ["detail"]
        assert line in body["detail"]
        assert "\n" not in body["detail"]
        assert "/tmp" not in response.text
        assert "Traceback" not in response.text
        assert "0x" not in response.text
        assert len(body["detail"]) < 200

    return check


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The pictures of the search page: of four kinds twelve each, one with a hostile name, and two without a label."""
    root = write_pictures(tmp_path_factory.mktemp("page") / "pictures", [12, 12, 12, 14], side=48)
    for name in ("12.png", "13.png"):
        (root / "class-03" / name).rename(root / name)
    (root / "class-03").rename(root / "<img src=x onerror=\"document.title='owned'\">")
    return root


@pytest.fixture(scope="session")
def address(folder):
    """Of a server on a catalogue of these pictures."""
    # The random network maps every picture to nearly the same place: what it calls near is small.
    run = save_model(folder.parent / "run", 0, Calibration(np.linspace(0.01, 0.5, 100).tolist(), 36, 4, True))
    index(folder.parent / "catalog", run, folder)
    with serving(folder.parent / "catalog") as served:
        yield served.address


@pytest.fixture
def opened(browser, address):
    """The page just opened, 1440 by 900 pixels, and not one complaint on the console when the test is done with it."""
    resize(browser, 1440)
    browser.get_log("performance")
    browser.get("about:blank")
    browser.get(address)
    wait_for(lambda: browser.execute_script("return document.getElementById('map').dataset.points") == "50")
    yield browser
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    # What the browser itself says of an answer that is no 200.
    assert [each for each in complaints if "Failed to load resource" not in each] == []
    assert browser.title == "nearkin"
