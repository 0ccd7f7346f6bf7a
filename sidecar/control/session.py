"""One sidecar's stream as a state machine: what it holds, what it was sent, what to send next.

The rules of the stream are here and nowhere else (proto/sidecar/v1/discovery.proto): one unanswered
push, deltas counted from the last set that was accepted, no second push of a set that was refused.
No I/O: messages go in, messages come out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sidecar.control.catalogue import Catalogue, Held, Target
from sidecar.control.pacing import Pace
from sidecar.control.revocations import Cursor, RevocationLog
from sidecar.control.sayings import said
from sidecar.control.subjects.following import Following
from sidecar.decide.documents import PLATFORM
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import (
    Ack,
    Enforced,
    FromControl,
    Hello,
    Idle,
    Nack,
    Push,
    Reporting,
)

MAX_LABELS: Final = 64
MAX_HELD: Final = 200_000
_ID: Final = re.compile(r"[A-Za-z0-9._:/-]{1,253}")
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


class Session:
    """The state of one stream, from its Hello on. `wake` is set whenever `next` may have more."""

    def __init__(
        self,
        hello: Hello,
        *,
        address: str,
        since: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError, with what is wrong, for a Hello that makes no sense."""
        _check(hello)
        self.sidecar_id = hello.sidecar_id
        self.namespace = hello.namespace
        self.labels: Mapping[str, str] = dict(hello.labels)
        self.build = said(hello.build)[:253]
        self.started = hello.started if 0 < hello.started < 1 << 40 else 0
        """Unix time at which its process began; 0: it did not say."""
        self.address = address
        self.account = ""  # whose places in the fleet it takes one of; empty: of everybody's
        self.since = since
        self._clock = clock
        self._monotonic = monotonic
        self.enforced: Mapping[str, int] = self._own(hello.enforced)
        """What it says it enforces, for people to read."""
        self.last_error = ""
        wanted = [s for s in hello.subscriptions if s.type == convert.REVOCATION]
        self.revocations = Cursor(wanted[0].position) if wanted else None
        """None: it is of a version that does not know them."""
        subjects = [s for s in hello.subscriptions if s.type == convert.SUBJECT]
        self.following = Following(subjects[0]) if subjects else None
        """None: it does not ask for customers."""
        self.wake = asyncio.Event()
        self.ended = ""  # why the stream must end
        self._known: Held = {
            held.name: held.version
            for subscription in hello.subscriptions
            if subscription.type == convert.RELEASE
            for held in subscription.held
        }
        self._sent: tuple[str, Target] | None = None  # nonce and target, unanswered
        self._refused: Target | None = None
        # What it enforces of *our* releases. A version alone proves nothing: a sidecar that comes
        # from another store may hold other contents under the same number.
        self._confirmed: Mapping[str, int] = {}
        self._pushes = 0
        self._pace = Pace()
        self._brought: Mapping[str, int] = {}  # the versions of the last push
        self._held_back = False
        self._greeted = False
        self._behind: float | None = None  # since when it waits for an Ack of what is newer
        self._interval = 0  # milliseconds between its reports, as it was told
        self._say_interval: int | None = None

    def next(self, catalogue: Catalogue, log: RevocationLog) -> FromControl | None:
        """The message to send now, if there is one. What was withdrawn goes first."""
        message = self.revocations.next(log) if self.revocations is not None else None
        if message is None and self._say_interval is not None:
            message = FromControl(reporting=Reporting(every_ms=self._say_interval))
            self._say_interval = None
        if message is None and self.following is not None:
            message = self.following.next()
        return message if message is not None else self._next_release(catalogue)

    def _next_release(self, catalogue: Catalogue) -> FromControl | None:
        self._held_back = False
        if self._sent is not None:
            return None  # whatever changed meanwhile goes with the next push, as one
        target = catalogue.target(self.namespace, self.labels, self.sidecar_id)
        if target is not None and not self._greeted:
            self._confirmed = _in_common(self._known, target)
        if target is not None and not self._has_refused(target):
            changed, removed = target.delta(self._known)
            if (changed or removed) and self.hold() > 0:
                self._held_back = True
                return None
            if changed or removed:
                self._greeted = True
                self._pushes += 1
                self._pace.sent(self._monotonic(), self._steps(target))
                nonce = str(self._pushes)
                self._sent = nonce, target
                if self._behind is None:
                    self._behind = self._clock()
                return FromControl(
                    push=Push(
                        type=convert.RELEASE,
                        nonce=nonce,
                        resources=changed,
                        removed=removed,
                        endorsements=convert.endorsements_to_wire(catalogue.endorsements),
                    )
                )
        if self._greeted:
            return None
        self._greeted = True
        detail = "" if target else f"namespace {self.namespace!r} has no release yet"
        return FromControl(idle=Idle(type=convert.RELEASE, detail=detail))

    def hold(self) -> float:
        """Seconds for which no push of releases may follow on the last ones."""
        return self._pace.wait(self._monotonic())

    @property
    def held_back(self) -> float | None:
        """Seconds until a release that waits for it may go; None: none waits."""
        return max(0.0, self.hold()) if self._held_back else None

    def _steps(self, target: Target) -> int:
        """By how many releases a push brings it on, at most of one namespace."""
        before, self._brought = self._brought, target.versions
        return max(
            (version - before.get(name, version) for name, version in target.versions.items()),
            default=0,
        )

    def _has_refused(self, target: Target) -> bool:
        refused = self._refused
        return refused is not None and (target is refused or target.held == refused.held)

    def ack(self, ack: Ack) -> bool:
        """The push is enforced. False if it answers nothing that is waiting."""
        if ack.type == convert.REVOCATION:
            self.wake.set()
            return self.revocations is not None and self.revocations.ack(ack)
        if ack.type == convert.SUBJECT:
            self.wake.set()
            return self.following is not None and self.following.ack(ack)
        if self._sent is None or self._sent[0] != ack.nonce:
            return False
        self._known = self._sent[1].held
        self._confirmed = self._sent[1].versions
        self._sent = self._refused = self._behind = None
        self.enforced = self._own(ack.enforced)
        self.last_error = said(ack.warning)
        self.wake.set()
        return True

    def nack(self, nack: Nack, log: RevocationLog) -> bool:
        """The push is refused; what was enforced before stays, and so does what it holds."""
        if nack.type == convert.REVOCATION:
            self.wake.set()
            return self.revocations is not None and self.revocations.nack(nack, log)
        if nack.type == convert.SUBJECT:
            self.wake.set()
            return self.following is not None and self.following.nack(nack)
        if self._sent is None or self._sent[0] != nack.nonce:
            return False
        self._refused = self._sent[1]
        self._sent = None
        self.last_error = said(nack.error) or "refused without a reason"
        self.wake.set()
        return True

    def report_every(self, milliseconds: int) -> None:
        """Has it report so often, unless it does."""
        if milliseconds != self._interval:
            self._interval = self._say_interval = milliseconds
            self.wake.set()

    def end(self, reason: str) -> None:
        """The stream is to end; the first reason stays."""
        self.ended = self.ended or reason
        self.wake.set()

    def assigned(self, catalogue: Catalogue) -> Mapping[str, int]:
        """The versions that it should enforce; empty while its namespace has no release."""
        target = catalogue.target(self.namespace, self.labels, self.sidecar_id)
        return target.versions if target else {}

    def current(self, catalogue: Catalogue) -> bool:
        """Whether it enforces all that it should."""
        return bool(self._confirmed) and self._confirmed == self.assigned(catalogue)

    def _own(self, enforced: Iterable[Enforced]) -> Mapping[str, int]:
        """Of what it says it enforces, what can be: of its namespace and `platform`."""
        known = (self.namespace, PLATFORM)
        return {each.namespace: each.version for each in enforced if each.namespace in known}

    @property
    def confirmed(self) -> Mapping[str, int]:
        """What it enforces of our releases, as it has confirmed on this stream."""
        return self._confirmed

    @property
    def refused(self) -> Mapping[str, int]:
        """The releases that its last word on them was a Nack of, empty after an Ack."""
        return {} if self._refused is None else self._refused.versions

    @property
    def behind(self) -> float | None:
        """Since when (seconds since the epoch) it owes an Ack of something newer; None: of
        nothing."""
        return self._behind


def _in_common(known: Held, target: Target) -> Mapping[str, int]:
    """Versions of the manifests that a sidecar brought along and that are the newest here."""
    return {
        namespace: version
        for namespace, version in target.versions.items()
        if known.get(name := convert.manifest_name(namespace)) == target.held[name]
    }


def _check(hello: Hello) -> None:
    if not _ID.fullmatch(hello.sidecar_id):
        raise ValueError("sidecar_id: 1 to 253 of letters, digits and ._:/- are expected")
    if not _NAMESPACE.fullmatch(hello.namespace):
        raise ValueError("namespace: lower-case letters, digits, '-' and '.', at most 253")
    if len(hello.labels) > MAX_LABELS:
        raise ValueError(f"labels: at most {MAX_LABELS}")
    if any(len(key) > 253 or len(value) > 253 for key, value in hello.labels.items()):
        raise ValueError("labels: at most 253 characters each")
    if not any(subscription.type == convert.RELEASE for subscription in hello.subscriptions):
        raise ValueError("subscriptions: RESOURCE_TYPE_RELEASE is expected")
    if sum(len(subscription.held) for subscription in hello.subscriptions) > MAX_HELD:
        raise ValueError(f"subscriptions: at most {MAX_HELD} resources held")
