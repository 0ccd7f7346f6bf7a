"""sidecar/control/pages/guard.py and site.py: what every answer carries, and who may send a form"""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from sidecar.control.pages import guard
from sidecar.control.pages.journeys import CustomerGone
from sidecar.errors import StoreFailed
from tests.control.pages.records import records
from tests.control.pages.site import FROM_HERE, Answer, Browser, browsing

POSTS = ("/i", "/privacy/withdraw", "/privacy/forget", "/privacy/erase", "/privacy/leave")
GETS = ("/i", "/privacy", "/privacy/download")


def protected(answer: Answer) -> None:
    """What every answer has to carry."""
    headers = answer.headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == policy["img-src"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert "script-src" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "permissions-policy" in headers
    assert headers["cache-control"] == "no-store"
    assert headers.getall("content-security-policy") == [headers["content-security-policy"]]
    assert "access-control-allow-origin" not in headers


async def test_every_answer_is_protected(browser: Browser) -> None:
    answers = [
        await browser.get(path)
        for path in (*GETS, "/i?ticket=pay", "/", "/i/x/y", "/privacy/x", "/nix")
    ]
    answers += [await browser.send("POST", path) for path in (*POSTS, *GETS, "/nix")]
    answers += [
        await browser.send(method, "/i?ticket=pay")
        for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "HEAD")
    ]
    answers.append(await browser.post("/i", {"x": "y" * guard.BODY}))
    answers.append(await browser.send("POST", "/i", FROM_HERE, data=b"x"))
    browser.records.fails = StoreFailed("down")
    answers.append(await browser.get("/i?ticket=pay"))
    browser.records.fails = RuntimeError("a defect")
    answers.append(await browser.get("/i?ticket=pay"))
    assert {each.status for each in answers} >= {200, 403, 404, 405, 413, 415, 500, 503}
    for answer in answers:
        protected(answer)
        if answer.body and answer.headers["content-type"].startswith("text/html"):
            assert answer.page


async def test_redirects_and_files_are_protected(browser: Browser) -> None:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    protected(await browser.post("/i", fields))
    protected(await browser.get("/privacy?ticket=mine"))
    protected(await browser.get("/privacy/download"))


async def test_wrong_methods_say_the_right_ones(browser: Browser) -> None:
    answer = await browser.send("PUT", "/i")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST, HEAD")
    assert (await browser.send("POST", "/privacy/download")).headers["allow"] == "GET, HEAD"
    assert (await browser.get("/privacy/erase")).headers["allow"] == "POST"


async def test_styles_are_kept_by_version(browser: Browser) -> None:
    page = (await browser.get("/i?ticket=pay")).page
    for each in page.all("link"):
        answer = await browser.get("/" + each["href"])
        assert answer.status == 200
        assert "immutable" in answer.headers["cache-control"]
    assert (await browser.get("/i/style.css")).headers["cache-control"] == "no-store"
    assert (await browser.get("/i/style.css?v=other")).headers["cache-control"] == "no-store"


async def agreed(browser: Browser, **headers: str) -> Answer:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    return await browser.post("/i", fields, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": ""},
        {"origin": "http://[", "referer": "http://127.0.0.1/"},
    ],
)
async def test_forms_of_elsewhere_are_refused(browser: Browser, headers: dict[str, str]) -> None:
    answer = await agreed(browser, **headers)
    assert answer.status == 403
    assert browser.records.answers == []


async def test_forms_of_here_are_taken(browser: Browser) -> None:
    assert (await agreed(browser, origin=f"http://{browser.authority}")).status == 200


async def test_the_port_belongs_to_the_origin(browser: Browser) -> None:
    assert (await agreed(browser, origin=f"http://{browser.server.host}")).status == 403


async def test_a_proxy_may_rewrite_host_where_browsers_say_more(browser: Browser) -> None:
    answer = await agreed(browser, origin="https://id.example", **{"sec-fetch-site": "same-origin"})
    assert answer.status == 200


async def test_default_ports_are_said_or_not(browser: Browser) -> None:
    answer = await agreed(browser, origin="https://id.example", host="id.example:443")
    assert answer.status == 200


async def test_nobody_lets_another_browser_answer_his_ticket(browser: Browser) -> None:
    """Login CSRF: the attacker's own form and token, sent by the browser of somebody else."""
    attacker = await browser.opened("/i?ticket=pay")
    browser.cookies.clear()
    await browser.get("/i?ticket=two")  # the other one has a cookie of their own
    for cookies in ({}, dict(browser.cookies)):
        browser.cookies = cookies
        answer = await browser.post("/i", {**attacker, "consent.default/pay": "grant"})
        assert answer.status == 403
    assert browser.records.answers == []


async def test_a_token_is_for_one_ticket_one_browser_and_an_hour(browser: Browser) -> None:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    for wrong in (
        {"ticket": "two"},
        {"token": ""},
        {"token": fields["token"][:-4] + "AAAA"},
        {"token": "ä"},
    ):
        assert (await browser.post("/i", {**fields, **wrong})).status == 403
    for cookie in ("", "x", "A" * 43):
        kept, browser.cookies = browser.cookies, {"sidecar-form": cookie}
        assert (await browser.post("/i", fields)).status == 403
        browser.cookies = kept
    browser.now += guard.FORM_SECONDS
    assert (await browser.post("/i", fields)).status == 403
    browser.now -= 1
    assert (await browser.post("/i", fields)).status == 200


