"""SPIFFE ids in their one spelling, and which of them a rule admits."""

from __future__ import annotations

import pytest

from sidecar.decide.workloads import Workloads, parse_id, trust_domain, workload


@pytest.mark.parametrize(("text", "domain", "path"), [
    ("spiffe://prod/ns/pay/sa/billing", "prod", "/ns/pay/sa/billing"),
    ("spiffe://a.b-c_d.1/x", "a.b-c_d.1", "/x"), ("spiffe://prod/A/.hidden/a..b/_-", "prod", "/A/.hidden/a..b/_-"),
])  # fmt: skip
def test_ids(text: str, domain: str, path: str) -> None:
    assert parse_id(text) == (domain, path)


@pytest.mark.parametrize("text", [
    "", "spiffe://", "spiffe:///x", "spiffe://prod", "spiffe://prod/", "spiffe://prod/a/", "spiffe://prod//a",
    "spiffe://prod/a//b", "spiffe://prod/.", "spiffe://prod/a/..", "spiffe://prod/../b", "spiffe://prod/a%41",
    "spiffe://prod/a?b", "spiffe://prod/a#b", "spiffe://prod:443/a", "spiffe://me@prod/a", "spiffe://PROD/a",
    "SPIFFE://prod/a", "https://prod/a", "spiffe:/prod/a", "spiffe://prod/ä", "spiffe://pröd/a", "spiffe://prod/a b",
    "spiffe://prod/a\n", "spiffe://prod/a\x00", " spiffe://prod/a", "spiffe://prod/*", "spiffe://pr*d/a",
    "spiffe://" + "a" * 256 + "/x", "spiffe://prod/" + "a" * 2048, "spiffe://prod\\evil/a",
])  # fmt: skip
def test_what_is_no_id_of_a_workload(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_id(text)


def test_a_service_account_of_kubernetes() -> None:
    found = workload("spiffe://prod/ns/pay/sa/billing", 7.0)
    assert (found.namespace, found.service_account, found.expires) == ("pay", "billing", 7.0)
    assert (found.identity.issuer, found.identity.subject) == ("spiffe://prod", found.spiffe)
    for other in (
        "ns/pay",
        "ns/pay/sa/billing/x",
        "x/ns/pay/sa/billing",
        "NS/pay/SA/b",
        "ns/pay/pod/b",
    ):
        found = workload(f"spiffe://prod/{other}", 7.0)
        assert (found.namespace, found.service_account) == ("", "")


def test_trust_domains() -> None:
    assert trust_domain("prod.example")
    assert not any(
        trust_domain(text) for text in ("", "Prod", "a/b", "a:1", "*", "a b", "a\n", "a" * 256)
    )


@pytest.mark.parametrize(("pattern", "admitted", "others"), [
    ("spiffe://prod/ns/pay/sa/billing", ["ns/pay/sa/billing"], ["ns/pay/sa/billin", "ns/pay/sa/billing/x"]),
    ("spiffe://prod/ns/pay/sa/*", ["ns/pay/sa/billing", "ns/pay/sa/x"], ["ns/pay/sa", "ns/pay/sa/x/y", "ns/x/sa/y"]),
    ("spiffe://prod/ns/*/sa/billing", ["ns/pay/sa/billing"], ["ns/a/b/sa/billing", "ns/sa/billing"]),
    ("spiffe://prod/ns/pay/**", ["ns/pay/x", "ns/pay/sa/billing"], ["ns/pay", "ns/payx/y", "x/ns/pay/y"]),
    ("spiffe://prod/**", ["a", "a/b"], []), ("spiffe://pr.d/a", [], ["a"]),
])  # fmt: skip
def test_patterns(pattern: str, admitted: list[str], others: list[str]) -> None:
    known = Workloads([pattern, "spiffe://other/x"])
    assert all(known.admit(f"spiffe://prod/{path}") for path in admitted)
    assert not any(known.admit(f"spiffe://prod/{path}") for path in others)
    assert not any(known.admit(f"spiffe://evil/{path}") for path in admitted)
    assert known.admit("spiffe://other/x")


@pytest.mark.parametrize("pattern", [
    "*", "**", "spiffe://*/a", "spiffe://**", "spiffe://pro*/a", "spiffe://prod/a*", "spiffe://prod/**/x",
    "spiffe://prod/***", "spiffe://prod", "prod/a", "spiffe://prod/*/", "spiffe://prod/a/.*",
])  # fmt: skip
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"not|stands"):
        Workloads([pattern])
