"""A decision -> why, as a tree: the caller, each rule, the way in, the answer. Pure.

Nothing is decided here. The outcome is what `authorize` said; each rule is looked at again with
the functions that it was evaluated with, one by one and to its end, where a decision stops early.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from sidecar.decide import challenge
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.bindings import UNKNOWN, Bindings, NotYet
from sidecar.decide.caller import NOBODY, Caller, look
from sidecar.decide.disclosed import Shown, is_secret
from sidecar.decide.evaluate import (
    Unmet,
    Verdict,
    evaluate,
    lacking,
    names,
    of_credential,
    of_subject,
)
from sidecar.decide.explanation import (
    Answered,
    Asked,
    Explanation,
    RuleSeen,
    Way,
    When,
    Who,
)
from sidecar.decide.expressions import FAILED, Program
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.plan import cost_of
from sidecar.decide.readers import Unreadable
from sidecar.decide.routes import Pattern, host_matches
from sidecar.decide.scenario import Decided
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.step_up import StepUp
from sidecar.decide.tokens import Verified

DECISION_ID: Final = "0" * 32
"""Stands for that of a request that was never made."""


def explain(decided: Decided, snapshot: Snapshot, decision_id: str = DECISION_ID) -> Explanation:
    """Why a described request was decided so. `decision_id` stands in the answer."""
    return _Explainer(decided, snapshot, decision_id).explanation()


class _Explainer:
    def __init__(self, decided: Decided, snapshot: Snapshot, decision_id: str) -> None:
        self._decision_id = decision_id
        self._decided = decided
        self._snapshot = snapshot
        request = decided.request
        found = snapshot.routes.candidates(
            request.method, request.host, request.path, request.segments
        )
        self._candidates = found.rules
        about = found.about
        self._caller = NOBODY
        outcome = decided.outcome
        self._looked = about.credential_matters
        if self._looked and about.without_caller is not None and type(outcome) is Permit:
            # A rule that asks for nobody's name permitted before any credential was looked at.
            self._looked = outcome.rule != about.without_caller.ref
        if self._looked:
            caller = look(request, snapshot, decided.evidence, decided.now, True)
            if type(caller) is Caller:
                self._caller = caller
        bad = self._caller.rejected is not None or self._caller.cross_origin
        self._bad = bad or bool(self._caller.unavailable)
        self._verified: Verified | None = None if self._bad else self._caller.verified
        self._bindings = Bindings(
            request, self._verified, decided.now, decided.evidence.revocations, snapshot,
            decided.evidence,
        )  # fmt: skip
        self._verdict = evaluate(
            about.enforced, self._bindings, self._verified, presented_bad=self._bad
        )

    def explanation(self) -> Explanation:
        outcome, request = self._decided.outcome, self._decided.request
        query = "" if request.query is None else "?..."  # credentials travel in queries
        rules, passed_over = self._rules()
        refused = type(outcome) is Refuse
        shadow = outcome.shadow
        return Explanation(
            request=f"{request.method} {request.scheme}://{request.authority}{request.path}{query}",
            caller=self._who(),
            rules=rules,
            passed_over=passed_over,
            outcome="refused" if refused else "permitted",
            rule=outcome.rule,
            code=outcome.code.value if type(outcome) is Refuse else "",
            reason=outcome.reason if type(outcome) is Refuse else "",
            guards=tuple([rule.ref for (rule, _), _ in self._verdict.guards]),
            ways=tuple(self._ways()) if refused else (),
            plan=_plan(outcome) if type(outcome) is Refuse else None,
            answer=self._answer(outcome) if type(outcome) is Refuse else None,
            effects=_effects(outcome) if type(outcome) is Permit else {},
            shadow=None
            if shadow is None
            else {
                name: value
                for name in ("outcome", "code", "reason", "rule")
                if (value := getattr(shadow, name))
            },
        )

    # The caller.

    def _who(self) -> Who:
        workload = self._bindings.workload()
        spiffe = "" if workload is None else workload.spiffe
        if not self._looked:
            return Who("not looked at", workload=spiffe)
        rejected = self._decided.rejected or self._caller.rejected
        if self._caller.rejected is not None and rejected is not None:
            why = f"{rejected.reason}: {rejected.detail}" if rejected.detail else rejected.reason
            return Who("bad", why=why, workload=spiffe)
        if self._caller.cross_origin:
            why = "cross_origin: a page of another origin sent the cookie"
            return Who("bad", why=why, workload=spiffe)
        if self._caller.unavailable:
            return Who("bad", why=self._caller.unavailable, workload=spiffe)
        if self._verified is None:
            return Who("anonymous" if workload is None else "workload", workload=spiffe)
        identity = self._verified.identity
        cnf = self._verified.claims.get("cnf")
        kinds = {"jkt": "dpop", "x5t#S256": "mtls"}
        shown = [kinds[each] for each in kinds if isinstance(cnf, dict) and each in cnf]
        return Who(
            "api key" if identity.issuer == API_KEYS else "token",
            identity.issuer, identity.subject, tuple(sorted(identity.scopes)), tuple(shown), spiffe,
        )  # fmt: skip

    # The rules.

    def _rules(self) -> tuple[tuple[RuleSeen, ...], dict[str, int]]:
        request, routes = self._decided.request, self._snapshot.routes
        candidates = {rule.ref: pattern for rule, pattern in self._candidates}
        seen: list[RuleSeen] = []
        on_path = routes.on_path(request.segments)
        for route, pattern in on_path:
            rule = route.rule
            if rule.ref in candidates:
                seen.append(self._rule(rule, candidates[rule.ref]))
                continue
            method = bool(route.methods) and request.method not in route.methods
            parts = []
            if method:
                parts.append(f"method {request.method} is not {' or '.join(sorted(route.methods))}")
            if route.hosts and not host_matches(route.hosts, request.host):
                parts.append(f"host {request.host} is not {' or '.join(route.hosts)}")
            seen.append(
                RuleSeen(
                    rule.ref, rule.effect, rule.auth, pattern.text, rule.shadow,
                    f"about others: {', '.join(parts)}", selected=False,
                )
            )  # fmt: skip
        elsewhere = len(routes) - len(on_path)
        others = len(on_path) - len(candidates)
        return tuple(seen), {"path": elsewhere, "method or host": others}

    def _rule(self, rule: CompiledRule, pattern: Pattern) -> RuleSeen:
        when = None
        value: Any = True
        if rule.when is not None:
            value = self._bindings.truth(rule.when, pattern)
            when = When(rule.when.source, _said(value), self._read(rule.when, pattern))
        missing: Unmet | None = None
        told: Any = None
        if rule.effect == "allow":
            missing = lacking(rule, self._verified, self._bindings, self._bad)
        elif rule.effect == "guard":
            missing = of_credential(rule, self._verified, self._bindings)
        if missing is None and rule.asks_subject and rule.effect != "deny" and value is not False:
            told = of_subject(rule, self._bindings, pattern)
        requires = tuple(self._requires(rule, missing, told))
        selected = value is not False and (rule.effect != "allow" or value is True)
        verdict = _verdict(rule, value, missing, told)
        outcome = self._decided.outcome
        decisive = outcome.rule == rule.ref
        if decisive and type(outcome) is Refuse and verdict in ("permits", "holds"):
            verdict += ", but an expression of its then or limit failed"
        return RuleSeen(
            rule.ref, rule.effect, rule.auth, pattern.text, rule.shadow, verdict, selected,
            decisive, when, requires,
        )  # fmt: skip

    def _read(self, program: Program, pattern: Pattern) -> dict[str, Any]:
        """What an expression read, as far as it may be shown."""
        hidden = {place.name.decode("ascii") for place in self._snapshot.service.credentials}
        found: dict[str, Any] = {}
        for name, keys in program.footprint.items():
            for key in [None] if keys is None else sorted(keys):
                at = name if key is None else f"{name}.{key}"
                if key is not None and is_secret(key, hidden):
                    found[at] = "(not shown)"
                    continue
                try:
                    one = None if key is None else frozenset((key,))
                    value = self._bindings.read(name, one, pattern)
                except Unreadable:
                    found[at] = "(cannot be read)"
                    continue
                except NotYet:
                    found[at] = "(cannot be had)"
                    continue
                if key is not None and isinstance(value, dict):
                    if key not in value:
                        found[at] = "(absent)"
                        continue
                    value = value[key]
                shown = Shown(value, hidden)
                found[at] = shown.value if shown.whole or shown.value else "(too long)"
        return found

    def _requires(self, rule: CompiledRule, missing: Unmet | None, told: Any) -> Iterator[Asked]:
        """Each requirement, in the order in which they are looked at."""
        require, verified = rule.require, self._verified
        workload = self._bindings.workload()
        short = missing if missing is not None else Unmet()
        if rule.effect == "allow" and rule.auth not in ("none", "optional"):
            if rule.auth == "workload":
                yield Asked("a workload's certificate", workload is not None)
            else:
                what = "a token" if rule.auth == "token" else "a token or a workload's certificate"
                yield Asked(what, not short.authentication)
        elif rule.auth == "optional" and self._bad:
            yield Asked("no credential, or one that stands", False)
        # Without a token nothing that one carries is there.
        nobody = verified is None and short.authentication
        for scope in require.scopes:
            yield Asked(f"scope {scope}", scope not in short.scopes and not nobody)
        if require.issuers:
            known = verified is not None and verified.identity.issuer in require.issuers
            yield Asked(f"issuer {_one_of(require.issuers)}", known)
        if require.audiences:
            known = verified is not None and names(verified, require.audiences)
            yield Asked(f"audience {_one_of(require.audiences)}", known)
        if require.workloads is not None:
            known = workload is not None and require.workloads.admit(workload.spiffe)
            yield Asked("one of the workloads", known)
        if require.proof:
            yield Asked(f"proof by {_one_of(require.proof)}", not short.proof and not nobody)
        if require.step_up is not None:
            met = short.step_up is None and not nobody
            yield Asked(f"login {_login(require.step_up)}", met)
        looked = isinstance(told, Unmet) or (told is None and missing is None)
        for purpose in require.consent:
            yield Asked(f"consent to {purpose}", _of(purpose, "consent", told, looked))
        for each in require.transactions:
            about = ", ".join([name for name, _ in each.parts])
            agreed = _of(each.purpose, "consent", told, looked)
            if isinstance(told, Unmet) and told.fixed == "transaction" and agreed:
                agreed = False  # an expression of it fails
            yield Asked(f"consent to {each.purpose} of this {about}", agreed)
        for attribute in require.profile:
            yield Asked(f"profile {attribute}", _of(attribute, "profile", told, looked))
        if require.segments:
            fixed = isinstance(told, Unmet) and bool(told.fixed)
            yield Asked(f"segment {_one_of(require.segments)}", not fixed if looked else None)

    # The way in, and the answer.

    def _ways(self) -> Iterator[Way]:
        """Each allow rule that could be met, with what it would cost."""
        verdict: Verdict = self._verdict
        outcome = self._decided.outcome
        friction = self._snapshot.service.friction
        guards = [unmet for _, unmet in verdict.guards if unmet is not None]
        fixed = next((unmet.fixed for unmet in guards if unmet.fixed), "")
        found: list[Way] = []
        for rule, unmet in verdict.open:
            missing = tuple(dict.fromkeys(_missing((unmet, *guards))))
            why = ""
            if fixed:
                why = f"a guard asks for another {fixed}, which no challenge can obtain"
            elif unmet.fixed:
                why = f"it asks for another {unmet.fixed}, which no challenge can obtain"
            elif not rule.offer:
                why = "offer: false"
            found.append(Way(rule.ref, cost_of((unmet, *guards), friction), missing, why))
        offered = [way for way in found if not way.not_proposed]
        planned = type(outcome) is Refuse and outcome.plan is not None
        best = min(offered, key=lambda way: way.cost) if offered and planned else None
        for way in found:
            if way is best:
                yield Way(way.rule, way.cost, way.missing, chosen=True)
            else:
                yield way

    def _answer(self, outcome: Refuse) -> Answered:
        answer = challenge.refusal(outcome, self._decided.request, self._decision_id)
        headers = dict(answer.headers)
        return Answered(
            answer.status,
            headers.get(b"www-authenticate", b"").decode("ascii"),
            headers.get(b"location", b"").decode("ascii"),
            orjson.loads(answer.body) if answer.body else None,
        )


def _said(value: Any) -> str:
    if value is FAILED:
        return "failed"
    if value is UNKNOWN:
        return "unknown"
    return "true" if value else "false"


def _verdict(rule: CompiledRule, value: Any, missing: Unmet | None, told: Any) -> str:
    """What becomes of one rule, were it alone."""
    if value is False:
        return "does not apply"
    if value is UNKNOWN:
        return "unknown"
    if rule.effect == "deny":
        return "denies" if value is True else "denies, as its condition failed"
    if rule.effect == "allow" and value is FAILED:
        return "does not match, as its condition failed"
    if told is UNKNOWN:
        return "unknown"
    met = missing is None and told is None
    if rule.effect == "guard":
        failed = ", selected as its condition failed" if value is FAILED else ""
        return ("holds" if met else "is not met") + failed
    return "permits" if met else "is not met"


def _of(item: str, kind: str, told: Any, looked: bool) -> bool | None:
    if not looked:
        return None
    return not (isinstance(told, Unmet) and item in getattr(told, kind))


def _one_of(items: Any) -> str:
    return " or ".join(sorted(items))


def _login(login: StepUp) -> str:
    parts = []
    if login.acr:
        parts.append(f"with acr {' or '.join(login.acr)}")
    if login.amr:
        parts.append(f"by {' and '.join(login.amr)}")
    if login.max_age is not None:
        parts.append(f"at most {login.max_age:g} s ago")
    return ", ".join(parts)


def _missing(unmet: tuple[Unmet, ...]) -> Iterator[str]:
    for each in unmet:
        if each.authentication:
            yield "authentication"
        yield from [f"scope {scope}" for scope in each.scopes]
        if each.proof:
            yield f"proof by {_one_of(each.proof)}"
        if each.step_up is not None:
            yield f"login {_login(each.step_up)}"
        yield from [f"consent to {purpose}" for purpose in each.consent]
        yield from [f"profile {attribute}" for attribute in each.profile]


def _plan(outcome: Refuse) -> dict[str, Any] | None:
    if outcome.plan is None:
        return None
    return {"kind": outcome.plan.kind, "needs": outcome.plan.needs()}


def _effects(outcome: Permit) -> dict[str, Any]:
    """What a permit makes of request and response."""
    given = outcome.obligations
    hidden = "(not shown)"
    found: dict[str, Any] = {
        "setHeaders": {
            name: hidden if is_secret(name) else value for name, value in given.set_headers
        },
        "removeHeaders": sorted(given.remove_headers),
        "setResponseHeaders": {
            name: hidden if is_secret(name) else value for name, value in given.set_response_headers
        },
        "removeResponseHeaders": sorted(given.remove_response_headers),
        "redacts": len(given.redact),
        "limits": [rule for each in outcome.effects if (rule := getattr(each, "rule", ""))],
    }
    return {name: value for name, value in found.items() if value}
