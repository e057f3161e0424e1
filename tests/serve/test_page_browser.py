"""The search page in a real browser: a person finds, crops, clicks through, reads the map, hears what went wrong."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support import resize, wait_for

from nearkin.catalog import Catalog, index

pytest.importorskip("selenium", reason="selenium is not installed")

from search_page import PICTURES, drag, first, hits, ids, settled, text, upload
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow


def test_nothing_is_requested_but_from_the_server(opened, address, folder):
    upload(opened, folder / "class-01" / "00.png")
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert address in requests
    assert [url for url in requests if not url.startswith((address, "blob:", "data:"))] == []


def test_an_upload_finds_itself_and_its_kind(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    assert first(opened) == "class-01/00.png"
    assert hits(opened)[0].find_element(By.CLASS_NAME, "distance").text == "0.000"
    assert len(hits(opened)) == 24
    assert "class-01: " in text(opened, "verdict")
    assert text(opened, "basis").endswith(
        " % should find one, by 4 classes held out of the training; so few tell it roughly"
    )
    # Beyond the threshold nothing counts as a match, and a line says so.
    line = opened.find_element(By.ID, "no-match")
    assert line.text.startswith("No match beyond 0.")
    distances = [float(each.text) for each in opened.find_elements(By.CLASS_NAME, "distance")]
    assert distances == sorted(distances)
    limit = float(line.text.split()[-1])
    place = opened.execute_script("return [...document.querySelectorAll('#hits > li')].findIndex(e => e.id)")
    assert distances[place - 1] <= limit + 0.001
    assert distances[place] >= limit - 0.001


def test_clicking_a_hit_searches_from_it_and_back_goes_back(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    one = ids(opened)[1]
    hits(opened)[1].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: settled(opened) and len(ids(opened)) == 24 and one not in ids(opened))
    assert opened.current_url.endswith(f"#{one}")
    assert opened.execute_script("return document.activeElement.id") == "heading"
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
    wait_for(lambda: (first(opened) or "").startswith("class-02/"))
    opened.find_element(By.ID, "uncrop").click()
    wait_for(lambda: settled(opened) and not opened.find_element(By.ID, "uncrop").is_displayed())


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


def test_an_empty_catalogue_says_what_to_do(browser, serving, folder, address, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(folder / "class-01", photos / "class-01")
    index(tmp_path / "catalog", folder.parent / "run", photos)
    table = Catalog.open(tmp_path / "catalog").table
    table.remove([each.id for each in table.records()])
    told = "The catalogue is empty: nearkin index adds pictures."
    with serving(tmp_path / "catalog") as served:
        browser.get(served.address)
        wait_for(lambda: text(browser, "verdict") == told)
        upload(browser, folder / "class-01" / "00.png")
        assert (text(browser, "heading"), text(browser, "verdict")) == ("Nearest", told)
        browser.find_element(By.ID, "label").send_keys("class-01", Keys.TAB)
        wait_for(lambda: text(browser, "verdict") == "Nothing found: no picture of this label.")


def test_why_shows_both_pictures_under_heat(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    hit = hits(opened)[1]
    hit.find_element(By.CSS_SELECTOR, ".foot button").click()
    dialog = opened.find_element(By.ID, "why")
    wait_for(lambda: dialog.get_dom_attribute("data-ready") == hit.get_dom_attribute("data-id"))
    alphas = """return [...document.querySelectorAll('.heat')].map((c) => {
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        const alphas = data.filter((_, i) => i % 4 === 3).toSorted();
        return [alphas[0], alphas.at(-1)];
    })"""
    for least, most in opened.execute_script(alphas):
        assert least + 80 < most
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
    assert text(opened, "set-heading").startswith(f"{PICTURES} pictures: ")
    assert len(opened.find_elements(By.CSS_SELECTOR, "#set-pictures img")) == PICTURES


def test_the_description_of_the_api_needs_nothing_from_elsewhere(browser, address):
    browser.get(f"{address}docs")
    wait_for(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#paths section")) >= 8)
    assert "POST /api/search" in text(browser, "paths")
    assert browser.get_log("browser") == []


def test_back_leads_to_the_upload_and_to_the_start(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    found = ids(opened)
    hits(opened)[1].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: settled(opened) and ids(opened) != found)
    opened.back()
    wait_for(lambda: settled(opened) and ids(opened) == found)
    assert text(opened, "query-name") == "00.png"
    opened.back()
    wait_for(lambda: text(opened, "heading") == "In the catalogue" and len(hits(opened)) == 24)
    opened.forward()
    wait_for(lambda: settled(opened) and ids(opened) == found)


def test_the_same_file_can_be_chosen_again(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    found = ids(opened)
    hits(opened)[1].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: settled(opened) and ids(opened) != found)
    upload(opened, folder / "class-01" / "00.png")
    wait_for(lambda: settled(opened) and ids(opened) == found)


def delay_first(browser, path):
    """The first request to a path leaves three seconds late; `window.late` once its answer has been there."""
    browser.execute_script(
        """const [path] = arguments, send = window.fetch, wait = (ms) => new Promise((go) => setTimeout(go, ms));
        let first = true;
        window.fetch = async (address, options) => {
            if (!first || !String(address).includes(path)) return send(address, options);
            first = false;
            await wait(3000);
            try {
                return await send(address, options);
            } finally {
                wait(500).then(() => { window.late = true; });
            }
        };""",
        path,
    )


def late(browser):
    return browser.execute_script("return window.late")


def test_of_two_reasons_the_one_asked_last_is_shown(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    delay_first(opened, "/api/why/")
    dialog = opened.find_element(By.ID, "why")
    hits(opened)[1].find_element(By.CSS_SELECTOR, ".foot button").click()
    wait_for(lambda: opened.execute_script("return document.getElementById('why-hit').naturalWidth"))
    opened.find_element(By.ID, "why-close").click()
    second = hits(opened)[2]
    second.find_element(By.CSS_SELECTOR, ".foot button").click()
    wait_for(lambda: dialog.get_dom_attribute("data-ready") == second.get_dom_attribute("data-id"))
    seen = text(opened, "why-state")
    assert seen.startswith("Warmest: the ")
    wait_for(lambda: late(opened), 60)
    assert dialog.get_dom_attribute("data-ready") == second.get_dom_attribute("data-id")
    assert text(opened, "why-state") == seen


def test_of_two_searches_the_one_asked_last_is_shown(opened, folder):
    delay_first(opened, "/api/search")
    opened.find_element(By.ID, "file").send_keys(str(folder / "class-01" / "00.png"))
    opened.find_element(By.ID, "file").send_keys(str(folder / "class-02" / "00.png"))
    wait_for(lambda: first(opened) == "class-02/00.png")
    wait_for(lambda: late(opened), 60)
    assert first(opened) == "class-02/00.png"
    assert settled(opened)


def test_clearing_while_a_search_is_under_way(opened, folder):
    delay_first(opened, "/api/search")
    opened.find_element(By.ID, "file").send_keys(str(folder / "class-01" / "00.png"))
    wait_for(opened.find_element(By.ID, "clear").is_displayed)
    opened.find_element(By.ID, "clear").click()
    wait_for(lambda: late(opened), 60)
    assert text(opened, "heading") == "In the catalogue"
    assert settled(opened)


def draw_frame(browser, share):
    """A frame over the right part of the query."""
    canvas = browser.find_element(By.ID, "crop")
    wait_for(canvas.is_displayed)
    width, height = canvas.size["width"], canvas.size["height"]
    drag(browser, canvas, (round(width * (0.5 - share)), -height // 2 + 1), (width // 2 - 1, height // 2 - 1))


@pytest.mark.parametrize("kind", ["tiff", "ppm"])
def test_what_the_browser_cannot_show_is_shown_and_cropped_all_the_same(opened, folder, tmp_path, kind):
    one, two = (np.asarray(Image.open(folder / f"class-0{c}" / "00.png")) for c in (0, 2))
    file = tmp_path / f"both.{kind}"
    Image.fromarray(np.concatenate([one, two], axis=1)).save(file)
    upload(opened, file)
    draw_frame(opened, 0.5)
    wait_for(lambda: settled(opened) and first(opened) == "class-02/00.png")
    assert opened.execute_script(
        "const i = document.getElementById('query'); return [i.naturalWidth, i.naturalHeight]"
    ) == [96, 48]
    hits(opened)[0].find_element(By.CSS_SELECTOR, ".foot button").click()
    wait_for(lambda: opened.find_element(By.ID, "why").get_dom_attribute("data-ready"))
    assert opened.execute_script("const i = document.getElementById('why-query'); return i.naturalWidth") in (
        47,
        48,
        49,
    )


def test_what_nobody_can_show_has_no_frame(opened, tmp_path):
    file = tmp_path / "notes.jpg"
    file.write_text("no picture at all")
    opened.find_element(By.ID, "file").send_keys(str(file))
    wait_for(
        lambda: text(opened, "query-name").startswith("notes.jpg cannot be shown: the upload cannot be used: not a")
    )
    assert not opened.find_element(By.ID, "crop").is_displayed()


def test_the_frame_lies_on_the_picture_whatever_its_shape(opened, folder, tmp_path):
    """Twenty pictures below each other: the frame is around the lowest, of another kind."""
    one, two = (np.asarray(Image.open(folder / f"class-0{c}" / "00.png")) for c in (0, 2))
    Image.fromarray(np.concatenate([one] * 19 + [two])).save(tmp_path / "tall.png")
    upload(opened, tmp_path / "tall.png")
    canvas = opened.find_element(By.ID, "crop")
    wait_for(canvas.is_displayed)
    width, height = canvas.size["width"], canvas.size["height"]
    assert width / height == pytest.approx(1 / 20, rel=0.05)
    drag(opened, canvas, (-width // 2 + 1, height // 2 - height // 20), (width // 2 - 1, height // 2 - 1))
    wait_for(lambda: (first(opened) or "").startswith("class-02/"))


def test_a_pasted_picture_is_searched(opened, folder, address):
    """Through the clipboard: what is copied by one script is pasted by Ctrl+V."""
    permission = {"origin": address.rstrip("/"), "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    opened.execute_cdp_cmd("Browser.grantPermissions", permission)
    picture = (folder / "class-01" / "00.png").read_bytes()
    opened.execute_async_script(
        """const [bytes, done] = arguments;
        const blob = new Blob([Uint8Array.from(bytes)], {type: 'image/png'});
        navigator.clipboard.write([new ClipboardItem({'image/png': blob})]).then(done);""",
        list(picture),
    )
    key = {"type": "keyDown", "key": "v", "code": "KeyV", "modifiers": 2, "commands": ["paste"]}
    opened.execute_cdp_cmd("Input.dispatchKeyEvent", key)
    wait_for(lambda: first(opened) == "class-01/00.png")


def test_a_dropped_picture_is_searched(opened, folder):
    opened.execute_script("scrollTo(0, 0)")
    zone = opened.find_element(By.ID, "drop")
    data = {"items": [], "files": [str(folder / "class-02" / "01.png")], "dragOperationsMask": 1}
    at = {"x": 200, "y": 200, "data": data}
    for kind in ("dragEnter", "dragOver"):
        opened.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **at})
    assert "over" in zone.get_dom_attribute("class")
    opened.execute_cdp_cmd("Input.dispatchDragEvent", {"type": "drop", **at})
    wait_for(lambda: first(opened) == "class-02/01.png")
    assert "over" not in zone.get_dom_attribute("class")
    assert text(opened, "query-name") == "01.png"


def test_dropped_words_are_no_picture(opened):
    data = {"items": [{"mimeType": "text/plain", "data": "words"}], "files": [], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        opened.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
    wait_for(lambda: text(opened, "error") == "That was no file: drop a picture from your computer.")


def test_what_is_indexed_meanwhile_comes_onto_the_map(browser, serving, folder, address, tmp_path):
    """The quick map, the good one, and the one with another picture, without opening the page again."""
    run, photos, where = folder.parent / "run", tmp_path / "photos", tmp_path / "catalog"
    shutil.copytree(folder / "class-00", photos / "class-00")
    index(where, run, photos)
    with serving(where) as served:
        resize(browser, 1440)
        browser.get(served.address)
        wait_for(lambda: text(browser, "about") == "12 pictures, 1 label")
        canvas = browser.find_element(By.ID, "map")
        wait_for(lambda: canvas.get_dom_attribute("data-quality") == "good", 60)
        assert text(browser, "map-note").startswith("12 pictures. What is near is alike")
        shutil.copytree(folder / "class-01", photos / "class-01")
        index(where, run, photos)
        wait_for(lambda: text(browser, "about") == "24 pictures, 2 labels", 60)
        assert canvas.get_dom_attribute("data-points") == "24"
