"""The signed statement towards the upstream: what it says, how long, and who can verify it."""

from __future__ import annotations

from typing import Any

import jwt
import msgspec
import orjson
import pytest

from sidecar.decide.outcomes import Identity, Permit
from sidecar.decide.snapshot import AssertionTerms
from sidecar.decide.tokens import Verified
from sidecar.edge.assertions import HEADER, PERIOD, Asserter

NOW = 1_800_000_000.0
ALICE = Identity("https://idp.example", "alice", frozenset(("write", "read")))
TERMS = AssertionTerms("urn:sidecar:default:bank", "bank", "ES256", 300.0)


def permit(expires: float = NOW + 3600, identity: Identity | None = ALICE) -> Permit:
    verified = Verified(identity, {}, frozenset(), expires, None, 0) if identity else None
    return Permit("r", identity, expires=expires, verified=verified)


def keys(asserter: Asserter, now: float = NOW) -> dict[str, Any]:
    return {each["kid"]: each for each in orjson.loads(asserter.jwks(now).body)["keys"]}


def read(line: bytes, published: dict[str, Any], **options: Any) -> dict[str, Any]:
    """As an upstream would, with the library's own checks but for the time."""
    assert line.startswith(HEADER)
    assert line.endswith(b"\r\n")
    text = line[len(HEADER) : -2].decode()
    head = jwt.get_unverified_header(text)
    assert head["typ"] == "sidecar-assertion+jwt"
    found: dict[str, Any] = jwt.decode(
        text, jwt.PyJWK(published[head["kid"]]).key, algorithms=[head["alg"]],
        audience="bank", issuer="urn:sidecar:default:bank",
        options={"verify_exp": False, "verify_iat": False}, **options,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_an_upstream_can_verify_it(algorithm: Any) -> None:
    asserter = Asserter()
    terms = AssertionTerms("urn:sidecar:default:bank", "bank", algorithm, 300.0)
    claims = read(asserter.line(permit(), terms, NOW), keys(asserter))
    jti = claims.pop("jti")
    assert len(jti) == 24
    assert claims == {
        "iss": "urn:sidecar:default:bank",
        "aud": "bank",
        "sub": "alice",
        "sub_id": {"format": "iss_sub", "iss": "https://idp.example", "sub": "alice"},
        "scope": "read write",
        "iat": int(NOW),
        "exp": int(NOW) + 300,
    }


def test_it_is_said_again_for_the_same_credential_until_half_its_life() -> None:
    asserter, caller = Asserter(), permit()
    first = asserter.line(caller, TERMS, NOW)
    assert asserter.line(caller, TERMS, NOW + 149) is first
    assert asserter.line(caller, TERMS, NOW + 150) != first
    assert asserter.line(permit(), TERMS, NOW + 1) != first
    other = AssertionTerms("urn:sidecar:default:bank", "other", "ES256", 300.0)
    assert asserter.line(caller, other, NOW + 151) != first
    assert asserter.signed == 4


def test_it_never_outlives_the_credential() -> None:
    asserter = Asserter()
    line = asserter.line(permit(NOW + 20), TERMS, NOW)
    assert read(line, keys(asserter))["exp"] == NOW + 20
    forever = asserter.line(permit(float("inf")), TERMS, NOW)
    assert read(forever, keys(asserter))["exp"] == NOW + 300


def test_an_opaque_token_is_asserted_for_as_long_as_it_stands() -> None:
    """Not only for as long as its issuer's answer is believed."""
    asserter = Asserter()
    verified = Verified(ALICE, {}, frozenset(), NOW + 3, None, 0, ends=NOW + 600)
    asked = Permit("r", ALICE, expires=NOW + 3, verified=verified)
    assert read(asserter.line(asked, TERMS, NOW), keys(asserter))["exp"] == NOW + 300


def test_a_scope_with_a_blank_is_not_two() -> None:
    asserter = Asserter()
    identity = Identity(
        "https://idp.example", "alice", frozenset(("read", "team admin:write", 'a"b'))
    )
    assert (
        read(asserter.line(permit(identity=identity), TERMS, NOW), keys(asserter))["scope"]
        == "read"
    )


def test_nobody_is_asserted_where_nobody_is_known() -> None:
    assert Asserter().line(permit(identity=None), TERMS, NOW) == b""


def test_a_caller_without_a_token_is_asserted_each_time() -> None:
    asserter = Asserter()
    workload = Permit("r", Identity("spiffe://prod", "spiffe://prod/ns/a/sa/b"))
    first, second = (asserter.line(workload, TERMS, NOW) for _ in range(2))
    assert first != second
    assert read(first, keys(asserter))["sub"] == "spiffe://prod/ns/a/sa/b"


def test_keys_rotate_without_a_gap() -> None:
    asserter = Asserter()
    day = (NOW // PERIOD) * PERIOD
    before, after = day + PERIOD - 1, day + PERIOD
    last = asserter.line(permit(after + 3600), TERMS, before)
    first = asserter.line(permit(after + 3600), TERMS, after)
    # Whoever fetched the keys just before or just after can verify both.
    for moment in (before, after):
        read(last, keys(asserter, moment))
        read(first, keys(asserter, moment))
    assert len(keys(asserter)) == 6
    for days in range(20):
        asserter.jwks(NOW + days * PERIOD)
    assert len(asserter._keys) <= 12


def test_workers_of_one_sidecar_have_the_same_keys_and_others_have_not() -> None:
    one, two, other = Asserter(b"s" * 16), Asserter(b"s" * 16), Asserter(b"t" * 16)
    assert keys(one) == keys(two)
    assert not keys(one).keys() & keys(other).keys()
    read(one.line(permit(), TERMS, NOW), keys(two))


def test_no_private_part_is_published() -> None:
    published = keys(Asserter())
    assert all(each.keys() <= {"kty", "crv", "x", "y", "kid", "alg", "use"} for each in
               published.values())  # fmt: skip


def test_it_says_who_the_customer_is_and_anew_where_that_changes() -> None:
    asserter, caller = Asserter(), permit()
    nobody = asserter.line(caller, TERMS, NOW)
    assert "customer_id" not in read(nobody, keys(asserter))
    known = msgspec.structs.replace(caller, customer="cus_1")
    first = asserter.line(known, TERMS, NOW)
    assert read(first, keys(asserter))["customer_id"] == "cus_1"
    assert asserter.line(known, TERMS, NOW + 1) is first
    merged = msgspec.structs.replace(caller, customer="cus_2")
    assert read(asserter.line(merged, TERMS, NOW + 1), keys(asserter))["customer_id"] == "cus_2"
