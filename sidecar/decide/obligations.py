"""What the rules that admitted a request make of it: headers, limits, what is cut out. Pure.

The first satisfied allow rule gives `then` and `limit`, and every selected guard adds its own
(DESIGN section 3). Of a header that several set, the first one's value counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, final

import msgspec

from sidecar.decide.bindings import UNKNOWN, Bindings
from sidecar.decide.expressions import FAILED
from sidecar.decide.journey import Journey
from sidecar.decide.outcomes import (
    NO_OBLIGATIONS,
    Effect,
    Obligations,
    SpendConsent,
    TakeToken,
)
from sidecar.decide.redact import Redaction
from sidecar.decide.routes import Pattern
from sidecar.decide.snapshot import CompiledRule

_EVERYBODY: Final = b""


@final
class Obliged(msgspec.Struct, frozen=True):
    """The obligations of a permit, and its effects."""

    obligations: Obligations
    effects: tuple[Effect, ...]


class _Failed(Exception):
    """An expression failed, of this rule; None: a fact that one reads is missing."""

    def __init__(self, rule: CompiledRule | None) -> None:
        self.rule = rule


def oblige(
    asked: Sequence[tuple[CompiledRule, Pattern]], bindings: Bindings
) -> Obliged | CompiledRule | None:
    """What these rules ask for together; the rule of which an expression failed; or None: facts are
    missing."""
    try:
        return _oblige(asked, bindings)
    except _Failed as failed:
        return failed.rule


def _oblige(asked: Sequence[tuple[CompiledRule, Pattern]], bindings: Bindings) -> Obliged:
    headers: dict[str, str] = {}
    response: dict[str, str] = {}
    removed: set[str] = set()
    removed_late: set[str] = set()
    redact: list[Redaction] = []
    whole = False
    effects: list[Effect] = []
    for rule, pattern in asked:
        for name, program in rule.set_headers:
            value = _known(bindings.text(program, pattern), rule)
            headers.setdefault(name, value)
        for name, program in rule.set_response_headers:
            value = _known(bindings.text(program, pattern), rule)
            response.setdefault(name, value)
        removed.update(rule.remove_headers)
        removed_late.update(rule.remove_response_headers)
        for each in rule.redact:
            lifted = False if each.unless is None else bindings.truth(each.unless, pattern)
            if lifted is UNKNOWN and not (rule.cuts and bindings.in_the_dark()):
                raise _Failed(None)
            if lifted is not True:  # also where the condition failed, or cannot be known
                redact.append(each.redaction)
            else:
                whole = True
        limit = rule.limit
        if limit is not None:
            key = _EVERYBODY
            if limit.per is not None:
                key = _canonical(_known(bindings.value(limit.per, pattern), rule))
            effects.append(TakeToken(rule.ref, key, limit.rate.interval, limit.rate.burst))
    obligations = NO_OBLIGATIONS
    if headers or response or removed or removed_late or redact or whole:
        obligations = Obligations(
            tuple(headers.items()), frozenset(removed - headers.keys()),
            tuple(response.items()), frozenset(removed_late - response.keys()), tuple(redact),
            whole and not redact,
        )  # fmt: skip
    return Obliged(obligations, tuple(effects))


def spends(asked: Sequence[tuple[CompiledRule, Pattern]]) -> bool:
    """Whether any of these asks for consents, which may be counted."""
    return any(rule.require.consent or rule.require.transactions for rule, _ in asked)


def uses(
    asked: Sequence[tuple[CompiledRule, Pattern]],
    journey: Journey,
    customer: str,
    bindings: Bindings,
) -> tuple[SpendConsent, ...]:
    """The consents that this request uses up: of those that admit so many requests, one each. A
    consent to one transaction admits one, unless its purpose says otherwise."""
    found: dict[SpendConsent, None] = {}
    for rule, pattern in asked:
        for name in rule.require.consent:
            purpose = journey.purpose(name)
            if name in bindings.subject().consents:
                continue
            given = bindings.grant(name, "")
            # Also where the purpose has no bound any more: they agreed to so many, and no more.
            if purpose.max_uses is not None or (given is not None and given.left is not None):
                found[SpendConsent(customer, purpose.ref, "")] = None
        for transaction in rule.require.transactions:
            about = bindings.transaction(transaction, pattern)
            if about is not None:
                ref = journey.purpose(transaction.purpose).ref
                found[SpendConsent(customer, ref, about.digest)] = None
    return tuple(found)


def _known(value: Any, rule: CompiledRule) -> Any:
    if value is UNKNOWN:
        raise _Failed(None)
    if value is FAILED:
        raise _Failed(rule)
    return value


def _canonical(value: Any) -> bytes:
    """Equal for equal values, and for no others: `1` and `'1'` are counted apart."""
    return json.dumps(value, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")
