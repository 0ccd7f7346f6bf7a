"""A record of the decision log -> the request that it is of, as far as it says. Pure.

`edge.records` writes them. A record holds what the rules of its day read; what other rules read may
not be in it, and is then said to be lacking: what must be known at once (a claim, a header), and
what is looked at late and perhaps never (a subject, an answer, the body).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from msgspec import UNSET, UnsetType

from sidecar.decide.about import credential_matters, first_without_caller
from sidecar.decide.api_keys import ISSUER as API_KEYS
from sidecar.decide.disclosed import STANDARD
from sidecar.decide.logged import PLAIN, reads
from sidecar.decide.outcomes import Code, Identity, Permit, Refuse, Unavailable
from sidecar.decide.record import Input, Record, Verdict
from sidecar.decide.request import Unread, canonical_target
from sidecar.decide.routes import Candidates, Pattern
from sidecar.decide.scenario import JUNK, Scenario, ScenarioInvalid, decide
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.subjects import Subject, read_grant
from sidecar.decide.tokens import Rejected

NOT_RECORDED: Final = "not_recorded"
_REMEMBERED: Final = 4096  # sets of rules
_UNKNOWN: Final = Unavailable(NOT_RECORDED)
_UNREAD: Final = Rejected(NOT_RECORDED, "What came is not in the record.")
_NO_BODY: Final = Unread(503, NOT_RECORDED)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The request of a record. `lacking` is what must be known at once and is not in it, `late`
    what may have to be; `pattern` is that of the first rule that its path matches. `free`: the
    credential is not known, and only if this rule permits does that not matter."""

    scenario: Scenario
    lacking: tuple[str, ...]
    late: tuple[str, ...]
    pattern: str
    free: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """A record decided again: `verdict`, or None where `lacking` was needed for that."""

    verdict: Verdict | None
    lacking: tuple[str, ...]
    pattern: str


class _Needs:
    """What deciding by some rules takes."""

    __slots__ = ("at_once", "body", "credential", "enriched", "free", "pattern", "subject")

    def __init__(self, found: Candidates[CompiledRule], snapshot: Snapshot, shadows: bool) -> None:
        rules: list[tuple[CompiledRule, Pattern]] = [
            each for each in found.rules if shadows or not each[0].shadow
        ]
        wanted = reads([rule for rule, _ in rules], snapshot)
        self.credential = credential_matters(rules)
        first = first_without_caller([each for each in rules if not each[0].shadow])
        self.free = "" if first is None else first.ref
        """The rule that may permit whatever the credential is."""
        self.pattern = next((at.text for rule, at in rules if at.text != "/**"), "")
        self.body = wanted.pop("request.body", ())
        names = wanted.pop("enriched", ())
        self.enriched = tuple(sorted(snapshot.enrichers if names is None else names))
        self.subject = {
            name: wanted.pop(name) for name in list(wanted) if name.startswith("subject.")
            and name not in PLAIN
        }  # fmt: skip
        self.at_once = [(name, keys) for name, keys in sorted(wanted.items()) if name not in PLAIN]


