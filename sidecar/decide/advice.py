"""An explained refusal -> what would mend it, and who can. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sidecar.decide.explanation import Explanation, RuleSeen
from sidecar.decide.outcomes import Code

_SAID: Final = {
    Code.BAD_REQUEST.value: "Whoever sends it: its body is not what rules can read.",
    Code.TOO_LARGE.value: "Whoever sends it: a smaller body; or the service: a larger limits.body.",
    Code.TOO_MANY_REQUESTS.value: "The caller: come less often, and not before Retry-After; or "
    "whoever set the limit: a higher one.",
    Code.UNAVAILABLE.value: "Nobody did wrong: a fact could not be had; it may work the next time.",
    "no_snapshot": "Nobody did wrong: the sidecar had no policy yet; its /readyz says when it has.",
}


def in_general(code: str, reason: str) -> list[str]:
    """The same of a decision that cannot be looked at again, as far as its code says it."""
    said = _SAID.get(reason) or _SAID.get(code)
    return [] if said is None else [said]


def advice(seen: Explanation) -> list[str]:
    """In sentences; none for a request that was permitted."""
    return list(_advice(seen)) if seen.outcome == "refused" else []


def _advice(seen: Explanation) -> Iterator[str]:
    if seen.code in _SAID:
        yield _SAID[seen.code]
        return
    if seen.caller.kind == "bad":
        yield f"The caller: a credential that stands; this one does not ({seen.caller.why})."
        return
    decisive = next((rule for rule in seen.rules if rule.decisive), None)
    if seen.reason == "denied_by_rule" and decisive is not None:
        yield f"No caller can: {decisive.rule} denies{_while(decisive)}."
    elif seen.reason == "expression_failed":
        yield from _failed(seen)
    elif seen.plan is not None:
        yield from _planned(seen.plan)
    elif seen.reason == "requirement_unmet":
        yield from _fixed(seen)
    elif seen.reason == "no_rule":
        yield from _no_rule(seen)


def _while(rule: RuleSeen) -> str:
    if rule.when is None:
        return " every request that it matches"
    return f" for as long as {rule.when.source}"


def _planned(plan: Mapping[str, Any]) -> Iterator[str]:
    needs = plan["needs"]
    if plan["kind"] == "authentication":
        yield "The caller: log in, and come with a token."
    if needs.get("scopes"):
        yield f"The caller: a token with the scope {' '.join(needs['scopes'])}."
    if needs.get("proof"):
        yield f"The caller: a token that is bound to them, by {' or '.join(needs['proof'])}."
    login = []
    if needs.get("acr_values"):
        login.append(f"with acr {' or '.join(needs['acr_values'])}")
    if needs.get("amr_values"):
        login.append(f"by {' and '.join(needs['amr_values'])}")
    if "max_age" in needs:
        login.append(f"no more than {needs['max_age']} s ago")
    if login:
        yield f"The caller: a login {', '.join(login)}."
    if needs.get("consent"):
        yield f"The caller: consent to {', '.join(needs['consent'])}."
    if needs.get("profile"):
        yield f"The caller: tell {', '.join(needs['profile'])}."


def _failed(seen: Explanation) -> Iterator[str]:
    for rule in seen.rules:
        if rule.when is None or rule.when.value != "failed" or rule.shadow:
            continue
        absent = [name for name, value in rule.when.read.items() if value == "(absent)"]
        what = f": {', '.join(absent)} is absent" if absent else ""
        yield (
            f"The policy: the condition of {rule.rule} failed{what}. "
            "Ask for what may be absent with has(), in or .?"
        )
    decisive = next((rule for rule in seen.rules if rule.decisive), None)
    if decisive is not None and "its then or limit failed" in decisive.verdict:
        yield f"The policy: an expression of then or limit of {decisive.rule} failed."


def _fixed(seen: Explanation) -> Iterator[str]:
    for rule in seen.rules:
        missing = [asked.what for asked in rule.requires if asked.met is False]
        if missing and rule.selected and not rule.shadow:
            yield f"{rule.rule} would need {', '.join(missing)}, which no challenge can obtain."


def _no_rule(seen: Explanation) -> Iterator[str]:
    allows = [rule for rule in seen.rules if rule.effect == "allow" and not rule.shadow]
    if not allows:
        yield "The policy: no allow rule is about this path."
    for rule in allows:
        if rule.verdict.startswith("about others"):
            yield f"{rule.rule} is {rule.verdict}."
        elif rule.when is not None and rule.when.value == "false":
            yield f"{rule.rule} would need that {rule.when.source}."
