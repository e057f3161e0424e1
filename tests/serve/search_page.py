"""How tests read and handle the search page."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from support import wait_for

PICTURES = 50
"""That the page's catalogue holds."""


def hits(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#hits .hit")


def first(browser):
    """Label and file of the first hit; of an element the page may be rid of before it is looked at."""
    return browser.execute_script(
        """const hit = document.querySelector('#hits .hit');
        return hit ? [...hit.querySelectorAll('.label, .path')].map((each) => each.textContent).join('/') : null;"""
    )


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


def ids(browser):
    return browser.execute_script("return [...document.querySelectorAll('#hits .hit')].map(hit => hit.dataset.id)")
