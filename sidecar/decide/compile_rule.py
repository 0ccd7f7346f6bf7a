"""The parts of a rule -> what a decision does with them, with every mistake in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from sidecar.decide.documents import Bound, Document, Limit, Require, StepUp, seconds
from sidecar.decide.expressions import ExpressionInvalid, Program, compile_expression
from sidecar.decide.nodes import TEXT
from sidecar.decide.pace import pause
from sidecar.decide.problems import problem_at, report
from sidecar.decide.rates import Rate
from sidecar.decide.snapshot import CompiledLimit, Requirements, Transaction
from sidecar.decide.step_up import StepUp as CompiledStepUp
from sidecar.decide.workloads import Workloads
from sidecar.errors import Problem

_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
SCOPE: Final = re.compile(r"[!#-\[\]-~]+")
_VALUE: Final = re.compile(
    r"[!#-\[\]-~]+"
)  # of acr_values: RFC 9470 puts them in quotes, by spaces
# Headers that framing, routing or identity depend on: no rule may write them.
_RESERVED: Final = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
        "upgrade", "proxy-connection", "expect", "traceparent", "x-forwarded-for",
        "x-forwarded-proto", "x-forwarded-host", "forwarded",
    )
)  # fmt: skip
_RESERVED_LATE: Final = frozenset(
    (
        "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer",
        "upgrade", "proxy-connection", "content-encoding", "content-range", "date",
        "www-authenticate", "dpop-nonce", "ratelimit", "ratelimit-policy",
    )
)  # fmt: skip
# What people see a bound value as: the last part of its name.
_LAST: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\Z")
Kind = Literal["boolean", "text", "any"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rule stands: its document, the parameters that all its paths bind, the mistakes."""

    document: Document
    bound: set[str]
    problems: list[Problem]

    def report(self, pointer: str, message: str, hint: str = "") -> None:
        report(self.problems, self.document, pointer, message, hint=hint)

    def expression(self, source: str, pointer: str, kind: Kind) -> Program | None:
        """The program; None, and reported, if it is none or reads a parameter that is not bound."""
        return expression(self.document, source, pointer, kind, self.bound, self.problems)


def expression(
    document: Document,
    source: str,
    pointer: str,
    kind: Kind,
    bound: set[str] | None,
    problems: list[Problem],
) -> Program | None:
    """A compiled expression; None, and reported, where it is none. `bound` None: any parameter may
    be read."""
    pause()
    try:
        program = compile_expression(source, kind)
    except ExpressionInvalid as error:
        problems.append(_expression_problem(document, pointer, error))
        return None
    params = program.footprint.get("request.params", frozenset())
    for name in sorted(params or ()):
        if bound is not None and name not in bound:
            report(
                problems, document, pointer, f"request.params.{name} is not bound by all paths",
                hint=f"write {{{name}}} in every path of this rule's match",
            )  # fmt: skip
    return program


def _expression_problem(document: Document, pointer: str, error: ExpressionInvalid) -> Problem:
    """The place inside the expression, counted from where its text begins."""
    found = problem_at(document, pointer, error.message, hint=error.hint)
    line, column = document.marks.get(pointer + TEXT, (found.line, found.column))
    if not line:
        return found
    if error.line > 1:
        return replace(found, line=line + error.line - 1, column=error.column)
    return replace(found, line=line, column=column + error.column - 1)


def compile_require(require: Require, pointer: str, here: Place) -> Requirements:
    document, problems = here.document, here.problems
    for place, scope in enumerate(require.scopes):
        if not SCOPE.fullmatch(scope):
            report(
                problems, document, f"{pointer}.scopes[{place}]",
                f"{scope!r} is not a scope, so no token can carry it",
                hint="several scopes are several entries; RFC 6749 section 3.3 admits no spaces",
            )  # fmt: skip
    step_up = None
    if require.step_up is not None:
        step_up = _step_up(document, require.step_up, f"{pointer}.stepUp", problems)
    return Requirements(
        scopes=tuple(dict.fromkeys(require.scopes)),
        issuers=frozenset(require.issuers),
        audiences=frozenset(require.audiences),
        step_up=step_up,
        proof=tuple(dict.fromkeys(require.proof)),
        consent=tuple(dict.fromkeys([each for each in require.consent if isinstance(each, str)])),
        transactions=_transactions(require, f"{pointer}.consent", here),
        profile=tuple(dict.fromkeys(require.profile)),
        segments=frozenset(require.segments),
        workloads=compile_workloads(document, require.workloads, f"{pointer}.workloads", problems),
    )


