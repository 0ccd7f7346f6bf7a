"""The customer's journey in a real browser that runs no script, through everything that
`sidecar demo` starts: each address and each page on the way is looked at, and so is the console."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
from selenium.webdriver.support.wait import WebDriverWait

from sidecar.demo.world import World
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
from tests.e2e.processes import get, until

pytestmark = needs_chromium


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    started = World(tmp_path)
    try:
        await started.start()
        yield started
    finally:
        await started.close()


@pytest.fixture
def chromium() -> Iterator[webdriver.Chrome]:
    with scriptless() as driver:
        yield driver


class Person:
    """Somebody with a browser."""

    def __init__(self, driver: webdriver.Chrome, world: World) -> None:
        self.driver = driver
        self.world = world

    def follows(self, words: str) -> None:
        with leaving(self.driver):
            self.driver.find_element(By.LINK_TEXT, words).click()

    def at(self, address: str, title: str) -> None:
        """Where they are, what they read there, and that the browser had nothing to block."""
        arrived(self.driver, address)
        assert heading(self.driver) == title
        assert violations(self.driver) == []

    def sent_to(self, address: str, title: str) -> dict[str, list[str]]:
        """The same for an address with a query, which is the answer."""
        found = urlsplit(self.driver.current_url)
        assert f"{found.scheme}://{found.netloc}{found.path}" == address
        assert heading(self.driver) == title
        assert violations(self.driver) == []
        return parse_qs(found.query)

    def led_to(self, title: str) -> None:
        """By a page that leads on by itself."""
        reads = text_to_be_present_in_element((By.TAG_NAME, "h1"), title)
        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(reads)

    def reads(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "main").text

    def shot(self, name: str) -> None:
        shot(self.driver, name, width=720, least=300, story="journey")

    def cookie(self, name: str) -> str:
        found = self.driver.get_cookie(name)
        return "" if found is None else str(found["value"])


def _customer(text: str) -> str:
    found = re.search(r"cus_[a-z0-9]+", text)
    assert found is not None, text
    return found.group()


async def test_the_journey(world: World, chromium: webdriver.Chrome) -> None:
    await asyncio.to_thread(_play, Person(chromium, world))
    _told(world)


def _play(alice: Person) -> None:
    bank, pages = alice.world.address, alice.world.pages
    login = f"{alice.world.issuer.address}/login"
    payment = f"{bank}/pay?amount=5000&to=bob"

    # A visitor whom nobody knows: a cookie, and from then on an id.
    alice.driver.get(f"{bank}/")
    assert heading(alice.driver) == "Welcome"
    planted = alice.driver.get_cookie("visitor")
    assert planted is not None
    assert planted["httpOnly"]
    assert alice.cookie("sid") == ""
    alice.driver.get(f"{bank}/")
    visitor = _customer(alice.reads())
    assert "a visitor" in alice.reads()
    assert alice.cookie("visitor") == planted["value"]
    alice.shot("1-visitor")

    # An account is for who logs in; whom the social login names is who the visitor was.
    alice.follows("Your account")
    asked = alice.sent_to(login, "Log in")
    assert asked["kind"] == ["authentication"]
    assert asked["return_to"] == [f"{bank}/accounts/alice/page"]
    assert not alice.driver.find_elements(By.ID, "code"), "no second factor is asked for yet"
    alice.shot("2-login")
    pressed(alice.driver, "Continue as Alice")
    alice.at(f"{bank}/accounts/alice/page", "Your account")
    assert "1,024.00" in alice.reads()
    assert _customer(alice.reads()) == visitor
    alice.shot("3-account")

    # Another one's is not, and no page leads on from there.
    alice.driver.get(f"{bank}/accounts/bob/page")
    assert alice.driver.current_url == f"{bank}/accounts/bob/page"
    assert '"code":"denied"' in alice.driver.page_source
    alice.driver.get(f"{bank}/")
    assert heading(alice.driver) == "Welcome back, alice"

    # A small payment asks for nothing.
    alice.driver.get(f"{bank}/pay?amount=10&to=bob")
    alice.at(f"{bank}/pay?amount=10&to=bob", "Paid")

    # A large one for a second factor,
    alice.follows("Pay 5,000 to Bob")
    asked = alice.sent_to(login, "Confirm that it is you")
    assert asked["kind"] == ["step_up"]
    assert asked["acr_values"] == ["urn:mfa"]
    assert asked["return_to"] == [payment]
    alice.shot("4-second-factor")
    pressed(alice.driver, "Continue as Alice")
    assert "Six digits are expected." in alice.reads()
    alice.driver.find_element(By.ID, "code").send_keys("123456")
    pressed(alice.driver, "Continue as Alice")

    # then for consent to this very payment,
    asked = alice.sent_to(f"{pages}/i", "Your decision is needed")
    assert list(asked) == ["ticket"], "what it is about stands in the ticket alone"
    assert "This payment" in alice.reads()
    assert "5000" in alice.reads()
    assert "bob" in alice.reads()
    assert not alice.driver.find_elements(By.ID, "q0"), "one thing at a time"
    alice.shot("5-consent")
    consent = alice.driver.current_url
    pressed(alice.driver, "I agree")

    # then for the one thing that is not known yet,
    alice.led_to("A little more is needed")
    alice.sent_to(f"{pages}/i", "A little more is needed")
    assert alice.driver.current_url != consent
    assert "This payment" not in alice.reads()
    assert len(alice.driver.find_elements(By.CSS_SELECTOR, "input[type=tel]")) == 1
    alice.shot("6-profile")
    phone = alice.driver.find_element(By.ID, "q0")
    phone.send_keys("+49 30 901820")
    pressed(alice.driver, "Continue")

    # and then it passes, once: the consent was to one payment.
    alice.at(payment, "Paid")
    assert "5000" in alice.reads()
    alice.shot("7-paid")
    alice.driver.get(consent)
    assert heading(alice.driver) == "This is done already"
    alice.driver.get(payment)
    alice.sent_to(f"{pages}/i", "Your decision is needed")
    pressed(alice.driver, "I refuse")
    assert heading(alice.driver) == "You refused"

    # A consent that lasts, until it is withdrawn on the customer's own page.
    alice.driver.get(f"{bank}/")
    alice.follows("Your insights")
    alice.sent_to(f"{pages}/i", "Your decision is needed")
    assert "Spending insights" in alice.reads()
    pressed(alice.driver, "I agree")
    alice.at(f"{bank}/insights", "What you spend on")
    alice.driver.get(f"{bank}/insights")
    alice.at(f"{bank}/insights", "What you spend on")
    alice.shot("8-insights")
    alice.follows("Your privacy")
    alice.at(f"{pages}/privacy", "Your privacy")
    for known in ("+4930901820", "al…@mail.example", "Spending insights", "This payment"):
        assert known in alice.reads()
    assert "0 times" not in alice.reads(), "nobody counts what is not limited"
    alice.shot("9-privacy")
    pressed(alice.driver, "Withdraw")
    alice.at(f"{pages}/privacy?done=withdrawn", "Your privacy")
    assert "Your consent is withdrawn." in alice.reads()
    alice.driver.get(f"{bank}/insights")
    alice.sent_to(f"{pages}/i", "Your decision is needed")
    alice.shot("10-withdrawn")


def _told(world: World) -> None:
    """Other systems hear of it, in order; and how far people came is counted."""
    events = world.folder / "events.jsonl"
    until(lambda: events.exists() and "consent.withdrawn" in events.read_text(), "events")
    types = [json.loads(line)["type"] for line in events.read_text().splitlines()]
    said = [each for each in types if each.startswith("sidecar.consent.")]
    assert said == [
        "sidecar.consent.granted", "sidecar.consent.used", "sidecar.consent.refused",
        "sidecar.consent.granted", "sidecar.consent.withdrawn",
    ]  # fmt: skip
    status, _, page = get(f"{world.pages}/metrics")
    assert status == 200
    for line in (
        'sidecar_challenges_total{kind="consent",stage="completed"} 2.0',
        'sidecar_challenges_total{kind="consent",stage="refused"} 1.0',
        'sidecar_challenges_total{kind="profile",stage="completed"} 1.0',
        'sidecar_challenges_total{kind="privacy",stage="completed"} 1.0',
    ):
        assert line in page.decode()
