"""What documents say of customers, ready to decide with: who somebody is, what they agreed to.

A purpose and an attribute are known to rules by name, and to everybody else by where the document
stands as well (`ref`, `namespace/name`): so no team's document can stand for another's. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from math import inf
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Final, final

import msgspec
import orjson

from sidecar.decide.outcomes import Identity
from sidecar.decide.subjects import Grant, Subject
from sidecar.decide.tokens import Verified

VISITOR: Final = "urn:sidecar:visitor"
"""The issuer of anonymous visitors: no token's, for it is the sidecar that knows them."""
LONGEST: Final = 1024  # characters of an identifier, and bytes of an attribute's value
_LOWER: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_VERIFIED_BY: Final = {"email": "email_verified", "phone": "phone_number_verified"}


@final
class Purpose(msgspec.Struct, frozen=True, eq=False):
    """A ConsentPurpose. `lifetime` is how many seconds one grant holds, `max_uses` how many
    requests it admits; None: any number."""

    name: str
    ref: str
    version: int = 1
    lifetime: float = inf
    max_uses: int | None = None


@final
class FromClaim(msgspec.Struct, frozen=True):
    """Where a value is in a token: the way to it, of whose tokens, and what has to be true."""

    path: tuple[str, ...]
    issuers: frozenset[str] = frozenset()
    verified_by: tuple[str, ...] = ()


@final
class Attribute(msgspec.Struct, frozen=True, eq=False):
    """A ProfileAttribute. `enricher` is its name and the member of its answer; empty: none."""

    name: str
    ref: str
    claims: tuple[FromClaim, ...] = ()
    enricher: tuple[str, str] = ("", "")
    retention: float = inf


@final
class IdentifierRule(msgspec.Struct, frozen=True):
    """Another claim that says who somebody is. `links`: equal values are the same customer."""

    type: str
    source: FromClaim
    links: bool = True


@final
class VisitorTerms(msgspec.Struct, frozen=True):
    """The cookie of anonymous visitors; `max_age` in seconds."""

    cookie: str
    max_age: int
    secure: bool


@final
class CompiledIdentity(msgspec.Struct, frozen=True, eq=False):
    """An IdentityPolicy. `pool` is where its customers are; customers of two never meet."""

    ref: str
    pool: str
    identifiers: tuple[IdentifierRule, ...]
    merge: bool
    visitor: VisitorTerms
    half_life: float
    signals: Mapping[str, float]


@final
class Journey(msgspec.Struct, frozen=True, eq=False):
    """All of it, by the names that rules use. Without an IdentityPolicy (`identity` None) the
    customers of a namespace are its own, and nobody is told of their ids."""

    namespace: str = "default"
    purposes: Mapping[str, Purpose] = {}
    attributes: Mapping[str, Attribute] = {}
    identity: CompiledIdentity | None = None

    @property
    def pool(self) -> str:
        """Where the customers of this sidecar are."""
        return self.identity.pool if self.identity is not None else f"{self.namespace}/"

    def purpose(self, name: str) -> Purpose:
        """Also one that no document describes: of the sidecar's own namespace."""
        return self.purposes.get(name) or Purpose(name, f"{self.namespace}/{name}")

    def attribute(self, name: str) -> Attribute:
        """Likewise."""
        return self.attributes.get(name) or Attribute(name, f"{self.namespace}/{name}")


NO_JOURNEY: Final = Journey()


@final
class Bound(msgspec.Struct, frozen=True):
    """What one transaction is about, as people see it: each part by its name, as JSON."""

    purpose: str
    values: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """What a grant to this transaction, and to no other, bears."""
        return hashlib.sha256(orjson.dumps(self.values)).hexdigest()

    def shown(self) -> dict[str, Any]:
        """The values, by name."""
        return {name: json.loads(text) for name, text in self.values}


def bound(purpose: str, values: Iterable[tuple[str, Any]]) -> Bound:
    """Raises ValueError for a value that is no JSON, or too large to be shown to anybody."""
    found = []
    for name, value in values:
        text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
        if len(text) > LONGEST:
            raise ValueError(f"{name} is longer than {LONGEST} characters")
        found.append((name, text))
    return Bound(purpose, tuple(found))


# What is granted.


@final
class Granted(msgspec.Struct, frozen=True):
    """The purposes that hold now, and until when all of this stays so, if nobody changes it."""

    names: frozenset[str]
    until: float


