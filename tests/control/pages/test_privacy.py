"""sidecar/control/pages/privacy.py, over loopback"""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from sidecar.control.pages import guard
from sidecar.control.pages.journeys import (
    Identifier,
    KnownAttribute,
    PrivacyView,
    PurposeState,
    Receipt,
)
from tests.control.pages.records import PAY, T0, VIEW
from tests.control.pages.site import FROM_HERE, Browser


async def test_a_ticket_opens_once_and_leaves_the_address(browser: Browser) -> None:
    answer = await browser.get("/privacy?ticket=mine&lang=de")
    assert (answer.status, answer.headers["location"]) == (303, "privacy?lang=de")
    assert "c-1" not in str(answer.headers)
    assert (await browser.get("/privacy")).status == 200
    browser.cookies.clear()
    assert (await browser.get("/privacy?ticket=mine")).status == 410
    assert browser.cookies == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/privacy?ticket=nix", 404), ("/privacy?ticket=", 404), ("/privacy?ticket=%C3%A4", 404),
        ("/privacy?ticket=pay", 404), ("/privacy?ticket=mine&ticket=mine", 400), ("/privacy", 403),
        ("/privacy/download", 403),
    ],
)  # fmt: skip
async def test_without_a_good_ticket_nothing_is_shown(
    browser: Browser, path: str, status: int
) -> None:
    answer = await browser.get(path)
    assert answer.status == status
    assert answer.page
    assert "kim@example.org" not in answer.text
    assert browser.cookies == {}


async def test_only_people_use_tickets_up(browser: Browser) -> None:
    assert (await browser.send("HEAD", "/privacy?ticket=mine")).status == 403
    for name in ("sec-purpose", "purpose"):
        answer = await browser.get("/privacy?ticket=mine", {name: "prefetch;prerender"})
        assert answer.status == 403
    assert browser.records.used == set()


async def test_what_is_known_is_shown(browser: Browser) -> None:
    await browser.entered()
    answer = await browser.get("/privacy")
    for part in (
        "kim@example.org", "Told by login.example", "Has to be kept", "k•••@example.org", "12 times",
        "0 of 1 times", "Granted", "Refused", "Not decided", "r-01", "28 May 2026", "…e41c", "Device",
        "The recipient&#39;s bank",
    ):  # fmt: skip
        assert part in answer.text
    assert answer.text.count('action="privacy/withdraw"') == 2  # of four, two are granted
    assert answer.text.count('action="privacy/forget"') == 2  # of three, one has to stay


async def test_nothing_known_is_a_page_too(browser: Browser) -> None:
    browser.records.views["c-1"] = PrivacyView()
    await browser.entered()
    assert "Nothing is known of you" in (await browser.get("/privacy")).page.text


async def test_withdraw_as_easily_as_agree(browser: Browser) -> None:
    fields = await browser.entered()
    answer = await browser.post(
        "/privacy/withdraw", {**fields, "ref": PAY.ref, "binding": PAY.binding}
    )
    assert (answer.status, answer.headers["location"]) == (303, "../privacy?done=withdrawn")
    assert browser.records.done == [("withdraw", "c-1", "default/pay", "9f2c")]
    after = await browser.get("/privacy?done=withdrawn")
    assert "Your consent is withdrawn" in after.page.text
    assert "Withdrawn" in after.text


async def test_one_attribute_is_deleted(browser: Browser) -> None:
    fields = await browser.entered()
    answer = await browser.post(
        "/privacy/forget", {**fields, "name": "default/email", "lang": "de"}
    )
    assert answer.headers["location"] == "../privacy?lang=de&done=forgotten"
    assert "kim@example.org" not in (await browser.get("/privacy")).text


async def test_everything_is_deleted_after_a_second_question(browser: Browser) -> None:
    fields = await browser.entered()
    first = await browser.post("/privacy/erase", fields)
    assert first.status == 200
    assert browser.records.done == []
    second = await browser.post("/privacy/erase", first.page.fields())
    assert second.status == 200
    assert "Everything is deleted" in second.page.text
    assert browser.records.done == [("erase", "c-1")]
    assert "sidecar-privacy" not in browser.cookies
    assert (await browser.get("/privacy")).status == 403


