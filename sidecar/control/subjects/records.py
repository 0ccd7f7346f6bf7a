"""What is known of a customer, as values. Times are seconds since the epoch. No I/O.

`check` is for what a sidecar says of a caller: whatever passes can be stored by every database.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

from sidecar.errors import SidecarError

SUBJECT: Final = "subject"  # issuer and `sub` of a token
VISITOR: Final = "visitor"  # the id in an anonymous caller's cookie

State = Literal["granted", "refused", "withdrawn"]
STATES: Final = ("granted", "refused", "withdrawn")
LinkKind = Literal["created", "attached", "merged", "kept-apart", "conflict", "undone"]

MOST_OTHERS: Final = 16  # identifiers beside the primary one that an introduction brings
MOST_REMEMBERED: Final = 8
MOST_ATTRIBUTES: Final = 64  # that an introduction brings; of a customer: four times that
LONGEST: Final = 2048  # characters of an issuer or a value
LONGEST_NAME: Final = 320  # of NAMESPACE/NAME, and of a pool
LARGEST_VALUE: Final = 16_384  # bytes of an attribute's JSON
HIGHEST_RISK: Final = 100.0


class NotStored(SidecarError):
    """What cannot be kept or done; says why. Nothing was changed."""


class Identifier(NamedTuple):
    """What tells a customer from others. `issuer` is empty where the value is unique without."""

    type: str
    issuer: str
    value: str

    def key(self, pool: str) -> bytes:
        """By which the store finds it: 32 bytes."""
        return hashlib.sha256(json.dumps([pool, *self]).encode()).digest()

    @property
    def sole(self) -> bytes | None:
        """A digest of the issuer, of whose subjects one customer holds one; else None."""
        if self.type != SUBJECT:
            return None
        return hashlib.sha256(self.issuer.encode("utf-8", "surrogatepass")).digest()


class Offered(NamedTuple):
    """An attribute's value (JSON), where it comes from, and until when it may be kept."""

    value: Any
    source: str
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a sidecar says of a caller whose credential it verified.

    `pool`: customers of two pools never meet. `primary` is a subject or, of an anonymous caller, a
    visitor. `others` join, in order of priority; an anonymous caller's are not looked at, for it
    has proved nothing. `remembered` never join (a device that several people use). `visitor` is
    the cookie's id of a caller who logged in, merged with `merge_visitor` or kept apart.
    """

    pool: str
    primary: Identifier
    others: tuple[Identifier, ...] = ()
    remembered: tuple[Identifier, ...] = ()
    visitor: str = ""
    merge_visitor: bool = False
    attributes: Mapping[str, Offered] = field(default_factory=dict)

    @property
    def anonymous(self) -> bool:
        """Whether the caller is known by a cookie alone."""
        return self.primary.type == VISITOR

    @property
    def joining(self) -> tuple[Identifier, ...]:
        """Those that may join, the strongest first, each once; the visitor comes last."""
        if self.anonymous:
            return (self.primary,)
        wanted = (self.primary, *self.others)
        if self.visitor:
            wanted += (Identifier(VISITOR, "", self.visitor),)
        return tuple(dict.fromkeys(wanted))


class Consent(NamedTuple):
    """A decision in force. `binding` is a digest (hex) of the values it is for, empty for none."""

    id: str
    purpose: str
    version: int
    binding: str
    state: State
    at: float
    language: str
    expires: float | None
    max_uses: int | None
    used: int


class Attribute(NamedTuple):
    """`value` is JSON."""

    name: str
    value: Any
    source: str
    at: float
    expires: float | None


class Risk(NamedTuple):
    """Points that halve every `half_life` seconds after `at`."""

    points: float = 0.0
    at: float = 0.0
    half_life: float = 3600.0

    def points_at(self, now: float) -> float:
        """From 0 to 100. A clock that went back raises nothing."""
        age = max(0.0, now - self.at)
        left: float = self.points * 0.5 ** (age / self.half_life)
        return min(HIGHEST_RISK, max(0.0, left))

    def raised(self, points: float, half_life: float, now: float) -> Risk:
        """With more on top of what is left. Raises NotStored."""
        if not 0 <= points <= HIGHEST_RISK or not 1 <= half_life <= 10 * 366 * 86_400:
            raise NotStored("risk: 0 to 100 points and a half-life of 1s to 10 years are expected")
        return Risk(min(HIGHEST_RISK, self.points_at(now) + points), now, half_life)


@dataclass(frozen=True, slots=True)
class Record:
    """A customer. `version` counts up with every change; a later one is never equal to an earlier.

    `consents` are those in force: the latest of each purpose and binding, bound ones only while
    they can be used. `declined` and `asked` say when, by attribute. `novel` are the types of
    remembered identifiers that the call which returned this brought for the first time.
    """

    customer: str
    pool: str
    version: int
    created: float
    identifiers: tuple[Identifier, ...]
    consents: tuple[Consent, ...]
    attributes: tuple[Attribute, ...]
    declined: Mapping[str, float]
    asked: Mapping[str, float]
    segments: frozenset[str]
    risk: Risk
    anonymous: bool
    remembered: tuple[Identifier, ...] = ()
    novel: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Link:
    """What was joined, kept apart or undone, and why. `other` is another customer's id."""

    id: str
    customer: str
    at: float
    kind: LinkKind
    identifier: Identifier | None
    other: str | None
    why: str
    by: str
    undone: bool


