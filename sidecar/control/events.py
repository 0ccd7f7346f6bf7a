"""Security Event Tokens -> what they withdraw. Pure: keys and time are arguments.

A transmitter speaks of its own subjects and of no others, unless the settings say so: whoever may
send events may lock people out. Sources: RFC 8417 (SET), RFC 8935 section 2 (delivery and its
errors), RFC 9493 (subjects), OpenID Shared Signals Framework 1.0, OpenID CAEP 1.0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.control.revocations import LONGEST, Withdrawal
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.revocations import Kind
from sidecar.decide.tokens import (
    Issuer,
    KeyState,
    KeysUnavailable,
    Rejected,
    verify_statement,
)
from sidecar.errors import SidecarError

TYPE: Final = "secevent+jwt"  # RFC 8417 section 2.3: nothing else can be taken for an event
MAX_AGE: Final = 86_400.0  # seconds since `iat`: what is older cannot be told from a replay
MAX_JTI: Final = 1024  # characters
MAX_EVENTS: Final = 16

_CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
SESSION_REVOKED: Final = _CAEP + "session-revoked"
TOKEN_CLAIMS_CHANGE: Final = _CAEP + "token-claims-change"
CREDENTIAL_CHANGE: Final = _CAEP + "credential-change"
ASSURANCE_LEVEL_CHANGE: Final = _CAEP + "assurance-level-change"
VERIFICATIONS: Final = frozenset(
    f"https://schemas.openid.net/secevent/{name}/event-type/verification" for name in ("ssf", "sse")
)


_SIGNAL: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Transmitter:
    """Who may send events. `subjects` are the issuers whose tokens it may withdraw; `remember` is
    how many seconds what it withdraws is remembered; `authorization` is what the header of that
    name must be, empty: anything."""

    issuer: Issuer
    subjects: frozenset[str]
    remember: float
    authorization: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """What an event says of a user of an issuer: the last part of its type."""

    issuer: str
    subject: str
    name: str


@dataclass(frozen=True, slots=True)
class Received:
    """An event that stands. `id` tells it from every other; `jti` and `issuer` are for people."""

    id: str
    issuer: str
    jti: str
    withdrawals: tuple[Withdrawal, ...]
    signals: tuple[Signal, ...]
    verification: bool
    expires: float
    """Until when it could be sent again (seconds since the epoch)."""


class EventRefused(SidecarError):
    """`code` is one of RFC 8935 section 2.4; the message is for the transmitter's log."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(detail)


_CODES: Final[Mapping[str, str]] = {
    "issuer_unknown": "invalid_issuer",
    "algorithm_not_admitted": "invalid_key",
    "key_unknown": "invalid_key",
    "signature_invalid": "invalid_key",
}


def read(
    token: bytes,
    transmitters: Mapping[str, Transmitter],
    keys: Mapping[str, KeyState],
    now: float,
) -> Received | NeedKeys | KeysUnavailable:
    """Raises EventRefused for what is not an event of a transmitter of ours."""
    issuers = {name: each.issuer for name, each in transmitters.items()}
    found = verify_statement(token, issuers, keys, now)
    if isinstance(found, Rejected):
        raise EventRefused(_CODES.get(found.reason, "invalid_request"), found.detail)
    if not isinstance(found, tuple):
        return found
    issuer, claims = found
    transmitter = transmitters[issuer.issuer]
    issued = _moment(claims.get("iat"), "iat")
    if issued is None:
        raise _bad("iat is missing")
    if issued - issuer.skew > now:
        raise _bad("iat lies in the future")
    if now - issued > MAX_AGE:
        raise _bad("it was issued more than a day ago")
    expires = _moment(claims.get("exp"), "exp")
    if expires is not None and now >= expires + issuer.skew:
        raise _bad("it has expired")
    _audience(claims.get("aud"), issuer)
    jti = _text(claims.get("jti"), "jti", MAX_JTI)
    events = claims.get("events")
    if not isinstance(events, dict) or not 0 < len(events) <= MAX_EVENTS:
        raise _bad(f"events: an object of 1 to {MAX_EVENTS} members is expected")
    withdrawals: list[Withdrawal] = []
    signals: list[Signal] = []
    for kind, event in events.items():
        if not isinstance(event, dict):
            raise _bad("events: an object is expected for each type")
        reading = _Event(kind, event, claims, transmitter, issued, now)
        withdrawals += reading.withdrawals()
        signals += reading.signals()
    return Received(
        hashlib.sha256(f"{len(issuer.issuer)}:{issuer.issuer}{jti}".encode()).hexdigest(),
        issuer.issuer,
        jti,
        tuple(dict.fromkeys(withdrawals)),
        tuple(dict.fromkeys(signals)),
        not VERIFICATIONS.isdisjoint(events),
        issued + MAX_AGE + issuer.skew + 1,
    )


