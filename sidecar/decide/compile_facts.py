"""Segment and Enricher documents -> what a decision asks, and whether rules ask what there is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.decide.compile_credentials import check_address
from sidecar.decide.compile_introspection import compile_secret
from sidecar.decide.compile_rule import compile_workloads, expression
from sidecar.decide.documents import (
    PLATFORM,
    Document,
    Enricher,
    Segment,
    order_key,
    seconds,
    size,
)
from sidecar.decide.enrichment import CompiledEnricher
from sidecar.decide.expressions import Program
from sidecar.decide.introspection import Secret
from sidecar.decide.pace import pause
from sidecar.decide.problems import problem_at, report
from sidecar.decide.segments import CompiledSegment
from sidecar.errors import Problem

if TYPE_CHECKING:
    from sidecar.decide.compile_policy import RoutedRule

MAX_ANSWER: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HEADER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
# Headers that are the exchange's own.
_OURS: Final = frozenset(
    (
        "accept", "accept-encoding", "connection", "content-encoding", "content-length",
        "content-type", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade",
    )
)  # fmt: skip
_SEGMENTS: Final = frozenset(("subject.segments", "source.segments"))
_IN_PATH: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# What the credential alone settles, so that being in a segment lasts as long as it does.
_OF_THE_CALLER: Final = frozenset(
    (
        "token", "subject.id", "subject.anonymous", "source.spiffe", "source.namespace",
        "source.serviceAccount",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """By name."""

    segments: Mapping[str, CompiledSegment]
    enrichers: Mapping[str, CompiledEnricher]


def compile_facts(
    documents: Sequence[Document],
    policies: Iterable[tuple[Document, list[RoutedRule]]],
    problems: list[Problem],
) -> Facts:
    """All segments and enrichers; what is wrong with how `policies` use them is reported."""
    segments: dict[str, CompiledSegment] = {}
    enrichers: dict[str, CompiledEnricher] = {}
    first: dict[tuple[str, str], Document] = {}
    for document in sorted(documents, key=order_key):
        if not isinstance(document.spec, Segment | Enricher):
            continue
        known = first.setdefault((document.kind, document.name), document)
        if known is not document:
            report(
                problems, document, "metadata.name", f"{known.ref} already has this name",
                hint="rules name it without a namespace; choose another name",
            )  # fmt: skip
        elif isinstance(document.spec, Segment):
            segments[document.name] = compile_segment(document, document.spec, problems)
        else:
            enrichers[document.name] = compile_enricher(document, document.spec, problems)
    policies = list(policies)
    _check_uses(policies, enrichers, segments, problems)
    _check_reserved(policies, [first["Segment", name] for name in segments], problems)
    return Facts(segments, enrichers)


def compile_segment(document: Document, spec: Segment, problems: list[Problem]) -> CompiledSegment:
    when = None
    if not (spec.labels or spec.workloads or spec.namespaces or spec.when):
        report(
            problems, document, "spec", "everybody would be in it",
            hint="say labels, workloads, namespaces or when",
        )  # fmt: skip
    if spec.when is not None:
        when = expression(document, spec.when, "spec.when", "boolean", set(), problems)
        _only_of_the_caller(document, when, problems)
    of_workload = bool(spec.workloads or spec.namespaces) or (
        when is not None and any(name.startswith("source.") for name in when.footprint)
    )
    workloads = compile_workloads(document, spec.workloads, "spec.workloads", problems)
    return CompiledSegment(
        document.name, spec.labels, workloads, frozenset(spec.namespaces), when, of_workload
    )


def _only_of_the_caller(document: Document, when: Program | None, problems: list[Problem]) -> None:
    for name in sorted(set(when.footprint if when is not None else ()) - _OF_THE_CALLER):
        report(
            problems, document, "spec.when", f"{name} does not say who calls",
            hint="token, subject.id, subject.anonymous and source do; others belong into rules",
        )  # fmt: skip


def compile_enricher(
    document: Document, spec: Enricher, problems: list[Problem]
) -> CompiledEnricher:
    in_path = _IN_PATH.findall(spec.url)
    check_address(document, "spec.url", _IN_PATH.sub("x", spec.url), problems)
    authority = spec.url.partition("://")[2].partition("/")[0]
    if "{" in authority or "?" in spec.url:
        report(
            problems, document, "spec.url", "parameters stand in its path only, and no query",
            hint="what is not in the path is sent in the query (GET) or as JSON (POST)",
        )  # fmt: skip
    for name in in_path:
        if name not in spec.parameters:
            report(problems, document, "spec.url", f"{{{name}}} is not among the parameters")
    parameters: list[tuple[str, Program]] = []
    for name, source in spec.parameters.items():
        pointer = f"spec.parameters.{name}"
        if not _NAME.fullmatch(name):
            report(problems, document, pointer, f"{name!r} is not a parameter's name")
        program = expression(document, source, pointer, "text", None, problems)
        if program is not None:
            if "enriched" in program.footprint:
                report(problems, document, pointer, "an enricher cannot ask another one")
            parameters.append((name, program))
    for name in spec.type:
        if not _NAME.fullmatch(name):
            report(problems, document, f"spec.type.{name}", f"{name!r} is not a member's name")
    for place, name in enumerate(spec.optional):
        if name not in spec.type:
            report(problems, document, f"spec.optional[{place}]", f"{name!r} is not in type")
    bounds = (
        ("timeout", 0.01, 10, "10ms to 10s"),
        ("cache", 1, 3600, "1s to 1h"),
        ("stale_if_error", 0, 86400, "0s to 1d"),
    )
    for field, least, most, said in bounds:
        text = getattr(spec, field)
        if not least <= seconds(text) <= most:
            pointer = "staleIfError" if field == "stale_if_error" else field
            report(problems, document, f"spec.{pointer}", f"{text} is not from {said}")
    if not 1 <= size(spec.max_size) <= MAX_ANSWER:
        report(problems, document, "spec.maxSize", f"{spec.max_size} is not from 1B to 1MiB")
    headers: list[tuple[str, Secret]] = []
    for name, wanted in spec.headers.items():
        pointer = f"spec.headers.{name}"
        if not _HEADER.fullmatch(name) or name.lower() in _OURS:
            report(problems, document, pointer, f"{name!r} is not a header to be sent here")
        secret = compile_secret(document, pointer, wanted, problems, files_only=False)
        if any(name.lower() == other for other, _ in headers):
            report(problems, document, pointer, f"{name} is sent twice")
        headers.append((name.lower(), secret))
    ca = compile_secret(document, "spec.ca", spec.ca, problems, files_only=True)
    return CompiledEnricher(
        document.name, document.digest, spec.url, spec.method, tuple(parameters), tuple(headers),
        dict(spec.type), frozenset(spec.optional), seconds(spec.timeout), seconds(spec.cache),
        seconds(spec.stale_if_error), size(spec.max_size), ca,
    )  # fmt: skip


def _check_uses(
    policies: Iterable[tuple[Document, list[RoutedRule]]],
    enrichers: Mapping[str, CompiledEnricher],
    segments: Mapping[str, CompiledSegment],
    problems: list[Problem],
) -> None:
    for document, rules in policies:
        for place, routed in enumerate(rules):
            pause()
            pointer = f"spec.rules[{place}]"
            bound = set.intersection(
                *({name for name, _ in pattern.variables} for pattern in routed.patterns)
            )
            for program in routed.rule.programs():
                if "enriched" in program.footprint:
                    _check_enriched(document, pointer, program, bound, enrichers, problems)
            problems.extend(
                problem_at(
                    document, f"{pointer}.require.segments", f"there is no Segment {name!r}",
                    hint="only a subject's record can put a caller into it", warning=True,
                    code="unknown-segment",
                )
                for name in sorted(routed.rule.require.segments - segments.keys())
            )  # fmt: skip


def _check_reserved(
    policies: Sequence[tuple[Document, list[RoutedRule]]],
    segments: Sequence[Document],
    problems: list[Problem],
) -> None:
    """A team says nothing of who is in a segment that `platform` asks for: it could put anybody
    into one that only subjects' records should."""
    others = [segment for segment in segments if segment.namespace != PLATFORM]
    for document, rules in policies if others else ():
        if document.namespace != PLATFORM:
            continue
        for routed in rules:
            pause()
            sources = [
                program.source
                for program in routed.rule.programs()
                if not _SEGMENTS.isdisjoint(program.footprint)
            ]
            for segment in others:
                name = segment.name
                if name in routed.rule.require.segments or any(
                    f"'{name}'" in text or f'"{name}"' in text for text in sources
                ):
                    report(
                        problems, segment, "metadata.name",
                        f"{document.ref} asks who is in this segment, so only platform says it",
                        hint="choose another name",
                    )  # fmt: skip


def _check_enriched(
    document: Document,
    pointer: str,
    program: Program,
    bound: set[str],
    enrichers: Mapping[str, CompiledEnricher],
    problems: list[Problem],
) -> None:
    names = program.footprint["enriched"]
    for name in sorted(enrichers if names is None else names):
        enricher = enrichers.get(name)
        if enricher is None:
            report(
                problems, document, pointer, f"there is no Enricher {name!r}",
                hint=f"known: {', '.join(sorted(enrichers)) or 'none'}",
            )  # fmt: skip
            continue
        for member in sorted((program.members.get(name) or frozenset()) - enricher.fields.keys()):
            report(
                problems, document, pointer, f"enriched.{name}.{member} is not in its type",
                hint=f"known: {', '.join(enricher.fields)}",
            )  # fmt: skip
        for _, asked in enricher.parameters:
            params = asked.footprint.get("request.params", frozenset())
            for param in sorted((params or frozenset()) - bound):
                report(
                    problems, document, pointer,
                    f"enriched.{name} is asked with request.params.{param}, "
                    "which not all paths of this rule bind",
                )  # fmt: skip
