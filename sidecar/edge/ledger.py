"""What is counted and logged of decisions: each once when it is made, and once when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sidecar.decide.caller import Evidence
from sidecar.decide.outcomes import Code, Permit, Refuse
from sidecar.decide.request import Request
from sidecar.decide.snapshot import Snapshot
from sidecar.edge import records
from sidecar.edge.decision import Decision
from sidecar.telemetry.decision_log import DecisionLog, encoded
from sidecar.telemetry.metrics import Metrics

_PERMITTED: Final = ("permit", "")
_ANONYMOUS: Final = ("none",)
_VALID: Final = ("valid",)
_CLASSES: Final = ("", "1xx", "2xx", "3xx", "4xx", "5xx")


class Ledger:
    """One per authorizer; `clock` is in seconds since the epoch."""

    def __init__(
        self,
        metrics: Metrics,
        log: DecisionLog,
        door: str,
        clock: Callable[[], float],
        evidence: Evidence,
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._door = door
        self._clock = clock
        self._evidence = evidence

    def decided(self, decision: Decision) -> None:
        """Count it."""
        outcome = decision.outcome
        metrics = self._metrics
        metrics.decision_seconds.observe(decision.seconds)
        refuse = outcome.observed if type(outcome) is Permit else outcome
        if refuse is None:
            metrics.decisions.count(_PERMITTED)
            metrics.tokens.count(_ANONYMOUS if outcome.identity is None else _VALID)
        else:
            metrics.decisions.add("refuse" if type(outcome) is Refuse else "observe", refuse.reason)
            metrics.tokens.add(_token_result(refuse))
        shadow = outcome.shadow
        if shadow is not None:
            metrics.shadows.add(
                "permit" if refuse is None else "refuse", shadow.outcome, shadow.reason
            )

    def finished(
        self,
        request: Request,
        decision: Decision,
        snapshot: Snapshot | None,
        status: int,
        upstream_seconds: float,
    ) -> None:
        """Count and log it once more, when the response ended. `status` 0: the client went away
        first. `upstream_seconds` 0: the service was not asked."""
        seconds = time.perf_counter() - decision.started
        outcome = decision.outcome
        permitted = type(outcome) is Permit
        metrics = self._metrics
        metrics.requests.count(
            (
                self._door,
                "permit" if permitted else "refuse",
                _CLASSES[status // 100] if 100 <= status < 600 else "none",
            )
        )
        if status != 101:  # how long a WebSocket stays open says nothing of how fast we answer
            metrics.request_seconds.observe(seconds)
        if upstream_seconds:
            metrics.upstream_seconds.observe(upstream_seconds)
        moment = {
            "time": self._clock(),
            "decision_id": decision.id,
            "status": status,
            "decision_us": int(decision.seconds * 1e6),
            # `round` to three places takes five times as long.
            "upstream_ms": int(upstream_seconds * 1e6) / 1e3,
            "duration_ms": int(seconds * 1e6) / 1e3,
        }
        known = request.logged if decision.logged is None else decision.logged
        if known is None or known[0] is not outcome or known[1] != decision.version:
            request.logged = known = self.logged(request, decision, snapshot)
        self._log.put_line(encoded(moment)[:-1] + b"," + known[2])

    def logged(
        self, request: Request, decision: Decision, snapshot: Snapshot | None
    ) -> tuple[Permit | Refuse, str, bytes]:
        """What the log says of it, for whom it is."""
        record = encoded(self._settled(request, decision, snapshot))[1:]
        return decision.outcome, decision.version, record

    def _settled(
        self, request: Request, decision: Decision, snapshot: Snapshot | None
    ) -> dict[str, Any]:
        """What a record says of every request like this one that is decided in the same way."""
        record = records.settled(self._door, request, decision)
        if snapshot is not None and snapshot.service.logs_inputs:
            now = self._clock()
            record["input"] = records.inputs(
                request, decision.outcome, snapshot, self._evidence, now
            )
        return record


def stands_for_nobody(refuse: Refuse) -> bool:
    """Whether what was presented did not stand, rather than not suffice."""
    code = refuse.code
    return (code is Code.INVALID_TOKEN or code is Code.INVALID_PROOF) and refuse.identity is None


def _token_result(refuse: Refuse) -> str:
    if refuse.identity is not None:
        return "valid"  # also where something else could not be had
    if stands_for_nobody(refuse) or (refuse.code is Code.UNAVAILABLE and refuse.presented):
        return refuse.reason
    return "none"
