"""The map of the search page in headless Chromium: how long a frame takes while it is moved, zoomed and read.

    python benchmarks/map.py                   50,000 pictures, the quick map while the good one is being made
    python benchmarks/map.py --good            the good one, some minutes later
    python benchmarks/map.py --pictures 10000

A catalogue of made-up embeddings of 500 kinds, each with a thumbnail, is served by `nearkin serve`. In the page, 1440 x
900 pixels, every frame brings one event of a pointer: a drag, a turn of the wheel from the whole map to a corner of it
and back, or a move over the points. A frame lasts from one to the next, 16.7 ms at least; of it the page's own code
takes what is told as script. Chromium draws without a GPU, on the same processors as the server.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from serving import drawn, server

from nearkin.catalog import Catalog, index
from nearkin.catalog.store import Entry, Record, id_of
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model
from nearkin.models import Backbone, Embedder

SIZE, KINDS, AT_ONCE = 128, 500, 5_000
FRAMES = 240

TIMED = """
window.frame = window.requestAnimationFrame.bind(window);
window.spent = 0;
window.requestAnimationFrame = (task) => window.frame((now) => {
  const start = performance.now();
  task(now);
  window.spent += performance.now() - start;
});
"""
"""Adds up what the page's own frames take."""

MOVE = """
const [kind, frames, done] = arguments;
const map = document.getElementById('map');
const { left, top, width, height } = map.getBoundingClientRect();
const send = (i) => {
  const turn = 2 * Math.PI * i / frames;
  const [x, y] = [0.5 + 0.2 * Math.sin(3 * turn), 0.5 + 0.2 * Math.sin(2 * turn)];
  const usual = { bubbles: true, cancelable: true, clientX: left + width * x, clientY: top + height * y };
  map.dispatchEvent(kind === 'zoom'
    ? new WheelEvent('wheel', { ...usual, deltaY: 2 * i < frames ? -40 : 40 })
    : new PointerEvent('pointermove', { ...usual, pointerId: kind === 'pan' ? 1 : 7, pointerType: 'mouse' }));
};
const found = [];
let before = null;
const step = (now) => {
  if (before !== null) found.push([now - before, window.spent]);
  [before, window.spent] = [now, 0];
  if (found.length === frames) return done(found);
  const start = performance.now();
  send(found.length);
  window.spent += performance.now() - start;
  window.frame(step);
};
window.frame(step);
"""
"""One event a frame; of each its milliseconds, and those of the page's own code. A mouse that is held has id 1."""


def make_catalog(place: Path, pictures: int) -> Path:
    """A catalogue of one picture, and of made-up ones."""
    random = np.random.default_rng(0)
    (place / "photos").mkdir()
    (place / "photos" / "one.jpg").write_bytes(drawn(random, (160, 120)))
    torch.manual_seed(0)
    (place / "run").mkdir()
    architecture = Architecture("convnet", SIZE, "avg", True, Preprocessing(64))
    Model(Embedder(Backbone("convnet").build(), SIZE).eval(), architecture, []).save(place / "run")
    index(place / "catalog", place / "run", place / "photos")
    table = Catalog.open(place / "catalog").table
    thumbnails = [drawn(random, (160, 120)) for _ in range(20)]
    centres = random.normal(size=(KINDS, SIZE))
    for start in range(1, pictures, AT_ONCE):
        group = []
        for i in range(start, min(start + AT_ONCE, pictures)):
            kind = i % KINDS
            vector = centres[kind] + random.normal(size=SIZE)
            path = f"/photos/kind-{kind:03d}/{i:06d}.jpg"
            record = Record(id_of(path), path, f"kind-{kind:03d}", False, f"{i:064x}", 100_000, f"100000 {i} 0")
            group.append(Entry(record, thumbnails[i % 20], (vector / np.linalg.norm(vector)).astype(np.float32)))
        table.put(group)
    table.settle()
    return place / "catalog"


def chromium(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for each in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(each)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def measure(browser: webdriver.Chrome, kind: str) -> str:
    canvas = browser.find_element(By.ID, "map")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    browser.find_element(By.ID, "whole").click()
    if kind == "pan":
        ActionChains(browser).move_to_element(canvas).click_and_hold().perform()
    time.sleep(1)
    frames = np.array(browser.execute_async_script(MOVE, kind, FRAMES))[5:]
    if kind == "pan":
        ActionChains(browser).release().perform()
    whole, script = (np.percentile(each, (50, 95)) for each in frames.T)
    return (
        f"{kind:<6} a frame {whole[0]:5.1f} ms, 95 % within {whole[1]:5.1f}; "
        f"script {script[0]:5.1f} ms, 95 % within {script[1]:5.1f}"
    )


def run(browser: webdriver.Chrome, address: str, good: bool) -> None:
    browser.set_script_timeout(120)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": TIMED})
    for ratio in (1, 2):
        metrics = {"width": 1440, "height": 900, "deviceScaleFactor": ratio, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        start = time.monotonic()
        browser.get(address)
        canvas = browser.find_element(By.ID, "map")
        while canvas.get_dom_attribute("data-quality") not in (("good",) if good else ("good", "quick")):
            time.sleep(0.2)
        quality, points = canvas.get_dom_attribute("data-quality"), int(canvas.get_dom_attribute("data-points"))
        print(f"{points:,} points, {quality} map after {time.monotonic() - start:.1f} s, device pixel ratio {ratio}")
        for kind in ("pan", "zoom", "hover"):
            print("  " + measure(browser, kind), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--good", action="store_true", help="wait for the good map")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        catalog = make_catalog(Path(place), args.pictures)
        with server(catalog) as (address, _):
            browser = chromium(str(Path(place) / "profile"))
            try:
                run(browser, f"http://{address}/", args.good)
            finally:
                browser.quit()


if __name__ == "__main__":
    main()
