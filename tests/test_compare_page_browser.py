"""The page of a comparison in a real browser: it draws, it answers, it fits, and it asks nothing of any network."""

import json
import time

import numpy as np
import pytest
from PIL import Image
from support import opened_page, resize, wait_for
from test_compare_page import data_of
from test_compare_table import comparison, failed, run

from nearkin.compare_page import Shown, Side, comparison_page
from nearkin.compare_table import table
from nearkin.data import ImageList

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
METHODS = {
    "base": [0.70, 0.74, 0.72],
    HOSTILE: [0.79, 0.82, 0.83],
    "worse": [0.60, 0.61, 0.63],
    "alike": [0.73, 0.7, 0.75],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Five methods, one of them failed; two embeddings of 4 classes of 15 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    paths = [folder / f"{i}.png" for i in range(60)]
    for i, path in enumerate(paths):
        Image.new("RGB", (24, 24), (4 * i, 60 * int(labels[i]), 120)).save(path)
    sides = [
        Side(name, (scale * np.eye(4, 8)[labels] + rng.normal(size=(60, 8))).astype(np.float32))
        for name, scale in (("base", 1.2), (HOSTILE, 2.5))
    ]
    images = ImageList(paths, labels, [HOSTILE, "pear", "plum", "fig"])
    runs = [run(name, seed, value) for name, values in METHODS.items() for seed, value in enumerate(values)]
    made = comparison(*runs, failed("lost", 0), seeds=3)
    file = folder / "comparison.html"
    html = comparison_page(f"run {HOSTILE}", made, table(made), Shown((sides[0], sides[1]), images, "seed 0", {}))
    file.write_text(html, encoding="utf-8")
    return file


@pytest.fixture
def opened(browser, page):
    with opened_page(browser, page, lambda: all(zoom(browser, side) == 1 for side in "ab")):
        yield browser


def zoom(driver, side):
    return float(driver.find_element(By.ID, f"{side}-map").get_dom_attribute("data-zoom") or 0)


def names(driver):
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, "#table tbody th")]


def column(driver, title):
    heads = [head.text for head in driver.find_elements(By.CSS_SELECTOR, "#table thead th")]
    place = heads.index(title) + 1
    return [cell.text for cell in driver.find_elements(By.CSS_SELECTOR, f"#table tbody tr > :nth-child({place})")]


def place(driver, page, side, picture):
    """Where a picture lies on one of the maps, from its middle, in pixels: computed from the data anew."""
    layout = data_of(page.read_text(encoding="utf-8"))["map"]["layouts"]["ab".index(side)]
    box = driver.find_element(By.ID, f"{side}-map").rect
    half = [max(*map(abs, layout[axis])) for axis in "xy"]
    scale = 0.45 * min(box["width"] / half[0], (box["height"] - 40) / half[1])
    return round(layout["x"][picture] * scale), round(layout["y"][picture] * scale + 20)


def test_nothing_is_requested_but_the_page(opened, page):
    time.sleep(0.3)
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in requests
    assert [url for url in requests if url != page.as_uri() and not url.startswith("data:")] == []
    images = "return [...document.images].every(image => image.complete && image.naturalWidth === 128)"
    assert opened.execute_script(images)
    assert opened.execute_script("return [...document.images].every(image => image.alt.length > 5)")


def test_the_table_is_all_there_and_hostile_text_stays_text(opened, page):
    data = data_of(page.read_text(encoding="utf-8"))
    rows = opened.find_elements(By.CSS_SELECTOR, "#table tbody tr")
    assert names(opened) == ["untrained", "base (baseline)", HOSTILE, "worse", "alike", "lost", "lost, seed 0"]
    for row, cells in zip(rows, data["rows"], strict=True):
        assert [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] == [cell["text"] for cell in cells]
    assert [note.text for note in opened.find_elements(By.CSS_SELECTOR, "#notes li")] == data["notes"]
    assert opened.find_elements(By.CSS_SELECTOR, "img[src=x], main script") == []
    assert "Both models are those of seed 0." in opened.find_element(By.ID, "content").text


