"""The report in a real browser: it draws, it answers, it fits, and it asks nothing of any network."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import opened_page, resize, wait_for

from nearkin.report import report_page

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
CLASSES = [HOSTILE, "pear & \"plum\" 'ü'", "</script><script>document.title='owned'</script>", "fig"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of 4 classes of 15 pictures, the first two somewhat mixed."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    centres = np.eye(4, 8)
    centres[1] = 0.8 * centres[0] + 0.2 * centres[1]
    embeddings = (3 * centres[labels] + 0.4 * rng.normal(size=(60, 8))).astype(np.float32)
    paths = [folder / f"<b>{i}</b>.png".replace("/", "_") for i in range(60)]
    for i, path in enumerate(paths):
        Image.new("RGB", (24, 24), (4 * i, 60 * int(labels[i]), 120)).save(path)
    history = [{"step": s, "loss": 100 / s, "lr": 0.1, "seconds": s * 1.0} for s in range(10, 1010, 10)]
    history += [{"step": s, "validation/recall@1": s / 2000, "validation/map@r": s / 4000} for s in (200, 600, 1000)]
    html = report_page(
        name=f"run {HOSTILE}",
        config={"loss": {"class_path": HOSTILE, "init_args": {"alpha": 1.2}}, "very_long": "x" * 300, "ks": [1, 2]},
        history=history,
        result={"untrained": {"recall@1": 0.25, "map@r": 0.3}, "trained": {"recall@1": 0.9, "map@r": float("nan")}},
        embeddings=embeddings,
        labels=labels,
        classes=CLASSES,
        paths=paths,
    )
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    return file


@pytest.fixture
def opened(browser, page):
    def drawn():
        return browser.find_element(By.ID, "map").get_dom_attribute("data-zoom") == "1.000"

    with opened_page(browser, page, drawn):
        yield browser


def canvas(browser):
    element = browser.find_element(By.ID, "map")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def pixels(browser):
    return browser.execute_script("return document.getElementById('map').toDataURL()")


def zoom(browser):
    return float(browser.find_element(By.ID, "map").get_dom_attribute("data-zoom"))


def chosen(browser):
    """The labels that are singled out."""
    pressed = browser.find_elements(By.CSS_SELECTOR, "#class-list [aria-pressed=true]")
    return [int(button.get_dom_attribute("data-label")) for button in pressed]


def send_wheel(browser, delta):
    """Turn the wheel over the middle of the map; whether the page keeps the event from scrolling."""
    return browser.execute_script(
        """
        const map = document.getElementById("map"), box = map.getBoundingClientRect();
        return !map.dispatchEvent(new WheelEvent("wheel", { deltaY: arguments[0], cancelable: true, bubbles: true,
          clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 }));
        """,
        delta,
    )


def data_of(page):
    text = page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    return json.loads(text)


def place(browser, page, picture):
    """Where a picture lies on the whole map, from the canvas's middle in pixels: computed from the data anew."""
    data = data_of(page)["map"]
    box = browser.find_element(By.ID, "map").rect
    tools = 40
    half = [max(abs(value) for value in data[axis]) for axis in "xy"]
    scale = 0.45 * min(box["width"] / half[0], (box["height"] - tools) / half[1])
    return round(data["x"][picture] * scale), round(data["y"][picture] * scale + tools / 2)


def test_nothing_is_requested_but_the_page(opened, page):
    ActionChains(opened).move_to_element(canvas(opened)).perform()
    opened.find_element(By.ID, "as-pictures").click()
    time.sleep(0.5)
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in requests
    assert [url for url in requests if url != page.as_uri() and not url.startswith("data:")] == []
    # The picture of every row has been decoded.
    images = "return [...document.images].every(image => image.complete && image.naturalWidth === 128)"
    assert opened.execute_script(images)


