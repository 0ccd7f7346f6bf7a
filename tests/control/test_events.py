"""Security event tokens: what stands, what it withdraws, what is refused and why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from sidecar.control.events import (
    ASSURANCE_LEVEL_CHANGE,
    CREDENTIAL_CHANGE,
    SESSION_REVOKED,
    TOKEN_CLAIMS_CHANGE,
    EventRefused,
    Received,
    Transmitter,
    read,
)
from sidecar.control.revocations import Withdrawal
from sidecar.decide.documents import ALGORITHMS
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.tokens import Issuer, KeyState, KeysUnavailable
from tests.casebook import ed25519_key, jwks, stranger_key

NOW = 1_800_000_000.0
IDP = "https://idp.example"
ENDPOINT = "https://control.example/ssf/events"
ALICE = {"format": "iss_sub", "iss": IDP, "sub": "alice"}
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


def transmitter(**more: Any) -> Transmitter:
    issuer = Issuer(
        name="idp", issuer=IDP, audiences=frozenset((ENDPOINT,)), algorithms=frozenset(ALGORITHMS),
        token_types=frozenset(("secevent+jwt",)), skew=30.0, subject="sub", scopes="scope",
        keys=parse_jwks(jwks()), jwks_uri=None,
    )  # fmt: skip
    return replace(Transmitter(issuer, frozenset((IDP,)), 3600.0), **more)


def event(
    kind: str = SESSION_REVOKED,
    about: Any = None,
    payload: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    key: Any = None,
    **claims: Any,
) -> bytes:
    body = {
        "iss": IDP, "aud": ENDPOINT, "iat": int(NOW), "jti": "e1",
        "sub_id": ALICE if about is None else about,
        "events": {kind: {"event_timestamp": int(NOW) - 5, **(payload or {})}},
        **claims,
    }  # fmt: skip
    body = {name: value for name, value in body.items() if value != "absent"}
    headers = {"kid": "ed", "typ": "secevent+jwt", **(header or {})}
    text = json.dumps(body).encode()
    return jwt.PyJWS().encode(text, key or ed25519_key(), "EdDSA", headers).encode()


def received(token: bytes, who: Transmitter | None = None) -> Received:
    found = read(token, {IDP: who or transmitter()}, {}, NOW)
    assert isinstance(found, Received)
    return found


def withdrawn(token: bytes, who: Transmitter | None = None) -> list[tuple[Any, ...]]:
    return [(w.kind, w.issuer, w.value, w.before) for w in received(token, who).withdrawals]


def refused(token: bytes, who: Transmitter | None = None) -> str:
    with pytest.raises(EventRefused) as caught:
        read(token, {IDP: who or transmitter()}, {}, NOW)
    return caught.value.code


SESSION = {"format": "complex", "user": ALICE, "session": {"format": "opaque", "id": "s1"}}
JWT_ID = {"format": "jwt_id", "iss": IDP, "jti": "t1"}
BEFORE = NOW - 4  # the end of the second that the event names


@pytest.mark.parametrize(
    ("kind", "about", "wanted"),
    [
        (SESSION_REVOKED, ALICE, ("subject", IDP, "alice", BEFORE)),
        (SESSION_REVOKED, SESSION, ("session", IDP, "s1", None)),
        (SESSION_REVOKED, {"format": "complex", "user": ALICE}, ("subject", IDP, "alice", BEFORE)),
        (SESSION_REVOKED, JWT_ID, ("token", IDP, "t1", None)),
        (TOKEN_CLAIMS_CHANGE, ALICE, ("subject", IDP, "alice", BEFORE)),
        (TOKEN_CLAIMS_CHANGE, JWT_ID, ("token", IDP, "t1", None)),
        (TOKEN_CLAIMS_CHANGE, SESSION, ("session", IDP, "s1", BEFORE)),
        (CREDENTIAL_CHANGE, ALICE, ("subject", IDP, "alice", BEFORE)),
        (CREDENTIAL_CHANGE, SESSION, ("subject", IDP, "alice", BEFORE)),
        (ASSURANCE_LEVEL_CHANGE, ALICE, ("subject", IDP, "alice", BEFORE)),
        (
            SESSION_REVOKED,
            {"format": "aliases", "identifiers": [{"format": "email", "email": "a@b.c"}, ALICE]},
            ("subject", IDP, "alice", BEFORE),
        ),
    ],
)
def test_what_each_event_withdraws(kind: str, about: Any, wanted: tuple[Any, ...]) -> None:
    assert withdrawn(event(kind, about)) == [wanted]
    # As the drafts had it: the subject within the event.
    assert withdrawn(event(kind, "absent", {"subject": about})) == [wanted]


def test_an_opaque_subject_is_a_session_or_a_user() -> None:
    """CAEP 1.0's own first example of session-revoked names a session so."""
    about = {"format": "opaque", "id": "dMTlD|1600802906337.16|16008.16"}
    value = about["id"]
    assert withdrawn(event(SESSION_REVOKED, about)) == [
        ("session", IDP, value, None), ("subject", IDP, value, BEFORE),
    ]  # fmt: skip
    assert withdrawn(event(CREDENTIAL_CHANGE, about)) == [("subject", IDP, value, BEFORE)]


