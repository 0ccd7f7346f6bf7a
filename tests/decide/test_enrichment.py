"""What an answer must be like, what CEL makes of it, and that records of it can be written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from sidecar.decide.compile_facts import compile_enricher
from sidecar.decide.disclosed import Shown
from sidecar.decide.documents import Enricher
from sidecar.decide.enrichment import MARK, CompiledEnricher, answer, key_of, mark_of
from sidecar.decide.expressions import compile_expression
from sidecar.decide.parse import Source, parse
from sidecar.errors import Problem

DOCUMENT = """
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: x}
spec:
  url: https://x.example/
  type: {t: text, n: number, i: integer, b: boolean, at: time, l: list, m: map}
  optional: [t, n, i, b, at, l, m]
  $MORE
"""


def compiled(more: str = "") -> tuple[CompiledEnricher, list[Problem]]:
    (document,), problems = parse([Source("t", DOCUMENT.replace("$MORE", more))])
    assert not problems
    assert isinstance(document.spec, Enricher)
    return compile_enricher(document, document.spec, problems), problems


def of(**members: Any) -> dict[str, Any]:
    return answer(compiled()[0], orjson.dumps(members))


def test_declared_members_and_no_others() -> None:
    assert of(t="x", i=1, b=False, l=[1, "a"], m={"a": 1}, other=7, n=None) == {
        "t": "x", "i": 1, "b": False, "l": [1, "a"], "m": {"a": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("t", 1), ("t", ["x"]), ("n", "1"), ("n", True), ("n", 2**53 + 1), ("i", 1.0),
        ("i", False), ("i", 2**63), ("b", 1), ("b", "true"), ("l", {}), ("l", [2**63]),
        ("m", []), ("m", {"a": {"b": 2**64}}), ("at", 1700000000), ("at", "2024-01-01"),
        ("at", "2024-01-01T10:00:00"), ("at", "soon"), ("at", "2024-13-01T10:00:00Z"),
        ("at", "0001-01-01T00:00:00+02:00"), ("at", "9999-12-31T23:59:59-02:00"),
    ],
)  # fmt: skip
def test_what_is_otherwise_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is no "):
        answer(compiled()[0], json.dumps({name: value}).encode())


@pytest.mark.parametrize("text", ["1e400", "-1e999"])
def test_a_number_is_finite(text: str) -> None:
    with pytest.raises(ValueError, match="n is no number"):
        answer(compiled()[0], f'{{"n": {text}}}'.encode())


@pytest.mark.parametrize(
    ("source", "members", "expected"),
    [
        # As written with a point or without one.
        ("enriched.x.n * 2.0", {"n": 3}, 6.0),
        ("enriched.x.n * 2.0", {"n": 3.0}, 6.0),
        ("enriched.x.n >= 3 && enriched.x.n < 3.5", {"n": 3}, True),
        ("enriched.x.i * 2", {"i": 3}, 6),
        (
            "enriched.x.at == timestamp('2024-01-01T10:00:00Z')",
            {"at": "2024-01-01T12:00:00+02:00"}, True,
        ),
        ("enriched.x.at < request.time", {"at": "2024-01-01T10:00:00.25Z"}, True),
        ("enriched.x.at.getFullYear()", {"at": "2024-01-01T10:00:00Z"}, 2024),
        ("request.time - enriched.x.at > duration('1h')", {"at": "2024-01-01T10:00:00Z"}, True),
        ("string(enriched.x.at)", {"at": "9999-12-31T23:59:59.999999Z"},
         "9999-12-31T23:59:59.999999Z"),
        ("'a' in enriched.x.l", {"l": ["a"]}, True),
        ("enriched.x.m.a.b", {"m": {"a": {"b": "c"}}}, "c"),
        ("enriched.x.?t.orValue('none')", {}, "none"),
    ],
)  # fmt: skip
def test_what_expressions_make_of_it(source: str, members: Any, expected: Any) -> None:
    program = compile_expression(source, "any")
    bound = program.activation(
        {"enriched": {"x": of(**members)}, "request.time": datetime(2025, 1, 1, tzinfo=UTC)}
    )
    assert program.value(bound) == expected


def test_records_of_it_can_be_written() -> None:
    found = {"x": of(at="2024-01-01T12:00:00+02:00", m={"a": 1})}
    assert orjson.dumps(Shown(found).value) == (b'{"x":{"at":"2024-01-01T10:00:00Z","m":{"a":1}}}')


def test_keys_tell_documents_values_and_their_types_apart() -> None:
    one, other = compiled()[0], compiled("cache: 31s")[0]
    keys = {
        key_of(one, ()), key_of(other, ()), key_of(one, (("a", "1"),)), key_of(one, (("a", 1),)),
        key_of(one, (("a", 1.0),)), key_of(one, (("a", True),)), key_of(one, (("a", "true"),)),
        key_of(one, (("b", "1"),)),
    }  # fmt: skip
    assert len(keys) == 8
    assert {key[:MARK] for key in keys} == {mark_of(one), mark_of(other)}


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Content-Type"])
def test_no_document_frames_the_exchange(name: str) -> None:
    _, problems = compiled(f"headers: {{{name}: {{fromFile: /run/secrets/x}}}}")
    assert "is not a header to be sent here" in str(problems[0])
