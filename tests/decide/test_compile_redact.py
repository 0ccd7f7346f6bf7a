from __future__ import annotations

from typing import Any

from sidecar.decide.compile_redact import compile_redact
from sidecar.decide.documents import AccessPolicy, Document
from sidecar.decide.expressions import Program, compile_expression
from sidecar.decide.parse import Source, parse
from sidecar.decide.redact import parse_redaction
from sidecar.errors import Problem

POLICY = """apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: accounts}
spec:
  rules:
  - name: read
    then:
      redact:
"""
POINTER = "spec.rules[0].then.redact"


def compiled(*entries: str) -> tuple[Any, list[Problem], list[str]]:
    text = POLICY + "".join(f"      - {entry}\n" for entry in entries)
    [document], problems = parse([Source("p.yaml", text)])
    assert not problems
    places: list[str] = []

    def expression(source: str, pointer: str) -> Program | None:
        places.append(pointer)
        return compile_expression(source, "boolean") if source != "bad" else None

    return (
        compile_redact(document, specs(document), POINTER, problems, expression),
        problems,
        places,
    )


def specs(document: Document) -> Any:
    assert isinstance(document.spec, AccessPolicy)
    return document.spec.rules[0].then.redact


def test_what_is_written_is_what_is_cut() -> None:
    rules, problems, places = compiled(
        "{drop: [$.ssn, $..pin], unless: \"'kyc' in token.groups\"}", "{keep: [$.name, $.tier]}"
    )
    assert not problems
    assert [rule.redaction for rule in rules] == [
        parse_redaction(drop=["$.ssn", "$..pin"]),
        parse_redaction(keep=["$.name", "$.tier"]),
    ]
    assert rules[0].unless is not None
    assert rules[1].unless is None
    assert places == [f"{POINTER}[0].unless"]


def test_every_mistake_is_reported_where_it_is() -> None:
    _, problems, _ = compiled(
        "{drop: [$.a, b, '$[?@]'], unless: bad}", "{}", "{drop: [$.a], keep: [$.b, '$..']}"
    )
    assert [(each.pointer, each.line) for each in problems] == [
        (f"{POINTER}[0].drop[1]", 9),
        (f"{POINTER}[0].drop[2]", 9),
        (f"{POINTER}[1]", 10),
        (f"{POINTER}[2]", 11),
        (f"{POINTER}[2].keep[1]", 11),
    ]
    assert problems[0].message.startswith("'b': ")
    assert "RFC 9535" in problems[0].hint
