"""An AccessPolicy -> rules ready for the route index, with every mistake in it.

What a rule means is worked out here, once: patterns, methods, typed expressions, headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Final

from sidecar.decide.compile_redact import compile_redact
from sidecar.decide.compile_rule import (
    Place,
    compile_headers,
    compile_limit,
    compile_names,
    compile_require,
)
from sidecar.decide.documents import (
    AccessPolicy,
    Document,
    Require,
    Rule,
    SubjectTerms,
    Then,
    seconds,
)
from sidecar.decide.pace import pause
from sidecar.decide.problems import report
from sidecar.decide.request import canonical_authority
from sidecar.decide.routes import ANY, Pattern, parse_pattern
from sidecar.decide.snapshot import CompiledRule, RedactRule, Requirements
from sidecar.errors import BadRequest, Problem

_METHOD: Final = re.compile(r"[A-Z][A-Z0-9-]{0,31}")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
# Whatever of it is fetched may depend on the caller too.
_CALLER: Final = ("token", "subject.", "source.", "enriched")
# What has to be fetched beyond the request and its token.
_FACTS: Final = frozenset(
    (
        "subject.consents", "subject.profile", "subject.segments", "subject.risk", "enriched",
        "request.body",
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
    """The rules of a policy, in order; none for documents of other kinds. Done once for a document:
    it depends on nothing else."""
    if not isinstance(document.spec, AccessPolicy):
        return []
    known: tuple[list[RoutedRule], list[Problem]] | None = document.memo.get("policy")
    if known is None:
        found: list[Problem] = []
        known = document.memo["policy"] = (_compile_policy(document, document.spec, found), found)
    problems.extend(known[1])
    return known[0]


def redacting(namespace: str, redact: tuple[RedactRule, ...]) -> RoutedRule:
    """A guard of our own making that cuts this out of every response."""
    rule = CompiledRule(
        f"{namespace}/profile-attributes/responses", "guard", "token", None, Requirements(),
        (), (), (), (), redact, None, True, False, False, False, False, True, True, inf, cuts=True,
    )  # fmt: skip
    return RoutedRule(rule, (ANY,), frozenset(), ())


def keep_compiled(before: Document, after: Document) -> None:
    """`after` says the same as `before`: what that came to stays, unless there is something to say
    of it, which would name another line."""
    known = before.memo.get("policy")
    if known is None or not known[1]:
        after.memo.update(before.memo)


def _compile_policy(
    document: Document, spec: AccessPolicy, problems: list[Problem]
) -> list[RoutedRule]:
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
        pause()
        rules.append(_compile_rule(document, rule, pointer, spec.mode == "shadow", problems))
    return rules


def _compile_rule(
    document: Document, rule: Rule, pointer: str, shadow: bool, problems: list[Problem]
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
    here = Place(document, bound, problems)
    when = None
    if rule.when is not None:
        when = here.expression(rule.when, f"{pointer}.when", "boolean")
    require = compile_require(rule.require, f"{pointer}.require", here)
    then = f"{pointer}.then"
    compiled = CompiledRule(
        ref=f"{document.namespace}/{document.name}/{rule.name}",
        effect=rule.effect,
        auth=rule.auth or "token",
        when=when,
        require=require,
        set_headers=compile_headers(rule.then.set_headers, f"{then}.setHeaders", here),
        remove_headers=compile_names(rule.then.remove_headers, f"{then}.removeHeaders", here),
        set_response_headers=compile_headers(
            rule.then.set_response_headers, f"{then}.setResponseHeaders", here, response=True
        ),
        remove_response_headers=compile_names(
            rule.then.remove_response_headers, f"{then}.removeResponseHeaders", here, response=True
        ),
        redact=compile_redact(
            document, rule.then.redact, f"{then}.redact", problems,
            lambda source, at: here.expression(source, at, "boolean"),
        ),
        limit=compile_limit(rule.limit, f"{pointer}.limit", here),
        offer=rule.offer,
        shadow=shadow,
        late=when is not None and not _FACTS.isdisjoint(when.footprint),
        asks_token=bool(
            require.scopes or require.issuers or require.audiences or require.proof
            or require.workloads or require.step_up or require.consent or require.transactions
            or require.profile
        ),
        asks_subject=bool(
            require.consent or require.transactions or require.profile or require.segments
        ),
        reads_caller=False,
        obliges=rule.then != Then() or rule.limit is not None,
        stale=_stale(document, rule, pointer, problems),
        visitor=rule.subject.visitor,
        cuts=rule.subject.cut_if_error,
    )  # fmt: skip
    reads_caller = (
        compiled.asks_token
        or compiled.asks_subject
        or any(
            name.startswith(_CALLER)
            for program in compiled.programs()
            for name in program.footprint
        )
    )
    compiled = replace(compiled, reads_caller=reads_caller)
    return RoutedRule(compiled, patterns, methods, tuple(rule.match.hosts))


def _stale(document: Document, rule: Rule, pointer: str, problems: list[Problem]) -> float:
    terms = rule.subject
    if terms.visitor and (rule.effect != "allow" or rule.auth not in ("optional", "none")):
        report(
            problems, document, f"{pointer}.subject.visitor", "admits no anonymous caller",
            hint="for allow rules with auth: optional or none",
        )  # fmt: skip
    stale = seconds(terms.stale_if_error)
    if stale > 86_400:
        report(
            problems, document, f"{pointer}.subject.staleIfError",
            f"{terms.stale_if_error} is more than 1d",
        )  # fmt: skip
    return stale


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
            report(
                problems, document, f"{pointer}.match.paths[{place}]", str(error),
                hint="" if text.startswith("/") else f"write /{text}",
            )  # fmt: skip
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
            ("limit", rule.limit, None),
            ("subject", rule.subject, SubjectTerms()),
        ):
            if value != empty:
                report(problems, document, f"{pointer}.{name}", f"a deny rule has no {name}")
    if rule.effect != "allow" and not rule.offer:
        report(
            problems, document, f"{pointer}.offer", f"a {rule.effect} rule is no way in",
            hint="offer belongs on allow rules; leave it out here",
        )  # fmt: skip
    if rule.auth == "none" and rule.require != Require():
        report(
            problems, document, f"{pointer}.require", "with auth: none nothing can be required",
            hint="no credential is looked at; use auth: optional or token, or a guard",
        )  # fmt: skip
