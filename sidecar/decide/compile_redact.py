"""`then.redact` of a rule -> redactions, with every mistake in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sidecar.decide.documents import Document
from sidecar.decide.expressions import Program
from sidecar.decide.kinds.policy import Redact
from sidecar.decide.problems import report
from sidecar.decide.redact import Redaction
from sidecar.decide.snapshot import RedactRule
from sidecar.errors import Problem

if TYPE_CHECKING:
    from sidecar.decide.queries import Query


def compile_redact(
    document: Document,
    specs: Sequence[Redact],
    pointer: str,
    problems: list[Problem],
    expression: Callable[[str, str], Program | None],
) -> tuple[RedactRule, ...]:
    """What `specs` at `pointer` mean, in order.

    `expression(source, pointer)` compiles a boolean, or reports why not and gives None.
    """
    rules: list[RedactRule] = []
    for place, spec in enumerate(specs):
        at = f"{pointer}[{place}]"
        if bool(spec.drop) is bool(spec.keep):
            report(
                problems, document, at, "exactly one of drop and keep must be given",
                hint="write two entries: what any of them cuts is cut",
            )  # fmt: skip
        unless = expression(spec.unless, f"{at}.unless") if spec.unless is not None else None
        drop = _queries(document, spec.drop, f"{at}.drop", problems)
        keep = _queries(document, spec.keep, f"{at}.keep", problems)
        queries = drop or keep
        sources = tuple(query.source for query in queries)
        rules.append(RedactRule(Redaction(not drop, sources, queries), unless))
    return tuple(rules)


def _queries(
    document: Document, sources: Sequence[str], pointer: str, problems: list[Problem]
) -> tuple[Query, ...]:
    from sidecar.decide.queries import parse_query  # JSONPath: 5 MiB that few rules need

    found: list[Query] = []
    for place, source in enumerate(sources):
        try:
            found.append(parse_query(source))
        except ValueError as error:
            report(
                problems, document, f"{pointer}[{place}]", f"{source!r}: {error}",
                hint="JSONPath as in RFC 9535: $.ssn, $.accounts[*].iban, $..secret",
            )  # fmt: skip
    return tuple(found)