def test_the_table_sorts_by_every_column_both_ways(opened):
    heads = opened.find_elements(By.CSS_SELECTOR, "#table thead button")
    before = names(opened)
    recall = heads[2]
    recall.click()
    values = [float(text.split(" ")[0]) for text in column(opened, "Recall@1") if text != "–"]
    assert values == sorted(values, reverse=True)
    assert set(names(opened)[-2:]) == {"lost", "lost, seed 0"}, "what has no number stays below"
    recall.send_keys(Keys.ENTER)  # by keyboard, the other way
    values = [float(text.split(" ")[0]) for text in column(opened, "Recall@1") if text != "–"]
    assert values == sorted(values)
    assert set(names(opened)[-2:]) == {"lost", "lost, seed 0"}
    sorts = "return [...document.querySelectorAll('#table thead th')].map(head => head.ariaSort)"
    assert [sort for sort in opened.execute_script(sorts) if sort] == ["ascending"]
    heads[3].click()
    signs = [text[0] for text in column(opened, "Δ Recall@1")]
    assert signs == ["+", "+", "−", "−", "–", "–", "–"]
    heads[0].click()
    assert names(opened)[0] == HOSTILE
    assert sorted(names(opened)) == sorted(before)


def test_intervals_lie_where_their_numbers_are(opened, page):
    charts = data_of(page.read_text(encoding="utf-8"))["differences"]
    choice = opened.find_element(By.ID, "difference-metric")
    for number in (0, 2):
        choice.find_elements(By.TAG_NAME, "option")[number].click()
        expected = charts[number]["rows"]
        rows = opened.find_elements(By.CSS_SELECTOR, "#differences tr:not(.scale)")
        assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == [row["name"] for row in expected]
        assert [row.find_element(By.CLASS_NAME, "number").text for row in rows] == [row["text"] for row in expected]
        kinds = [row.get_dom_attribute("class") for row in rows]
        assert kinds == ["right", "wrong", "unsure"]
        # Pixels are an affine map of the numbers, the same for all rows, with 0 at the line of zero.
        pixels, numbers = [], []
        for row, values in zip(rows, expected, strict=True):
            dot = row.find_element(By.TAG_NAME, "b").rect
            bar = row.find_element(By.CLASS_NAME, "bar").rect
            zero = row.find_element(By.CLASS_NAME, "zero").rect
            pixels += [dot["x"] + dot["width"] / 2, bar["x"], bar["x"] + bar["width"], zero["x"]]
            numbers += [values["mean"], values["low"], values["high"], 0]
        slope, offset = np.polyfit(numbers, pixels, 1)
        assert slope > 0
        np.testing.assert_allclose(np.multiply(slope, numbers) + offset, pixels, atol=1.5)
    scale = [label.text for label in opened.find_elements(By.CSS_SELECTOR, "#differences .scale span")]
    assert "0" in scale
    assert any(text.startswith("+") for text in scale)


def test_each_query_stands_once_with_both_methods_beside_it(opened, page):
    data = data_of(page.read_text(encoding="utf-8"))
    articles = opened.find_elements(By.CSS_SELECTOR, "#sections article")
    expected = [row for section in data["sections"] for row in section["rows"]]
    assert len(articles) == len(expected) > 8
    classes = data["pictures"]["classes"]
    marks = {True: ["solid", '"✓"', "Right"], False: ["dashed", '"✕"', "Wrong"]}
    for article, row in zip(articles, expected, strict=True):
        assert len(article.find_elements(By.CLASS_NAME, "query")) == 1
        methods = article.find_elements(By.CLASS_NAME, "under")
        assert [m.find_element(By.CSS_SELECTOR, "p b").text for m in methods] == ["base", HOSTILE]
        for method, found in zip(methods, row["found"], strict=True):
            assert f"{100 * found['precision']:.1f}%" in method.find_element(By.TAG_NAME, "p").text
            shown = opened.execute_script(
                """
                return [...arguments[0].querySelectorAll(".found .frame")].map((frame) => [
                  getComputedStyle(frame).borderTopStyle, getComputedStyle(frame, "::after").content,
                  frame.firstChild.alt.split(":")[0]]);
                """,
                method,
            )
            assert shown == [marks[classes[p] == classes[row["query"]]] for p in found["neighbours"]]


def tooltips(driver):
    return [driver.find_element(By.ID, f"{side}-tooltip") for side in "ab"]