async def test_everything_is_taken_along(browser: Browser) -> None:
    await browser.entered()
    answer = await browser.get("/privacy/download")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="my-data.json"'
    assert orjson.loads(answer.body)["customer"] == "c-1"
    for site in ("cross-site", "same-site"):
        assert (await browser.get("/privacy/download", {"sec-fetch-site": site})).status == 403


async def test_a_session_ends_by_itself_and_by_hand(browser: Browser) -> None:
    fields = await browser.entered()
    browser.now += guard.SESSION - 1
    assert (await browser.get("/privacy")).status == 200
    browser.now += 1
    assert (await browser.get("/privacy")).status == 403
    assert (await browser.post("/privacy/forget", {**fields, "name": "x"})).status == 403
    browser.now -= guard.SESSION
    assert (await browser.post("/privacy/leave", fields)).status == 200
    assert (await browser.get("/privacy")).status == 403


@pytest.mark.parametrize("act", ["withdraw", "forget", "erase", "leave"])
async def test_acts_need_session_token_and_origin(browser: Browser, act: str) -> None:
    fields = {
        **await browser.entered(),
        "ref": "default/offers",
        "name": "default/email",
        "sure": "yes",
    }
    path = f"/privacy/{act}"
    assert (await browser.post(path, {**fields, "token": ""})).status == 403
    assert (await browser.post(path, fields, {"sec-fetch-site": "cross-site"})).status == 403
    assert (await browser.post(path, fields, {})).status == 403
    kept = dict(browser.cookies)
    for name in kept:
        browser.cookies = {other: value for other, value in kept.items() if other != name}
        assert (await browser.post(path, fields)).status == 403
    browser.cookies = {**kept, "sidecar-privacy": kept["sidecar-privacy"][:-4] + "AAAA"}
    assert (await browser.post(path, fields)).status == 403
    browser.cookies = kept
    json = {"content-type": "application/json", **FROM_HERE}
    assert (await browser.send("POST", path, json, data=orjson.dumps(fields))).status == 415
    assert browser.records.done == []


async def test_a_token_is_for_one_customer(browser: Browser) -> None:
    browser.records.privacy_tickets["other"] = "c-2"
    browser.records.views["c-2"] = VIEW
    fields = await browser.entered()
    assert (
        await browser.get("/privacy?ticket=other")
    ).status == 303  # the same browser, another one
    assert (
        await browser.post("/privacy/forget", {**fields, "name": "default/email"})
    ).status == 403
    assert browser.records.done == []


async def test_no_message_but_ours(browser: Browser) -> None:
    await browser.entered()
    answer = await browser.get("/privacy?done=%3Cscript%3E&lang=%22x")
    assert answer.status == 200
    assert "script" not in answer.page.text


EVIL = "\"'><script>alert(1)</script>\u202e\x07"


async def test_whatever_is_shown_is_text(browser: Browser) -> None:
    purpose = replace(
        PAY, ref=EVIL, title=EVIL, text=EVIL, recipients=(EVIL,), values={EVIL: EVIL}, binding=EVIL,
        attributes=(EVIL, EVIL), language=EVIL,
    )  # fmt: skip
    browser.records.views["c-1"] = PrivacyView(
        EVIL,
        (
            KnownAttribute(EVIL, EVIL, EVIL, EVIL, T0),
            KnownAttribute("x", EVIL, {EVIL: [EVIL]}, EVIL, T0, T0),
        ),
        (PurposeState(purpose, "granted", T0, T0, 1),),
        (Identifier(EVIL, EVIL, T0),),
        (Receipt(EVIL, T0, EVIL, "granted"),),
    )
    await browser.entered()
    text = (await browser.get("/privacy")).page.text
    for bad in ("<script", "\u202e", "\x07"):
        assert bad not in text


async def test_languages(browser: Browser) -> None:
    await browser.entered()
    german = await browser.get("/privacy?lang=de")
    assert german.page.all("html")[0]["lang"] == "de"
    assert german.page.fields()["lang"] == "de"
    answer = await browser.post("/privacy/erase", german.page.fields())
    assert "Alles löschen?" in answer.page.text
    assert (await browser.get("/privacy", {"accept-language": "de"})).headers[
        "content-language"
    ] == "de"