class Recorded:
    """Decides records again with one snapshot. `shadows`: as if shadow policies were enforced."""

    def __init__(self, snapshot: Snapshot, *, shadows: bool = False) -> None:
        self._snapshot = snapshot
        self._shadows = shadows
        self._needs: dict[Candidates[CompiledRule], _Needs] = {}

    def again(self, record: Record) -> Again:
        """Raises BadRequest where no door lets such a request in."""
        rebuilt = self.rebuild(record)
        if rebuilt.lacking:
            return Again(None, rebuilt.lacking, rebuilt.pattern)
        try:
            outcome = decide(rebuilt.scenario, self._snapshot, shadows=self._shadows).outcome
        except ScenarioInvalid as error:
            return Again(None, (error.where,), rebuilt.pattern)
        if rebuilt.free and not (type(outcome) is Permit and outcome.rule == rebuilt.free):
            return Again(None, ("credential",), rebuilt.pattern)
        if type(outcome) is Refuse and outcome.reason == NOT_RECORDED:
            return Again(None, rebuilt.late, rebuilt.pattern)
        shadow = outcome.shadow
        if shadow is None or not self._shadows:
            return Again(verdict_of(outcome), (), rebuilt.pattern)
        if shadow.reason == NOT_RECORDED or shadow.outcome == "unknown":
            return Again(None, rebuilt.late or ("subject",), rebuilt.pattern)
        verdict = Verdict(shadow.outcome == "permit", shadow.rule, shadow.code, shadow.reason)
        return Again(verdict, (), rebuilt.pattern)

    def rebuild(self, record: Record) -> Rebuilt:
        """The request, as far as the record says. Raises BadRequest."""
        path, segments, _ = canonical_target(record.path.encode("utf-8", "surrogatepass"))
        found = self._snapshot.routes.candidates(record.method, record.host, path, segments)
        needs = self._needs.get(found)
        if needs is None:
            if len(self._needs) >= _REMEMBERED:
                self._needs.clear()
            needs = self._needs[found] = _Needs(found, self._snapshot, self._shadows)
        given = record.input if record.input is not None else _NO_INPUT
        lacking = _at_once(needs, given) if needs.at_once or needs.credential else ()
        late: list[str] = []
        valid = given.credential == "valid"
        subject: Subject | Unavailable = _NOBODY
        if needs.subject and valid:
            late += _of_subject(needs.subject, given)
            subject = _UNKNOWN if late else _subject(given)
        enriched: dict[str, Mapping[str, Any] | Unavailable] = {}
        for name in needs.enriched:
            answer = given.enriched.get(name)
            if answer is None or f"enriched.{name}" in given.partial:
                late.append(f"enriched.{name}")
            else:
                enriched[name] = answer
        body: bytes | Unread = b""
        if needs.body != ():
            short = _of_body(needs.body, given)
            late += short
            body = _NO_BODY if short else _body(given)
        return Rebuilt(
            _scenario(record, given, subject, enriched, body), tuple(lacking), tuple(late),
            needs.pattern or path_form(path),
            needs.free if needs.credential and _unread(given) else "",
        )  # fmt: skip


_NO_INPUT: Final = Input()
_NOBODY: Final = Subject()


def verdict_of(outcome: Permit | Refuse) -> Verdict:
    """An outcome in the words of a record."""
    if type(outcome) is Permit:
        return Verdict(True, outcome.rule)
    return Verdict(False, outcome.rule, outcome.code.value, outcome.reason)


def path_form(path: str) -> str:
    """A path that no rule knows, less what tells one resource from another."""
    first = path.split("/", 2)
    return f"/{first[1]}/..." if len(first) > 2 else path


def _scenario(
    record: Record,
    given: Input,
    subject: Subject | Unavailable,
    enriched: Mapping[str, Mapping[str, Any] | Unavailable],
    body: bytes | Unread,
) -> Scenario:
    headers = [(name, value) for name, value in given.headers.items() if value is not None]
    kind = given.content_type
    if type(kind) is str and kind and "content-type" not in given.headers:
        headers.append(("content-type", kind))
    if type(given.size) is int and given.size:
        chunked = given.size < 0
        headers.append(
            ("transfer-encoding", "chunked") if chunked else ("content-length", str(given.size))
        )
    target = record.path
    if given.query:
        pairs = {name: value for name, value in given.query.items() if value is not None}
        target += f"?{urlencode(pairs)}" if pairs else ""
    claims = identity = bad = None
    proof: tuple[str, ...] = ()
    api_key = ""
    if given.credential == "valid":
        issuer, subject_id = record.issuer, record.subject
        if given.identity is not None:
            issuer, subject_id = given.identity.issuer, given.identity.subject
        if given.api_key and issuer == API_KEYS:
            api_key = given.api_key
        else:
            identity = Identity(issuer, subject_id, frozenset(given.scopes))
            claims = _there("token", given.token, given)
            cnf = claims.get("cnf")
            if isinstance(cnf, dict):
                proof = tuple([kind for member, kind in _PROOFS if member in cnf])
    elif given.credential == "bad":
        bad = _rejected(record)
    elif given.credential != "none":
        bad = _UNREAD
    return Scenario(
        method=record.method,
        target=target,
        host=record.host,
        scheme=given.scheme or "https",
        address=record.address,
        headers=tuple(headers),
        body=body,
        claims=claims,
        identity=identity,
        bad=bad,
        api_key=api_key,
        workload="" if given.workload else record.source,
        proof=proof,
        cross_origin=given.cross_origin,
        subject=subject,
        enriched=enriched,
        otherwise=_UNKNOWN,
        now=record.decided,
    )


