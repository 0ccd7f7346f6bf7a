"""A line of the decision log as those read it who decide again. Pure.

`edge.records` says what is written there, and when.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sidecar.decide.outcomes import Code

# What was refused whatever rules say: by counting, or because something could not be had.
_NOT_BY_RULES: Final = frozenset((Code.TOO_MANY_REQUESTS.value, Code.UNAVAILABLE.value))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, or would be."""

    permitted: bool
    rule: str = ""
    code: str = ""
    reason: str = ""


class _Identity(msgspec.Struct, frozen=True):
    issuer: str
    subject: str


class Input(msgspec.Struct, rename="camel", frozen=True):
    """What was read for a decision."""

    credential: str = "unread"
    identity: _Identity | None = None
    scopes: list[str] = []
    api_key: str = ""
    cross_origin: bool = False
    workload: str = ""
    whole: list[str] = []
    partial: list[str] = []
    nulls: list[str] = []
    token: dict[str, Any] = {}
    enriched: dict[str, dict[str, Any] | None] = {}
    scheme: str = msgspec.field(default="", name="request.scheme")
    headers: dict[str, str | None] = msgspec.field(default_factory=dict, name="request.headers")
    query: dict[str, str | None] = msgspec.field(default_factory=dict, name="request.query")
    content_type: str | UnsetType = msgspec.field(default=UNSET, name="request.contentType")
    size: int | UnsetType = msgspec.field(default=UNSET, name="request.size")
    body: Any = msgspec.field(default=UNSET, name="request.body")
    consents: list[str] | UnsetType = msgspec.field(default=UNSET, name="subject.consents")
    segments: list[str] | UnsetType = msgspec.field(default=UNSET, name="subject.segments")
    profile: dict[str, Any] = msgspec.field(default_factory=dict, name="subject.profile")
    risk: float | UnsetType = msgspec.field(default=UNSET, name="subject.risk")
    grants: list[str] | UnsetType = msgspec.field(default=UNSET, name="subject.grants")


class Record(msgspec.Struct, frozen=True):
    """One line of a decision log, as far as deciding again goes."""

    time: float
    decision_id: str
    method: str
    host: str
    path: str
    outcome: Literal["permit", "refuse", "observe"]
    address: str = ""
    status: int = 0
    rule: str = ""
    code: str = ""
    reason: str = ""
    version: str = ""
    issuer: str = ""
    subject: str = ""
    source: str = ""
    duration_ms: float = 0.0
    input: Input | None = None

    @property
    def decided(self) -> float:
        """When it was: a record is written when the response has ended."""
        return self.time - self.duration_ms / 1000.0

    @property
    def verdict(self) -> Verdict:
        """What was decided, whether or not it was enforced."""
        return Verdict(self.outcome == "permit", self.rule, self.code, self.reason)

    @property
    def by_rules(self) -> bool:
        """Whether rules had a say in it."""
        return self.code not in _NOT_BY_RULES


_DECODER: Final = msgspec.json.Decoder(Record)


def read_record(line: bytes | str) -> Record:
    """Raises ValueError: it is no record of a decision."""
    return _DECODER.decode(line)