def test_a_picture_under_the_pointer_is_marked_on_both_maps(opened, page):
    draw_points(opened)
    for side, picture in (("a", 3), ("b", 40), ("a", 59), ("b", 20)):
        element = opened.find_element(By.ID, f"{side}-map")
        opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(opened).move_to_element_with_offset(element, *place(opened, page, side, picture)).perform()
        wait_for(lambda: all(tip.is_displayed() for tip in tooltips(opened)))
        told = [tip.find_element(By.TAG_NAME, "span").text for tip in tooltips(opened)]
        assert told == [f"{picture}.png"] * 2
        # The ring on the other map is drawn around that picture's own place there.
        other = "ba"["ab".index(side)]
        assert dark_ring(opened, other, place(opened, page, other, picture))
    ActionChains(opened).move_to_element(opened.find_element(By.ID, "maps-title")).perform()
    wait_for(lambda: not any(tip.is_displayed() for tip in tooltips(opened)))


def dark_ring(driver, side, at):
    """Whether pixels of the ink's colour lie around a place of a map."""
    pixels = driver.execute_script(
        """
        const map = document.getElementById(arguments[0]), copy = document.createElement("canvas");
        [copy.width, copy.height] = [map.width, map.height];
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(map, 0, 0);
        const [x, y] = [arguments[1] + map.width / 2, arguments[2] + map.height / 2];
        return [...context.getImageData(x - 14, y - 14, 28, 28).data];
        """,
        f"{side}-map",
        *at,
    )
    colors = np.array(pixels).reshape(-1, 4)
    return (np.abs(colors - [29, 29, 31, 255]).max(axis=1) < 12).sum() >= 15


def test_no_ring_where_nothing_is_marked(opened, page):
    assert not dark_ring(opened, "a", place(opened, page, "a", 3))


def draw_points(driver):
    for button in driver.find_elements(By.XPATH, "//button[text()='Points']"):
        button.click()
    wait_for(
        lambda: (
            {driver.find_element(By.ID, f"{side}-map").get_dom_attribute("data-drawn") for side in "ab"} == {"points"}
        )
    )


def test_a_class_singled_out_on_one_map_is_so_on_both(opened, page):
    draw_points(opened)
    before = [opened.execute_script(f"return document.getElementById('{side}-map').toDataURL()") for side in "ab"]
    element = opened.find_element(By.ID, "a-map")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(opened).move_to_element_with_offset(element, *place(opened, page, "a", 40)).click().perform()
    ActionChains(opened).move_to_element(opened.find_element(By.ID, "maps-title")).perform()

    def changed():
        now = [opened.execute_script(f"return document.getElementById('{side}-map').toDataURL()") for side in "ab"]
        return [one != other for one, other in zip(before, now, strict=True)]

    wait_for(lambda: changed() == [True, True])
    opened.find_element(By.ID, "b-map").send_keys(Keys.ESCAPE)
    ActionChains(opened).move_to_element(opened.find_element(By.TAG_NAME, "h1")).perform()
    wait_for(lambda: changed()[0] is False)


def test_maps_zoom_each_for_itself(opened):
    opened.find_element(By.ID, "b-zoom-in").click()
    wait_for(lambda: zoom(opened, "b") > 1.5)
    assert zoom(opened, "a") == 1


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling_but_in_the_table(opened, width, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    resize(opened, width)
    time.sleep(0.3)
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
    inside = """
        return [...document.querySelectorAll("main *")].filter((e) => !e.closest("#table") && !e.matches(".unseen"))
          .every((e) => e.getBoundingClientRect().right <= innerWidth + 1);
        """
    assert opened.execute_script(inside)
    # The names of the methods stay in sight while the table is scrolled.
    sticks = """
        const wide = document.querySelector(".wide"), head = document.querySelector("#table tbody th");
        wide.scrollLeft = 1e4;
        return Math.abs(head.getBoundingClientRect().left - wide.getBoundingClientRect().left) < 3;
        """
    assert opened.execute_script(sticks)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_focus_is_visible_on_every_control(opened):
    outlined = opened.execute_script(
        """
        const controls = [...document.querySelectorAll("button, select, .map-canvas, .wide")];
        return controls.every((control) => {
          control.focus({ focusVisible: true });
          return document.activeElement === control && parseFloat(getComputedStyle(control).outlineWidth) >= 1;
        });
        """
    )
    assert outlined


def test_page_of_one_method(browser, tmp_path):
    only = comparison(run("only", 0, 0.5))
    (tmp_path / "one.html").write_text(comparison_page("one", only, table(only)), encoding="utf-8")
    browser.get((tmp_path / "one.html").as_uri())
    assert browser.get_log("browser") == []
    assert names(browser) == ["untrained", "only (baseline)"]
    hidden = [e for e in browser.find_elements(By.CSS_SELECTOR, "main > section") if not e.is_displayed()]
    assert len(hidden) == 4