def test_of_several_names_the_one_that_counts() -> None:
    other = {**ALICE, "iss": "https://other.example"}
    about = {"format": "aliases", "identifiers": [other, ALICE]}
    assert withdrawn(event(about=about)) == [("subject", IDP, "alice", BEFORE)]
    assert refused(event(about={"format": "aliases", "identifiers": [other]})) == "access_denied"


def test_it_is_remembered_and_says_where_it_comes_from() -> None:
    (found,) = received(event()).withdrawals
    assert found == Withdrawal(
        "subject", IDP, "alice", BEFORE, NOW + 3600, f"event {IDP}", "session-revoked"
    )


def test_who_stepped_up_is_not_asked_again() -> None:
    direction = {"change_direction": "increase"}
    assert withdrawn(event(ASSURANCE_LEVEL_CHANGE, ALICE, direction)) == []
    assert withdrawn(event(ASSURANCE_LEVEL_CHANGE, ALICE, {"change_direction": "decrease"}))


def test_without_a_moment_of_its_own_it_happened_when_it_was_issued() -> None:
    token = event(events={SESSION_REVOKED: {}})
    assert withdrawn(token) == [("subject", IDP, "alice", NOW + 1)]
    token = event(payload={"event_timestamp": NOW - 5.5})
    assert withdrawn(token) == [("subject", IDP, "alice", NOW - 5.5)]


def test_no_event_withdraws_what_will_be_issued_tomorrow() -> None:
    token = event(payload={"event_timestamp": int(NOW) + 86_400})
    assert withdrawn(token) == [("subject", IDP, "alice", NOW + 30)]


def test_verification_and_unknown_types_withdraw_nothing() -> None:
    found = received(event(VERIFICATION, {"format": "opaque", "id": "stream"}, {"state": "x"}))
    assert (found.verification, found.withdrawals) == (True, ())
    found = received(event("https://other.example/type", {"format": "email", "email": "a@b.c"}))
    assert (found.verification, found.withdrawals) == (False, ())


def test_one_token_may_hold_several_events() -> None:
    events = {SESSION_REVOKED: {"event_timestamp": NOW - 1.5}, CREDENTIAL_CHANGE: {}, "other": {}}
    assert len(withdrawn(event(about=SESSION, events=events))) == 2


