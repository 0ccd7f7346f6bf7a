"""Test cases against policies: what is not as expected, and which rules were tried. Pure.

A rule is covered when it was decisive in some case: an allow rule permitted, a deny rule refused, a
guard was selected. A guard that requires something and never refused, or never held, is half
covered: it counts, and is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.decide.cases import Case
from sidecar.decide.explain import explain
from sidecar.decide.explanation import Explanation
from sidecar.decide.nodes import closest
from sidecar.decide.outcomes import Permit, Refuse, TakeToken
from sidecar.decide.scenario import Decided, ScenarioInvalid, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.errors import BadRequest, Problem


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as expected."""

    what: str
    expected: Any
    found: Any


@dataclass(frozen=True, slots=True)
class Result:
    """One case, decided. No mismatches: it passed."""

    case: Case
    explanation: Explanation
    mismatches: tuple[Mismatch, ...]


@dataclass(slots=True)
class Tried:
    """What became of one rule in all cases."""

    effect: str
    requires: bool
    decisive: bool = False
    held: bool = False
    refused: bool = False

    @property
    def covered(self) -> bool:
        return self.decisive or (self.effect == "guard" and (self.held or self.refused))

    @property
    def half(self) -> str:
        """What was never seen of a guard."""
        if self.effect != "guard" or not self.requires or not self.covered:
            return ""
        return "" if self.held and self.refused else "never refused" if self.held else "never held"


@dataclass(slots=True)
class Coverage:
    """Rules by name, in order."""

    rules: dict[str, Tried] = field(default_factory=dict)

    def know(self, snapshot: Snapshot) -> None:
        """These rules are to be covered."""
        for route in snapshot.routes.routes():
            rule = route.rule
            requires = rule.asks_token or rule.asks_subject
            self.rules.setdefault(rule.ref, Tried(rule.effect, requires))

    def count(self, seen: Explanation) -> None:
        """What one decision says of them."""
        shadow = (seen.shadow or {}).get("rule", "")
        for rule in seen.rules:
            tried = self.rules[rule.rule]
            if rule.effect == "guard":
                if rule.selected:
                    missing = any(asked.met is False for asked in rule.requires)
                    tried.refused |= missing
                    tried.held |= not missing
            elif rule.decisive or (rule.shadow and rule.rule == shadow):
                permitted = rule.verdict == "permits"
                tried.decisive |= permitted if rule.effect == "allow" else True

    @property
    def covered(self) -> int:
        return sum(each.covered for each in self.rules.values())

    @property
    def percent(self) -> float:
        return 100.0 * self.covered / len(self.rules) if self.rules else 100.0


def check(case: Case, snapshot: Snapshot) -> list[Problem]:
    """Rules that it names and that there are not: it could never pass."""
    problems = []
    refs = [route.rule.ref for route in snapshot.routes.routes()]
    for part, said in ((".permit", case.expect.permit), (".rule", case.expect.rule)):
        if isinstance(said, str) and not resolve(said, refs):
            short = [ref.partition("/")[2] for ref in refs]
            hint = closest(said, [*refs, *short]) or "sidecar check says which rules there are"
            problems.append(case.problem(f".expect{part}", f"there is no rule {said!r}", hint))
    return problems


def resolve(said: str, refs: Iterable[str]) -> tuple[str, ...]:
    """The rules that are written so, with a namespace or without."""
    return tuple([ref for ref in refs if said in (ref, ref.partition("/")[2])])


def run(case: Case, snapshot: Snapshot) -> Result | Problem:
    """Decide it and compare; a Problem where it describes what cannot be."""
    try:
        decided = decide(case.scenario, snapshot)
    except ScenarioInvalid as error:
        return case.problem(f".{error.where}", str(error))
    except BadRequest as error:
        message = f"no sidecar lets this in: {error.reason}"
        return case.problem(".request", message, f"it is answered with {error.status}")
    seen = explain(decided, snapshot)
    return Result(case, seen, tuple(_compare(case, decided, seen)))


def _compare(case: Case, decided: Decided, seen: Explanation) -> Iterable[Mismatch]:
    expect, outcome = case.expect, decided.outcome
    found: dict[str, Any]
    if type(outcome) is Permit:
        found = {"permit": outcome.rule}
    else:
        found = {"refuse": seen.answer.status if seen.answer else 0, **_refusal(outcome)}
    if expect.permit is not None:
        if type(outcome) is not Permit:
            yield Mismatch("outcome", {"permit": expect.permit}, found)
            return
        if isinstance(expect.permit, str) and not resolve(expect.permit, [outcome.rule]):
            yield Mismatch("permit", expect.permit, outcome.rule)
    if expect.refuse is not None and expect.refuse != found.get("refuse"):
        yield Mismatch("outcome", {"refuse": expect.refuse}, found)
        if type(outcome) is Permit:
            return
    if expect.rule is not None and not resolve(expect.rule, [outcome.rule]):
        yield Mismatch("rule", expect.rule, outcome.rule or "(none)")
    for what, wanted, got in _details(case, decided, seen):
        if wanted is not None and wanted != got:
            yield Mismatch(what, wanted, got)


def _refusal(outcome: Permit | Refuse) -> dict[str, Any]:
    if type(outcome) is not Refuse:
        return {}
    return {"code": outcome.code.value, "reason": outcome.reason, "rule": outcome.rule}


def _details(case: Case, decided: Decided, seen: Explanation) -> Iterable[tuple[str, Any, Any]]:
    expect, outcome = case.expect, decided.outcome
    yield "code", expect.code, seen.code or None
    yield "reason", expect.reason, seen.reason or None
    plan = seen.plan or {}
    yield "kind", expect.kind, plan.get("kind")
    yield "needs", expect.needs, plan.get("needs")
    yield "challenge", expect.challenge, seen.answer.www_authenticate if seen.answer else ""
    shadow = outcome.shadow
    yield "shadow", expect.shadow, None if shadow is None else shadow.outcome
    if type(outcome) is not Permit:
        return
    given = outcome.obligations
    yield from _headers("headers", expect.headers, dict(given.set_headers))
    yield from _headers(
        "responseHeaders", expect.response_headers, dict(given.set_response_headers)
    )
    yield "redacted", expect.redacted, bool(given.redact)
    limited = any(type(effect) is TakeToken for effect in outcome.effects)
    yield "limited", expect.limited, limited


_ABSENT: Final = "(not set)"


def _headers(
    what: str, wanted: Mapping[str, Any], found: Mapping[str, str]
) -> Iterable[tuple[str, Any, Any]]:
    for name, value in wanted.items():
        yield (
            f"{what}.{name}",
            _ABSENT if value is None else value,
            found.get(name.lower(), _ABSENT),
        )
