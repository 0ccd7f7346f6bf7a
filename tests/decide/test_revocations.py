"""What is withdrawn is refused, whatever was remembered; all else goes on."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from sidecar.decide.authorize import authorize
from sidecar.decide.outcomes import Identity, Outcome, Permit, Refuse
from sidecar.decide.revocations import KINDS, TARGET, Kind, Revocation, Revocations, target, targets
from sidecar.decide.tokens import Verified
from tests.casebook import ISSUER, token

from .test_authorize import NOW, evidence, request, snapshot

FAR = NOW + 86_400


def verified(issuer: str = "iss", subject: str = "alice", **claims: Any) -> Verified:
    key_id = claims.pop("key_id", "")
    return Verified(Identity(issuer, subject), claims, frozenset(), FAR, None, 0, key_id)


def revocations(*entries: tuple[Kind, str, str], before: float | None = None) -> Revocations:
    held = Revocations()
    held.add(Revocation(target(*each), before, FAR) for each in entries)
    return held


@pytest.mark.parametrize(
    ("kind", "value", "credential"),
    [
        ("token", "t1", verified(jti="t1")),
        ("session", "s1", verified(sid="s1")),
        ("subject", "alice", verified()),
        ("subject", "other", verified(sub="other")),
        ("key", "k1", verified(key_id="k1")),
        ("key", "thumb", verified(cnf={"jkt": "thumb"})),
        ("key", "thumb", verified(cnf={"x5t#S256": "thumb"})),
    ],
)
def test_each_kind_refuses_its_own_and_nobody_elses(
    kind: Kind, value: str, credential: Verified
) -> None:
    assert revocations((kind, "iss", value)).revokes(credential, NOW)
    assert not revocations((kind, "iss", value + "x")).revokes(credential, NOW)
    assert not revocations((kind, "iss2", value)).revokes(credential, NOW)
    for other in set(KINDS) - {kind}:
        assert not revocations((other, "iss", value)).revokes(credential, NOW)


def test_names_never_run_into_each_other() -> None:
    names = {target("token", "a", "bc"), target("token", "ab", "c"), target("token", "", "abc")}
    assert len(names) == 3
    assert {len(each) for each in names} == {TARGET}
    assert target("token", "a\0", "b") != target("token", "a", "\0b")
    assert target("subject", "iss", "\ud800")  # what JSON admits has a name


@pytest.mark.parametrize(
    ("issued", "refused"),
    [
        (NOW - 1, True),
        (NOW - 0.001, True),
        (NOW, False),
        (NOW + 1, False),
        (None, True),
        ("now", True),
        (True, True),
    ],
)
def test_only_what_was_issued_before(issued: Any, refused: bool) -> None:
    claims = {} if issued is None else {"iat": issued}
    held = revocations(("subject", "iss", "alice"), before=NOW)
    assert held.revokes(verified(**claims), NOW + 5) is refused


def test_a_moment_is_rounded_to_the_safe_side() -> None:
    held = revocations(("subject", "iss", "alice"), before=NOW + 0.0001)
    assert held.revokes(verified(iat=NOW), NOW)


def test_it_is_forgotten_at_its_end_and_not_before() -> None:
    held = Revocations()
    held.add([Revocation(target("token", "iss", "t"), None, NOW + 10)])
    held.add([Revocation(target("token", "iss", "u"), None, NOW + 1000)])
    assert held.revokes(verified(jti="t"), NOW + 9.9)
    assert not held.revokes(verified(jti="t"), NOW + 10)
    held.forget(NOW + 9)
    assert len(held) == 2
    held.forget(NOW + 10)
    assert len(held) == 1
    held.add([Revocation(target("token", "iss", "v"), None, NOW + 20)])
    held.forget(NOW + 20)
    assert len(held) == 1
    assert held.revokes(verified(jti="u"), NOW + 999)


def test_of_two_the_later_dates_count() -> None:
    name = target("subject", "iss", "alice")
    held = Revocations()
    held.add([Revocation(name, NOW, NOW + 100), Revocation(name, NOW - 50, NOW + 10)])
    assert held.revokes(verified(iat=NOW - 1), NOW + 99)
    held.add([Revocation(name, None, NOW + 10)])
    assert held.revokes(verified(iat=NOW + 50), NOW + 99)
    assert list(held) == [Revocation(name, None, NOW + 100)]


def test_what_comes_out_is_what_went_in() -> None:
    given = [
        Revocation(target("token", "iss", "t"), None, FAR),
        Revocation(target("subject", "iss", "alice"), NOW + 0.25, FAR + 1),
    ]
    held = Revocations()
    held.add(given)
    assert list(held) == given


def test_who_was_cleared_is_looked_up_again_after_a_change() -> None:
    held, alice = Revocations(), verified(jti="t")
    assert not held.revokes(alice, NOW)
    held.add([Revocation(target("token", "iss", "t"), None, FAR)])
    assert held.revokes(alice, NOW)
    assert held.revokes(alice, NOW)


def test_odd_claims_are_no_names() -> None:
    odd = verified(jti=7.5, sid=["s"], sub=None, cnf={"jkt": 1, "x5t#S256": ""})
    assert targets(odd) == (target("subject", "iss", "alice"),)
    assert targets(verified(cnf="x")) == targets(odd)


def test_a_number_is_the_name_that_it_is_written_as() -> None:
    assert revocations(("token", "iss", "12345")).revokes(verified(jti=12345), NOW)
    assert not revocations(("token", "iss", "True")).revokes(verified(jti=True), NOW)


def test_a_hundred_thousand_fit_into_32_mib() -> None:
    entries = [
        Revocation(target("token", "iss", f"{n}"), None if n % 2 else NOW + n, FAR + n)
        for n in range(100_000)
    ]
    held = Revocations()
    tracemalloc.start()
    try:
        # The names too: as they come, they live nowhere else.
        held.add(Revocation(bytes(bytearray(e.target)), e.before, e.expires) for e in entries)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held) == 100_000
    assert size < 32 * 1024 * 1024
    assert held.revokes(verified(jti="99999"), NOW)


def refused(outcome: Outcome) -> bool:
    return isinstance(outcome, Refuse) and outcome.reason == "revoked"


def test_a_permit_that_is_remembered_does_not_outlive_it() -> None:
    held, known = snapshot(), evidence()
    credential = token(NOW, {"exp": 60, "scope": "read", "jti": "t1"})
    asked = request(credential=credential)
    assert isinstance(authorize(asked, held, known, NOW), Permit)
    assert isinstance(authorize(asked, held, known, NOW), Permit)
    known.revocations.add([Revocation(target("token", ISSUER, "t1"), None, FAR)])
    assert refused(authorize(asked, held, known, NOW))  # with the request's memory
    assert refused(authorize(request(credential=credential), held, known, NOW))
    other = token(NOW, {"exp": 60, "scope": "read", "jti": "t2"})
    assert isinstance(authorize(request(credential=other), held, known, NOW), Permit)


def test_it_says_what_to_do_and_names_nobody() -> None:
    held, known = snapshot(), evidence()
    known.revocations.add([Revocation(target("subject", ISSUER, "alice"), NOW, FAR)])
    outcome = authorize(
        request(credential=token(NOW, {"exp": 60, "iat": -5, "scope": "read", "sub": "alice"})),
        held, known, NOW,
    )  # fmt: skip
    assert isinstance(outcome, Refuse)
    assert (outcome.code, outcome.presented) == ("invalid_token", True)
    assert outcome.identity is None
    fresh = token(NOW, {"exp": 60, "iat": 0, "scope": "read", "sub": "alice"})
    assert isinstance(authorize(request(credential=fresh), held, known, NOW), Permit)


def test_an_open_path_stays_open_to_them() -> None:
    held, known = snapshot(), evidence()
    known.revocations.add([Revocation(target("token", ISSUER, "t1"), None, FAR)])
    asked = request("/open", token(NOW, {"exp": 60, "jti": "t1"}))
    outcome = authorize(asked, held, known, NOW)
    assert isinstance(outcome, Permit)
    assert outcome.identity is None
