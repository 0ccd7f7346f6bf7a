"""What was withdrawn, as the control plane knows it, and how far each sidecar has heard of it.

It is a log. A number is given once; a sidecar that says how far it holds the log is sent the rest.
No I/O: the store keeps it, `session` sends it, and who may withdraw is decided at the doors.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from sidecar.control.sayings import said
from sidecar.decide.revocations import BOUND, KINDS, Kind, target
from sidecar.errors import SidecarError
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, FromControl, Idle, Nack, Push, Resource, Revocation

MOST: Final = BOUND // 2  # held at a time
RESERVED: Final = MOST // 5  # of them, for people: events may not take the last ones
BATCH: Final = 2_000  # in one push: two milliseconds of a sidecar's time
LONGEST: Final = 4096  # characters of an issuer or a value
LONGEST_REASON: Final = 1024
FURTHEST: Final = 400 * 86_400  # seconds until it is forgotten
AHEAD: Final = 300.0  # seconds that `before` may lie in the future: clocks differ


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One, as its author means it. Times are seconds since the epoch; `before` None: whenever it
    was issued. `source` is the way it came by, `reason` for people."""

    kind: Kind
    issuer: str
    value: str
    before: float | None
    expires: float
    source: str = "admin"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Numbered:
    """The same, once it is durable."""

    number: int
    created: int
    withdrawal: Withdrawal


class NotWithdrawn(SidecarError):
    """A withdrawal that cannot be taken; says what to change. Nothing was withdrawn."""


class TooManyWithdrawn(NotWithdrawn):
    """The bound is reached; the same may be possible later."""


def check(withdrawals: Iterable[Withdrawal], now: float) -> None:
    """Raises NotWithdrawn for one that makes no sense, before anything is stored."""
    for each in withdrawals:
        if each.kind not in KINDS:
            raise NotWithdrawn(f"kind: one of {', '.join(KINDS)} is expected")
        if not 0 < len(each.issuer) <= LONGEST or not 0 < len(each.value) <= LONGEST:
            raise NotWithdrawn(f"issuer and value: 1 to {LONGEST} characters each are expected")
        if any("\ud800" <= c <= "\udfff" or c == "\0" for c in each.issuer + each.value):
            raise NotWithdrawn("issuer and value: they hold what no database can store")
        if len(each.reason) > LONGEST_REASON:
            raise NotWithdrawn(f"reason: at most {LONGEST_REASON} characters")
        if not now < each.expires <= now + FURTHEST:
            raise NotWithdrawn("expires: a moment in the next 400 days is expected")
        if each.before is not None and not 0 <= each.before <= now + AHEAD:
            raise NotWithdrawn("before: a moment that has passed is expected")


class RevocationLog:
    """In order of number. `id` tells it from the log of another store."""

    def __init__(self, id_: str = "") -> None:
        self.id = id_
        self.newest = 0
        self._newest_mark = "0"
        self._all: list[Numbered] = []
        self._resources: list[Resource] = []
        self._numbers: list[int] = []

    def __len__(self) -> int:
        return len(self._all)

    def take(self, more: Iterable[Numbered], now: float) -> None:
        """Add what was stored; let go of what has expired."""
        for each in more:
            if each.number > self.newest:
                self.newest, self._newest_mark = each.number, _mark(each)
            if now < each.withdrawal.expires:
                self._all.append(each)
                self._resources.append(_resource(each))
                self._numbers.append(each.number)
        if len(self._all) >= MOST:
            self.forget(now)

    def forget(self, now: float) -> None:
        """Let go of what has expired."""
        kept = [place for place, each in enumerate(self._all) if now < each.withdrawal.expires]
        self._all = [self._all[place] for place in kept]
        self._resources = [self._resources[place] for place in kept]
        self._numbers = [self._numbers[place] for place in kept]

    def _mark(self, number: int) -> str:
        """Tells the entry of a number from another one that a restored store gave it to."""
        if number == self.newest:
            return self._newest_mark
        place = bisect_right(self._numbers, number) - 1
        if place < 0 or self._numbers[place] != number:
            return ""
        return _mark(self._all[place])

    def after(self, number: int) -> tuple[list[Resource], int, bool]:
        """What follows, a batch at most; up to which number that is, and whether there is more."""
        first = bisect_right(self._numbers, number)
        batch = self._resources[first : first + BATCH]
        more = first + BATCH < len(self._resources)
        return batch, self._numbers[first + BATCH - 1] if more else self.newest, more

    def position(self, number: int) -> str:
        """As a sidecar brings it along."""
        return f"{self.id}:{number}:{self._mark(number)}"

    def number(self, position: str) -> int:
        """What a sidecar holds of this log; 0: nothing, or that of another one.

        Of another one is also what a store held that was lost and restored from a backup, which
        gives the same numbers again. Where that cannot be told apart any more all is sent anew.
        """
        id_, _, rest = position.partition(":")
        number, _, mark = rest.partition(":")
        if id_ != self.id or not number.isascii() or not number.isdigit() or len(number) > 18:
            return 0
        found = int(number)
        if found > self.newest or not mark or mark != self._mark(found):
            return 0
        return found

    def found(self, issuer: str, value: str, most: int) -> list[Numbered]:
        """Newest first; an empty issuer or value is any."""
        wanted: list[Numbered] = []
        for each in reversed(self._all):
            about = each.withdrawal
            if issuer in ("", about.issuer) and value in ("", about.value):
                wanted.append(each)
                if len(wanted) == most:
                    break
        return wanted


