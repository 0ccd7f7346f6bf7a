"""Mistakes that YAML and CEL invite: each at its place, with a hint that shows the line mended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.lint import review
from sidecar.decide.parse import Source, parse
from sidecar.decide.yaml_traps import as_text, quoted, trap
from sidecar.errors import Problem

HEAD = "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"


def problems(rules: str) -> list[Problem]:
    found, mistakes = parse([Source("f.yaml", HEAD + rules)])
    return mistakes or review(found)


def when(text: str) -> str:
    return f"  - name: a\n    when: {text}\n"


YAML = "not valid YAML"

TRAPS = [
    # quotes that do not hold the whole
    (when("'a' in token.x"), "7:11", YAML, """quote the whole value: when: "'a' in token.x\""""),
    (when('"a" in token.x'), "7:11", YAML, """when: '"a" in token.x'"""),
    (when("'a' == \"b\""), "7:11", YAML, """when: "'a' == \\"b\\"\""""),
    ("  - {name: a, when: 'a' in token.x}\n", "6:21", YAML, """when: "'a' in token.x\""""),
    ("  - {name: a, when: 'a' in f(x, y), auth: none}\n", "6:21", YAML, """when: "'a' in f(x, y)\""""),
    ("  - name: a\n    then: {setHeaders: {x-a: 'a' + token.x}}\n", "7:30", YAML, """x-a: "'a' + token.x\""""),
    ("  - name: 'a\n    when: x\n", "6:11", YAML, "the quote that begins here is never closed"),
    # what YAML reads as its own
    (when("!token.x"), "7:11", "expected text, found a !token.x", 'quote it: when: "!token.x"'),
    (when("!has(token.x) && token.y"), "7:11", YAML, 'when: "!has(token.x) && token.y"'),
    ("  - {name: a, when: !token.x}\n", "6:21", YAML, 'when: "!token.x"'),
    (when("{a: b}"), "7:11", "expected text, found a mapping", 'quote it: when: "{a: b}"'),
    (when("[1, 2]"), "7:11", "expected text, found a list", 'quote it: when: "[1, 2]"'),
    (when("[1] == token.x"), "7:11", YAML, 'when: "[1] == token.x"'),
    (when("@x"), "7:11", YAML, 'when: "@x"'),
    (when("- x"), "7:11", YAML, 'when: "- x"'),
    (when("> token.x"), "7:11", YAML, 'in one line: when: "token.x"'),
    ("  - name: a\n    match: {paths: [*]}\n", "7:21", YAML, 'quote the whole value: "*"'),
    ("  - name: a\n    match: {paths: [/a, **]}\n", "7:25", YAML, 'quote the whole value: "**"'),
    ("  - name: a\n    match: {paths: ['*']}\n", "7:21", "starts with /", "write /*"),
    ("  - name: a\n    match: {hosts: [*.x.example]}\n", "7:21", YAML, '"*.x.example"'),
    ("  - name: a\n    match:\n      paths:\n      - *\n", "9:9", YAML, 'quote the whole value: "*"'),
    ("  - name: a\n    match: {paths: [/a/{id}/b, /c]}\n", "7:21", YAML, '"/a/{id}/b"'),
    ("  - name: a\n    match:\n      paths:\n      - {id}\n", "9:9", "found a mapping", '"{id}"'),
    # what ends text or begins something else within it
    (when("token.x ? token.y : token.z"), "7:11", YAML, 'when: "token.x ? token.y : token.z"'),
    (when("token.x == {'a': 1}"), "7:11", YAML, """when: "token.x == {'a': 1}\""""),
    (when("token.x == ' #a'"), "7:22", "token recognition error", "ends before ' #'"),
    (when("size(token.x #)"), "7:23", "missing ')'", "ends before ' #'"),
    # brackets, colons, indentation
    ("  - name: a\n    match: {methods: [GET}\n", "7:26", YAML, "} closes what another bracket opened"),
    ("  - name: a\n    match: {methods: [GET\n---\n", "8:1", YAML, "opened at 7:22 is not closed"),
    ("  - name:a\n", "6:5", "expected fields, found text", "a space belongs after the colon: name: a"),
    ("  - name: a\n\twhen: token.x\n", "7:1", YAML, "indent with spaces"),
    ("  - name: a\n   when: token.x\n", "7:4", YAML, "its indentation"),
    # what is no text
    ("  - {name: a, require: {stepUp: {maxAge: 5}}}\n", "6:42", "found a number", "write 500ms, 30s, 5m, 1h or 2d"),
    ("  - {name: a, limit: {rate: 10}}\n", "6:29", "found a number", "write 100/s, 20/m, 5/h or 1/d"),
    ("  - name: 1.0\n", "6:11", "expected text, found a number", 'quote it: name: "1.0"'),
    ("  - name: 010\n", "6:11", "expected text, found a number", 'quote it: name: "010"'),
    ("  - name: no\n", "6:11", "expected text, found a bool", 'quote it: name: "no"'),
    ("  - name: on\n", "6:11", "expected text, found a bool", 'quote it: name: "on"'),
    ("  - {name: a, require: {scopes: [123]}}\n", "6:34", "found a number", 'quote it: "123"'),
    ("  - {name: a, offer: yes}\n", "6:22", "expected true or false", "write true"),
    ("  - {name: a, offer: off}\n", "6:22", "expected true or false", "write false"),
    ("  - name: a\n    when:\n", "7:10", "expected text, found nothing", "leave the field out"),
    # expressions
    (when("“a” == token.x"), "7:11", "Syntax error", """write straight quotes: "a" == token.x"""),
    (when("token.x = 'a'"), "7:19", "Syntax error", "write token.x == 'a'"),
    (when("token.x === 'a'"), "7:21", "Syntax error", "write token.x == 'a'"),
    (when("token.x == 'a and b' and token.y"), "7:32", "Syntax error", "write token.x == 'a and b' && token.y"),
    (when("token.x or token.y"), "7:19", "Syntax error", "write token.x || token.y"),
    (when("not token.x"), "7:15", "Syntax error", "write !token.x"),
    (when("not token.x == 'a'"), "7:15", "Syntax error", "not is written !(...)"),
    (when("token.a not in token.b"), "7:19", "Syntax error", "write !(token.a in token.b)"),
    (when("token.x & token.y"), "7:19", "Syntax error", "write token.x && token.y"),
    (when("token.x | token.y"), "7:19", "Syntax error", "write token.x || token.y"),
    (when("token.x =~ '^a'"), "7:19", "Syntax error", "x.matches("),
    (when("request.method in ('GET', 'PUT')"), "7:35", "Syntax error", "in ['a', 'b']"),
    (when("token.x == True"), "7:22", "undeclared reference to 'True'", "write true"),
    (when("tokn.x == 1"), "7:15", "undeclared reference to 'tokn.x'", "did you mean token.x?"),
    (when("claims.sub == 'a'"), "7:17", "undeclared reference", "did you mean token.sub?"),
    (when("headers['x'] == 'a'"), "7:11", "undeclared reference", "did you mean request.headers?"),
    (when("request.header['x'] == 'a'"), "7:18", "undeclared reference", "did you mean request.headers?"),
    (when("subject.name == 'a'"), "7:18", "undeclared reference", "known: subject.anonymous"),
    (when("request.method == GET"), "7:29", "undeclared reference to 'GET'", "'GET' in quotes"),
    (when("request.headers.x-tier == 'a'"), "7:29", "undeclared reference", "write request.headers['x-tier']"),
    (when("len(token.x) > 1"), "7:14", "undeclared reference to 'len'", "did you mean size?"),
    (when("token.x.startswith('a')"), "7:29", "undeclared reference", "did you mean startsWith()?"),
    (when("token.x.y()"), "7:20", "undeclared reference to 'y'", "y is no function; a field is read without ()"),
    (when("request.query.n == 7"), "7:27", "no matching overload", "write request.query.n == '7', or int(request.query.n) == 7"),
    (when("7 < request.query.n"), "7:13", "no matching overload", "write 7 < int(request.query.n)"),
    (when("request.headers['n'] >= 1.5"), "7:32", "no matching overload", "double(request.headers['n']) >= 1.5"),
    (when("request.query.n in [1, 2]"), "7:27", "no matching overload", "in ['1', '2']"),
    (when("request.time > '2030-01-01'"), "7:24", "no matching overload", "timestamp('2030"),
    (when("request.size == '7'"), "7:24", "no matching overload", "text and numbers do not compare"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "place", "message", "hint"), TRAPS)
