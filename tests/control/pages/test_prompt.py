"""sidecar/control/pages/prompt.py: pages and JSON of `/i`, over loopback"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from sidecar.control.pages.journeys import Answers, Interaction, Purpose, Question
from tests.control.pages.records import BORN, PAY, PHONE, RETURN_TO, TIER
from tests.control.pages.site import Answer, Browser

TOLD = {"answer.default/phone_number": "+49 30 901820", "answer.default/birthdate": "1990-01-31"}
PROGRAM = {"accept": "application/json"}


async def sent(browser: Browser, whole: Any, **headers: str) -> Answer:
    data = whole if isinstance(whole, bytes) else orjson.dumps(whole)
    return await browser.send(
        "POST", "/i", {"content-type": "application/json", **headers}, data=data
    )


@pytest.mark.parametrize("choice", ["grant", "refuse"])
async def test_one_purpose_is_decided_by_two_equal_buttons(browser: Browser, choice: str) -> None:
    answer = await browser.get("/i?ticket=pay")
    buttons = answer.page.all("button")
    assert [each["value"] for each in buttons] == ["refuse", "grant"]
    assert {tuple(sorted(each)) for each in buttons} == {
        ("name", "value")
    }  # no class tells them apart
    fields = {**answer.page.fields(), "consent.default/pay": choice}
    done = await browser.post("/i", fields)
    assert done.status == 200
    assert done.page.leads_to() == RETURN_TO
    assert {"href": RETURN_TO, "rel": "noreferrer"} in done.page.all("a")
    assert browser.records.answers == [
        ("pay", Answers({"default/pay": choice == "grant"}), ()),
    ]


async def test_the_page_says_what_is_agreed_to(browser: Browser) -> None:
    text = (await browser.get("/i?ticket=pay")).text
    for part in (
        "Make this payment", "5000", "EUR", "Example Bank", "The recipient&#39;s bank", "10 minutes, 1 use",
        "Your consent", "Account number", "k•••@example.org",
    ):  # fmt: skip
        assert part in text


async def test_nothing_is_ticked_beforehand(browser: Browser) -> None:
    for ticket in ("pay", "two", "all", "profile", "optional"):
        page = (await browser.get(f"/i?ticket={ticket}")).page
        assert not [each for each in page.all("input") if "checked" in each]
        assert not [each for each in page.all("option") if "selected" in each]


async def test_several_purposes_are_decided_one_by_one(browser: Browser) -> None:
    fields = await browser.opened("/i?ticket=two")
    half = await browser.post("/i", {**fields, "consent.default/pay": "grant"})
    assert half.status == 422
    assert half.page.fields()["consent.default/pay"] == "grant"  # kept
    assert 'href="#p1-refuse"' in half.text
    assert browser.records.answers == []
    fields = {**half.page.fields(), "consent.default/offers": "refuse"}
    assert (await browser.post("/i", fields)).status == 200
    assert browser.records.answers[0][1].consents == {"default/pay": True, "default/offers": False}


async def test_answers_come_back_typed(browser: Browser) -> None:
    fields = await browser.opened("/i?ticket=profile")
    done = await browser.post("/i", {**fields, **TOLD, "decline.default/tier": "yes"})
    assert done.status == 200
    assert browser.records.answers[0][1] == Answers(
        {}, {"default/phone_number": "+4930901820", "default/birthdate": "1990-01-31"}, frozenset({"default/tier"})
    )  # fmt: skip


async def test_wrong_answers_are_shown_again_with_what_is_wrong(browser: Browser) -> None:
    fields = await browser.opened("/i?ticket=profile")
    wrong = {
        "answer.default/phone_number": '030"><script>',
        "answer.default/birthdate": "2023-02-30",
    }
    answer = await browser.post("/i", {**fields, **wrong})
    assert answer.status == 422
    page = answer.page
    assert "<script>" not in answer.text
    assert page.fields()["answer.default/phone_number"] == '030"><script>'
    by_id = {each.get("id"): each for each in page.all("input")}
    assert by_id["q0"]["aria-invalid"] == "true"
    assert "q0-error" in by_id["q0"]["aria-describedby"].split()
    assert "q1-error" in by_id["q1"]["aria-describedby"].split()
    (summary,) = [each for each in page.all("div") if each.get("class") == "summary"]
    assert summary["tabindex"] == "-1"
    assert {"autofocus", "role"} <= summary.keys()
    assert {"#q0", "#q1"} <= {each["href"] for each in page.all("a")}
    assert answer.text.split("<title>")[1].startswith("Error:")
    again = await browser.post("/i", {**page.fields(), **TOLD})
    assert again.status == 200


async def test_fields_have_what_aids_and_keyboards_need(browser: Browser) -> None:
    browser.records.tickets["all"] = Interaction(
        "profile",
        (),
        (
            PHONE, BORN, Question("default/email", "E-mail", type="email"),
            Question("default/age", "Age", type="integer"), Question("default/height", "Height", type="number"),
            Question("default/adult", "Adult?", type="boolean"),
            Question("default/country", "Country", type="choice", choices=tuple((str(n), f"C{n}") for n in range(9))),
        ),
    )  # fmt: skip
    page = (await browser.get("/i?ticket=all")).page
    by_id = {each.get("id"): each for each in page.all("input")}
    assert (by_id["q0"]["type"], by_id["q0"]["autocomplete"]) == ("tel", "tel")
    assert (by_id["q1"]["type"], by_id["q1"]["autocomplete"]) == ("date", "bday")
    assert (by_id["q2"]["type"], by_id["q2"]["autocomplete"]) == ("email", "email")
    assert by_id["q3"]["inputmode"] == "numeric"
    assert by_id["q4"]["inputmode"] == "decimal"
    assert [each["value"] for each in page.all("input") if each.get("type") == "radio"] == [
        "true",
        "false",
    ]
    assert len(page.all("option")) == 10


async def test_a_ticket_is_answered_once(browser: Browser) -> None:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    assert (await browser.post("/i", fields)).status == 200
    again = await browser.post("/i", fields)
    assert again.status == 410
    assert again.page
    assert len(browser.records.answers) == 1
    assert (await browser.get("/i?ticket=pay")).status == 410


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/i", 404, "invalid"),
        ("/i?ticket=", 404, "invalid"),
        ("/i?ticket=%3Cscript%3E", 404, "invalid"),
        ("/i?ticket=%C3%A4", 404, "invalid"),
        ("/i?ticket=" + "x" * 7000, 404, "invalid"),
        ("/i?ticket=old", 410, "expired"),
        ("/i?ticket=pay&ticket=two", 400, "malformed"),
    ],
)
async def test_tickets_that_do_not_open(
    browser: Browser, path: str, status: int, code: str
) -> None:
    browser.records.expired.add("old")
    answer = await browser.get(path)
    assert answer.status == status
    assert "script" not in answer.page.text
    problem = await browser.get(path, PROGRAM)
    assert problem.status == status
    assert problem.headers["content-type"] == "application/problem+json"
    assert orjson.loads(problem.body)["code"] == code


@pytest.mark.parametrize(
    "return_to",
    [
        "", "javascript:alert(1)", "data:text/html,x", "//evil.example", "/i", "https://a@evil.example/",
        "https://app.example/\r\nset-cookie: x=y", "https://app.example;script-src/*",
        "https://app.example\\@evil.example/", "https://app.example:port/", "https://[x]/", "https://[::1", "ftp://app.example/", "https:///x",
    ],
)  # fmt: skip
async def test_no_browser_is_sent_to_what_is_no_web_address(
    browser: Browser, return_to: str
) -> None:
    browser.records.tickets["pay"] = Interaction("consent", (PAY,), return_to=return_to)
    fields = await browser.opened("/i?ticket=pay")
    done = await browser.post("/i", {**fields, "consent.default/pay": "grant"})
    assert done.status == 200
    assert done.page.leads_to() == ""
    assert not [each for each in done.page.all("a") if not each["href"].startswith("#")]
    assert "close this page" in done.page.text


async def test_who_refuses_may_be_sent_nowhere(browser: Browser) -> None:
    browser.records.tickets["pay"] = Interaction("consent", (PAY,))
    fields = await browser.opened("/i?ticket=pay")
    done = await browser.post("/i", {**fields, "consent.default/pay": "refuse"})
    assert "You refused" in done.page.text
    assert done.page.leads_to() == ""


@pytest.mark.parametrize(
    "return_to", ["https://[::1]:8443/x", "http://127.0.0.1:7400/?a='b\"&c;url=x"]
)
async def test_an_address_arrives_as_it_is(browser: Browser, return_to: str) -> None:
    browser.records.tickets["pay"] = Interaction("consent", (PAY,), return_to=return_to)
    fields = await browser.opened("/i?ticket=pay")
    done = await browser.post("/i", {**fields, "consent.default/pay": "grant"})
    assert done.page.leads_to() == return_to


async def test_where_to_go_is_the_tickets_affair(browser: Browser) -> None:
    fields = await browser.opened("/i?ticket=pay&return_to=https://evil.example/")
    evil = {"return_to": "https://evil.example/", "consent.default/pay": "grant"}
    done = await browser.post("/i?return_to=https://evil.example/", {**fields, **evil})
    assert done.page.leads_to() == RETURN_TO


async def test_what_changed_meanwhile_is_read_again(browser: Browser) -> None:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    browser.records.tickets["pay"] = Interaction(
        "consent", (replace(PAY, values={"amount": 50000}),), return_to=RETURN_TO
    )
    again = await browser.post("/i", fields)
    assert again.status == 422
    assert "has changed" in again.page.text
    assert browser.records.answers == []
    fields = {**again.page.fields(), "consent.default/pay": "grant"}
    assert (await browser.post("/i", fields)).status == 200


async def test_languages(browser: Browser) -> None:
    browser.records.in_german = True
    german = await browser.get("/i?ticket=pay", {"accept-language": "de-AT,en;q=0.5"})
    assert german.page.all("html")[0]["lang"] == "de"
    assert german.headers["content-language"] == "de"
    assert "Diese Zahlung ausführen" in german.text
    english = await browser.get("/i?ticket=pay&lang=en", {"accept-language": "de"})
    assert english.page.all("html")[0]["lang"] == "en"
    assert "?ticket=pay&amp;lang=de" in english.text
    done = await browser.post("/i", {**german.page.fields(), "consent.default/pay": "grant"})
    assert done.status == 200
    assert browser.records.answers[0][2] == ("de-AT",)


async def test_words_of_another_language_say_which(browser: Browser) -> None:
    browser.records.tickets["pay"] = Interaction("consent", (replace(PAY, language="fr"),))
    assert '<h2 id="p0" tabindex="-1" lang="fr">' in (await browser.get("/i?ticket=pay")).text


EVIL = "\"'><script>alert(1)</script>\u202e\x00{{7*7}}"


async def test_whatever_is_shown_is_text(browser: Browser) -> None:
    browser.records.tickets["evil"] = Interaction(
        "consent",
        (
            Purpose(EVIL, 1, EVIL, EVIL, (EVIL, EVIL), "contract", {EVIL: EVIL, "b": [EVIL], "items": True}, EVIL, 1.5, 2, (EVIL,), EVIL),
        ),
        (Question(EVIL, EVIL, EVIL), Question("b", EVIL, EVIL, "choice", ((EVIL, EVIL),))),
        Question("c", EVIL, EVIL, "phone", language=EVIL),
        who=EVIL,
        service=EVIL,
    )  # fmt: skip
    for lang in ("en", "%22%3E%3Cscript%3E"):
        answer = await browser.get(f"/i?ticket=evil&lang={lang}")
        assert answer.status == 200
        text = answer.page.text
        for bad in ("<script", "\u202e", "\x00"):
            assert bad not in text
        assert "{{7*7}}" in text


# JSON


async def test_a_program_learns_what_is_asked(browser: Browser) -> None:
    answer = await browser.get("/i?ticket=all", PROGRAM)
    assert answer.headers["content-type"] == "application/json"
    whole = orjson.loads(answer.body)
    assert whole["kind"] == "consent"
    assert whole["return_to"] == RETURN_TO
    (purpose,) = whole["purposes"]
    assert (purpose["ref"], purpose["version"], purpose["binding"]) == ("default/pay", 3, "9f2c")
    assert purpose["values"]["amount"] == 5000
    assert [each["name"] for each in whole["questions"]] == [PHONE.name, BORN.name]
    assert whole["optional"]["choices"] == [
        {"value": value, "label": label} for value, label in TIER.choices
    ]
    assert "set-cookie" not in answer.headers


async def test_browsers_get_pages(browser: Browser) -> None:
    answer = await browser.get("/i?ticket=pay", {"accept": "text/html,application/json;q=0.9,*/*"})
    assert answer.page


async def test_a_program_answers(browser: Browser) -> None:
    answer = await sent(browser, {
        "ticket": "all", "consents": {"default/pay": True},
        "values": {"default/phone_number": "+49 30 901820", "default/birthdate": "1990-01-31"},
        "declined": ["default/tier"],
    })  # fmt: skip
    assert answer.status == 200
    assert orjson.loads(answer.body) == {"status": "completed", "return_to": RETURN_TO}
    assert browser.records.answers[0][1] == Answers(
        {"default/pay": True},
        {"default/phone_number": "+4930901820", "default/birthdate": "1990-01-31"},
        frozenset({"default/tier"}),
        by_program=True,
    )
    again = await sent(browser, {"ticket": "all", "consents": {"default/pay": True}})
    assert (again.status, orjson.loads(again.body)["code"]) == (410, "used")


async def test_a_program_learns_what_is_wrong(browser: Browser) -> None:
    answer = await sent(
        browser,
        {"ticket": "all", "values": {"default/phone_number": 5, "default/pin": "1"}},
        **{"accept-language": "de"},
    )
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = orjson.loads(answer.body)
    assert problem["code"] == "invalid_answers"
    assert problem["errors"]["consents"]["default/pay"]["code"] == "undecided"
    assert {name: each["code"] for name, each in problem["errors"]["values"].items()} == {
        "default/phone_number": "phone", "default/birthdate": "required", "default/pin": "unknown",
    }  # fmt: skip
    assert problem["errors"]["values"]["default/birthdate"]["message"] == "Füllen Sie dies aus"
    assert browser.records.answers == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"ticket":1}', b'{"consents":{}}', b'{"ticket":"pay","consents":{"default/pay":1}}',
        b'{"ticket":"pay","consents":{"default/pay":"true"}}', b'{"ticket":"pay","consents":[]}',
        b'{"ticket":"pay","values":[]}', b'{"ticket":"pay","declined":"x"}', b'{"ticket":"pay","declined":[1]}',
        b'{"ticket":"pay","more":1}', b'{"ticket":"pay","ticket":"two"}', b'{"ticket":"pay"} x', b"\xff",
        b'{"ticket":"pay","consents":{"default/pay":false,"default/pay":true}}', b"[" * 5000,
        b'{"ticket":"pay","declined":[' + b",".join([b'"x"'] * 300) + b"]}",
    ],
)  # fmt: skip
async def test_what_is_no_answer_in_json(browser: Browser, body: bytes) -> None:
    answer = await sent(browser, body)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert browser.records.answers == []


async def test_json_of_another_site_is_refused(browser: Browser) -> None:
    whole = {"ticket": "pay", "consents": {"default/pay": True}}
    for headers in (
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"}, {"origin": "null"},
    ):  # fmt: skip
        assert (await sent(browser, whole, **headers)).status == 403
    assert browser.records.answers == []
    assert (await sent(browser, whole, origin=f"http://{browser.authority}")).status == 200
