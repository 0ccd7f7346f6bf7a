"""An AccessPolicy -> rules ready for the route index, with every mistake in it.

What a rule means is worked out here, once: patterns, methods, typed expressions, headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from sidecar.decide.documents import AccessPolicy, Document, Require, Rule, Then
from sidecar.decide.expressions import ExpressionInvalid, Program, compile_expression
from sidecar.decide.nodes import TEXT
from sidecar.decide.parse import problem_at, report
from sidecar.decide.request import canonical_authority
from sidecar.decide.routes import ANY, Pattern, parse_pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.workloads import Workloads
from sidecar.errors import BadRequest, Problem

_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_NO_ISSUERS: Final[frozenset[str]] = frozenset()
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
# Headers that framing, routing or identity depend on: no rule may write them.
_RESERVED: Final = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
        "upgrade", "proxy-connection", "expect", "traceparent", "x-forwarded-for",
        "x-forwarded-proto", "x-forwarded-host", "forwarded",
    )
)  # fmt: skip
_CALLER: Final = ("token", "subject.", "source.")
# What the bytes of a request and its token settle; whatever else there is may change by itself.
_SETTLED: Final = frozenset(
    (
        "request.method", "request.path", "request.host", "request.scheme", "request.headers",
        "request.query", "request.params", "request.address", "request.size",
        "request.contentType", "token", "subject.id", "subject.anonymous", "source.spiffe",
        "source.namespace", "source.serviceAccount",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RoutedRule:
    """A compiled rule and the requests its `match` is about."""

    rule: CompiledRule
    patterns: tuple[Pattern, ...]
    methods: frozenset[str]
    hosts: tuple[str, ...]


def compile_policy(document: Document, problems: list[Problem]) -> list[RoutedRule]:
    """The rules of a policy, in order; none for documents of other kinds."""
    spec = document.spec
    if not isinstance(spec, AccessPolicy):
        return []
    names: set[str] = set()
    rules = []
    for place, rule in enumerate(spec.rules):
        pointer = f"spec.rules[{place}]"
        if rule.name in names:
            report(
                problems, document, f"{pointer}.name", f"a second rule is named {rule.name!r}",
                hint="names are how the decision log says which rule it was",
            )  # fmt: skip
        names.add(rule.name)
        rules.append(_compile_rule(document, rule, pointer, problems))
    return rules


def _compile_rule(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> RoutedRule:
    patterns = _patterns(document, rule, pointer, problems)
    methods = _methods(document, rule, pointer, problems)
    for place, host in enumerate(rule.match.hosts):
        if not _HOST.fullmatch(host) or not _is_canonical(host):
            report(
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
    require = rule.require
    requires = bool(require.scopes or require.issuers or require.proof or require.workloads)
    compiled = CompiledRule(
        ref=f"{document.namespace}/{document.name}/{rule.name}",
        effect=rule.effect,
        auth=rule.auth or "token",
        when=when,
        scopes=tuple(dict.fromkeys(rule.require.scopes)),
        issuers=frozenset(rule.require.issuers) if rule.require.issuers else _NO_ISSUERS,
        proof=tuple(dict.fromkeys(require.proof)),
        workloads=_workloads(document, rule, pointer, problems),
        set_headers=headers,
        reads_caller=requires
        or any(name.startswith(_CALLER) for program in reads for name in program.footprint),
        volatile=any(name not in _SETTLED for program in reads for name in program.footprint),
        requires=requires,
    )
    return RoutedRule(compiled, patterns, methods, tuple(rule.match.hosts))


def _workloads(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> Workloads | None:
    texts = rule.require.workloads
    for place, text in enumerate(texts):
        try:
            Workloads([text])
        except ValueError as error:
            report(
                problems, document, f"{pointer}.require.workloads[{place}]", f"{text!r}: {error}",
                hint="write spiffe://trust-domain/ns/pay/sa/billing, or spiffe://trust-domain/ns/pay/**",
            )  # fmt: skip
            return None
    return Workloads(texts) if texts else None


def _is_canonical(host: str) -> bool:
    """Whether a request's host could ever read so."""
    try:
        return canonical_authority(host.removeprefix("*.").encode())[1] == host.removeprefix("*.")
    except BadRequest:
        return False


def _patterns(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> tuple[Pattern, ...]:
    patterns: list[Pattern] = []
    for place, text in enumerate(rule.match.paths):
        try:
            patterns.append(parse_pattern(text))
        except ValueError as error:
            report(problems, document, f"{pointer}.match.paths[{place}]", str(error))
    return tuple(patterns) or (ANY,)


def _methods(
    document: Document, rule: Rule, pointer: str, problems: list[Problem]
) -> frozenset[str]:
    for place, method in enumerate(rule.match.methods):
        if not _METHOD.fullmatch(method):
            report(
                problems, document, f"{pointer}.match.methods[{place}]",
                f"{method!r} is not a method", hint="methods are upper case: GET, POST",
            )  # fmt: skip
        elif method in ("CONNECT", "TRACE"):
            report(
                problems, document, f"{pointer}.match.methods[{place}]",
                f"{method} is always refused, so no rule can match it",
            )  # fmt: skip
    return _with_head(tuple(rule.match.methods))


@lru_cache(maxsize=256)
def _with_head(methods: tuple[str, ...]) -> frozenset[str]:
    """GET includes HEAD. The same few sets serve thousands of rules."""
    return frozenset({*methods, "HEAD"} if "GET" in methods else methods)


def _check_effect(document: Document, rule: Rule, pointer: str, problems: list[Problem]) -> None:
    if rule.effect != "allow" and rule.auth is not None:
        report(
            problems, document, f"{pointer}.auth", f"a {rule.effect} rule has no auth",
            hint="who may call is said by allow rules; leave auth out here",
        )  # fmt: skip
    if rule.effect == "deny":
        for name, value, empty in (
            ("require", rule.require, Require()),
            ("then", rule.then, Then()),
        ):
            if value != empty:
                report(problems, document, f"{pointer}.{name}", f"a deny rule has no {name}")
    for place, scope in enumerate(rule.require.scopes):
        if not _SCOPE.fullmatch(scope):
            report(
                problems, document, f"{pointer}.require.scopes[{place}]",
                f"{scope!r} is not a scope, so no token can carry it",
                hint="several scopes are several entries; RFC 6749 section 3.3 admits no spaces",
            )  # fmt: skip
    if rule.auth == "none" and rule.require != Require():
        report(
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
            report(problems, document, place, f"{name!r} is not a header name")
        elif lower in _RESERVED or lower.startswith("x-sidecar-"):
            report(problems, document, place, f"{name} is not for rules to set")
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
            report(
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