def test_traps(rules: str, place: str, message: str, hint: str) -> None:
    found = problems(rules)[0]
    assert f"{found.line}:{found.column}" == place, str(found)
    assert message in found.message
    assert hint in found.hint


@pytest.mark.parametrize(
    "rules",
    [
        "  - name: a\r\n    when: token.x\r\n",
        "  - name: a\n---\n---\n",
        "  - name: a\n    when: (token.x) && 'x' in token.y # why\n    auth: token\n",
        "  - name: a\n    when:\ttoken.x\n",
        "  - name: a\n    when: >\n      'a' in\n      token.x\n",
        "  - name: a\n    when: token.x == 'a:b#c'\n",
        "  - name: a “b”\n",
        "  - {name: a, match: {paths: [/a/**, '/b/{id}', /c]}}\n",
    ],
)
def test_no_traps(rules: str) -> None:
    assert not problems(rules)


def test_documents_behind_what_is_no_yaml_are_read_too() -> None:
    text = HEAD + when("'a' in b") + "---\n" + HEAD + "  - {nam: a}\n---\n" + HEAD + when("[")
    text += "---\n" + HEAD.replace("name: p", "name: q") + when("token.x")
    documents, found = parse([Source("f.yaml", text)])
    assert [each.line for each in found] == [7, 14, 14, 23]
    assert [each.ref for each in documents] == ["AccessPolicy/default/q"]


def test_reading_on_ends() -> None:
    _, found = parse([Source("f.yaml", "--- 'a' b\n" * 1_000)])
    assert 1 < len(found) < 100


@given(st.text("ab'\"[]{}(),:#! -*\\|>\t", max_size=30), st.integers(1, 32))
def test_any_line_is_looked_into(row: str, column: int) -> None:
    found = trap(row, column, "did not find expected key")
    assert found is None or 1 <= found.column <= max(len(row), column) + 1
    as_text(row, column)


def test_deep_and_long_lines_do_no_harm() -> None:
    for row in ("{a: 'x' y, b: " + "[" * 100_000, "[{" * 5_000, "'a' " * 50_000, "(" * 50_000):
        trap(row, 5, "did not find expected key")
    text = HEAD + "  - {name: 'a' b, c: " + "[" * 5_000 + "\n"
    assert parse([Source("f.yaml", text)])[1]


@given(st.text("ab'\"\\ :#", max_size=10))
def test_what_is_quoted_reads_as_the_same(text: str) -> None:
    rule = f"  - name: {quoted('x' + text)}\n"
    documents, found = parse([Source("f.yaml", HEAD + rule)])
    assert not found
    assert documents[0].spec.rules[0].name == "x" + text  # type: ignore[union-attr]