_PROOFS: Final = (("jkt", "dpop"), ("x5t#S256", "mtls"))


def _rejected(record: Record) -> Rejected:
    """Why the credential did not stand: it would not now, either."""
    try:
        return Rejected(record.reason, "", Code(record.code)) if record.code else JUNK
    except ValueError:
        return JUNK


def _at_once(needs: _Needs, given: Input) -> list[str]:
    """What must be known before anything can be decided, and is not there."""
    lacking: list[str] = []
    if needs.credential and not needs.free and _unread(given):
        lacking.append("credential")
    for name, keys in needs.at_once:
        if name == "token":
            if given.credential == "valid" and not given.api_key:
                lacking += _members(name, keys, given.token, given, STANDARD)
        elif name == "request.headers":
            lacking += _members(name, keys, given.headers, given)
        elif name == "request.query":
            lacking += _members(name, keys, given.query, given)
        elif name == "request.scheme":
            if not given.scheme:
                lacking.append(name)
        elif name == "request.size":
            if given.size is UNSET:
                lacking.append(name)
        elif name == "request.contentType" and given.content_type is UNSET and needs.body == ():
            lacking.append(name)  # of a body that is not known, the type is nothing to know
    return lacking


def _unread(given: Input) -> bool:
    """Whether there may have been a credential of which nothing is known."""
    return given.credential not in ("valid", "none", "bad")


def _members(
    name: str,
    keys: Iterable[str] | None,
    there: Mapping[str, Any],
    given: Input,
    known: tuple[str, ...] = (),
) -> list[str]:
    if name in given.whole:
        return []
    if keys is None:
        return [name]
    partial = given.partial
    lacking = []
    for key in sorted(keys):
        at = f"{name}.{key}"
        if name == "token" and key == "cnf":
            if "cnf" in there:  # only which proofs, not of which keys
                lacking.append(at)
        elif (key not in there and key not in known) or at in partial:
            lacking.append(at)
    return lacking


def _there(name: str, members: Mapping[str, Any], given: Input) -> dict[str, Any]:
    """The members that there were: a null that was not one stands for what was not there."""
    return {
        key: item
        for key, item in members.items()
        if item is not None or f"{name}.{key}" in given.nulls
    }


def _of_subject(wanted: Mapping[str, Iterable[str] | None], given: Input) -> list[str]:
    lacking: list[str] = []
    for name, keys in wanted.items():
        if name == "subject.profile":
            lacking += _members(name, keys, given.profile, given)
        else:
            value = getattr(given, name.partition(".")[2])
            if value is UNSET or name in given.partial:
                lacking.append(name)
    return lacking


def _subject(given: Input) -> Subject:
    return Subject(
        frozenset(_known(given.consents)),
        given.profile,
        frozenset(_known(given.segments)),
        given.risk if isinstance(given.risk, float) else 0.0,
        grants=tuple([each for text in _known(given.grants) if (each := read_grant(text))]),
    )


def _known(values: list[str] | UnsetType) -> list[str]:
    return values if isinstance(values, list) else []


def _of_body(keys: Iterable[str] | None, given: Input) -> list[str]:
    if given.body is UNSET:
        return ["request.body"]
    there = given.body if isinstance(given.body, dict) else {}
    return _members("request.body", keys, there, given)


def _body(given: Input) -> bytes:
    """The same value, as the same kind of text."""
    value = given.body
    if isinstance(value, dict):
        value = _there("request.body", value, given)
        if not value:
            return b""
        if given.content_type == "application/x-www-form-urlencoded":
            return urlencode(value).encode("ascii")
    return orjson.dumps(value)
