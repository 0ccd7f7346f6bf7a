"""What a permit hangs on is committed before anything is forwarded: all of it, or the request is
refused.

Limits come first and are taken together, so that a request that one of them refuses costs nothing
of the others; a proof is spent only by a request that all of them let pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, final

import msgspec

from sidecar.decide.outcomes import (
    Code,
    Permit,
    Plan,
    Refuse,
    RememberProof,
    SpendConsent,
    TakeToken,
)
from sidecar.decide.proofs import REPLAYED
from sidecar.decide.rates import Rate
from sidecar.decide.request import NO_HEADERS, Headers
from sidecar.edge.rates import RateTable
from sidecar.edge.replays import ReplayTable, Use


@final
class Committed(msgspec.Struct, frozen=True):
    """`refuse` is why not, if not; `said` is what the answer says of limits either way."""

    refuse: Refuse | None = None
    said: Headers = NO_HEADERS


class Effects:
    """Commits effects. One per process."""

    def __init__(self, rates: RateTable, replays: ReplayTable, clock: Callable[[], float]) -> None:
        self._rates = rates
        self._replays = replays
        self._clock = clock

    def commit(self, permit: Permit) -> Committed:
        """Do what has to be done once for this request. Uses of consents are counted elsewhere,
        and after this (`journeys`)."""
        now = self._clock()
        takes = [effect for effect in permit.effects if type(effect) is TakeToken]
        wait = max([self._rates.wait_for(*_bucket(take), now) for take in takes], default=0.0)
        if wait > 0:
            return self._limited(takes, wait, now)
        for effect in permit.effects:
            if type(effect) is RememberProof:
                use = self._replays.use(effect, now)
                if use is not Use.FIRST:
                    return Committed(_UNUSABLE[use])
            elif type(effect) is not TakeToken and type(effect) is not SpendConsent:
                return Committed(_UNKNOWN)
        for take in takes:
            wait = self._rates.take_from(*_bucket(take), now)
            if wait > 0:  # another worker was faster, or two rules share a bucket
                return self._limited(takes, wait, now)
        return Committed(None, self._limits(takes, now)) if takes else _DONE

    def _limited(self, takes: list[TakeToken], wait: float, now: float) -> Committed:
        refuse = msgspec.structs.replace(_LIMITED, retry_after=math.ceil(wait))
        return Committed(refuse, self._limits(takes, now))

    def _limits(self, takes: list[TakeToken], now: float) -> Headers:
        """draft-ietf-httpapi-ratelimit-headers-10; which rule it is stays in the log."""
        policies, states = [], []
        for place, take in enumerate(takes):
            name = "default" if place == 0 else str(place + 1)
            rate = Rate.filling(take.interval, take.burst)
            left, full = self._rates.left(take.rule, take.value, rate, now)
            policies.append(f'"{name}";q={take.burst};w={math.ceil(take.interval * take.burst)}')
            states.append(f'"{name}";r={left};t={math.ceil(full)}')
        return [
            (b"ratelimit-policy", ", ".join(policies).encode("ascii")),
            (b"ratelimit", ", ".join(states).encode("ascii")),
        ]


def _bucket(take: TakeToken) -> tuple[str, bytes, Rate]:
    return take.rule, take.value, Rate.filling(take.interval, take.burst)


_DONE: Final = Committed()
_LIMITED: Final = Refuse(Code.TOO_MANY_REQUESTS, "rule_limit", "Too many requests of this kind.")
_UNUSABLE: Final = {
    Use.REPLAYED: Refuse(
        Code.INVALID_PROOF, REPLAYED.reason, REPLAYED.detail, Plan("authentication"), True
    ),
    Use.CROWDED: Refuse(
        Code.TOO_MANY_REQUESTS,
        "proofs_crowded",
        "Too many proofs of this key came; make a new one.",
        presented=True,
    ),
    Use.BUSY: Refuse(Code.UNAVAILABLE, "proofs_busy", presented=True),
}
_UNKNOWN: Final = Refuse(Code.UNAVAILABLE, "effect_unknown")
