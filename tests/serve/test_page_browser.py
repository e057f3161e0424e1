"""The search page in a real browser: a person finds, crops, clicks through, reads the map, hears what went wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import resize, wait_for, write_pictures

from nearkin import catalog
from nearkin.calibration import Calibration
from nearkin.data import Preprocessing
from nearkin.embed import Architecture, Model, create_embedder
from nearkin.models import Backbone

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of 4 kinds, one with a hostile name."""
    root = write_pictures(tmp_path_factory.mktemp("page") / "pictures", [12, 12, 12, 12], side=48)
    (root / "class-03").rename(root / HOSTILE.replace("/", "_"))
    return root


@pytest.fixture(scope="module")
def address(folder):
    """Of a server on a catalogue of these pictures."""
    import torch

    torch.manual_seed(0)
    architecture = Architecture("convnet", 16, "avg", True, Preprocessing(32))
    embedder = create_embedder(Backbone("convnet").build(), 16, "avg", None, 32)
    run = folder.parent / "run"
    run.mkdir()
    # The random network maps every picture to nearly the same place: what it calls near is small.
    calibration = Calibration(np.linspace(0.01, 0.5, 100).tolist(), 36, 4, True)
    Model(embedder, architecture, [], calibration).save(run)
    catalog.index(folder.parent / "catalog", run, folder)
    command = [sys.executable, "-m", "nearkin", "serve", str(folder.parent / "catalog"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().split()[-1]
        server.terminate()


@pytest.fixture
def opened(browser, address):
    resize(browser, 1440)
    browser.get_log("performance")
    browser.get("about:blank")
    browser.get(address)
    wait_for(lambda: browser.find_element(By.ID, "map").get_dom_attribute("data-points") == "48")
    yield browser
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    # What the browser itself says of an answer that is no 200.
    assert [each for each in complaints if "Failed to load resource" not in each] == []
    assert browser.title == "nearkin"


def hits(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#hits .hit")


def first(browser):
    """The id and the path of the first hit; of an element the page may be rid of before it is looked at."""
    return browser.execute_script(
        """const hit = document.querySelector('#hits .hit');
        return hit && [hit.dataset.id, hit.querySelector('.path').textContent];"""
    ) or [None, None]


def settled(browser):
    return not browser.find_element(By.ID, "hits").get_dom_attribute("aria-busy")


def text(browser, name):
    return browser.find_element(By.ID, name).text


def upload(browser, path):
    browser.find_element(By.ID, "file").send_keys(str(path))
    wait_for(lambda: text(browser, "heading") == "Nearest" and settled(browser))


def drag(browser, element, start, end):
    ActionChains(browser).move_to_element_with_offset(element, *start).click_and_hold().move_by_offset(
        end[0] - start[0], end[1] - start[1]
    ).release().perform()


def test_nothing_is_requested_but_from_the_server(opened, address, folder):
    upload(opened, folder / "class-01" / "00.png")
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert address in requests
    assert [url for url in requests if not url.startswith((address, "blob:", "data:"))] == []


def test_an_upload_finds_itself_and_its_kind(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    first = hits(opened)[0]
    assert first.find_element(By.CLASS_NAME, "path").text == "class-01/00.png"
    assert first.find_element(By.CLASS_NAME, "distance").text == "0.000"
    assert len(hits(opened)) == 24
    assert "class-01" in text(opened, "verdict")
    # Beyond the threshold nothing counts as a match, and a line says so.
    line = opened.find_element(By.ID, "no-match")
    assert line.text.startswith("No match beyond 0.")
    distances = [float(each.text) for each in opened.find_elements(By.CLASS_NAME, "distance")]
    assert distances == sorted(distances)
    limit = float(line.text.split()[-1])
    place = opened.execute_script("return [...document.querySelectorAll('#hits > li')].findIndex(e => e.id)")
    assert distances[place - 1] <= limit + 0.001
    assert distances[place] >= limit - 0.001


def test_every_picture_has_a_text_and_is_loaded(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    loaded = "return [...document.querySelectorAll('#hits img')].every(i => i.alt && i.complete && i.naturalWidth)"
    opened.execute_script("document.querySelectorAll('#hits img').forEach(i => i.loading = 'eager')")
    wait_for(lambda: opened.execute_script(loaded))


def ids(browser):
    return browser.execute_script("return [...document.querySelectorAll('#hits .hit')].map(hit => hit.dataset.id)")


def test_clicking_a_hit_searches_from_it_and_back_goes_back(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    one = ids(opened)[1]
    hits(opened)[1].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: settled(opened) and len(ids(opened)) == 24 and one not in ids(opened))
    assert opened.current_url.endswith(f"#{one}")
    assert opened.execute_script("return document.activeElement.id") == "results"
    of_one = ids(opened)
    other = of_one[2]
    hits(opened)[2].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: settled(opened) and len(ids(opened)) == 24 and other not in ids(opened))
    opened.back()
    wait_for(lambda: ids(opened) == of_one)
    assert opened.current_url.endswith(f"#{one}")


def test_a_crop_searches_with_the_part(opened, folder, tmp_path):
    one, two = (np.asarray(Image.open(folder / f"class-0{c}" / "00.png")) for c in (0, 2))
    Image.fromarray(np.concatenate([one, two], axis=1)).save(tmp_path / "both.png")
    upload(opened, tmp_path / "both.png")
    wait_for(lambda: opened.execute_script("return document.getElementById('query').complete"))
    canvas = opened.find_element(By.ID, "crop")
    width, height = canvas.size["width"], canvas.size["height"]
    drag(opened, canvas, (2, -height // 2 + 2), (width // 2 - 2, height // 2 - 2))
    wait_for(lambda: (first(opened)[1] or "").startswith("class-02/"))
    opened.find_element(By.ID, "uncrop").click()
    wait_for(lambda: settled(opened) and not opened.find_element(By.ID, "uncrop").is_displayed())


def test_a_crop_by_keys(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    canvas = opened.find_element(By.ID, "crop")
    canvas.send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: opened.find_element(By.ID, "uncrop").is_displayed() and settled(opened))
    canvas.send_keys(Keys.ESCAPE)
    wait_for(lambda: not opened.find_element(By.ID, "uncrop").is_displayed())


def test_a_label_filters(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    field = opened.find_element(By.ID, "label")
    field.send_keys("class-02", Keys.TAB)
    labels = "return [...new Set([...document.querySelectorAll('.hit .label')].map(e => e.textContent))]"
    wait_for(lambda: settled(opened) and opened.execute_script(labels) == ["class-02"])
    assert len(hits(opened)) == 12
    field.clear()
    field.send_keys("nothing of the sort", Keys.TAB)
    wait_for(lambda: text(opened, "verdict").startswith("Nothing found"))
    assert hits(opened) == []


def test_why_shows_both_pictures_under_heat(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    hit = hits(opened)[1]
    hit.find_element(By.CSS_SELECTOR, ".foot button").click()
    dialog = opened.find_element(By.ID, "why")
    wait_for(lambda: dialog.get_dom_attribute("data-ready") == hit.get_dom_attribute("data-id"))
    warm = """return [...document.querySelectorAll('.heat')].map(c => {
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        return data.filter((v, i) => i % 4 === 3 && v > 100).length / (data.length / 4);
    })"""
    assert all(0 < share < 1 for share in opened.execute_script(warm))
    dialog.send_keys(Keys.ESCAPE)
    wait_for(lambda: not dialog.is_displayed())


def test_what_is_no_picture_is_told_in_words(opened, tmp_path):
    file = tmp_path / "notes.jpg"
    file.write_text("no picture at all")
    opened.find_element(By.ID, "file").send_keys(str(file))
    error = opened.find_element(By.ID, "error")
    wait_for(error.is_displayed)
    assert error.text.startswith("the upload cannot be used: not a picture")
    assert hits(opened) == []


def test_the_map_is_read_off_and_picked_from(opened):
    canvas = opened.find_element(By.ID, "map")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    tooltip = opened.find_element(By.ID, "tooltip")
    x, y = opened.execute_script(
        """return (async () => {
            const found = await (await fetch('/api/map')).json(), map = document.getElementById('map');
            const scale = 0.46 * Math.min(map.clientWidth, map.clientHeight);
            return [found.x[0] * scale, -found.y[0] * scale];
        })()"""
    )
    ActionChains(opened).move_to_element_with_offset(canvas, round(x), round(y)).perform()
    wait_for(tooltip.is_displayed)
    assert tooltip.text
    wait_for(lambda: opened.execute_script("return arguments[0].querySelector('img').naturalWidth", tooltip) > 0)
    ActionChains(opened).click().perform()
    wait_for(lambda: "#" in opened.current_url and text(opened, "heading") == "Nearest")


def test_the_map_zooms_moves_and_answers_keys(opened):
    canvas = opened.find_element(By.ID, "map")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    zoom = lambda: float(canvas.get_dom_attribute("data-zoom"))  # noqa: E731
    opened.find_element(By.ID, "zoom-in").click()
    wait_for(lambda: zoom() == pytest.approx(1.6))
    opened.find_element(By.ID, "whole").click()
    wait_for(lambda: zoom() == 1)
    canvas.send_keys("+")
    wait_for(lambda: zoom() == pytest.approx(1.6))
    canvas.send_keys(Keys.ARROW_LEFT)
    wait_for(opened.find_element(By.ID, "tooltip").is_displayed)
    canvas.send_keys(Keys.ENTER)
    wait_for(lambda: "#" in opened.current_url)


def test_the_lasso_shows_a_set(opened):
    canvas = opened.find_element(By.ID, "map")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    opened.find_element(By.ID, "lasso").click()
    width, height = canvas.size["width"] // 2 - 4, canvas.size["height"] // 2 - 4
    chain = ActionChains(opened, duration=50).move_to_element_with_offset(canvas, -width, -height + 60).click_and_hold()
    for dx, dy in ((2 * width, 0), (0, 2 * height - 60), (-2 * width, 0)):
        chain = chain.move_by_offset(dx, dy)
    chain.release().perform()
    wait_for(opened.find_element(By.ID, "set").is_displayed)
    assert text(opened, "set-heading").startswith("48 pictures: ")
    assert len(opened.find_elements(By.CSS_SELECTOR, "#set-pictures img")) == 48


@pytest.mark.parametrize("width", [400, 1440])
def test_it_fits(opened, folder, width):
    resize(opened, width)
    upload(opened, folder / "class-01" / "00.png")
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert opened.execute_script(overflow) == 0
    assert opened.find_element(By.ID, "map").size["height"] > 300


def test_by_keyboard_alone(opened):
    """From the top, Tab reaches the file field, the filters, the hits and the map, each with a visible outline."""
    reached = []
    for _ in range(60):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        where = opened.execute_script(
            """const e = document.activeElement, s = getComputedStyle(e);
            const shown = e.id === 'file' ? getComputedStyle(document.querySelector('#drop label.button')) : s;
            return [e.id || e.className || e.tagName, shown.outlineStyle !== 'none'];"""
        )
        assert where[1], f"{where[0]} shows no focus"
        reached.append(where[0])
        if where[0] == "zoom-in":
            break
    assert {"file", "label", "rate", "open", "map"} <= set(reached)


def test_the_description_of_the_api_needs_nothing_from_elsewhere(browser, address):
    browser.get(f"{address}docs")
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#paths section")) >= 8)
    assert "POST /api/search" in text(browser, "paths")
    assert browser.get_log("browser") == []
