"""What is known of a subject beyond its token: consents, profile, segments, risk. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final, final

import msgspec

from sidecar.decide.outcomes import Identity, Unavailable


@final
class Grant(msgspec.Struct, frozen=True):
    """A consent that was given and not taken back. `purpose` is `namespace/name`, `binding` the
    digest of the one transaction that it is for, or empty. `left` is how many uses are; None: any
    number. Times are seconds since the epoch."""

    purpose: str
    version: int = 1
    binding: str = ""
    since: float = 0.0
    until: float = inf
    left: int | None = None


def written(grant: Grant) -> str:
    """A grant to one transaction, as records have it."""
    return f"{grant.purpose} {grant.version} {grant.binding}"


def read_grant(text: str) -> Grant | None:
    """The same, out of a record; None for what is none."""
    purpose, _, rest = text.partition(" ")
    version, _, binding = rest.partition(" ")
    if not binding or not version.isascii() or not version.isdigit():
        return None
    return Grant(purpose, int(version[:9]), binding)


@final
class Subject(msgspec.Struct, frozen=True, eq=False):
    """One subject's record. Equal to itself only: another reading of it is another one.

    `consents` hold whatever the documents say, `grants` by what these say of their purposes.
    `profile` are the attributes that are known; one that is null is not. `present` are known too,
    and what they are is nobody's business here. `risk` is 0 (none) to 100 at the moment `since`,
    and half of it after each `half_life`. `customer` is the customer's id; empty: nobody knows.
    `visitors` are the anonymous visitors that came with it, as far as they count any more.
    """

    consents: frozenset[str] = frozenset()
    profile: Mapping[str, Any] = {}
    segments: frozenset[str] = frozenset()
    risk: float = 0
    customer: str = ""
    grants: tuple[Grant, ...] = ()
    present: frozenset[str] = frozenset()
    since: float = 0.0
    half_life: float = inf
    visitors: frozenset[str] = frozenset()

    def introduced(self, visitor: str) -> bool:
        """Whether it is known that this visitor has logged in as this subject, or there is none."""
        return not visitor or visitor in self.visitors

    def risk_at(self, now: float) -> float:
        """Between 0 and 100."""
        if not self.risk or self.half_life == inf or now <= self.since:
            return self.risk
        # In tenths, so that equal decisions are told in equal numbers.
        return round(float(self.risk * 0.5 ** ((now - self.since) / self.half_life)), 1)


NOT_KNOWN: Final = Subject()
"""Of whom there is no record, and of nobody."""

Subjects = Callable[[Identity, float], Subject | Unavailable | None]
"""(identity, now) -> the record, why it cannot be had, or None: it has to be fetched."""


def nobody_known(identity: Identity, now: float) -> Subject:
    """Where nothing is known of anybody."""
    return NOT_KNOWN