def _mark(numbered: Numbered) -> str:
    text = repr((numbered.number, numbered.created, numbered.withdrawal))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _resource(numbered: Numbered) -> Resource:
    about = numbered.withdrawal
    revocation = Revocation(
        target=target(about.kind, about.issuer, about.value), expires=ceil(about.expires)
    )
    if about.before is not None:
        revocation.before_ms = ceil(about.before * 1000)
    return Resource(name=f"revocation/{numbered.number}", revocation=revocation)


class Cursor:
    """How far one stream has brought its sidecar. One unanswered push, as of any type."""

    def __init__(self, position: str) -> None:
        self.last_error = ""
        self._position: str | None = position  # what it brought along, until the log is at hand
        self._number = 0
        self._sent: tuple[str, int] | None = None  # nonce, and what it will hold
        self._refused = -1  # the number that the log had when it refused
        self._pushes = 0
        self._greeted = False

    def next(self, log: RevocationLog) -> FromControl | None:
        """The message to send now, if there is one."""
        if self._position is not None:
            self._number = log.number(self._position)
            self._position = None
        if self._sent is not None or self._refused == log.newest:
            return None
        if self._number < log.newest:
            resources, upto, more = log.after(self._number)
            self._greeted = True
            self._pushes += 1
            nonce = f"revocations-{self._pushes}"
            self._sent = nonce, upto
            push = Push(
                type=convert.REVOCATION,
                nonce=nonce,
                resources=resources,
                position=log.position(upto),
                more=more,
            )
            return FromControl(push=push)
        if self._greeted:
            return None
        self._greeted = True
        return FromControl(idle=Idle(type=convert.REVOCATION))

    def ack(self, ack: Ack) -> bool:
        """They are refused there from now on. False if it answers nothing that is waiting."""
        if self._sent is None or self._sent[0] != ack.nonce:
            return False
        self._number = self._sent[1]
        self._sent = None
        self._refused = -1
        self.last_error = said(ack.warning)
        return True

    def nack(self, nack: Nack, log: RevocationLog) -> bool:
        """They could not be taken. Tried again with what is withdrawn next."""
        if self._sent is None or self._sent[0] != nack.nonce:
            return False
        self._sent = None
        self._refused = log.newest
        self.last_error = said(nack.error) or "refused without a reason"
        return True

    @property
    def number(self) -> int:
        """Up to which its sidecar refuses all; -1: it has not been asked yet."""
        return self._number if self._position is None else -1

    def holds(self, number: int) -> bool:
        """Whether the sidecar refuses all up to this one."""
        return self._position is None and self._number >= number

    def refuses(self, number: int) -> bool:
        """Whether its last word on this one was a Nack."""
        return self._refused >= number > self._number


def of_row(row: Any) -> Numbered:
    """From what the store kept."""
    before = None if row.before_ms is None else row.before_ms / 1000
    about = Withdrawal(
        row.kind, row.issuer, row.value, before, float(row.expires), row.source, row.reason
    )
    return Numbered(row.number, row.created, about)


def row(numbered: Numbered) -> Mapping[str, object]:
    """As the store keeps it."""
    about = numbered.withdrawal
    return {
        "number": numbered.number,
        "kind": about.kind,
        "issuer": about.issuer,
        "value": about.value,
        "before_ms": None if about.before is None else ceil(about.before * 1000),
        "expires": ceil(about.expires),
        "created": numbered.created,
        "source": about.source,
        "reason": about.reason,
    }
