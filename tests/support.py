"""What tests of several files call by name; fixtures are in conftest.py."""

import io
import time
from contextlib import contextmanager

import numpy as np
from PIL import Image


def write_pictures(root, sizes, side=16):
    """Write pictures that a network can learn to tell apart: each class has its own colour and stripe width."""
    random = np.random.default_rng(0)
    for c, size in enumerate(sizes):
        folder = root / f"class-{c:02d}"
        folder.mkdir(parents=True)
        colour = np.random.default_rng(c).integers(90, 166, 3)
        for i in range(size):
            stripes = 30 * ((np.arange(side) // (c % 4 + 1) + i) % 2)[None, :, None]
            noise = random.integers(-90, 90, (side, side, 3))
            Image.fromarray((colour + stripes + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return root


def encoded(image, kind, **options):
    """The bytes of a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def outcome(refusal, function, *arguments, **options):
    """What a function returns, and the line that it refuses its arguments with: one of the two is None."""
    try:
        return function(*arguments, **options), None
    except refusal as error:
        line = str(error)
    assert line
    assert "\n" not in line
    return None, line


def resize(browser, width, height=900):
    # A window cannot be made as narrow as a phone; its view can.
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    assert condition()


@contextmanager
def opened_page(browser, page, drawn):
    """A page just opened, 1280 by 900 pixels, and not one complaint on the console when the test is done with it."""
    resize(browser, 1280)
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait_for(drawn)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title.startswith("run <img")  # what the hostile names would change
