"""The search page for everybody, in a real browser: by keyboard, by ear, in dark and light, narrow and wide."""

import pytest
from support import resize, wait_for

pytest.importorskip("selenium", reason="selenium is not installed")

from search_page import PICTURES, first, hits, ids, settled, text, upload
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow

READ = """
const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
const channels = (color) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
/** What an element is drawn on. */
const ground = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) layers.unshift(getComputedStyle(each).backgroundColor);
  return layers.map(channels).reduce((below, top) => over(top, below), [1, 1, 1]);
};
const luminance = (color) => color
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
/** WCAG's contrast of a colour with what is below it. */
const contrast = (color, below) => {
  const [dark, light] = [luminance(over(channels(color), below)), luminance(below)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};
const shown = (element) => element.checkVisibility() && getComputedStyle(element).clipPath === 'none';
"""

FAINT = (
    READ
    + """
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let looked = 0;
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !shown(element) || element.tagName === 'OPTION') continue;
  looked += 1;
  const ratio = contrast(getComputedStyle(element).color, ground(element));
  if (ratio < 4.5) found.push([texts.currentNode.data.trim(), ratio]);
}
for (const element of document.querySelectorAll('input[placeholder]')) {
  const ratio = contrast(getComputedStyle(element, '::placeholder').color, ground(element));
  if (ratio < 4.5) found.push([element.placeholder, ratio]);
}
for (const element of document.querySelectorAll('button, select, input, .button')) {
  const style = getComputedStyle(element);
  if (!shown(element) || !parseFloat(style.borderTopWidth)) continue;
  const ratio = contrast(style.borderTopColor, ground(element.parentElement));
  if (ratio < 3) found.push([`edge of ${element.id || element.textContent}`, ratio]);
}
return [looked, found];
"""
)
"""Text and placeholders below 4.5, edges of what is used below 3."""

FOCUS = (
    READ
    + """
const element = document.activeElement;
const ringed = element.id === 'file' ? [...document.querySelectorAll('#drop label.button')].find(shown) : element;
const style = getComputedStyle(ringed);
const { left, top, width, height } = ringed.getBoundingClientRect();
return {
  name: element.id || element.className || element.tagName,
  ring: style.outlineStyle === 'none' ? 0 : contrast(style.outlineColor, ground(ringed.parentElement)),
  size: Math.min(width, height),
  order: [...document.querySelectorAll('*')].indexOf(element),
};
"""
)


def colours(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(params=["light", "dark"])
def scheme(browser, request):
    colours(browser, request.param)
    yield request.param
    colours(browser, "")


def come_to_rest(browser):
    """Colours pass into each other."""
    wait_for(lambda: browser.execute_script("return document.getAnimations().length") == 0)


def read_aloud(browser):
    """What a screen reader is told: role, name and description of all that can be used, and of pictures."""
    found = []
    for node in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
        role = node["role"]["value"]
        if node["ignored"] or role == "RootWebArea" or not (properties.get("focusable") or role in ("image", "img")):
            continue
        found.append((role, node["name"]["value"].strip(), node.get("description", {}).get("value", "")))
    return found


def states(browser, folder):
    """The page at its start, with hits, with a set from the map, with a reason, and with an error."""
    yield "start"
    upload(browser, folder / "class-01" / "00.png")
    browser.find_element(By.ID, "crop").send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: browser.find_element(By.ID, "uncrop").is_displayed() and settled(browser))
    yield "hits"
    browser.find_element(By.ID, "map").send_keys("l", Keys.ENTER)
    wait_for(browser.find_element(By.ID, "set").is_displayed)
    browser.find_element(By.ID, "map").send_keys(Keys.ARROW_LEFT)
    wait_for(browser.find_element(By.ID, "tooltip").is_displayed)
    yield "set"
    hits(browser)[0].find_element(By.CSS_SELECTOR, ".foot button").click()
    wait_for(lambda: browser.find_element(By.ID, "why").get_dom_attribute("data-ready"))
    yield "why"
    browser.find_element(By.ID, "why-close").click()
    field = browser.find_element(By.ID, "label")
    field.send_keys("nothing of the sort", Keys.TAB)
    wait_for(lambda: text(browser, "verdict").startswith("Nothing found"))
    yield "nothing"
    paste = "new ClipboardEvent('paste', { clipboardData: new DataTransfer(), bubbles: true })"
    browser.execute_script(f"document.body.dispatchEvent({paste})")
    wait_for(browser.find_element(By.ID, "error").is_displayed)
    yield "error"


