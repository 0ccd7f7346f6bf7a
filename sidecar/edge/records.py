"""A decision as a record of the decision log: what was decided, of whom, and on what.

The inputs are what `sidecar replay` decides again with. Of them a record holds what rules that
could apply have read (`decisionLog.inputs` of the ProtectedService), never a credential, nor what
by its name might be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from math import inf
from typing import Any, Final

from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.bindings import Bindings, NotYet
from sidecar.decide.caller import NOBODY, Caller, Evidence, look
from sidecar.decide.credentials import find
from sidecar.decide.disclosed import STANDARD, Shown
from sidecar.decide.logged import MAPS, PLAIN, reads
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.readers import Unreadable
from sidecar.decide.request import Request
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.tokens import Verified
from sidecar.edge.decision import Decision


def settled(door: str, request: Request, decision: Decision) -> dict[str, Any]:
    """What a record says of every request like this one that is decided in the same way."""
    outcome = decision.outcome
    record: dict[str, Any] = {
        "door": door,
        "method": request.method,
        "host": request.host,
        "path": request.path,
        "address": request.address,
        "version": decision.version,
    }
    refuse = outcome.observed if type(outcome) is Permit else outcome
    if refuse is None:
        record["outcome"] = "permit"
    else:
        record["outcome"] = "observe" if type(outcome) is Permit else "refuse"
        record["code"] = refuse.code.value
        record["reason"] = refuse.reason
    record["rule"] = (refuse or outcome).rule
    shadow = outcome.shadow
    if shadow is not None:
        record["shadow"] = {
            name: value
            for name in ("outcome", "code", "reason", "rule")
            if (value := getattr(shadow, name))
        }
    if outcome.identity is not None:
        record["issuer"] = outcome.identity.issuer
        record["subject"] = outcome.identity.subject
    if type(outcome) is Permit and outcome.customer:
        record["customer"] = outcome.customer
    certificate = request.certificate
    if certificate is not None and certificate.workload is not None:
        record["source"] = certificate.workload.spiffe
    return record


def inputs(
    request: Request, outcome: Permit | Refuse, snapshot: Snapshot, evidence: Evidence, now: float
) -> dict[str, Any]:
    """What the rules that could apply have read, by the name of each variable.

    What could not be read, because it failed or was not fetched, is not there; a null was looked
    for and not found, unless it is among `nulls`: then that is what there was. `whole` are the
    variables of which nothing is missing, `partial` those (or their members) of which something
    is: it was too much, or might be a secret.
    """
    refuse = outcome.observed if type(outcome) is Permit else outcome
    verified = None
    credential = "none"
    read: dict[str, Any] = {}
    found = snapshot.routes.candidates(request.method, request.host, request.path, request.segments)
    about = found.about
    if type(refuse) is Refuse and refuse.presented and refuse.identity is None:
        credential = "bad"  # or not looked at; a signature is not to be checked again for a log
    elif (
        refuse is None
        and about is not None
        and about.without_caller is not None
        and outcome.rule == about.without_caller.ref
    ):
        # Nobody looked, and nobody is to for a log: strangers could have signatures checked.
        if find(request, snapshot.service.credentials) is not None:
            credential = "unread"
    else:
        caller = look(request, snapshot, evidence, now, reviewed=True)
        if type(caller) is not Caller:
            credential = "unread"
        else:
            verified = caller.verified
            credential = "none" if caller == NOBODY else "bad" if verified is None else "valid"
            if caller.cross_origin:
                read["crossOrigin"] = True
    if type(outcome) is Permit and outcome.subject is not None:
        decided_on = outcome.subject  # by now it may be another: a consent was used up, say
        evidence = replace(evidence, subjects=lambda identity, now: decided_on)
    bindings = Bindings(request, verified, now, evidence.revocations, snapshot, evidence, inf)
    read["credential"] = credential
    read["request.scheme"] = request.scheme
    certificate = request.certificate
    if certificate is not None and certificate.workload is not None and not bindings.workload():
        read["workload"] = "withdrawn"
    partial: list[str] = []
    if verified is not None:
        read.update(_of_caller(verified, outcome, partial))
    logged: _Logged | None = None if about is None else about.logged
    if logged is None:
        logged = _Logged(found.rules, snapshot)
        if about is not None:
            about.logged = logged
    hidden = logged.hidden
    whole: list[str] = []
    nulls: list[str] = []
    for name, wanted, pattern in logged.reads:
        value, keys = _read(bindings, name, wanted, pattern)
        if value is _NOTHING:
            continue
        shown = Shown(value, hidden)
        if isinstance(value, Mapping):
            kept = shown.value
            nulls += [f"{name}.{key}" for key, item in kept.items() if item is None]
            for key, item in kept.items():
                if isinstance(item, dict | list) and not Shown(value[key]).whole:
                    partial.append(f"{name}.{key}")
            if keys is not None:  # which were asked for and not there is known too
                kept |= dict.fromkeys(keys - value.keys())
            if name == "token":
                kept = {**kept, **read.get("token", {})}
            read[name] = kept
        else:
            read[name] = shown.value
            if not shown.whole:
                partial.append(name)
        if shown.whole and name in MAPS and (keys is None or not isinstance(value, Mapping)):
            whole.append(name)
    if verified is not None and "cnf" in verified.claims and "token" in whole:
        whole.remove("token")
    if whole:
        read["whole"] = whole
    if partial:
        read["partial"] = partial
    if nulls:
        read["nulls"] = nulls
    return read


_NOTHING: Final = object()


def _of_caller(verified: Verified, outcome: Permit | Refuse, partial: list[str]) -> dict[str, Any]:
    """Whose credential it is, and what of it requirements read."""
    identity = verified.identity
    claims = {name: verified.claims[name] for name in STANDARD if name in verified.claims}
    shown = Shown(claims)
    partial += [
        f"token.{name}"
        for name in claims
        if name not in shown.value or not Shown(claims[name]).whole
    ]
    token = shown.value
    cnf = verified.claims.get("cnf")
    if isinstance(cnf, dict):
        token["cnf"] = dict.fromkeys(sorted(cnf), True)  # which proofs, not of which keys
    found: dict[str, Any] = {"token": token, "scopes": sorted(identity.scopes)}
    if identity.issuer == API_KEYS:
        found["apiKey"] = verified.key_id
    said = outcome.identity
    if said is None or (said.issuer, said.subject) != (identity.issuer, identity.subject):
        found["identity"] = {"issuer": identity.issuer, "subject": identity.subject}
    return found


class _Logged:
    """What the log says of requests to which these rules could apply: which variables, by the
    pattern of the first rule that reads each. `hidden` are names of credentials."""

    __slots__ = ("hidden", "reads")

    def __init__(self, rules: Sequence[tuple[CompiledRule, Pattern]], snapshot: Snapshot) -> None:
        patterns: dict[str, Pattern] = {}
        for rule, pattern in rules:
            for program in rule.programs():
                for name in program.footprint:
                    patterns.setdefault(name, pattern)
        self.reads = [
            (name, None if keys is None else frozenset(keys), patterns.get(name, ANY))
            for name, keys in reads([rule for rule, _ in rules], snapshot).items()
            if name not in PLAIN
        ]
        self.hidden = frozenset(
            [location.name.decode("ascii") for location in snapshot.service.credentials]
        )


def _read(
    bindings: Bindings, name: str, keys: frozenset[str] | None, pattern: Pattern
) -> tuple[Any, Set[str] | None]:
    """What is to be had of it, or _NOTHING; and which of the keys were looked for. Of a map, one
    member that cannot be read or had does not take the others with it."""
    try:
        if name == "subject.segments":  # those by documents follow from the rest
            return sorted(bindings.subject().segments), None
        return bindings.read(name, keys, pattern), keys
    except (Unreadable, NotYet):
        pass
    found: dict[str, Any] = {}
    looked: set[str] = set()
    for key in sorted(keys or ()):
        try:
            value = bindings.read(name, frozenset((key,)), pattern)
        except (Unreadable, NotYet):
            continue
        looked.add(key)
        if isinstance(value, Mapping):
            found.update(value)
    return (found, looked) if looked else (_NOTHING, None)