def test_everything_is_there(opened):
    assert opened.find_element(By.ID, "summary").text.startswith("Recall@1 on 4 unseen classes: 90.0%, 65 points")
    rows = [row.text for row in opened.find_elements(By.CSS_SELECTOR, "#scores tbody tr")]
    assert [row.split("\n")[0] for row in rows] == ["Recall@1", "MAP@R"]
    assert rows[0].endswith("25.0% 90.0% +65.0")
    assert rows[1].endswith("30.0% – –")
    assert len(opened.find_elements(By.CSS_SELECTOR, "#charts svg")) == 3
    assert len(opened.find_elements(By.CSS_SELECTOR, "#sections section")) == 3
    assert len(opened.find_elements(By.CSS_SELECTOR, ".row")) == 6 + 4 + 4
    assert all(len(r.find_elements(By.CLASS_NAME, "found")) == 8 for r in opened.find_elements(By.CLASS_NAME, "row"))
    assert opened.find_elements(By.CLASS_NAME, "pair")
    assert "very_long" in opened.find_element(By.ID, "config").text


def test_right_and_wrong_are_told_by_more_than_color(opened, page):
    data = data_of(page)
    classes = data["pictures"]["classes"]
    expected = [
        classes[neighbour] == classes[row["query"]]
        for section in data["sections"]
        for row in section["rows"]
        for neighbour in row["neighbours"]
    ]
    assert 0 < sum(expected) < len(expected)
    found = opened.execute_script(
        """
        return [...document.querySelectorAll(".row .found .frame")].map((frame) => [
          getComputedStyle(frame).borderTopStyle, getComputedStyle(frame, "::after").content,
          frame.firstChild.alt.split(":")[0]]);
        """
    )
    marks = {True: ["solid", '"✓"', "Right"], False: ["dashed", '"✕"', "Wrong"]}
    assert found == [marks[right] for right in expected]


def test_every_picture_has_an_alternative_text(opened):
    assert opened.execute_script("return [...document.images].every(image => image.alt.length > 5)")


