"""A browser for tests: headless Chromium without JavaScript, what it shows and what it complains of."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import url_to_be
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"

needs_chromium = pytest.mark.skipif(
    not os.environ.get("CI") and (CHROMIUM is None or DRIVER is None),
    reason="needs chromium and chromedriver",
)


@contextmanager
def scriptless() -> Iterator[webdriver.Chrome]:
    """Headless Chromium that runs no script and speaks English; its console is kept."""
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--lang=en",
    ):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option(
        "prefs",
        {
            "profile.managed_default_content_settings.javascript": 2,  # blocked
            "intl.accept_languages": "en",
        },
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        driver.set_page_load_timeout(30)
        yield driver


def shot(
    driver: webdriver.Chrome, name: str, *, width: int = 900, least: int = 900, dark: bool = False,
    story: str = "pages",
) -> None:  # fmt: skip
    """The whole page, which must not be wider than the window (WCAG 1.4.10), as STORY-NAME.png;
    `least` is its height."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": least, "deviceScaleFactor": 1, "mobile": False},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    assert size["width"] <= width, f"{name} scrolls sideways at {width}"
    clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
    whole: dict[str, Any] = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
    )
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / f"{story}-{name}.png").write_bytes(base64.b64decode(whole["data"]))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def violations(driver: webdriver.Chrome) -> list[str]:
    """What the console says that was blocked, since the last time."""
    said = [str(each["message"]) for each in driver.get_log("browser")]  # type: ignore[no-untyped-call]
    return [each for each in said if "Content Security Policy" in each or "Refused to" in each]


@contextmanager
def leaving(driver: webdriver.Chrome) -> Iterator[None]:
    """What is done within leads to another page, which is there afterwards: the driver does not
    reliably wait for what a form begins."""
    before = driver.find_element(By.TAG_NAME, "html")
    yield
    WebDriverWait(driver, 30, poll_frequency=0.05).until(lambda _: _gone(before))


def _gone(element: WebElement) -> bool:
    """Whether its page is: the driver says so in two ways, the second while it is just leaving."""
    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException as error:
        if "does not belong to the document" not in str(error.msg):
            raise
        return True
    return False


def pressed(driver: webdriver.Chrome, words: str) -> None:
    """Presses the first button or link that is called so."""
    found = driver.find_elements(By.CSS_SELECTOR, "button, .languages a")
    with leaving(driver):
        next(each for each in found if each.text == words).click()


def arrived(driver: webdriver.Chrome, url: str) -> None:
    """Waits until the browser was led there."""
    WebDriverWait(driver, 30, poll_frequency=0.05).until(url_to_be(url))


def heading(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.TAG_NAME, "h1").text
