"""Types, footprints and the third truth value."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decide.expressions import FAILED, ExpressionInvalid, compile_expression


def footprint(source: str) -> dict[str, set[str] | None]:
    program = compile_expression(source, "boolean")
    return {k: None if v is None else set(v) for k, v in program.footprint.items()}


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("request.method == 'GET'", {"request.method": None}),
        ("token.sub == 'a'", {"token": {"sub"}}),
        ("token.a.b.c == 'a'", {"token": {"a"}}),
        ("has(token.a)", {"token": {"a"}}),
        ("'a' in token", {"token": {"a"}}),
        ("token.?a.orValue('') == ''", {"token": {"a"}}),
        ("token[?'a'].orValue('') == ''", {"token": {"a"}}),
        ("token['a'] == token.b", {"token": {"a", "b"}}),
        ("request.headers['x-a'] == request.query.b", {"request.headers": {"x-a"}, "request.query": {"b"}}),
        ("token[request.method] == 1", {"token": None, "request.method": None}),
        ("token.exists(k, k == 'a')", {"token": None}),
        ("size(token) > 1", {"token": None}),
        ("token.roles.exists(r, r['name'] == 'a')", {"token": {"roles"}}),
        ("token.roles.exists(r, 'a' in r)", {"token": {"roles"}}),
        ("token.roles.exists(r, r.?name.orValue('') == 'a')", {"token": {"roles"}}),
        ("token.roles.exists(r, r == 'a')", {"token": {"roles"}}),
        ("'kyc' in subject.consents", {"subject.consents": None}),
        ("cel.bind(t, token.a, t == 1 && token.b == t)", {"token": {"a", "b"}}),
        ("{'k': token.a}.k == [token.b][0]", {"token": {"a", "b"}}),
        ("request.time > timestamp('2026-01-01T00:00:00Z')", {"request.time": None}),
        ("[1, 2].all(token, token > 0)", {"token": None}),
        ("1 == 1", {}),
    ],
)  # fmt: skip
def test_footprint(source: str, reads: dict[str, set[str] | None]) -> None:
    assert footprint(source) == reads


@pytest.mark.parametrize(
    ("source", "column", "says"),
    [
        ("foo == 1", 1, "undeclared reference to 'foo'"),
        ("request.nope == 1", 8, "undeclared reference"),
        ("request.method == 1", 16, "no matching overload"),
        ("token.a ==", 11, "Syntax error"),
        ("request.method", 1, "gives string, where a boolean is expected"),
        ("[1]", 1, "a boolean is expected"),
        ("token.a.replace(token.b, 'x') == ''", 16, "replace() takes text in quotes"),
        ("token.a.replace('x', token.b) == ''", 16, "replace() takes text in quotes"),
        ("token.a.replace('', 'x') == ''", 16, "replace() takes text in quotes"),
        ("token.a.join(token.b) == ''", 13, "join() takes text in quotes"),
    ],
)
def test_mistakes_are_found_at_compile_time(source: str, column: int, says: str) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(source, "boolean")
    assert (caught.value.line, caught.value.column) == (1, column)
    assert says in caught.value.message


def test_the_line_of_a_mistake() -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression("1 == 1 &&\n  foo", "boolean")
    assert (caught.value.line, caught.value.column) == (2, 3)


@pytest.mark.parametrize(
    ("source", "token", "truth"),
    [
        ("token.a == 1", {"a": 1}, True),
        ("token.a == 1", {"a": 2}, False),
        ("token.a == 1", {"a": 1.0}, True),
        ("token.a == 1", {"a": "1"}, False),
        ("token.a == 1", {}, FAILED),
        ("token.a", {"a": True}, True),
        ("token.a", {"a": "true"}, FAILED),
        ("token.a > 1", {"a": "2"}, FAILED),
        ("token.a == 1", {"a": 2**70}, FAILED),
        ("token.a == ''", {"a": "\ud800"}, FAILED),
        ("token.a == 1 || true", {}, True),
        ("token.a == 1 && false", {}, False),
        ("1 / token.a == 1", {"a": 0}, FAILED),
        ("token.a.matches('[')", {"a": "x"}, FAILED),
    ],
)
def test_three_values(source: str, token: dict[str, Any], truth: object) -> None:
    program = compile_expression(source, "boolean")
    assert program.truth(program.activation({"token": token})) is truth


@pytest.mark.parametrize(
    ("source", "token", "text"),
    [
        ("token.a", {"a": "x"}, "x"),
        ("token.a", {"a": 7}, "7"),
        ("token.a", {"a": True}, "true"),
        ("token.a", {"a": None}, FAILED),
        ("token.a", {"a": [1]}, FAILED),
        ("token.a", {}, FAILED),
        ("token.a + '!'", {"a": "x"}, "x!"),
        ("'a' in token", {"a": 1}, "true"),
    ],
)
def test_text(source: str, token: dict[str, Any], text: object) -> None:
    program = compile_expression(source, "text")
    assert program.text(program.activation({"token": token})) == text


def test_equal_expressions_share_a_program() -> None:
    assert compile_expression("1 == 1", "boolean") is compile_expression("1 == 1", "boolean")


def test_failed_is_no_boolean() -> None:
    with pytest.raises(TypeError):
        bool(FAILED)