def test_hostile_text_stays_text(opened):
    assert HOSTILE in opened.find_element(By.TAG_NAME, "h1").text
    assert HOSTILE in [name.text for name in opened.find_elements(By.CSS_SELECTOR, "#class-list .name")]
    assert HOSTILE in opened.find_element(By.ID, "config").text
    assert opened.find_elements(By.CSS_SELECTOR, "img[src=x], body b img, main script") == []


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling(opened, width, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    resize(opened, width)
    time.sleep(0.3)
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
    inside = (
        "return [...document.querySelectorAll('main *')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert opened.execute_script(inside.replace("main *", "main :not(svg *)"))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_colors_follow_the_scheme(opened):
    background = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        time.sleep(0.3)
        seen[scheme] = (opened.execute_script(background), pixels(opened))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen["light"][0] != seen["dark"][0]
    assert seen["light"][1] != seen["dark"][1]


def test_wheel_zooms_and_lets_the_page_scroll_where_it_cannot(opened):
    canvas(opened)
    before = pixels(opened)
    assert not send_wheel(opened, 200)  # already the whole map
    assert send_wheel(opened, -400)
    wait_for(lambda: zoom(opened) > 1.5)
    assert pixels(opened) != before
    assert send_wheel(opened, 4000)
    wait_for(lambda: zoom(opened) == 1)


def test_zooming_in_shows_pictures(opened):
    canvas(opened)
    pressed = "return ['as-points', 'as-pictures'].map(id => document.getElementById(id).ariaPressed)"
    opened.find_element(By.ID, "as-points")
    for _ in range(10):
        send_wheel(opened, -300)
    wait_for(lambda: opened.find_element(By.ID, "map").get_dom_attribute("data-drawn") == "pictures")
    assert opened.execute_script(pressed) == ["false", "true"]
    opened.find_element(By.ID, "as-points").click()  # not against one's will
    wait_for(lambda: opened.find_element(By.ID, "map").get_dom_attribute("data-drawn") == "points")
    assert opened.execute_script(pressed) == ["true", "false"]


def test_hover_shows_the_picture_under_the_pointer(opened, page):
    data = data_of(page)
    opened.find_element(By.ID, "as-points").click()
    element = canvas(opened)
    tooltip = opened.find_element(By.ID, "tooltip")
    assert not tooltip.is_displayed()
    for picture in (3, 20, 40, 59):
        ActionChains(opened).move_to_element_with_offset(element, *place(opened, page, picture)).perform()
        wait_for(tooltip.is_displayed)
        name = tooltip.find_element(By.TAG_NAME, "strong").text
        path = tooltip.find_element(By.TAG_NAME, "span").text
        assert name == CLASSES[data["pictures"]["classes"][data["pictures"]["paths"].index(path)]]
        assert path == data["pictures"]["paths"][picture]
        # The thumbnail is that picture's plain colour.
        middle = """
            const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            copy.drawImage(arguments[0].querySelector("canvas"), 0, 0);
            return [...copy.getImageData(64, 64, 1, 1).data];
            """
        color = opened.execute_script(middle, tooltip)[:3]
        np.testing.assert_allclose(color, (4 * picture, 60 * (picture // 15), 120), atol=10)
    ActionChains(opened).move_to_element(opened.find_element(By.ID, "map-title")).perform()
    wait_for(lambda: not tooltip.is_displayed())


def opacity(browser, page, pictures):
    """The median opacity of the map at the places of some pictures, from 0 to 255."""
    size = browser.find_element(By.ID, "map").rect
    places = [place(browser, page, picture) for picture in pictures]
    points = [[x + size["width"] / 2, y + size["height"] / 2] for x, y in places]
    values = browser.execute_script(
        """
        const map = document.getElementById("map"), copy = document.createElement("canvas");
        [copy.width, copy.height] = [map.width, map.height];
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(map, 0, 0);
        return arguments[0].map(([x, y]) => context.getImageData(x, y, 1, 1).data[3]);
        """,
        points,
    )
    return np.median(values)


def test_click_singles_out_a_class(opened, page):
    opened.find_element(By.ID, "as-points").click()
    element = canvas(opened)
    assert opacity(opened, page, range(60)) > 200
    ActionChains(opened).move_to_element_with_offset(element, *place(opened, page, 40)).click().perform()
    wait_for(lambda: chosen(opened) == [2])
    ActionChains(opened).move_to_element(opened.find_element(By.ID, "map-title")).perform()
    wait_for(lambda: opacity(opened, page, range(45, 60)) < 60)
    assert opacity(opened, page, range(30, 45)) > 200
    opened.find_element(By.ID, "class-clear").click()
    assert chosen(opened) == []
    wait_for(lambda: opacity(opened, page, range(60)) > 200)


def test_class_list_finds_orders_and_singles_out(opened):
    names = lambda: [n.text for n in opened.find_elements(By.CSS_SELECTOR, "#class-list .name")]  # noqa: E731
    canvas(opened)
    assert len(names()) == 4
    opened.find_element(By.CSS_SELECTOR, "#class-order option[value=right]").click()
    scores = [float(s.text.rstrip("%")) for s in opened.find_elements(By.CSS_SELECTOR, "#class-list .score")]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    opened.find_element(By.ID, "class-filter").send_keys("FIG")
    assert names() == ["fig"]
    before = pixels(opened)
    opened.find_element(By.CSS_SELECTOR, "#class-list button").send_keys(Keys.ENTER)  # by keyboard
    wait_for(lambda: pixels(opened) != before)


def test_keyboard_moves_zooms_and_reads_off(opened):
    element = canvas(opened)
    element.send_keys("+")
    wait_for(lambda: zoom(opened) == pytest.approx(1.6, abs=0.01))
    opened.find_element(By.ID, "as-points").click()
    before = pixels(opened)
    element.send_keys(Keys.ARROW_RIGHT)
    time.sleep(0.4)
    assert pixels(opened) != before
    element.send_keys("-")
    wait_for(lambda: zoom(opened) == 1)
    tooltip = opened.find_element(By.ID, "tooltip")
    for key in [Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_DOWN] * 3:
        if tooltip.is_displayed():
            break
        element.send_keys("+", key)
        time.sleep(0.4)
    name = tooltip.find_element(By.TAG_NAME, "strong").text
    element.send_keys(Keys.ENTER)
    assert opened.find_element(By.CSS_SELECTOR, "#class-list [aria-pressed=true] .name").text == name
    element.send_keys(Keys.ESCAPE)
    assert chosen(opened) == []
    element.send_keys("0")
    wait_for(lambda: zoom(opened) == 1)


def test_dragging_moves_the_map(opened, page):
    opened.find_element(By.ID, "as-points").click()
    element = canvas(opened)
    before = pixels(opened)
    drag = ActionChains(opened).move_to_element_with_offset(element, *place(opened, page, 40))
    drag.click_and_hold().move_by_offset(90, 40).release().perform()
    wait_for(lambda: pixels(opened) != before)
    assert chosen(opened) == []  # a drag is no click, though it ends on the picture it began on


def test_two_fingers_zoom(opened):
    box = canvas(opened).rect
    top = opened.execute_script("return document.getElementById('map').getBoundingClientRect().top")
    x, y = box["x"] + box["width"] / 2, top + box["height"] / 2
    touch = lambda kind, gap: opened.execute_cdp_cmd(  # noqa: E731
        "Input.dispatchTouchEvent",
        {"type": kind, "touchPoints": [{"x": x + s * gap, "y": y, "id": s + 1} for s in (-1, 1)] if gap else []},
    )
    touch("touchStart", 40)
    for gap in range(45, 125, 10):
        touch("touchMove", gap)
    touch("touchEnd", 0)
    wait_for(lambda: zoom(opened) > 2)


def test_confused_pair_is_shown_on_the_map(opened, page):
    expected = data_of(page)["confused"][0]["classes"]
    opened.find_element(By.CSS_SELECTOR, ".pair .link").click()
    assert sorted(chosen(opened)) == expected
    visible = "const box = document.getElementById('map').getBoundingClientRect(); return box.top >= 0 && box.top < 400"
    wait_for(lambda: opened.execute_script(visible))


def test_curves_read_off_under_pointer_and_keys(opened):
    chart = opened.find_element(By.CSS_SELECTOR, ".chart")
    readout = chart.find_element(By.CLASS_NAME, "readout")
    assert readout.text.startswith("step 1,000 · loss 0.1, trend 0.1")
    svg = chart.find_element(By.TAG_NAME, "svg")
    ActionChains(opened).move_to_element(svg).perform()
    wait_for(lambda: not readout.text.startswith("step 1,000"))
    step = int(readout.text.split()[1].replace(",", ""))
    assert 400 < step < 600
    assert f"loss {100 / step:.3f}".rstrip("0") in readout.text
    ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    opened.execute_script("arguments[0].focus()", svg)
    ActionChains(opened).send_keys(Keys.ARROW_LEFT).perform()
    wait_for(lambda: readout.text.startswith("step 990"))
    assert "logarithmic" in svg.text


def test_motion_is_optional(opened):
    reduced = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", reduced)
    canvas(opened)
    frames = opened.execute_async_script(
        """
        const done = arguments[0], map = document.getElementById("map"), seen = new Set();
        map.addEventListener("drawn", () => seen.add(map.dataset.zoom));
        document.getElementById("zoom-in").click();
        setTimeout(() => done([...seen]), 500);
        """
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert frames == ["1.600"]


def test_focus_is_visible_on_every_control(opened):
    outlined = opened.execute_script(
        """
        const controls = [...document.querySelectorAll("button, input, select, summary, #map, svg[tabindex]")];
        return controls.filter((control) => !control.hidden).every((control) => {
          control.focus({ focusVisible: true });
          return document.activeElement === control && parseFloat(getComputedStyle(control).outlineWidth) >= 1;
        });
        """
    )
    assert outlined


@pytest.mark.parametrize("count", [1, 2])
def test_page_of_very_few_pictures(browser, tmp_path, count):
    paths = [Path(tmp_path / f"{i}.png") for i in range(count)]
    for path in paths:
        Image.new("RGB", (8, 8), "red").save(path)
    html = report_page(
        name="few",
        config={},
        history=[{"step": 1, "loss": float("nan")}],
        result={},
        embeddings=np.eye(count, 4, dtype=np.float32),
        labels=np.zeros(count, dtype=int),
        classes=["only"],
        paths=paths,
    )
    (tmp_path / "few.html").write_text(html, encoding="utf-8")
    browser.get((tmp_path / "few.html").as_uri())
    wait_for(lambda: browser.find_element(By.ID, "map").get_dom_attribute("data-zoom") == "1.000")
    assert browser.get_log("browser") == []
    assert "loss is not a number from step 1." in browser.find_element(By.ID, "charts").text
