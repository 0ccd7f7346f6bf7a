"""What a caller may do, as values; and that no credential can spell somebody else's name."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.authority import (
    ANYBODY,
    VERBS,
    Caller,
    Forbidden,
    Permission,
    Role,
    Unauthenticated,
    Verb,
    acting,
    certificate_name,
    current,
    oidc_name,
)

NAMES = st.sampled_from(["payments", "shop", "platform"])
KINDS = st.sampled_from(["AccessPolicy", "TokenIssuer"])
ROLES = st.sampled_from(get_args(Role))
ALL_VERBS = st.sampled_from(get_args(Verb))
PERMISSIONS = st.builds(Permission, ROLES, st.frozensets(NAMES), st.frozensets(KINDS))
CALLERS = st.builds(Caller, st.just("x"), st.lists(PERMISSIONS, max_size=3).map(tuple))


def caller(*permissions: Permission) -> Caller:
    return Caller("https://idp.example#alice", permissions)


def only(role: Role, namespaces: str = "", kinds: str = "") -> Caller:
    return caller(Permission(role, frozenset(namespaces.split()), frozenset(kinds.split())))


@pytest.mark.parametrize(
    ("role", "verbs"),
    [
        ("viewer", {"view"}),
        ("publisher", {"view", "publish"}),
        ("approver", {"view", "approve"}),
        ("admin", {"view", "publish", "approve", "administer"}),
    ],
)
def test_roles(role: Role, verbs: set[str]) -> None:
    assert {verb for verb in get_args(Verb) if only(role).may(verb, "payments")} == verbs


def test_namespaces_and_kinds() -> None:
    one = only("publisher", "payments", "AccessPolicy")
    assert one.may("publish", "payments", "AccessPolicy")
    assert not one.may("publish", "payments", "TokenIssuer")
    assert not one.may("publish", "shop", "AccessPolicy")
    assert not one.may("publish", "platform", "AccessPolicy"), "platform is only where it is named"
    assert not one.may("publish", "payments"), "the whole namespace is more than a kind"
    assert one.may("view", "payments"), "that it is there and how far it came may be seen"
    assert not one.may("view", "payments", "TokenIssuer")
    assert not one.may("view", "")
    assert only("viewer").may("view", "")
    assert only("publisher").may("publish", "platform")
    assert only("publisher", "platform").may("publish", "platform")


def test_permissions_do_not_mix() -> None:
    """To publish in one place and to view in another is not to publish in both."""
    one = caller(
        Permission("publisher", frozenset(["payments"]), frozenset(["AccessPolicy"])),
        Permission("publisher", frozenset(["shop"])),
        Permission("viewer"),
    )
    assert one.may("view", "anything", "TokenIssuer")
    assert one.may("publish", "shop", "TokenIssuer")
    assert not one.may("publish", "payments", "TokenIssuer")
    assert not one.may("publish", "other")
    one.require_each("publish", [("payments", "AccessPolicy"), ("shop", "TokenIssuer")])
    with pytest.raises(Forbidden, match="TokenIssuer in namespace payments"):
        one.require("publish", ["payments", "shop"], ["AccessPolicy", "TokenIssuer"])


def test_what_is_missing_is_said() -> None:
    one = only("viewer", "payments")
    with pytest.raises(Forbidden) as refused:
        one.require("publish", ["payments", "shop"], ["AccessPolicy"])
    assert str(refused.value) == (
        "https://idp.example#alice lacks role publisher for AccessPolicy in namespace payments, "
        "AccessPolicy in namespace shop"
    )
    with pytest.raises(Forbidden, match="role approver for everything in namespace shop"):
        one.require("approve", ["shop"])
    with pytest.raises(Forbidden, match="and 15 more"):
        one.require("publish", map(str, range(20)))
    with pytest.raises(Forbidden, match="everything in every namespace"):
        one.require("view", [""])


def test_nothing_named_is_everything() -> None:
    with pytest.raises(Forbidden, match="for every namespace and kind"):
        only("publisher", "payments").require("publish", [])
    with pytest.raises(Forbidden, match="for every namespace and kind"):
        only("publisher", "", "AccessPolicy").require_each("publish", [])
    only("publisher").require("publish", [])


def test_customers() -> None:
    assert caller(Permission("viewer", customers=True)).may_see_customers
    assert only("admin").may_see_customers
    assert not only("admin", "payments").may_see_customers
    assert not only("publisher").may_see_customers
    assert not caller().may_see_customers


def test_anybody_is_local_and_may_everything() -> None:
    assert ANYBODY.name == "local"
    assert ANYBODY.may_see_customers
    assert all(ANYBODY.may_everywhere(verb) for verb in get_args(Verb))


@given(CALLERS, ALL_VERBS, NAMES, KINDS)
def test_the_whole_is_never_less_than_a_part(
    one: Caller, verb: Verb, namespace: str, kind: str
) -> None:
    if one.may_everywhere(verb):
        assert one.may(verb, namespace)
    if one.may(verb, namespace) and verb != "view":
        assert one.may(verb, namespace, kind)
    if one.may(verb, namespace, kind):
        assert one.may_somewhere(verb)
        assert one.may("view", namespace, kind)
        assert one.may("view", namespace)


@given(CALLERS, PERMISSIONS, ALL_VERBS, NAMES, KINDS)
def test_another_permission_takes_nothing_away(
    one: Caller, more: Permission, verb: Verb, namespace: str, kind: str
) -> None:
    other = Caller("x", (*one.permissions, more))
    assert other.may(verb, namespace, kind) == (
        one.may(verb, namespace, kind) or more.allows(verb, namespace, kind)
    )


@given(CALLERS, ALL_VERBS, st.lists(st.tuples(NAMES, KINDS), min_size=1))
def test_to_require_is_to_have_each(one: Caller, verb: Verb, pairs: list[tuple[str, str]]) -> None:
    has = all(one.may(verb, *pair) for pair in pairs)
    try:
        one.require_each(verb, pairs)
    except Forbidden:
        assert not has
    else:
        assert has


def test_who_has_no_permission_may_nothing() -> None:
    for verb in get_args(Verb):
        assert not caller().may(verb, "payments")
        assert not caller().may_somewhere(verb)
    assert set(VERBS) == set(get_args(Role))


# Names.

ISSUERS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"))


@given(ISSUERS, st.text(), ISSUERS, st.text())
def test_two_identities_never_have_one_name(
    issuer: str, subject: str, other: str, another: str
) -> None:
    same = (issuer, subject) == (other, another)
    assert (oidc_name(issuer, subject) == oidc_name(other, another)) == same


@given(ISSUERS, st.text())
def test_a_name_is_one_line_of_plain_text_and_no_certificates(issuer: str, subject: str) -> None:
    name = oidc_name(issuer, subject)
    assert name.isascii()
    assert all(0x20 < ord(char) < 0x7F for char in name)
    assert "#" in name


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("alice", "i#alice"),
        ("repo:org/app:ref:refs/heads/main", "i#repo:org/app:ref:refs/heads/main"),
        ("a#b", "i#a#b"),
        ("a b\n%20", "i#a%20b%0A%2520"),
        ("\u0430lice", "i#%D0%B0lice"),  # it begins with a Cyrillic letter
    ],
)
def test_names(subject: str, name: str) -> None:
    assert oidc_name("i", subject) == name


def test_names_of_certificates() -> None:
    assert certificate_name("spiffe://prod/ns/ci/sa/d", ["x"]) == "spiffe://prod/ns/ci/sa/d"
    assert certificate_name("", ["b.example", "a.example"]) == "dns:a.example,b.example"
    assert certificate_name("", ["a,b"]) != certificate_name("", ["a", "b"])
    assert "#" not in certificate_name("", ["a#b"])
    many = [f"{place}.example" for place in range(1000)]
    assert len(certificate_name("", many)) < 100
    assert certificate_name("", many) != certificate_name("", many[1:])
    assert certificate_name("", [certificate_name("", many).removeprefix("dns:")]) != (
        certificate_name("", many)
    )


# Who acts.


async def test_nobody_is_the_caller_outside_of_a_door() -> None:
    with pytest.raises(Unauthenticated, match="nobody"):
        current()
    with acting(only("viewer")):
        assert current().name == "https://idp.example#alice"

        async def later() -> str:
            await asyncio.sleep(0)
            return current().name

        task = asyncio.create_task(later())
    assert await task == "https://idp.example#alice", "what it began stays its own"
    with pytest.raises(Unauthenticated):
        current()


async def test_callers_at_the_same_time_are_not_mixed_up() -> None:
    met = asyncio.Barrier(2)

    async def served(one: Caller) -> Caller:
        with acting(one):
            await met.wait()
            return current()

    one, two = Caller("one", ()), Caller("two", ())
    assert list(await asyncio.gather(served(one), served(two))) == [one, two]


def test_namespaces_outside_of_which_nothing_is_theirs() -> None:
    a, b = frozenset(["a"]), frozenset(["b"])
    both = Caller("x", (Permission("viewer", a), Permission("publisher", b, frozenset(["K"]))))
    assert both.namespaces("view") == a | b
    assert both.namespaces("publish") == b
    assert both.namespaces("approve") == frozenset()
    assert Caller("x", (Permission("viewer", a), Permission("viewer"))).namespaces("view") is None
    assert Caller("x", ()).namespaces("view") == frozenset()
