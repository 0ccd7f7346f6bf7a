"""Pages, rebound names and proxies."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from sidecar.control.api.browsers import check
from sidecar.control.api.problems import Refused

HOST = ("Host", "127.0.0.1:7480")


def outcome(
    *headers: tuple[str, str], loopback: bool = True, version: tuple[int, int] = (1, 1)
) -> tuple[int, str]:
    try:
        check(CIMultiDictProxy(CIMultiDict(headers)), version, loopback=loopback)
    except Refused as error:
        return error.told.status, error.told.code
    return 200, ""


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7480", "127.0.0.1", "localhost:7480", "LOCALHOST", "[::1]:7480", "127.8.9.1:1",
     "10.0.0.7:80"],
)  # fmt: skip
def test_programs_on_this_machine(host: str) -> None:
    assert outcome(("Host", host)) == (200, "")
    assert outcome(("Host", host), ("Sec-Fetch-Site", "none")) == (200, "")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7480", "localhost.evil.example", "127.0.0.1.evil.example",
     "localhost.", "", ":80", "a@localhost", "localhost:x", "localhost/x", "[::1", "0x7f.1",
     "2130706433", "127.1", "localhost:7480, evil.example"],
)  # fmt: skip
def test_names_that_somebody_else_may_have_chosen(host: str) -> None:
    assert outcome(("Host", host)) == (421, "host")


def test_one_host() -> None:
    assert outcome() == (400, "invalid_request")
    assert outcome(HOST, ("Host", "localhost")) == (400, "invalid_request")


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "header",
    [
        ("Origin", "https://evil.example"), ("Origin", "null"), ("origin", "http://127.0.0.1:7480"),
        ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site"), ("sec-fetch-site", ""),
        ("Sec-Fetch-Site", "none, cross-site"),
    ],
)  # fmt: skip
def test_pages(header: tuple[str, str], loopback: bool) -> None:
    assert outcome(HOST, header, loopback=loopback) == (403, "browser")


@pytest.mark.parametrize(
    "header",
    [("Forwarded", "for=1.2.3.4"), ("Via", "1.1 x"), ("X-Forwarded-For", "1.2.3.4"),
     ("x-forwarded-host", "a"), ("x-forwarded-proto", "https"), ("X-Real-IP", "1.2.3.4")],
)  # fmt: skip
def test_what_was_passed_on(header: tuple[str, str]) -> None:
    assert outcome(HOST, header) == (403, "proxy")
    assert outcome(HOST, header, loopback=False) == (200, "")


def test_proxies_speak_old_versions() -> None:
    assert outcome(HOST, version=(1, 0)) == (403, "proxy")
    assert outcome(("Host", "control.example"), version=(1, 0), loopback=False) == (200, "")