async def test_a_token_of_the_prompt_opens_nothing_of_the_privacy_page(browser: Browser) -> None:
    fields = await browser.opened("/i?ticket=pay")
    await browser.entered()
    answer = await browser.post("/privacy/erase", {"token": fields["token"], "sure": "yes"})
    assert answer.status == 403
    assert browser.records.done == []


async def test_two_tabs_do_not_disturb_each_other(browser: Browser) -> None:
    one, two = await browser.opened("/i?ticket=pay"), await browser.opened("/i?ticket=program")
    for fields in (one, two):
        answer = await browser.post("/i", {**fields, "consent.default/pay": "refuse"})
        assert answer.status == 200


async def test_cookies_are_for_this_host_alone() -> None:
    async with browsing(insecure=False) as browser:
        form = (await browser.get("/i?ticket=pay")).headers["set-cookie"]
        session = (await browser.get("/privacy?ticket=mine")).headers["set-cookie"]
    for cookie, name in ((form, "__Host-sidecar-form"), (session, "__Host-sidecar-privacy")):
        assert cookie.startswith(f"{name}=")
        assert {each.strip().lower() for each in cookie.split(";")[1:]} >= {
            "secure", "httponly", "path=/", "samesite=lax",
        }  # fmt: skip
        assert "domain" not in cookie.lower()
    assert "Max-Age=900" in session


async def test_on_plain_http_cookies_say_so_by_their_name(browser: Browser) -> None:
    cookie = (await browser.get("/i?ticket=pay")).headers["set-cookie"]
    assert cookie.startswith("sidecar-form=")
    assert "Secure" not in cookie


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json; boundary=x"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({"content-type": "application/jsonp"}, 415),
        ({"content-type": guard.FORM + "; charset=utf-16"}, 415),
        ({"content-type": guard.FORM, "content-encoding": "gzip"}, 415),
        ({"content-type": guard.FORM + "; charset=UTF-8"}, 403),  # read; then it has no token
    ],
)
async def test_only_forms_and_json_are_read(
    browser: Browser, headers: dict[str, str], status: int
) -> None:
    answer = await browser.send(
        "POST", "/i", {**FROM_HERE, **headers}, data=b"ticket=pay",
        skip_auto_headers=["content-type"],
    )  # fmt: skip
    assert answer.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"ticket=pay&ticket=two",
        b"ticket=%FF",
        b"\xff=1",
        b"&".join([b"a%d=1" % n for n in range(300)]),
    ],
)
async def test_a_form_has_one_reading(browser: Browser, body: bytes) -> None:
    headers = {**FROM_HERE, "content-type": guard.FORM}
    assert (await browser.send("POST", "/i", headers, data=body)).status == 400


async def test_bodies_are_bounded_with_and_without_a_length(browser: Browser) -> None:
    async def parts() -> object:
        for _ in range(9):
            yield b"x" * 8192

    for kind in (guard.FORM, guard.JSON):
        headers = {**FROM_HERE, "content-type": kind}
        assert (
            await browser.send("POST", "/i", headers, data=b"x" * (guard.BODY + 1))
        ).status == 413
        assert (await browser.send("POST", "/i", headers, data=parts())).status == 413


async def test_a_body_that_does_not_come_is_not_waited_for(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.0)
    headers = {**FROM_HERE, "content-type": guard.FORM}

    async def parts() -> object:
        yield b"x"
        await asyncio.Event().wait()

    assert (await browser.send("POST", "/i", headers, data=parts())).status == 408


async def test_the_store_away_is_said_and_nothing_else(browser: Browser) -> None:
    fields = {**await browser.opened("/i?ticket=pay"), "consent.default/pay": "grant"}
    entered = await browser.entered()
    browser.records.fails = StoreFailed("postgresql://user:secret@db is away")
    for answer in (
        await browser.get("/i?ticket=pay"),
        await browser.post("/i", fields),
        await browser.get("/privacy"),
        await browser.get("/privacy?ticket=other"),
        await browser.get("/privacy/download"),
        await browser.post("/privacy/withdraw", {**entered, "ref": "default/offers"}),
    ):
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        assert "secret" not in answer.page.text
    browser.records.fails = None
    assert (await browser.post("/i", fields)).status == 200  # nothing was used up


async def test_a_defect_is_logged_without_what_was_typed(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    browser.records.fails = ValueError("kim@example.org")
    with caplog.at_level(logging.DEBUG, "sidecar"):
        answer = await browser.get("/i?ticket=pay")
        problem = await browser.get("/i?ticket=pay", {"accept": "application/json"})
    assert answer.status == problem.status == 500
    assert orjson.loads(problem.body)["code"] == "defect"
    assert "kim@example.org" not in answer.text + caplog.text
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("sidecar")]
    assert len(ours) == 2
    assert all("ValueError" in each and "pay" not in each for each in ours)


async def test_a_customer_who_is_gone(browser: Browser) -> None:
    fields = await browser.entered()
    browser.records.fails = CustomerGone("c-1")
    answer = await browser.post("/privacy/withdraw", {**fields, "ref": "x"})
    assert answer.status == 410
    assert "sidecar-privacy" not in browser.cookies


async def test_the_pages_live_beside_other_paths() -> None:
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer
    from prometheus_client import CollectorRegistry

    from sidecar.control import http
    from sidecar.control.pages.site import routes

    pages = routes(records(), bytes(32), lambda: 0.0)
    app = http.application(CollectorRegistry(), lambda: True, pages=pages)
    assert isinstance(app, web.Application)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/privacy")).status == 403
        assert (await client.get("/i/nix")).headers["x-content-type-options"] == "nosniff"
