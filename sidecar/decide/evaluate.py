"""Rules -> verdict; starts from DENY (DESIGN section 3).

Permitted when no deny fires, every selected guard's requirements hold, and at least one allow rule
is satisfied. A failed expression makes a deny fire, selects a guard and leaves an allow unmatched.

Two stages. First what the request and its credential settle. Only if some allow rule can still
permit then, what was fetched is looked at: so nobody makes us fetch anything, or learns anything of
a subject, whose credential would not do.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sidecar.decide.bindings import UNKNOWN, Bindings, NotYet, _Unknown
from sidecar.decide.expressions import FAILED
from sidecar.decide.journey import Bound
from sidecar.decide.proofs import shown
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.step_up import StepUp
from sidecar.decide.tokens import Verified

Candidate = tuple[CompiledRule, Pattern]


class Unmet(msgspec.Struct, frozen=True):
    """What an allow rule or guard still asks for. `fixed` things no challenge could obtain.

    `proof`: the kinds of which one is missing. `consent` and `profile` are what is missing, once
    that was looked at, and all that the rule asks for before; `transactions` are those of `consent`
    that are about this request alone.
    """

    authentication: bool = False
    scopes: tuple[str, ...] = ()
    fixed: str = ""
    proof: tuple[str, ...] = ()
    step_up: StepUp | None = None
    consent: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    transactions: tuple[Bound, ...] = ()

    def token(self) -> bool:
        """Whether the credential lacks something that it could carry."""
        return bool(self.authentication or self.scopes or self.proof or self.step_up is not None)


NOTHING = Unmet()


class Verdict(msgspec.Struct):
    """`satisfied` is the allow rule that permits; without it the request is refused, unless it is
    `pending`: then facts are missing that could change it.

    `guards` are the selected ones with what they miss, `open` the allow rules that could be met,
    both in order.
    """

    satisfied: Candidate | None = None
    denied_by: CompiledRule | None = None
    failed: CompiledRule | None = None
    guards: list[tuple[Candidate, Unmet | None]] = []
    open: list[tuple[CompiledRule, Unmet]] = []
    pending: bool = False


def evaluate(
    candidates: Sequence[Candidate],
    bindings: Bindings,
    verified: Verified | None,
    *,
    presented_bad: bool = False,
) -> Verdict:
    """Weigh the candidates, in order. `verified` None is an anonymous caller.

    `presented_bad`: a credential came and does not stand; only `none` rules can then be satisfied.
    """
    verdict = Verdict()
    allows: list[Candidate] = []
    late: list[tuple[int, Candidate]] = []  # denies and guards that read facts
    places: list[int] = []  # of the guards selected
    guarded = False
    asked = False  # whether a selected guard asks for what is known of the subject
    for place, candidate in enumerate(candidates):
        rule, pattern = candidate
        if rule.effect == "allow":
            allows.append(candidate)
            continue
        if rule.late:
            late.append((place, candidate))
            continue
        selected = True if rule.when is None else bindings.truth(rule.when, pattern)
        if selected is False:
            continue
        if rule.effect == "deny":
            verdict.denied_by = rule
            verdict.failed = rule if selected is FAILED else None
            return verdict
        unmet = of_credential(rule, verified, bindings)
        guarded = guarded or unmet is not None
        asked = asked or rule.asks_subject
        verdict.guards.append((candidate, unmet))
        places.append(place)
    weighed: list[tuple[Candidate, Unmet | None]] = []  # None: nothing is known to be missing
    possible = False
    later = bool(late) or asked
    for candidate in allows:
        rule, pattern = candidate
        if rule.when is not None and not rule.late:
            matched = bindings.truth(rule.when, pattern)
            if matched is FAILED:
                verdict.failed = verdict.failed or rule
                if verified is None:
                    # What it reads may be there after login: a candidate that lacks authentication.
                    weighed.append((candidate, _everything(rule)))
                continue
            if matched is False:
                continue
        unmet = lacking(rule, verified, bindings, presented_bad)
        if unmet is None and not guarded:
            if not later and not rule.late and not rule.asks_subject:
                verdict.satisfied = candidate
                return verdict
            later = possible = True
        weighed.append((candidate, unmet))
    if guarded or not possible:
        verdict.open = [
            (rule, _before(rule) if unmet is None else unmet) for (rule, _), unmet in weighed
        ]
        return verdict
    _look_further(verdict, weighed, late, places, bindings, verified)
    return verdict


def _look_further(
    verdict: Verdict,
    weighed: list[tuple[Candidate, Unmet | None]],
    late: list[tuple[int, Candidate]],
    places: list[int],
    bindings: Bindings,
    verified: Verified | None,
) -> None:
    """The second stage: what depends on facts, for a credential that would do."""
    pending = guarded = possible = False
    nobody = verified is None and bindings.workload() is None
    for place, candidate in late:
        rule, pattern = candidate
        selected = True if rule.when is None else bindings.truth(rule.when, pattern)
        if selected is UNKNOWN:
            pending = True
            continue
        if selected is False:
            continue
        if rule.effect == "deny":
            verdict.denied_by = rule
            verdict.failed = rule if selected is FAILED else None
            return
        unmet = of_credential(rule, verified, bindings)
        guarded = guarded or unmet is not None
        at = sum([each < place for each in places])
        verdict.guards.insert(at, (candidate, unmet))
        places.insert(at, place)
    # By what the token lacks: that comes first, whatever else is missing. But not before all denies
    # and guards are weighed: what the caller is told would hang on what happened to be known.
    if guarded and (nobody or not pending):
        verdict.open = [
            (rule, _before(rule) if unmet is None else unmet) for (rule, _), unmet in weighed
        ]
        return
    for at, (candidate, _) in enumerate(verdict.guards):
        rule = candidate[0]
        if rule.asks_subject:
            told = of_subject(rule, bindings, candidate[1])
            if isinstance(told, _Unknown):
                pending = True
            elif told is not None:
                guarded = True
                verdict.guards[at] = (candidate, told)
    for candidate, unmet in weighed:
        rule, pattern = candidate
        if unmet is not None:
            verdict.open.append((rule, unmet))
            continue
        matched = bindings.truth(rule.when, pattern) if rule.late and rule.when else True
        if matched is False:
            continue
        if matched is FAILED:
            verdict.failed = verdict.failed or rule
            if verified is None:
                verdict.open.append((rule, _everything(rule)))
            continue
        missing = of_subject(rule, bindings, pattern) if rule.asks_subject else None
        if matched is UNKNOWN or isinstance(missing, _Unknown):
            pending = possible = True
            continue
        if missing is None and not guarded:
            verdict.satisfied = candidate
            break
        verdict.open.append((rule, NOTHING if missing is None else missing))
    if pending and (guarded or not (possible or verdict.satisfied is not None)):
        pending = not nobody  # whatever is fetched, it is a refusal, and always the same to them
    verdict.pending = pending
    if pending:
        verdict.satisfied = None


def lacking(
    rule: CompiledRule, verified: Verified | None, bindings: Bindings, presented_bad: bool
) -> Unmet | None:
    """What an allow rule that matches still asks of the credential."""
    auth = rule.auth
    if presented_bad or verified is None:
        if auth == "none" or (auth == "optional" and not presented_bad):
            return of_credential(rule, verified, bindings)
        if presented_bad or auth == "token" or bindings.workload() is None:
            return _everything(rule)
    elif auth == "workload" and bindings.workload() is None:
        return Unmet(False, rule.require.scopes, "workload")
    return of_credential(rule, verified, bindings)


def _everything(rule: CompiledRule) -> Unmet:
    """What a rule asks of who brings nothing. No challenge makes a certificate of a workload."""
    require = rule.require
    fixed = "workload" if rule.auth == "workload" or require.workloads is not None else ""
    return Unmet(
        True, require.scopes, fixed, require.proof, require.step_up, purposes(rule),
        require.profile,
    )  # fmt: skip


def _before(rule: CompiledRule) -> Unmet:
    """Of a rule that lacks nothing of the credential, before its subject is looked at."""
    return Unmet(consent=purposes(rule), profile=rule.require.profile)


def purposes(rule: CompiledRule) -> tuple[str, ...]:
    """All that a rule asks consent for."""
    require = rule.require
    if not require.transactions:
        return require.consent
    return (*require.consent, *[each.purpose for each in require.transactions])


def of_credential(
    rule: CompiledRule, verified: Verified | None, bindings: Bindings
) -> Unmet | None:
    """What a rule requires that the credential does not show."""
    if not rule.asks_token:
        return None
    require = rule.require
    workload = bindings.workload()
    fixed = ""
    if require.workloads is not None and (
        workload is None or not require.workloads.admit(workload.spiffe)
    ):
        fixed = "workload"
    if verified is None:
        if (
            require.scopes
            or require.issuers
            or require.audiences
            or require.step_up is not None
            or require.consent
            or require.transactions
            or require.profile
            or (require.proof and workload is None)
        ):
            return Unmet(
                True, require.scopes, fixed, require.proof, require.step_up, purposes(rule),
                require.profile,
            )  # fmt: skip
        # The certificate is its own proof: its key made the handshake.
        proof = () if not require.proof or "mtls" in require.proof else require.proof
        return Unmet(workload is None, (), fixed, proof) if fixed or proof else None
    identity = verified.identity
    missing = tuple([scope for scope in require.scopes if scope not in identity.scopes])
    if require.issuers and identity.issuer not in require.issuers:
        fixed = fixed or "issuer"
    if require.audiences and not names(verified, require.audiences):
        fixed = fixed or "audience"
    unproven = require.proof if shown(verified.claims).isdisjoint(require.proof) else ()
    login = require.step_up
    if login is not None and login.met(verified.claims, bindings.now):
        login = None
    if missing or fixed or unproven or login is not None:
        return Unmet(False, missing, fixed, unproven, login, purposes(rule), require.profile)
    return None


def names(verified: Verified, audiences: frozenset[str]) -> bool:
    named = verified.claims.get("aud")
    if isinstance(named, str):
        return named in audiences
    return isinstance(named, list) and any(each in audiences for each in named)


def of_subject(
    rule: CompiledRule, bindings: Bindings, pattern: Pattern = ANY
) -> Unmet | _Unknown | None:
    """What a rule requires that is not known of the subject: Unmet, None, or UNKNOWN. A transaction
    of which an expression fails is one that nobody can consent to."""
    require = rule.require
    fixed = ""
    try:
        if require.segments:
            found = bindings.membership()
            if (
                require.segments.isdisjoint(found.source)
                and require.segments.isdisjoint(found.subject)
                and require.segments.isdisjoint(bindings.subject().segments)
            ):
                fixed = "segment"
        consent: tuple[str, ...] = ()
        profile: tuple[str, ...] = ()
        transactions: tuple[Bound, ...] = ()
        if require.consent or require.profile or require.transactions:
            bindings.subject()
            if require.consent:
                held = bindings.consents()
                consent = tuple([each for each in require.consent if each not in held])
            profile = tuple([each for each in require.profile if not bindings.knows(each)])
            for each in require.transactions:
                asked = bindings.transaction(each, pattern)
                if asked is None:
                    fixed = fixed or "transaction"
                elif bindings.grant(each.purpose, asked.digest) is None:
                    transactions = (*transactions, asked)
                    consent = (*consent, each.purpose)
    except NotYet:
        return UNKNOWN
    if fixed or consent or profile:
        return Unmet(fixed=fixed, consent=consent, profile=profile, transactions=transactions)
    return None
