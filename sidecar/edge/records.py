"""A decision as a record of the decision log: what was decided, of whom, and on what.

The inputs are what `sidecar replay` decides again with. Of them a record holds what rules that
could apply have read (`decisionLog.inputs` of the ProtectedService), never a credential, nor what
by its name might be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from sidecar.decide.bindings import Bindings, NotYet, Unreadable
from sidecar.decide.caller import NOBODY, Caller, Evidence, look
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.request import Request
from sidecar.decide.routes import ANY, Pattern
from sidecar.decide.snapshot import Snapshot
from sidecar.edge.decision import Decision

LONGEST: Final = 256  # characters of one text
MOST: Final = 64  # members of one map or list
DEEPEST: Final = 4
# Names under which credentials travel, whatever their owners call them.
SECRET: Final = re.compile(
    r"auth|cookie|token|secret|passw|passphrase|credential|api.?key|session|signature|otp|\bpin\b|"
    r"\bcvv\b|\bcvc\b|private|dpop|assertion|jwt|bearer|\bcode\b",
    re.IGNORECASE,
)
_STANDARD: Final = ("iss", "sub", "aud", "scope", "acr", "amr", "auth_time")
"""Claims that requirements read."""
_PLAIN: Final = frozenset(
    (
        "request.method", "request.host", "request.path", "request.address", "request.params",
        "request.time", "subject.id", "subject.anonymous", "source.spiffe", "source.namespace",
        "source.serviceAccount", "source.segments",
    )
)  # fmt: skip
"""What a record says anyway, or what follows from it."""


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
    certificate = request.certificate
    if certificate is not None and certificate.workload is not None:
        record["source"] = certificate.workload.spiffe
    return record


def inputs(
    request: Request, outcome: Permit | Refuse, snapshot: Snapshot, evidence: Evidence, now: float
) -> dict[str, Any]:
    """What the rules that could apply have read, by the name of each variable. What they could not
    read, because it failed or was not fetched, is not there."""
    refuse = outcome.observed if type(outcome) is Permit else outcome
    verified = None
    credential = "none"
    if type(refuse) is Refuse and refuse.presented and refuse.identity is None:
        credential = "bad"  # or not looked at; a signature is not to be checked again for a log
    else:
        caller = look(request, snapshot, evidence, now, reviewed=True)
        if type(caller) is Caller:
            verified = caller.verified
            credential = "none" if caller == NOBODY else "bad" if verified is None else "valid"
    found = snapshot.routes.candidates(request.method, request.host, request.path, request.segments)
    bindings = Bindings(request, verified, now, evidence.revocations, snapshot, evidence)
    read: dict[str, Any] = {"credential": credential, "request.scheme": request.scheme}
    if verified is not None:
        claims = {name: verified.claims[name] for name in _STANDARD if name in verified.claims}
        cnf = verified.claims.get("cnf")
        if isinstance(cnf, dict):
            claims["cnf"] = dict.fromkeys(sorted(cnf), True)  # which proofs, not of which keys
        claims["scope"] = " ".join(sorted(verified.identity.scopes))
        read["token"] = _without_secrets(claims, 0)
    wanted: dict[str, set[str] | None] = {}
    patterns: dict[str, Pattern] = {}
    hidden = {location.name.decode("ascii") for location in snapshot.service.credentials}
    subject = False
    for rule, pattern in found.rules:
        subject = subject or rule.asks_subject
        for program in rule.programs():
            for name, reads in program.footprint.items():
                if name in _PLAIN:
                    continue
                patterns.setdefault(name, pattern)
                known = wanted.setdefault(name, set())
                if reads is None:
                    wanted[name] = None
                elif known is not None:
                    known |= reads
    if subject:
        for name in ("subject.consents", "subject.segments"):
            wanted[name] = None
        profile = wanted.get("subject.profile", set())
        if profile is not None:
            wanted["subject.profile"] = profile.union(
                *(rule.require.profile for rule, _ in found.rules)
            )
    for name, keys in wanted.items():
        try:
            value = bindings.read(
                name, None if keys is None else frozenset(keys), patterns.get(name, ANY)
            )
        except (Unreadable, NotYet):
            continue
        if isinstance(value, Mapping):
            value = _without_secrets(value, 0, hidden)
            if keys is not None:  # which were asked for and not there is known too
                value |= {key: None for key in keys - value.keys() if not _secret(key, hidden)}
            if name == "token":
                value = {**value, **read.get("token", {})}
        elif isinstance(value, list):
            value = value[:MOST]
        read[name] = value
    return read


def _secret(name: str, hidden: set[str]) -> bool:
    return name in hidden or (SECRET.search(name) is not None and name not in _STANDARD)


_NOTHING_HIDDEN: Final[set[str]] = set()


def _without_secrets(value: Any, depth: int, hidden: set[str] = _NOTHING_HIDDEN) -> Any:
    """The value, bounded, less what by its name might be a credential."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Timestamp):  # as enrichers' answers have times
        return value.ToJsonString()
    if isinstance(value, Mapping):
        if depth >= DEEPEST:
            return None
        return {
            key: _without_secrets(item, depth + 1)
            for key, item in list(value.items())[:MOST]
            if not _secret(key, hidden)
        }
    if isinstance(value, list | tuple):
        if depth >= DEEPEST:
            return None
        return [_without_secrets(item, depth + 1) for item in value[:MOST]]
    return value