def recognised(record: Record, visitor: Identifier) -> Record:
    """What an anonymous caller may meet of somebody who logged in with the same cookie once: the
    id and the risk. The cookie proves no more than that this browser was theirs, or was given it by
    somebody who wants to be taken for them."""
    return replace(
        record, identifiers=(visitor,), consents=(), attributes=(), declined={}, asked={},
        segments=frozenset(), remembered=(), anonymous=True,
    )  # fmt: skip


def new_id(prefix: str) -> str:
    """`prefix` and 130 random bits: `cus_` and 26 letters and digits."""
    return f"{prefix}_{base64.b32encode(os.urandom(20)).decode('ascii').lower()[:26]}"


def id_of(prefix: str, *parts: str) -> str:
    """The same for the same parts, in the form of `new_id`."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return f"{prefix}_{base64.b32encode(digest[:20]).decode('ascii').lower()[:26]}"


def check(introduction: Introduction) -> None:
    """Raises NotStored for what no sidecar should say."""
    words("pool", introduction.pool, LONGEST_NAME)
    primary = introduction.primary
    if primary.type not in (SUBJECT, VISITOR):
        raise NotStored("primary: a subject or a visitor is expected")
    if primary.type == SUBJECT and not primary.issuer:
        raise NotStored("primary: a subject is one of an issuer")
    if len(introduction.others) > MOST_OTHERS:
        raise NotStored(f"others: at most {MOST_OTHERS}")
    if len(introduction.remembered) > MOST_REMEMBERED:
        raise NotStored(f"remembered: at most {MOST_REMEMBERED}")
    for each in (primary, *introduction.others, *introduction.remembered):
        words("type", each.type, 64)
        words("issuer", each.issuer, LONGEST, least=0)
        words("value", each.value, LONGEST)
    if any(each.type == VISITOR for each in introduction.others):
        raise NotStored("others: a visitor is said as `visitor`")
    words("visitor", introduction.visitor, LONGEST, least=0)
    check_attributes(introduction.attributes)


def check_attributes(attributes: Mapping[str, Offered]) -> None:
    """Raises NotStored."""
    if len(attributes) > MOST_ATTRIBUTES:
        raise NotStored(f"attributes: at most {MOST_ATTRIBUTES} at a time")
    for name, offered in attributes.items():
        words("attribute", name, LONGEST_NAME)
        words("source", offered.source, LONGEST)
        if len(to_json(offered.value).encode("utf-8", "surrogatepass")) > LARGEST_VALUE:
            raise NotStored(f"attribute {name}: its value is longer than {LARGEST_VALUE} bytes")


def words(name: str, value: str, most: int, least: int = 1) -> None:
    """A text that every database can keep. Raises NotStored."""
    if not least <= len(value) <= most:
        raise NotStored(f"{name}: {least} to {most} characters are expected")
    if any("\ud800" <= c <= "\udfff" or c == "\0" for c in value):
        raise NotStored(f"{name}: it holds what no database can store")


def many(name: str, values: Iterable[str], most: int) -> list[str]:
    """Names, each once and in order. Raises NotStored."""
    found = sorted(set(values))
    if len(found) > most:
        raise NotStored(f"{name}: at most {most}")
    for each in found:
        words(name, each, LONGEST_NAME)
    return found


def to_json(value: Any) -> str:
    """ASCII, so that equal texts are equal values. Raises NotStored."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotStored(f"a value that is no JSON: {error}") from None