@pytest.mark.parametrize(
    ("code", "token"),
    [
        ("invalid_issuer", event(iss="https://other.example")),
        ("invalid_issuer", event(iss="absent")),
        ("invalid_audience", event(aud="https://elsewhere.example")),
        ("invalid_audience", event(aud="absent")),
        ("invalid_audience", event(aud=[ENDPOINT, 7])),
        ("invalid_key", event(key=stranger_key())),
        ("invalid_key", event(header={"kid": "unknown"})),
        ("invalid_request", event(header={"typ": "JWT"})),
        ("invalid_request", event(header={"typ": "at+jwt"})),
        ("invalid_request", event(header={"crit": ["x"], "x": 1})),
        ("invalid_request", event(iat="absent")),
        ("invalid_request", event(iat=int(NOW) + 31)),
        ("invalid_request", event(iat=int(NOW) - 86_401)),
        ("invalid_request", event(iat=int(NOW) * 1000)),
        ("invalid_request", event(iat=True)),
        ("invalid_request", event(exp=int(NOW) - 31)),
        ("invalid_request", event(jti="absent")),
        ("invalid_request", event(jti=7)),
        ("invalid_request", event(jti="j" * 1025)),
        ("invalid_request", event(events="absent")),
        ("invalid_request", event(events={})),
        ("invalid_request", event(events=[SESSION_REVOKED])),
        ("invalid_request", event(events={SESSION_REVOKED: "now"})),
        ("invalid_request", event(events={f"t{n}": {} for n in range(17)})),
        ("invalid_request", event(about="absent")),
        ("invalid_request", event(about="alice")),
        ("invalid_request", event(about={"format": "email", "email": "a@b.c"})),
        ("invalid_request", event(about={"format": "iss_sub", "iss": IDP})),
        ("invalid_request", event(about={"format": "complex", "device": ALICE})),
        ("invalid_request", event(about={"format": "complex", "session": "s1"})),
        ("invalid_request", event(about={"format": "complex", "session": ALICE})),
        ("invalid_request", event(about={"format": "aliases", "identifiers": [SESSION]})),
        ("invalid_request", event(payload={"subject": {**ALICE, "sub": "bob"}})),
        ("invalid_request", event(payload={"event_timestamp": "now"})),
        ("invalid_request", event(payload={"event_timestamp": int(NOW) * 1000})),
        ("access_denied", event(about={**ALICE, "iss": "https://other.example"})),
        ("access_denied", event(about={**JWT_ID, "iss": "https://other.example"})),
        ("invalid_request", b"not.a.token"),
        ("invalid_request", b""),
        ("invalid_request", b"x" * 20_000),
    ],
)
def test_what_is_refused_and_why(code: str, token: bytes) -> None:
    assert refused(token) == code


def test_no_signature_is_no_event() -> None:
    head, body, _ = event().split(b".")
    assert refused(b".".join((head, body, b""))) == "invalid_key"
    token = jwt.encode(
        {"iss": IDP}, "", "none", {"typ": "secevent+jwt"}
    ).encode()  # fmt: skip
    assert refused(token) == "invalid_key"


def test_a_transmitter_speaks_of_others_only_where_the_settings_say_so() -> None:
    other = {**ALICE, "iss": "https://other.example"}
    who = transmitter(subjects=frozenset(("https://other.example",)))
    assert withdrawn(event(about=other), who)[0][:3] == (
        "subject", "https://other.example", "alice",
    )  # fmt: skip
    assert refused(event(), who) == "access_denied"
    session = {"format": "complex", "user": other, "session": SESSION["session"]}
    assert withdrawn(event(about=session), who)[0][1] == "https://other.example"


def test_two_events_are_told_apart_by_issuer_and_jti() -> None:
    one, other = received(event()), received(event(jti="e2"))
    assert one.id != other.id
    assert one.id == received(event(CREDENTIAL_CHANGE)).id
    assert one.expires > NOW + 86_400


def test_keys_are_fetched_when_needed() -> None:
    who = transmitter(issuer=replace(transmitter().issuer, keys=None, jwks_uri="https://x"))
    assert read(event(), {IDP: who}, {}, NOW) == NeedKeys(IDP)
    down = {IDP: KeyState(None, NOW + 10, "down", NOW)}
    assert isinstance(read(event(), {IDP: who}, down, NOW), KeysUnavailable)
    known = {IDP: KeyState(parse_jwks(jwks()), NOW + 10)}
    assert isinstance(read(event(), {IDP: who}, known, NOW), Received)


COMPROMISE = "https://schemas.openid.net/secevent/risc/event-type/credential-compromise"


@pytest.mark.parametrize(
    ("kind", "about", "wanted"),
    [
        (SESSION_REVOKED, ALICE, ("alice", "session-revoked")),
        (CREDENTIAL_CHANGE, SESSION, ("alice", "credential-change")),
        (COMPROMISE, ALICE, ("alice", "credential-compromise")),
        (COMPROMISE, {"format": "opaque", "id": "u7"}, ("u7", "credential-compromise")),
        (SESSION_REVOKED, JWT_ID, None),
        (VERIFICATION, ALICE, None),
        (COMPROMISE, {**ALICE, "iss": "https://other.example"}, None),
        (COMPROMISE, {**ALICE, "sub": 7}, None),
        (COMPROMISE, {**ALICE, "sub": ""}, None),
        (COMPROMISE, {"format": "email", "email": "a@b.c"}, None),
        ("https://example.org/odd name!", ALICE, None),
    ],
)
def test_what_an_event_says_of_a_user(kind: str, about: Any, wanted: Any) -> None:
    found = received(event(kind, about)).signals
    assert [(each.subject, each.name) for each in found] == ([wanted] if wanted else [])
    assert {each.issuer for each in found} <= {IDP}
