"""A rollout as values: its stages, whom each of them concerns, and how far it has come. Pure.

A share is made of sidecars in the order of a hash of their id and the release, so that each has the
same answer at every replica and at every time, and other ones go first in the next rollout. Of few
sidecars a small share is none; therefore a stage has a `cutoff`, chosen once it begins, below which
the hashes of as many lie as the share rounds up to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final, Literal

import orjson

State = Literal["running", "paused", "completed", "aborted", "rolled_back"]
ACTIVE: Final[frozenset[State]] = frozenset(("running", "paused"))
MAX_STAGES: Final = 20
MAX_LABELS: Final = 16
LONGEST: Final = 253  # characters of a label's name or value
LONGEST_BAKE: Final = 7 * 86_400
BAKE: Final = 60.0  # seconds, where nobody says
MIN_REQUESTS: Final = 20
_SPACE: Final = float(1 << 53)


class PlanRefused(ValueError):
    """A plan that makes no sense; says what to change."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the sidecars (0 to 1), or those with all of these labels."""

    share: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.labels:
            return "+".join(f"{key}={value}" for key, value in sorted(self.labels.items()))
        return f"{self.share * 100:g}%"


@dataclass(frozen=True, slots=True)
class Limits:
    """By how much the new release may be worse: differences of shares (0 to 1) of all requests, and
    how many times as long a decision may take."""

    refusals: float = 0.05
    errors: float = 0.01
    failed_expressions: float = 0.001
    latency: float = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages in order, the last one everybody's. `bake` are seconds that each is watched at
    least, `min_requests` what the new release must have decided in each."""

    stages: tuple[Stage, ...]
    bake: float = BAKE
    min_requests: int = MIN_REQUESTS
    limits: Limits = Limits()

    def check(self) -> None:
        """Raises PlanRefused."""
        if not 0 < len(self.stages) <= MAX_STAGES:
            raise PlanRefused(f"1 to {MAX_STAGES} stages are expected")
        before = 0.0
        for stage in self.stages:
            if stage.labels:
                if len(stage.labels) > MAX_LABELS or stage.share:
                    raise PlanRefused(
                        f"a stage is a share, or at most {MAX_LABELS} labels; not both"
                    )
                if any(len(text) > LONGEST for pair in stage.labels.items() for text in pair):
                    raise PlanRefused(f"labels: at most {LONGEST} characters each")
                continue
            if not before < stage.share <= 1:
                raise PlanRefused(
                    f"stages: {stage} does not follow on {before * 100:g}%; shares grow, up to 100%"
                )
            before = stage.share
        if self.stages[-1].labels or self.stages[-1].share != 1:
            raise PlanRefused("the last stage is everybody's: 100%")
        if not 0 <= self.bake <= LONGEST_BAKE or self.min_requests < 0:
            raise PlanRefused("bake: up to seven days are possible; min_requests: 0 or more")
        limits = self.limits
        shares = (limits.refusals, limits.errors, limits.failed_expressions)
        if not all(0 <= share <= 1 for share in shares) or not limits.latency >= 1:
            raise PlanRefused("limits: shares from 0 to 100%, and a latency of 1 or more")

    def to_json(self) -> str:
        """As the store keeps it."""
        limits = self.limits
        return orjson.dumps(
            {
                "bake": self.bake,
                "limits": [
                    limits.refusals, limits.errors, limits.failed_expressions, limits.latency,
                ],
                "minRequests": self.min_requests,
                "stages": [[stage.share, dict(stage.labels)] for stage in self.stages],
            }
        ).decode()  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote."""
        body: Any = orjson.loads(text)
        return cls(
            tuple(Stage(share, labels) for share, labels in body["stages"]),
            body["bake"],
            body["minRequests"],
            Limits(*body["limits"]),
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far the release `version` of a namespace has come; `stable` is what the others enforce.

    Times are seconds since the epoch. `settled` is when every connected sidecar enforced what the
    end of it gave them. `revision` counts its changes: of two who change it at a time one is late.
    `baseline` is what it is compared with as it was when it was read; see `baselines`.
    """

    namespace: str
    version: int
    stable: int
    plan: Plan
    author: str
    started: float
    state: State = "running"
    stage: int = 0
    cutoff: float = 0.0
    stage_since: float = 0.0
    ended: float | None = None
    settled: float | None = None
    reason: str = ""
    revision: int = 0
    baseline: str = ""

    @property
    def active(self) -> bool:
        """Whether some are to enforce the one and some the other."""
        return self.state in ACTIVE

    @property
    def name(self) -> str:
        """`payments@7`."""
        return f"{self.namespace}@{self.version}"

    def includes(self, sidecar_id: str, labels: Mapping[str, str]) -> bool:
        """Whether such a sidecar is to enforce the new release; once it is, it stays so in later
        stages."""
        if not self.active:
            return self.state == "completed"
        for stage in self.plan.stages[: self.stage + 1]:
            if stage.labels and all(labels.get(k) == v for k, v in stage.labels.items()):
                return True
        return self.cutoff >= 1 or place(self.name, sidecar_id) < self.cutoff


def place(name: str, sidecar_id: str) -> float:
    """Where a sidecar stands in the order of one rollout: 0 to below 1."""
    digest = hashlib.sha256(f"{name}\0{sidecar_id}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / _SPACE


def cutoff(name: str, share: float, sidecar_ids: Iterable[str]) -> float:
    """Below which the places of a share of these sidecars lie, rounded up; 1 is everybody's."""
    if share >= 1:
        return 1.0
    places = sorted(place(name, each) for each in sidecar_ids)
    wanted = ceil(share * len(places) - 1e-9)
    if not places or not wanted:
        return share
    if wanted == len(places):  # not 1: those that come later are a share, too
        return max(share, (places[-1] + 1) / 2)
    # In the middle between two: who comes later falls on the one side or on the other.
    return (places[wanted - 1] + places[wanted]) / 2