@dataclass(frozen=True, slots=True)
class _Event:
    """One event of a SET."""

    kind: str
    event: Mapping[str, Any]
    claims: Mapping[str, Any]
    transmitter: Transmitter
    issued: float
    now: float

    def withdrawals(self) -> Iterator[Withdrawal]:
        """None for a type that is not for us (RFC 8417 section 2.2: others are ignored)."""
        if self.kind == CREDENTIAL_CHANGE:
            yield self._of_user()
        elif self.kind in (SESSION_REVOKED, TOKEN_CLAIMS_CHANGE) or (
            # Who has just stepped up holds the token that says so: to withdraw it would ask again.
            self.kind == ASSURANCE_LEVEL_CHANGE and self.event.get("change_direction") != "increase"
        ):
            yield from self._of_session_or_user()

    def signals(self) -> Iterator[Signal]:
        """Of the user whom it names, by any type of event; none where it names a session alone, or
        somebody of whom the transmitter may not speak."""
        name = self.kind.rpartition("/")[2]
        if self.kind in VERIFICATIONS or not _SIGNAL.fullmatch(name):
            return
        found = self.claims.get("sub_id") or self.event.get("subject")
        if isinstance(found, dict) and found.get("format") == "complex":
            found = found.get("user")
        if not isinstance(found, dict):
            return
        issuer, subject = found.get("iss"), found.get("sub")
        if found.get("format") == "opaque":
            issuer, subject = self.transmitter.issuer.issuer, found.get("id")
        if (
            isinstance(issuer, str)
            and isinstance(subject, str)
            and 0 < len(subject) <= LONGEST
            and issuer in self.transmitter.subjects
        ):
            yield Signal(issuer, subject, name)

    def _of_session_or_user(self) -> Iterator[Withdrawal]:
        subject = self._subject()
        if subject.get("format") == "jwt_id":
            yield self._withdrawal("token", subject, "jti", None)
            return
        # A revoked session never stands again; a changed one gets new tokens.
        before = None if self.kind == SESSION_REVOKED else self._before()
        if subject.get("format") == "opaque":
            # A session, as in CAEP's own examples, or a user: nobody says which, so it is both.
            yield self._session(subject, None, before)
        session = subject.get("session") if subject.get("format") == "complex" else None
        if session is not None:
            user = subject.get("user")
            named = user.get("iss") if isinstance(user, dict) else None
            yield self._session(_object(session, "session"), named, before)
            return
        yield self._of_user()

    def _of_user(self) -> Withdrawal:
        subject = self._subject()
        if subject.get("format") == "complex":
            user = subject.get("user")
            if user is None:
                raise _bad("the subject names neither a session nor a user")
            subject = _object(user, "user")
        if subject.get("format") == "aliases":
            subject = _alias(subject, self.transmitter.subjects)
        if subject.get("format") == "opaque":
            return self._of(
                "subject", self.transmitter.issuer.issuer, subject.get("id"), self._before()
            )
        if subject.get("format") == "iss_sub":
            return self._withdrawal("subject", subject, "sub", self._before())
        raise _bad(
            "no token can be found by a subject of this format; send iss_sub, or opaque with "
            "the `sub` of the transmitter's own tokens"
        )

    def _session(self, session: Mapping[str, Any], issuer: Any, before: float | None) -> Withdrawal:
        """Of the user's issuer where that is named, else of the transmitter."""
        if session.get("format") != "opaque":
            raise _bad("session: format opaque is expected, with the `sid` of the tokens")
        named = self.transmitter.issuer.issuer if issuer is None else issuer
        return self._of("session", named, session.get("id"), before)

    def _withdrawal(
        self, kind: Kind, subject: Mapping[str, Any], member: str, before: float | None
    ) -> Withdrawal:
        return self._of(kind, subject.get("iss"), subject.get(member), before)

    def _of(self, kind: Kind, issuer: Any, value: Any, before: float | None) -> Withdrawal:
        named = _text(issuer, "iss of the subject", LONGEST)
        if named not in self.transmitter.subjects:
            raise EventRefused(
                "access_denied", "this transmitter may not speak of subjects of that issuer"
            )
        transmitter = self.transmitter
        return Withdrawal(
            kind,
            named,
            _text(value, "subject", LONGEST),
            before,
            self.now + transmitter.remember,
            f"event {transmitter.issuer.issuer}",
            self.kind.rpartition("/")[2],
        )

    def _subject(self) -> Mapping[str, Any]:
        """`sub_id` of the SET (SSF 1.0 section 3), or `subject` of the event (its drafts)."""
        found = [each for each in (self.claims.get("sub_id"), self.event.get("subject")) if each]
        if not found or any(each != found[0] for each in found):
            raise _bad("sub_id: one subject is expected")
        return _object(found[0], "sub_id")

    def _before(self) -> float:
        """What was issued before the event. A moment in whole seconds is the end of its second:
        `iat` knows no less, and may be of the same one."""
        happened = _moment(self.event.get("event_timestamp"), "event_timestamp")
        moment = self.issued if happened is None else happened
        if moment == int(moment):
            moment += 1
        return min(moment, self.now + self.transmitter.issuer.skew)


def _alias(subject: Mapping[str, Any], issuers: frozenset[str]) -> Mapping[str, Any]:
    """The one name of several by which tokens can be found: of an issuer that it may speak of, if
    there is one."""
    names = subject.get("identifiers")
    found = [
        each
        for each in (names if isinstance(names, list) else [])
        if isinstance(each, dict) and each.get("format") == "iss_sub"
    ]
    if not found:
        raise _bad("aliases: none of them is of the format iss_sub")
    return next((each for each in found if each.get("iss") in issuers), found[0])


def _audience(audience: Any, issuer: Issuer) -> None:
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise EventRefused("invalid_audience", "aud: text, or a list of it, is expected")
    if issuer.audiences.isdisjoint(named):
        raise EventRefused("invalid_audience", "it is for somebody else")


def _moment(value: Any, name: str) -> float | None:
    if value is None:
        return None
    # 2^33 seconds are the year 2242: what is more was meant as milliseconds.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**33:
        raise _bad(f"{name}: seconds since 1970 are expected")
    return float(value)


def _text(value: Any, name: str, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise _bad(f"{name}: text of 1 to {most} characters is expected")
    return value


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{name}: an object is expected")
    return value


def _bad(detail: str) -> EventRefused:
    return EventRefused("invalid_request", detail)
