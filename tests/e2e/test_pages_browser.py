"""Customers' pages in a real browser that runs no script: from an application on another site to the
prompt and back, and the privacy page. What the browser's console says of the policy is read, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from sidecar.control.pages.site import application
from tests.control.pages.records import T0, Records, records
from tests.e2e.browser import (
    arrived,
    heading,
    leaving,
    needs_chromium,
    pressed,
    scriptless,
    shot,
    violations,
)

pytestmark = needs_chromium


class Site:
    """The pages, and an application on another site (`localhost` is not `127.0.0.1`)."""

    def __init__(
        self, kept: Records, pages: TestServer, app: TestServer, other: TestServer
    ) -> None:
        self.records = kept
        self.pages = f"http://127.0.0.1:{pages.port}"
        self.app = f"http://localhost:{app.port}"
        self.elsewhere = f"http://127.0.0.1:{other.port}"


async def _challenge(request: web.Request) -> web.Response:
    """Sends a browser to the pages, as a sidecar does."""
    return web.Response(status=302, headers={"location": request.query["to"]})


async def _transfers(_request: web.Request) -> web.Response:
    return web.Response(text="<h1>You are back</h1>", content_type="text/html")


async def _violating(_request: web.Request) -> web.Response:
    policy = {"content-security-policy": "default-src 'none'"}
    return web.Response(
        text="<p style='color:red'>x</p>", content_type="text/html", headers=policy
    )  # fmt: skip


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    kept = records()
    pages = TestServer(application(kept, bytes(range(32)), lambda: T0, insecure_cookies=True))
    elsewhere = web.Application()
    elsewhere.router.add_get("/challenge", _challenge)
    elsewhere.router.add_get("/transfers", _transfers)
    elsewhere.router.add_get("/violating", _violating)
    app = TestServer(elsewhere, host="localhost")
    another = web.Application()
    another.router.add_get("/transfers", _transfers)
    other = TestServer(another)
    async with pages, app, other:
        found = Site(kept, pages, app, other)
        for name, each in kept.tickets.items():
            kept.tickets[name] = replace(each, return_to=f"{found.app}/transfers?from={name}")
        yield found


@pytest.fixture
def chromium() -> Iterator[webdriver.Chrome]:
    with scriptless() as driver:
        yield driver


async def test_the_console_is_heard(site: Site, chromium: webdriver.Chrome) -> None:
    """Else silence would prove nothing."""
    await asyncio.to_thread(chromium.get, f"{site.app}/violating")
    assert violations(chromium)


async def test_a_consent_and_back(site: Site, chromium: webdriver.Chrome) -> None:
    def person() -> None:
        chromium.get(f"{site.app}/challenge?to={site.pages}/i?ticket=pay")
        assert heading(chromium) == "Your decision is needed"
        shot(chromium, "consent")
        refuse, agree = chromium.find_elements(By.CSS_SELECTOR, ".decision button")
        assert refuse.size == agree.size
        for name in ("color", "background-color", "border-color", "font-weight", "font-size"):
            assert refuse.value_of_css_property(name) == agree.value_of_css_property(name)
        pressed(chromium, "I agree")
        arrived(chromium, f"{site.app}/transfers?from=pay")
        assert heading(chromium) == "You are back"
        assert violations(chromium) == []

    await asyncio.to_thread(person)
    assert [each.consents for _, each, _ in site.records.answers] == [{"default/pay": True}]


async def test_back_to_an_application_that_leads_on(site: Site, chromium: webdriver.Chrome) -> None:
    """To its login, say. The policy must not hold anybody up whose answer is stored already."""
    kept = site.records.tickets["pay"]
    onward = f"{site.app}/challenge?to={site.elsewhere}/transfers"
    site.records.tickets["pay"] = replace(kept, return_to=onward)

    def person() -> None:
        chromium.get(f"{site.pages}/i?ticket=pay")
        pressed(chromium, "I agree")
        arrived(chromium, f"{site.elsewhere}/transfers")
        assert violations(chromium) == []

    await asyncio.to_thread(person)


async def test_who_refuses_reads_that_it_is_recorded(
    site: Site, chromium: webdriver.Chrome
) -> None:
    site.records.tickets["pay"] = replace(site.records.tickets["pay"], return_to="")

    def person() -> None:
        chromium.get(f"{site.pages}/i?ticket=pay")
        pressed(chromium, "I refuse")
        assert heading(chromium) == "You refused"
        shot(chromium, "refused")
        assert violations(chromium) == []

    await asyncio.to_thread(person)
    assert [each.consents for _, each, _ in site.records.answers] == [{"default/pay": False}]


async def test_a_profile_with_a_mistake_by_keyboard(site: Site, chromium: webdriver.Chrome) -> None:
    def person() -> None:
        chromium.get(f"{site.app}/challenge?to={site.pages}/i?ticket=all")
        for width, dark in ((900, False), (320, False), (900, True)):
            shot(chromium, f"prompt-{width}{'-dark' if dark else ''}", width=width, dark=dark)
        pressed(chromium, "Continue")
        assert chromium.title.startswith("Error:")
        summary = chromium.switch_to.active_element
        assert summary.get_attribute("class") == "summary"  # focused without a script
        shot(chromium, "mistakes")
        chromium.find_element(By.CSS_SELECTOR, 'label[for="p0-grant"]').click()
        phone = chromium.find_element(By.ID, "q0")
        phone.send_keys("+49 30 901820", Keys.TAB, "01311990")
        chromium.find_element(By.ID, "decline").send_keys(Keys.SPACE)
        with leaving(chromium):
            phone.send_keys(Keys.ENTER)
        arrived(chromium, f"{site.app}/transfers?from=all")
        assert violations(chromium) == []

    await asyncio.to_thread(person)
    ((_, answers, _),) = site.records.answers
    assert answers.values == {
        "default/phone_number": "+4930901820",
        "default/birthdate": "1990-01-31",
    }
    assert answers.declined == {"default/tier"}


async def test_the_privacy_page(site: Site, chromium: webdriver.Chrome) -> None:
    def person() -> None:
        chromium.get(f"{site.app}/challenge?to={site.pages}/privacy?ticket=mine")
        assert chromium.current_url == f"{site.pages}/privacy"  # without the ticket
        assert heading(chromium) == "Your privacy"
        shot(chromium, "privacy")
        shot(chromium, "privacy-320", width=320)
        pressed(chromium, "Withdraw")
        assert chromium.current_url == f"{site.pages}/privacy?done=withdrawn"
        assert "Your consent is withdrawn." in chromium.page_source
        shot(chromium, "withdrawn")
        pressed(chromium, "Deutsch")
        assert heading(chromium) == "Ihr Datenschutz"
        shot(chromium, "privacy-german", dark=True)
        pressed(chromium, "Alles löschen")
        assert heading(chromium) == "Alles löschen?"
        shot(chromium, "erase")
        pressed(chromium, "Alles löschen")
        assert heading(chromium) == "Alles ist gelöscht"
        chromium.get(f"{site.pages}/privacy")
        assert heading(chromium) == "Please come from the application"
        assert violations(chromium) == []

    await asyncio.to_thread(person)
    assert site.records.done == [("withdraw", "c-1", "default/pay", "9f2c"), ("erase", "c-1")]


async def test_elsewhere_nobody_can_press_the_buttons(
    site: Site, chromium: webdriver.Chrome
) -> None:
    """A form on another site, in the browser of somebody who has the privacy page open."""

    async def attack(_request: web.Request) -> web.Response:
        form = (
            f"<form method=post action='{site.pages}/privacy/erase'><input name=sure value=yes>"
            "<button>Win</button></form>"
        )
        return web.Response(text=form, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", attack)
    async with TestServer(app, host="localhost") as evil:
        port = evil.port

        def person() -> None:
            chromium.get(f"{site.pages}/privacy?ticket=mine")
            assert heading(chromium) == "Your privacy"
            chromium.get(f"http://localhost:{port}/")
            pressed(chromium, "Win")
            assert heading(chromium) == "This did not come from our page"

        await asyncio.to_thread(person)
    assert site.records.done == []