def test_all_that_is_used_and_every_picture_has_a_name(opened, folder):
    for state in states(opened, folder):
        said = read_aloud(opened)
        assert len(said) > 3, state
        assert [each for each in said if not each[1]] == [], state
        buttons = [name for role, name, _ in said if role == "button"]
        assert len(set(buttons)) == len(buttons), state


@pytest.mark.parametrize("width", [400, 1440])
def test_text_and_edges_stand_out(opened, folder, scheme, width):
    resize(opened, width)
    background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 384) == (scheme == "light")
    for state in states(opened, folder):
        come_to_rest(opened)
        looked, faint = opened.execute_script(FAINT)
        assert looked > 20, state
        assert faint == [], state


def test_the_map_changes_its_colours_with_the_page(opened):
    seen = """const map = document.getElementById('map');
        const copy = new OffscreenCanvas(map.width, map.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(map, 0, 0);
        const { data } = copy.getImageData(0, 0, map.width, map.height);
        return [...new Uint32Array(data.buffer)].filter(Boolean).join()"""
    wait_for(lambda: opened.execute_script(seen))
    light = opened.execute_script(seen)
    colours(opened, "dark")
    wait_for(lambda: opened.execute_script(seen) != light)
    colours(opened, "")
    wait_for(lambda: opened.execute_script(seen) == light)


@pytest.mark.parametrize("width", [400, 1440])
def test_it_fits(opened, folder, width):
    resize(opened, width)
    overflow = """const page = document.scrollingElement, why = document.getElementById('why');
        return [page.scrollWidth - page.clientWidth, why.scrollWidth - why.clientWidth]"""
    for state in states(opened, folder):
        assert opened.execute_script(overflow) == [0, 0], state
    assert opened.find_element(By.ID, "map").size["height"] > 300


def test_the_query_never_lies_over_the_map(opened, folder):
    """It stays in sight beside its hits, no further."""
    upload(opened, folder / "class-01" / "00.png")
    opened.execute_script("document.getElementById('map').scrollIntoView({block: 'center'})")
    below = """const box = (of) => document.querySelector(of).getBoundingClientRect();
        return box('#map-heading').top - box('.query').bottom"""
    assert opened.execute_script(below) > 0


def test_tab_reaches_everything_in_order_with_a_ring_around_it(opened, scheme):
    reached = []
    come_to_rest(opened)
    while not reached or reached[-1]["name"] != "map":
        ActionChains(opened).send_keys(Keys.TAB).perform()
        reached.append(opened.execute_script(FOCUS))
        assert len(reached) < 60
    assert [each["name"] for each in reached if each["ring"] < 3 or each["size"] < 24] == []
    assert [each["order"] for each in reached] == sorted({each["order"] for each in reached})
    assert {"skip", "file", "label", "rate", "open", "lasso", "zoom-in", "map"} <= {each["name"] for each in reached}


def test_skipping_to_the_results_keeps_the_query(opened):
    hits(opened)[0].find_element(By.CLASS_NAME, "open").click()
    wait_for(lambda: text(opened, "heading") == "Nearest" and settled(opened))
    found, where = ids(opened), opened.current_url
    opened.execute_script("document.querySelector('.skip').focus()")
    ActionChains(opened).send_keys(Keys.ENTER).perform()
    assert opened.execute_script("return document.activeElement.id") == "heading"
    assert (ids(opened), opened.current_url) == (found, where)