def _transactions(require: Require, pointer: str, here: Place) -> tuple[Transaction, ...]:
    found: list[Transaction] = []
    for place, each in enumerate(require.consent):
        if not isinstance(each, Bound):
            continue
        parts: dict[str, Program] = {}
        for number, source in enumerate(each.bind):
            at = f"{pointer}[{place}].bind[{number}]"
            program = here.expression(source, at, "any")
            named = _LAST.search(source)
            name = named.group(1) if named is not None else source
            if name in parts:
                here.report(at, f"{name} is bound twice: people could not tell which is which")
            if program is not None:
                parts[name] = program
        if any(each.purpose == earlier.purpose for earlier in found):
            here.report(f"{pointer}[{place}]", f"{each.purpose} is bound twice in one rule")
        found.append(Transaction(each.purpose, tuple(parts.items())))
    return tuple(found)


def _step_up(
    document: Document, spec: StepUp, pointer: str, problems: list[Problem]
) -> CompiledStepUp:
    if not spec.acr and not spec.amr and spec.max_age is None:
        report(
            problems, document, pointer, "asks for nothing",
            hint="say acr, amr or maxAge, or leave stepUp out",
        )  # fmt: skip
    for field in ("acr", "amr"):
        for place, value in enumerate(getattr(spec, field)):
            if not _VALUE.fullmatch(value):
                report(
                    problems, document, f"{pointer}.{field}[{place}]",
                    f"{value!r} is not an {field} value", hint="several values are several entries",
                )  # fmt: skip
    max_age = None if spec.max_age is None else seconds(spec.max_age)
    return CompiledStepUp(tuple(dict.fromkeys(spec.acr)), tuple(dict.fromkeys(spec.amr)), max_age)


def compile_workloads(
    document: Document, texts: list[str], pointer: str, problems: list[Problem]
) -> Workloads | None:
    for place, text in enumerate(texts):
        try:
            Workloads([text])
        except ValueError as error:
            report(
                problems, document, f"{pointer}[{place}]", f"{text!r}: {error}",
                hint="write spiffe://trust-domain/ns/pay/sa/billing, or spiffe://trust-domain/ns/pay/**",
            )  # fmt: skip
            return None
    return Workloads(texts) if texts else None


def compile_headers(
    headers: dict[str, str], pointer: str, place: Place, *, response: bool = False
) -> tuple[tuple[str, Program], ...]:
    """Names, lower case, with the programs that give their values."""
    found: dict[str, Program] = {}
    for name, source in headers.items():
        at = f"{pointer}.{name}"
        lower = _header_name(name, at, place, response)
        if lower in found:
            place.report(at, f"{name} is set twice")
        program = place.expression(source, at, "text")
        if program is not None:
            found[lower] = program
    return tuple(found.items())


def compile_names(
    names: list[str], pointer: str, place: Place, *, response: bool = False
) -> tuple[str, ...]:
    """Names of headers that are taken away, lower case."""
    return tuple(
        [
            _header_name(name, f"{pointer}[{number}]", place, response)
            for number, name in enumerate(names)
        ]
    )


def _header_name(name: str, pointer: str, place: Place, response: bool) -> str:
    lower = name.lower()
    reserved = _RESERVED_LATE if response else _RESERVED
    if not _HEADER.fullmatch(name):
        place.report(pointer, f"{name!r} is not a header name")
    elif lower in reserved or lower.startswith("x-sidecar-"):
        place.report(pointer, f"{name} is not for rules to set or remove")
    elif response and lower.startswith("access-control-"):
        place.report(pointer, f"{name} is said by cors of the ProtectedService")
    return lower


def compile_limit(limit: Limit | None, pointer: str, place: Place) -> CompiledLimit | None:
    if limit is None:
        return None
    per = None
    if limit.per is not None:
        per = place.expression(limit.per, f"{pointer}.per", "any")
    return CompiledLimit(Rate.bucket(limit.rate, limit.burst), per)
