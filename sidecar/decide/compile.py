"""Documents -> Snapshot, or every mistake with file, line and column.

`validate` looks at all documents of a namespace together; `compile_snapshot` takes what one sidecar
sees of them (its namespace and `platform`, selected by its labels) and builds what it decides with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from sidecar.decide.credentials import Location
from sidecar.decide.documents import (
    PLATFORM,
    AccessPolicy,
    Document,
    ProtectedService,
    Require,
    Rule,
    Then,
    TokenIssuer,
    seconds,
    selects,
)
from sidecar.decide.expressions import ExpressionInvalid, Program, compile_expression
from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.parse import TEXT, problem_at
from sidecar.decide.routes import ANY, Pattern, Route, RouteIndex, parse_pattern
from sidecar.decide.snapshot import NO_SERVICE, CompiledRule, Service, Snapshot
from sidecar.decide.tokens import Issuer
from sidecar.errors import DocumentsInvalid, Problem

MAX_SKEW: Final = 600.0
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
# Headers that framing, routing or identity depend on: no rule may write them.
_RESERVED: Final = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
        "upgrade", "proxy-connection", "expect", "traceparent", "x-forwarded-for",
        "x-forwarded-proto", "x-forwarded-host", "forwarded",
    )
)  # fmt: skip
_CALLER: Final = ("token", "subject.", "source.")


@dataclass(frozen=True, slots=True)
class _CompiledPolicy:
    rules: tuple[tuple[CompiledRule, tuple[Pattern, ...], frozenset[str], tuple[str, ...]], ...]


def order_key(document: Document) -> tuple[bool, str, str]:
    """Order wherever order matters: `platform` first, then namespace and name."""
    return document.namespace != PLATFORM, document.namespace, document.name


def validate(documents: Sequence[Document]) -> list[Problem]:
    """Problems and warnings of one namespace's documents (with `platform`'s) as a whole."""
    problems: list[Problem] = []
    for document in documents:
        _check_alone(document, problems)
    issuers = [d for d in documents if isinstance(d.spec, TokenIssuer)]
    services = [d for d in documents if isinstance(d.spec, ProtectedService)]
    _check_issuers_unique(issuers, problems)
    _check_audiences(issuers, services, problems)
    _check_services(services, problems)
    return problems


def compile_snapshot(
    documents: Sequence[Document],
    *,
    namespace: str,
    labels: Mapping[str, str],
    version: str = "",
) -> Snapshot:
    """What a sidecar of `namespace` with `labels` decides with. Raises DocumentsInvalid."""
    seen = sorted(
        (
            document
            for document in documents
            if document.namespace in (PLATFORM, namespace) and selects(document.selector, labels)
        ),
        key=order_key,
    )
    problems: list[Problem] = []
    compiled = {document.ref: _compile_policy(document, problems) for document in seen}
    issuer_documents = [d for d in seen if isinstance(d.spec, TokenIssuer)]
    _check_issuers_unique(issuer_documents, problems)
    services = [d for d in seen if isinstance(d.spec, ProtectedService)]
    service = _service(services[0], problems) if services else NO_SERVICE
    audiences = _audiences(services)
    issuers = {
        issuer.issuer: issuer
        for document in issuer_documents
        if (issuer := _issuer(document, audiences, problems)) is not None
    }
    errors = [problem for problem in problems if not problem.warning]
    if errors:
        raise DocumentsInvalid(errors)
    routes: list[Route[CompiledRule]] = []
    for policy in compiled.values():
        for rule, patterns, methods, hosts in policy.rules:
            slash = rule.effect != "allow"
            routes.append(Route(len(routes), rule, patterns, methods, hosts, slash))
    digest = hashlib.sha256("\n".join(f"{d.ref} {d.digest}" for d in seen).encode())
    trust = hashlib.sha256(
        "\n".join(f"{d.ref} {d.digest}" for d in issuer_documents).encode()
        + b"|"
        + "\n".join(sorted(audiences)).encode()
    )
    return Snapshot(
        version=version or digest.hexdigest()[:12],
        namespace=namespace,
        labels=dict(labels),
        digest=digest.hexdigest(),
        trust=trust.digest()[:8],
        service=service,
        issuers=issuers,
        routes=RouteIndex.build(routes),
        rule_headers=frozenset(name for route in routes for name, _ in route.rule.set_headers),
        documents=len(seen),
        rules=len(routes),
    )


# One document.


def _check_alone(document: Document, problems: list[Problem]) -> None:
    match document.spec:
        case AccessPolicy():
            _compile_policy(document, problems)
        case TokenIssuer():
            _issuer(document, frozenset(), problems)
        case ProtectedService():
            _service(document, problems)


def _issuer(
    document: Document, audiences: frozenset[str], problems: list[Problem]
) -> Issuer | None:
    spec = document.spec
    assert isinstance(spec, TokenIssuer)  # noqa: S101
    before = len(problems)
    skew = seconds(spec.clock_skew)
    if skew > MAX_SKEW:
        _problem(problems, document, "spec.clockSkew", "more than 10m of clock skew")
    keys: KeySet | None = None
    uri: str | None = None
    source = spec.jwks
    if source is not None:
        given = [name for name in ("uri", "file", "inline") if getattr(source, name) is not None]
        if len(given) != 1:
            _problem(
                problems, document, "spec.jwks", "exactly one of uri, file and inline is expected"
            )
        elif source.file is not None:
            _problem(
                problems, document, "spec.jwks.file", "the file was not read",
                hint="files are read by the client that applies; send `inline` instead",
            )  # fmt: skip
        elif source.inline is not None:
            try:
                keys = parse_jwks(source.inline)
            except ValueError as error:
                _problem(problems, document, "spec.jwks.inline", str(error))
        else:
            uri = source.uri
            _check_address(document, "spec.jwks.uri", source.uri or "", problems)
    else:
        _check_address(
            document, "spec.issuer", spec.issuer, problems, why=" for discovery; or give `jwks`"
        )
    if len(problems) > before:
        return None
    return Issuer(
        name=f"{document.namespace}/{document.name}",
        issuer=spec.issuer,
        audiences=audiences or frozenset(spec.audiences),
        algorithms=frozenset(spec.algorithms),
        token_types=frozenset(
            kind.lower().removeprefix("application/") for kind in spec.token_types
        ),
        skew=skew,
        subject=spec.claims.subject,
        scopes=spec.claims.scopes,
        keys=keys,
        jwks_uri=uri,
    )


def _check_address(
    document: Document, pointer: str, address: str, problems: list[Problem], why: str = ""
) -> None:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or port == 0 or parts.username is not None or parts.fragment:
        _problem(problems, document, pointer, f"{address!r} is not an https address{why}")
    elif parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        _problem(
            problems, document, pointer, f"an https address is expected{why}",
            hint="http is admitted on loopback only: keys fetched over it can be forged on the way",
        )  # fmt: skip


def _service(document: Document, problems: list[Problem]) -> Service:
    spec = document.spec
    assert isinstance(spec, ProtectedService)  # noqa: S101
    locations: list[Location] = []
    for place, location in enumerate(spec.credentials):
        pointer = f"spec.credentials[{place}]"
        if (location.header is None) == (location.cookie is None):
            _problem(problems, document, pointer, "exactly one of header and cookie is expected")
        elif location.header is not None:
            if not _HEADER.fullmatch(location.header) or location.header.lower() == "cookie":
                _problem(problems, document, pointer, f"{location.header!r} cannot be used here")
            locations.append(Location(location.header.lower().encode("ascii", "replace")))
        elif location.cookie is not None:
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+", location.cookie):
                _problem(problems, document, pointer, f"{location.cookie!r} is not a cookie name")
            locations.append(Location(location.cookie.encode("ascii", "replace"), cookie=True))
    return Service(name=document.name, observe=spec.mode == "observe", credentials=tuple(locations))


def _compile_policy(document: Document, problems: list[Problem]) -> _CompiledPolicy:
    spec = document.spec
    if not isinstance(spec, AccessPolicy):
        return _CompiledPolicy(())
    names: set[str] = set()
    rules = []
    for place, rule in enumerate(spec.rules):
        pointer = f"spec.rules[{place}]"
        if rule.name in names:
            _problem(
                problems, document, f"{pointer}.name", f"a second rule is named {rule.name!r}",
                hint="names are how the decision log says which rule it was",
            )  # fmt: skip
        names.add(rule.name)
        rules.append(_compile_rule(document, rule, pointer, problems))
    return _CompiledPolicy(tuple(rules))


def _compile_rule(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> tuple[CompiledRule, tuple[Pattern, ...], frozenset[str], tuple[str, ...]]:
    patterns = _patterns(document, rule, pointer, problems)
    methods = _methods(document, rule, pointer, problems)
    for place, host in enumerate(rule.match.hosts):
        if not _HOST.fullmatch(host):
            _problem(
                problems, document, f"{pointer}.match.hosts[{place}]", f"{host!r} is not a host",
                hint="lower case, without port; *.example.com is any host below example.com",
            )  # fmt: skip
    _check_effect(document, rule, pointer, problems)
    bound = set.intersection(*({name for name, _ in p.variables} for p in patterns))
    when = None
    if rule.when is not None:
        when = _expression(document, rule.when, f"{pointer}.when", "boolean", bound, problems)
        if when is not None and rule.effect != "allow":
            _warn_unguarded(document, when, f"{pointer}.when", rule.effect, problems)
    headers = _set_headers(document, rule, pointer, bound, problems)
    reads = [program for program in (when, *(program for _, program in headers)) if program]
    compiled = CompiledRule(
        ref=f"{document.namespace}/{document.name}/{rule.name}",
        effect=rule.effect,
        auth=rule.auth or "token",
        when=when,
        scopes=tuple(dict.fromkeys(rule.require.scopes)),
        issuers=frozenset(rule.require.issuers),
        set_headers=headers,
        reads_caller=bool(rule.require.scopes or rule.require.issuers)
        or any(name.startswith(_CALLER) for program in reads for name in program.footprint),
    )
    return compiled, patterns, methods, tuple(rule.match.hosts)


def _patterns(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> tuple[Pattern, ...]:
    patterns: list[Pattern] = []
    for place, text in enumerate(rule.match.paths):
        try:
            patterns.append(parse_pattern(text))
        except ValueError as error:
            _problem(problems, document, f"{pointer}.match.paths[{place}]", str(error))
    return tuple(patterns) or (ANY,)


def _methods(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> frozenset[str]:
    for place, method in enumerate(rule.match.methods):
        if not _METHOD.fullmatch(method):
            _problem(
                problems, document, f"{pointer}.match.methods[{place}]",
                f"{method!r} is not a method", hint="methods are upper case: GET, POST",
            )  # fmt: skip
        elif method in ("CONNECT", "TRACE"):
            _problem(
                problems, document, f"{pointer}.match.methods[{place}]",
                f"{method} is always refused, so no rule can match it",
            )  # fmt: skip
    methods = set(rule.match.methods)
    return frozenset(methods | {"HEAD"} if "GET" in methods else methods)


def _check_effect(document: Document, rule: Rule, pointer: str, problems: list[Problem]) -> None:
    if rule.effect != "allow" and rule.auth is not None:
        _problem(
            problems, document, f"{pointer}.auth", f"a {rule.effect} rule has no auth",
            hint="who may call is said by allow rules; leave auth out here",
        )  # fmt: skip
    if rule.effect == "deny":
        for name, value, empty in (
            ("require", rule.require, Require()),
            ("then", rule.then, Then()),
        ):
            if value != empty:
                _problem(problems, document, f"{pointer}.{name}", f"a deny rule has no {name}")
    if rule.auth == "none" and rule.require != Require():
        _problem(
            problems, document, f"{pointer}.require", "with auth: none nothing can be required",
            hint="no credential is looked at; use auth: optional or token, or a guard",
        )  # fmt: skip


def _set_headers(
    document: Document, rule: Rule, pointer: str, bound: set[str], problems: list[Problem]
) -> tuple[tuple[str, Program], ...]:
    headers: list[tuple[str, Program]] = []
    for name, source in rule.then.set_headers.items():
        place = f"{pointer}.then.setHeaders.{name}"
        lower = name.lower()
        if not _HEADER.fullmatch(name):
            _problem(problems, document, place, f"{name!r} is not a header name")
        elif lower in _RESERVED or lower.startswith("x-sidecar-"):
            _problem(problems, document, place, f"{name} is not for rules to set")
        program = _expression(document, source, place, "text", bound, problems)
        if program is not None:
            headers.append((lower, program))
    return tuple(headers)


def _expression(
    document: Document,
    source: str,
    pointer: str,
    kind: str,
    bound: set[str],
    problems: list[Problem],
) -> Program | None:
    try:
        program = compile_expression(source, "boolean" if kind == "boolean" else "text")
    except ExpressionInvalid as error:
        problems.append(_expression_problem(document, pointer, error))
        return None
    params = program.footprint.get("request.params", frozenset())
    for name in sorted(params or ()):
        if name not in bound:
            _problem(
                problems, document, pointer, f"request.params.{name} is not bound by all paths",
                hint=f"write {{{name}}} in every path of this rule's match",
            )  # fmt: skip
    return program


def _expression_problem(document: Document, pointer: str, error: ExpressionInvalid) -> Problem:
    """The place inside the expression, counted from where its text begins."""
    found = problem_at(document, pointer, error.message)
    line, column = document.marks.get(pointer + TEXT, (found.line, found.column))
    if not line:
        return found
    if error.line > 1:
        return replace(found, line=line + error.line - 1, column=error.column)
    return replace(found, line=line, column=column + error.column - 1)


def _warn_unguarded(
    document: Document, program: Program, pointer: str, effect: str, problems: list[Problem]
) -> None:
    reads = program.footprint.get("token") or frozenset()
    guarded = program.guarded.get("token") or frozenset()
    does = "fires" if effect == "deny" else "is selected"
    problems.extend(
        problem_at(
            document,
            pointer,
            f"token.{name} is read unguarded: without that claim the {effect} {does}",
            hint=f"token.?{name}.orValue('') or has(token.{name}) if that is not meant",
            warning=True,
        )
        for name in sorted(reads - guarded)
    )


# Documents together.


def _audiences(services: Sequence[Document]) -> frozenset[str]:
    if not services:
        return frozenset()
    spec = services[0].spec
    assert isinstance(spec, ProtectedService)  # noqa: S101
    return frozenset(spec.audiences)


def _check_issuers_unique(issuers: Iterable[Document], problems: list[Problem]) -> None:
    first: dict[str, Document] = {}
    for document in sorted(issuers, key=order_key):
        spec = document.spec
        assert isinstance(spec, TokenIssuer)  # noqa: S101
        other = first.setdefault(spec.issuer, document)
        if other is not document:
            _problem(
                problems, document, "spec.issuer",
                f"{other.ref} already stands for the issuer {spec.issuer}",
                hint="one TokenIssuer for each `iss` that a sidecar sees",
            )  # fmt: skip


def _check_audiences(
    issuers: Sequence[Document], services: Sequence[Document], problems: list[Problem]
) -> None:
    lacking = [d for d in services if isinstance(d.spec, ProtectedService) and not d.spec.audiences]
    if services and not lacking:
        return
    for document in issuers:
        if isinstance(document.spec, TokenIssuer) and not document.spec.audiences:
            who = f"{lacking[0].ref} names none either" if lacking else "no service names any"
            _problem(
                problems, document, "spec", f"no audience: {who}",
                hint="a token must name an audience; set audiences here or on the service",
            )  # fmt: skip


def _check_services(services: Sequence[Document], problems: list[Problem]) -> None:
    ordered = sorted(services, key=order_key)
    for place, document in enumerate(ordered):
        for earlier in ordered[:place]:
            if _overlap(earlier.selector, document.selector):
                problems.append(
                    problem_at(
                        document,
                        "spec.selector",
                        f"{earlier.ref} comes first for sidecars that both select",
                        hint="make the selectors disjoint",
                        warning=True,
                    )
                )
                break


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(other.get(key, value) == value for key, value in one.items())


def _problem(
    problems: list[Problem], document: Document, pointer: str, message: str, *, hint: str = ""
) -> None:
    problems.append(problem_at(document, pointer, message, hint=hint))