def test_a_frame_by_keys_is_told_in_words(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    canvas = opened.find_element(By.ID, "crop")
    wait_for(canvas.is_displayed)
    assert text(opened, "crop-said") == "Drag on the picture to search with a part of it."
    canvas.send_keys(Keys.ARROW_LEFT)
    told = "Only a part: 50 % wide and 50 % high, 20 % from the left, 25 % from the top."
    wait_for(lambda: text(opened, "crop-said") == told and settled(opened))
    canvas.send_keys(Keys.SHIFT, Keys.ARROW_UP)
    told = told.replace("50 % high", "45 % high")
    wait_for(lambda: text(opened, "crop-said") == told and settled(opened))
    said = next(each for each in read_aloud(opened) if each[1] == "Frame on the query")
    assert said[2] == f"{told} {text(opened, 'crop-keys')}"
    assert opened.find_element(By.ID, "crop-keys").size["height"] > 10  # who sees the page is told how, too
    of_part = ids(opened)
    canvas.send_keys(Keys.ESCAPE)
    wait_for(lambda: not opened.find_element(By.ID, "uncrop").is_displayed() and settled(opened))
    assert first(opened) == "class-01/00.png"
    assert ids(opened) != of_part


def in_the_ring(browser):
    return int(text(browser, "map-said").split()[0].replace(",", ""))


def test_a_set_by_keys(opened):
    """A ring in the middle is the lasso: the map moves beneath it."""
    canvas = opened.find_element(By.ID, "map")
    opened.find_element(By.ID, "lasso").send_keys(Keys.ENTER)
    assert opened.execute_script("return document.activeElement.id") == "map"
    wait_for(lambda: "in the ring" in text(opened, "map-said"))
    before = in_the_ring(opened)
    for _ in range(5):
        ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.ARROW_UP).key_up(Keys.SHIFT).perform()
    wait_for(lambda: before < in_the_ring(opened) <= PICTURES)
    wide = in_the_ring(opened)
    for _ in range(3):
        canvas.send_keys(Keys.ARROW_LEFT)
    wait_for(lambda: in_the_ring(opened) < wide)
    for _ in range(3):
        canvas.send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: in_the_ring(opened) == wide)
    canvas.send_keys(Keys.ENTER)
    wait_for(opened.find_element(By.ID, "set").is_displayed)
    assert text(opened, "set-heading").startswith(f"{wide} pictures: ")
    assert text(opened, "map-said") == f"{wide} pictures taken, below the map."
    assert len(opened.find_elements(By.CSS_SELECTOR, "#set-pictures img")) == wide
    assert opened.find_element(By.ID, "lasso").get_dom_attribute("aria-pressed") == "false"


def test_leaving_the_ring_takes_nothing(opened):
    canvas = opened.find_element(By.ID, "map")
    canvas.send_keys("l")
    wait_for(lambda: "in the ring" in text(opened, "map-said"))
    canvas.send_keys(Keys.ESCAPE)
    wait_for(lambda: not text(opened, "map-said"))
    assert opened.find_element(By.ID, "lasso").get_dom_attribute("aria-pressed") == "false"
    assert not opened.find_element(By.ID, "set").is_displayed()
    canvas.send_keys(Keys.ARROW_LEFT)
    wait_for(opened.find_element(By.ID, "tooltip").is_displayed)
    canvas.send_keys(Keys.ENTER)
    wait_for(lambda: "#" in opened.current_url)


def test_every_picture_is_loaded(opened, folder):
    upload(opened, folder / "class-01" / "00.png")
    opened.execute_script("document.querySelectorAll('#hits img').forEach(i => i.loading = 'eager')")
    loaded = "return [...document.querySelectorAll('#hits img')].every(i => i.alt && i.complete && i.naturalWidth)"
    wait_for(lambda: opened.execute_script(loaded))


def scrolled(browser):
    return browser.execute_script("return scrollY")


def test_the_map_does_not_hold_up_who_scrolls_past_it(opened):
    """While all of the map shows, a wheel and a finger scroll the page; a part of it they zoom and move."""
    resize(opened, 400)
    canvas = opened.find_element(By.ID, "map")
    opened.execute_script("arguments[0].scrollIntoView({block: 'end'})", canvas)
    zoom = lambda: float(canvas.get_dom_attribute("data-zoom"))  # noqa: E731
    fingers = lambda: opened.execute_script("return getComputedStyle(arguments[0]).touchAction", canvas)  # noqa: E731
    start = scrolled(opened)
    wheel = ScrollOrigin.from_element(canvas)
    ActionChains(opened).scroll_from_origin(wheel, 0, 20).perform()
    wait_for(lambda: scrolled(opened) > start)
    assert (zoom(), fingers()) == (1, "pan-y")
    ActionChains(opened).scroll_from_origin(wheel, 0, -200).perform()
    wait_for(lambda: zoom() > 1)
    assert fingers() == "none"
    start = scrolled(opened)
    ActionChains(opened).scroll_from_origin(wheel, 0, 20).perform()
    wait_for(lambda: zoom() < 1.43)
    assert scrolled(opened) == start
