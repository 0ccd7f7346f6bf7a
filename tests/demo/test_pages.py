"""The demo's login leads nowhere but back to this machine, and sets nobody else's cookie."""

from __future__ import annotations

import re

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sidecar.demo import pages
from sidecar.demo.services import COOKIE, DemoBank, DemoIssuer

BACK = "http://127.0.0.1:8080/pay?amount=5000&to=bob"


@pytest.mark.parametrize("address", [BACK, "http://127.0.0.1:1", "http://127.0.0.1:65535/"])
def test_back_to_this_machine(address: str) -> None:
    assert pages.leads_back(address)


@pytest.mark.parametrize(
    "address",
    [
        "", "/pay", "//evil.example", "https://evil.example/", "http://127.0.0.1/",
        "http://127.0.0.1:80@evil.example/", "http://127.0.0.1.evil.example:80/",
        "http://127.0.0.1:8080.evil.example/", "http://127.0.0.1:8080\\@evil.example/",
        "http://localhost:8080/", "http://127.0.0.1:8080/\r\nset-cookie: sid=1",
        "http://127.0.0.1:8080/ x", "javascript:alert(1)", f" {BACK}", f"{BACK}\n",
    ],
)  # fmt: skip
def test_to_nowhere_else(address: str) -> None:
    assert not pages.leads_back(address)


async def test_what_is_shown_is_text() -> None:
    async with TestClient(TestServer(DemoBank().app())) as client:
        answer = await client.get("/pay", params={"amount": "<b>", "to": '"><script>'})
        text = await answer.text()
    assert "<script" not in text
    assert "<b>" not in text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


async def test_a_login_form_of_another_site_sets_no_cookie() -> None:
    async with TestClient(TestServer(DemoIssuer().app())) as client:
        answer = await client.post(
            "/login", data={"return_to": BACK}, headers={"sec-fetch-site": "cross-site"},
            allow_redirects=False,
        )  # fmt: skip
    assert answer.status == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("code", ["", "12345", "1234567", "12345x", "١٢٣٤٥٦"])
async def test_no_second_factor_no_cookie(code: str) -> None:
    form = {"return_to": BACK, "factor": "yes", "code": code}
    async with TestClient(TestServer(DemoIssuer().app())) as client:
        answer = await client.post("/login", data=form, allow_redirects=False)
        text = await answer.text()
    assert answer.status == 200
    assert "Six digits are expected." in text
    assert "set-cookie" not in answer.headers


async def test_with_one_the_cookie_and_back() -> None:
    form = {"return_to": BACK, "factor": "yes", "code": "123456"}
    async with TestClient(TestServer(DemoIssuer().app())) as client:
        answer = await client.post("/login", data=form, allow_redirects=False)
    assert (answer.status, answer.headers["location"]) == (303, BACK)
    cookie = answer.headers["set-cookie"]
    assert re.match(rf"{COOKIE}=[\w-]+\.[\w-]+\.[\w-]+; ", cookie)
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


async def test_who_is_sent_from_elsewhere_gets_no_form() -> None:
    async with TestClient(TestServer(DemoIssuer().app())) as client:
        answer = await client.get("/login", params={"return_to": "https://evil.example/"})
    assert answer.status == 400
