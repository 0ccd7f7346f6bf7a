"""What is certain of an expression before any request."""

from __future__ import annotations

import pytest

from sidecar.decide.expression_lint import Traits, spelled, traits
from sidecar.decide.expressions import compile_expression


def of(source: str) -> Traits:
    return traits(compile_expression(source, "boolean"))


@pytest.mark.parametrize(
    ("source", "never", "certainly"),
    [
        ("false", True, True),
        ("token.x && false", True, True),
        ("!(true || token.x)", True, True),
        ("'a' != 'a'", True, True),
        ("true ? 1 == 2 : token.x", True, True),
        ("token.x == 'a' && token.y && 'b' == token['x']", True, False),
        ("request.method == 'GET' && request.method == 'PUT'", True, True),
        ("true", False, False),
        ("token.x != token.x", False, False),
        ("token.x ? false : token.y", False, False),
        ("token.x == 'a' && (token.x == 'b' || token.y)", False, False),
        ("token.x == 'a' && token.y == 'b'", False, False),
    ],
)
def test_never_true(source: str, never: bool, certainly: bool) -> None:
    found = of(source)
    assert (bool(found.never), found.certainly) == (never, certainly)


@pytest.mark.parametrize(
    ("source", "unguarded"),
    [
        ("token.a == 1", ["token.a"]),
        ("token['a-b'].c == 1", ["token['a-b'].c"]),
        ("has(token.a) && token.a == 1", []),
        ("'a' in token && token.a == 1", []),
        ("token.?a.orValue(1) == 1", []),
        ("token.?a.b.c.orValue(1) == 1", []),
        ("token.?a.value() == 1", ["token.a"]),
        ("has(token.a.b)", ["token.a"]),
        ("has(token.a) && token.a.b == 1", ["token.a.b"]),
        ("'x' in token.a", ["token.a"]),
        ("token.a.exists(x, x == token.b)", ["token.a", "token.b"]),
        ("request.headers['x-a'] == request.query.b", ["request.headers['x-a']", "request.query.b"]),
        ("subject.profile.a == 1 && subject.id == ''", ["subject.profile.a"]),
        ("request.body.a == 1 && request.params.b == ''", []),
        ("token[request.method] == 1", []),
    ],
)  # fmt: skip
def test_unguarded(source: str, unguarded: list[str]) -> None:
    assert [spelled(*each) for each in of(source).unguarded] == unguarded


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("dyn(request.params.id) == 7", [("request.params.id", "==", "7")]),
        ("1.5 > dyn(request.query['n'])", [("request.query.n", ">", "1.5")]),
        ("request.headers.a in ['x', 7]", [("request.headers.a", "in", "7")]),
        ("request.headers.a in ['x', token.a]", []),
        ("int(request.params.id) == 7", []),
        ("request.params.id == token.id", []),
    ],
)
def test_text_against_numbers(source: str, numbers: list[tuple[str, str, str]]) -> None:
    assert list(of(source).numbers) == numbers


def test_how_it_is_spelled() -> None:
    assert spelled("token", ("a", "b-c"), optional=True) == "token.?a[?'b-c']"
