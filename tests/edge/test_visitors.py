"""The cookie of anonymous visitors: set, read, renewed; and what is not one of ours."""

from __future__ import annotations

import re
from math import inf

import pytest

from sidecar.decide.journey import CompiledIdentity, VisitorTerms
from sidecar.decide.request import Request
from sidecar.edge.visitors import KNOWN, SPARE, Visitors
from sidecar.facts.sealed import seal

NOW = 1_800_000_000.0
DAY = 86_400
SECRET = b"s" * 32
TERMS = VisitorTerms("__Host-v", 180 * DAY, True)


def policy(terms: VisitorTerms = TERMS) -> CompiledIdentity:
    return CompiledIdentity("default/r", "default/r", (), False, terms, inf, {})


def request(*cookies: str) -> Request:
    headers = [(b"cookie", each.encode()) for each in cookies]
    return Request("GET", "/", [""], None, "h", "h", "https", headers, "192.0.2.1")


class Site:
    """A clock, a secret, and the visitors of them."""

    def __init__(self, secret: bytes = SECRET) -> None:
        self.now = NOW
        self.secret = secret
        self.visitors = Visitors(lambda: self.secret, lambda: self.now)

    def set(self, *cookies: str, terms: VisitorTerms = TERMS) -> str:
        """NAME=VALUE of the cookie that is set; empty: none."""
        line = self.visitors.cookie(request(*cookies), terms).decode()
        return line.partition(": ")[2].partition(";")[0]

    def who(self, *cookies: str) -> str:
        return self.visitors.of(request(*cookies), policy())


def test_who_has_none_gets_one_and_is_known_by_it() -> None:
    site = Site()
    line = site.visitors.cookie(request(), TERMS).decode()
    assert re.fullmatch(
        r"set-cookie: __Host-v=[\w-]+; Path=/; Max-Age=15552000; HttpOnly; SameSite=Lax; Secure\r\n",
        line,
    )
    cookie = line.partition(": ")[2].partition(";")[0]
    assert len(cookie) < 512
    found = site.who(cookie)
    assert re.fullmatch(r"[0-9a-f]{32}", found)
    assert found not in cookie
    assert site.who(f"a=b; {cookie};c=d") == site.who("a=b", cookie) == found
    assert site.set(cookie) == ""
    assert site.who(site.set()) != found


def test_on_plain_http_it_is_not_marked_secure() -> None:
    line = Site().visitors.cookie(request(), VisitorTerms("v", 60, False))
    assert line.endswith(b"SameSite=Lax\r\n")


def test_one_that_ends_soon_is_set_anew_for_the_same_visitor() -> None:
    site = Site()
    cookie = site.set()
    site.now += TERMS.max_age - SPARE - 1
    assert site.set(cookie) == ""
    site.now += 1
    renewed = site.set(cookie)
    assert renewed
    assert site.who(renewed) == site.who(cookie)
    site.now += SPARE
    assert site.who(cookie) == ""
    assert site.who(renewed)


def test_a_short_lived_one_is_set_anew_at_half_its_time() -> None:
    site, terms = Site(), VisitorTerms("__Host-v", 60, True)
    cookie = site.set(terms=terms)
    site.now += 29
    assert site.set(cookie, terms=terms) == ""
    site.now += 1
    assert site.set(cookie, terms=terms)


def test_one_that_has_ended_is_nobodys_and_another_visitor_begins() -> None:
    site = Site()
    cookie = site.set()
    before = site.who(cookie)
    site.now += TERMS.max_age
    assert site.who(cookie) == ""
    assert site.who(site.set(cookie)) not in ("", before)


def test_without_a_secret_nobody_is_known_and_nothing_is_set() -> None:
    site = Site()
    cookie = site.set()
    assert site.who(cookie)
    site.secret = b""
    assert site.who(cookie) == ""
    assert site.set() == site.set(cookie) == ""


def test_a_cookie_of_another_pool_is_nobodys_even_if_it_was_known_before() -> None:
    site = Site()
    cookie = site.set()
    assert site.who(cookie)
    site.secret = b"o" * 32
    assert site.who(cookie) == ""
    assert site.set(cookie)
    assert Site(b"o" * 32).who(cookie) == ""


def sealed(members: dict[str, object], use: str = "visitor", secret: bytes = SECRET) -> str:
    return "__Host-v=" + seal(secret, use, members, now=NOW, seconds=DAY)


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-v=",
        "__Host-v=deadbeef",
        "__Host-v=é",
        "__Host-v=\0",
        "__Host-v=" + "A" * 513,
        sealed({"v": "x"}, use="ticket"),
        sealed({"v": "x"}, secret=b"o" * 32),
        sealed({"v": 5}),
        sealed({}),
        sealed({"v": "x" * 600}),
        "other=" + sealed({"v": "x"}).partition("=")[2],
    ],
)
def test_what_is_none_of_ours_is_nobodys(cookie: str) -> None:
    assert Site().who(cookie) == ""
    assert Site().set(cookie)


def test_of_two_neither_counts() -> None:
    site = Site()
    one, other = site.set(), site.set()
    assert site.who(f"{one}; {other}") == site.who(one, other) == site.who(f"{one}; {one}") == ""


def test_a_changed_one_is_nobodys() -> None:
    site = Site()
    cookie = site.set()
    for place in range(len("__Host-v="), len(cookie) - 1, 5):
        changed = "A" if cookie[place] != "A" else "B"
        assert site.who(cookie[:place] + changed + cookie[place + 1 :]) == ""


def test_what_cookies_mean_is_remembered_up_to_a_bound() -> None:
    site = Site()
    cookies = [site.set() for _ in range(KNOWN + 2)]
    found = [site.who(each) for each in cookies]
    assert len(site.visitors._known) == KNOWN
    assert [site.who(each) for each in cookies] == found
