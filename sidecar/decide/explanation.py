"""Why a request was decided so, as plain values: what `explain` makes, and others print."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Who:
    """The caller as the rules see it. `kind`: `token`, `api key`, `workload`, `anonymous`, `bad` (a
    credential that does not stand: `why`), or `not looked at`."""

    kind: str
    issuer: str = ""
    subject: str = ""
    scopes: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    workload: str = ""
    why: str = ""


@dataclass(frozen=True)
class When:
    """A condition. `value`: `true`, `false`, `failed` or `unknown` (a fact cannot be had)."""

    source: str
    value: str
    read: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One requirement. `met` None: not looked at."""

    what: str
    met: bool | None


@dataclass(frozen=True)
class RuleSeen:
    """One rule whose path matches. `verdict` in a word or two, `decisive` if the outcome is its."""

    rule: str
    effect: str
    auth: str
    pattern: str
    shadow: bool
    verdict: str
    selected: bool
    decisive: bool = False
    when: When | None = None
    requires: tuple[Asked, ...] = ()


@dataclass(frozen=True)
class Way:
    """A rule that could admit the caller, and what that would cost; or why it is not proposed."""

    rule: str
    cost: int
    missing: tuple[str, ...] = ()
    not_proposed: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Answered:
    """What a refused caller is sent."""

    status: int
    www_authenticate: str
    location: str
    body: dict[str, Any] | None


@dataclass(frozen=True)
class Explanation:
    """`passed_over` counts the rules that are about other requests, by the part of `match` that
    says so."""

    request: str
    caller: Who
    rules: tuple[RuleSeen, ...]
    passed_over: dict[str, int]
    outcome: str
    rule: str
    code: str = ""
    reason: str = ""
    guards: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    plan: dict[str, Any] | None = None
    answer: Answered | None = None
    effects: dict[str, Any] = field(default_factory=dict)
    shadow: dict[str, str] | None = None

    def essence(self) -> str:
        """All of it in one line."""
        seen = next((each for each in self.rules if each.decisive), None)
        said = f"{self.outcome} by {self.rule or 'no rule'}"
        if self.reason:
            said += f" ({self.code}, {self.reason})"
        if seen is None:
            if not self.rules:
                said += "; no rule is about this path"
            return said
        if seen.when is not None and seen.when.value != "true":
            said += f"; when is {seen.when.value}: {seen.when.source}"
        missing = [each.what for each in seen.requires if each.met is False]
        return said + (f"; lacks {', '.join(missing)}" if missing else "")

    def plain(self) -> dict[str, Any]:
        """As JSON would have it."""
        return asdict(self)