def granted(journey: Journey, subject: Subject, now: float, *, reviewed: bool = False) -> Granted:
    """What a subject has consented to, bound consents aside. `reviewed`: by a request that goes on,
    which may itself have been the last use."""
    names = set(subject.consents)
    until = inf
    for grant in subject.grants:
        if grant.binding:
            continue
        ends = min(grant.until, grant.since + _lifetime(journey, grant.purpose))
        for name in _names(journey, grant):
            if now < ends and (reviewed or grant.left is None or grant.left > 0):
                names.add(name)
                until = min(until, ends)
    return Granted(frozenset(names), until)


def _names(journey: Journey, grant: Grant) -> Iterable[str]:
    """What rules call the purpose of a grant that is not outdated."""
    known = False
    for purpose in journey.purposes.values():
        if purpose.ref == grant.purpose:
            known = True
            if grant.version >= purpose.version:
                yield purpose.name
    namespace, _, name = grant.purpose.partition("/")
    if not known and namespace == journey.namespace and name not in journey.purposes:
        yield name


def _lifetime(journey: Journey, ref: str) -> float:
    return min(
        (each.lifetime for each in journey.purposes.values() if each.ref == ref), default=inf
    )


def grant_of(
    journey: Journey,
    subject: Subject,
    name: str,
    binding: str,
    now: float,
    *,
    reviewed: bool = False,
) -> Grant | None:
    """The grant that admits this use of a purpose; None where there is none."""
    purpose = journey.purpose(name)
    for grant in subject.grants:
        if (
            grant.purpose == purpose.ref
            and grant.binding == binding
            and grant.version >= purpose.version
            and now < min(grant.until, grant.since + purpose.lifetime)
            and (reviewed or grant.left is None or grant.left > 0)
        ):
            return grant
    return None


# Who somebody is.


@final
class Introduction(msgspec.Struct, frozen=True):
    """What a token says of who its subject is, and what of their profile it fills: for whoever
    knows customers. `others` may join customers, in order of priority; `remembered` never do.
    `attributes` are `ref` and value as JSON. `visitor`: the anonymous visitor that they were."""

    pool: str
    identity: Identity
    others: tuple[tuple[str, str], ...] = ()
    remembered: tuple[tuple[str, str], ...] = ()
    visitor: str = ""
    merge: bool = False
    attributes: tuple[tuple[str, str], ...] = ()


def introduce(journey: Journey, verified: Verified | None, visitor: str) -> Introduction | None:
    """None of nobody: an anonymous caller without a visitor's cookie."""
    policy = journey.identity
    if verified is None:
        if not visitor:
            return None
        return Introduction(journey.pool, Identity(VISITOR, visitor))
    identity = Identity(verified.identity.issuer, verified.identity.subject)
    others: list[tuple[str, str]] = []
    remembered: list[tuple[str, str]] = []
    for rule in policy.identifiers if policy is not None else ():
        value = _claimed(verified, rule.source)
        if isinstance(value, bool) or not isinstance(value, str | int):
            continue
        text = str(value).strip()
        if 0 < len(text) <= LONGEST:
            (others if rule.links else remembered).append((rule.type, _folded(rule.type, text)))
    attributes = []
    for attribute in journey.attributes.values():
        for source in attribute.claims:
            value = _claimed(verified, source)
            if value is not None and value != "":  # many an issuer says so where it knows nothing
                written = _json(value)
                if 0 < len(written) <= LONGEST:
                    attributes.append((attribute.ref, written))
                break
    return Introduction(
        journey.pool, identity, tuple(others), tuple(remembered), visitor,
        policy is not None and policy.merge, tuple(attributes),
    )  # fmt: skip


def _folded(kind: str, value: str) -> str:
    """Equal for what is the same: mail addresses are compared without regard to case, as every
    large provider delivers them. That of ASCII alone: a Kelvin sign is no k, and in an address it
    is another mailbox, whose owner is another customer (UTS 36 section 2.10)."""
    return value.translate(_LOWER) if kind == "email" else value


def _json(value: Any) -> str:
    """Empty for an integer beyond 64 bits: nobody could read it back, and a claim that fills
    nothing is no reason to refuse its bearer."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return ""


def _claimed(verified: Verified, source: FromClaim) -> Any:
    if source.issuers and verified.identity.issuer not in source.issuers:
        return None
    if source.verified_by and _at(verified.claims, source.verified_by) is not True:
        return None
    return _at(verified.claims, source.path)


def _at(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = claims
    for member in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(member)
    return found


def verified_by(kind: str, given: str | None) -> str | None:
    """The claim that has to be true for an identifier of this type (OpenID Connect Core 5.1)."""
    return given if given is not None else _VERIFIED_BY.get(kind)
