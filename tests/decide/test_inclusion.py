"""Inclusion of path patterns against all short paths, and against the route index."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.inclusion import (
    all_covered,
    covers,
    example,
    hosts_cover,
    hosts_meet,
    methods_cover,
)
from sidecar.decide.routes import Pattern, Route, RouteIndex, parse_pattern

PATHS = [
    [*begin, last]
    for length in range(6)
    for begin in product("abc", repeat=length)
    for last in ("a", "b", "c", "")
]
"""All that patterns over `a` and `b` of four parts can tell apart."""

parts = st.lists(st.sampled_from(["a", "b", "*", "**", "{x}"]), min_size=1, max_size=4)
patterns = st.builds(
    lambda found, slash: parse_pattern(
        "/" + "/".join("*" if p == "{x}" else p for p in found) + ("/" if slash else "")
    ),
    parts,
    st.booleans(),
)


def index(pattern: Pattern) -> RouteIndex[str]:
    return RouteIndex.build([Route(0, "r", (pattern,), frozenset(), ())])


@given(patterns, patterns)
def test_inclusion_is_what_the_route_index_does(wide: Pattern, narrow: Pattern) -> None:
    one, other = index(wide), index(narrow)
    matched = [path for path in PATHS if other.find("GET", "h", path)]
    both = [path for path in matched if one.find("GET", "h", path)]
    assert covers(wide.parts, narrow.parts) == (matched == both)
    assert ("r" in one.meeting(narrow.parts)) == bool(both)
    assert other.find("GET", "h", example(narrow.parts))
    if matched == both:
        assert one.find("GET", "h", example(narrow.parts))


segments = st.lists(st.text("ab*%{x}é", min_size=1, max_size=2), max_size=5)


@given(patterns, patterns, segments, st.booleans())
def test_what_is_covered_is_matched(
    wide: Pattern, narrow: Pattern, path: list[str], slash: bool
) -> None:
    path = [*path, ""] if slash or not path else path
    if covers(wide.parts, narrow.parts) and index(narrow).find("GET", "h", path):
        assert index(wide).find("GET", "h", path)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("/**", "/", True),
        ("/**", "/**/a/", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/", True),
        ("/a/*", "/a/{id}", True),
        ("/a/{id}", "/a/b", True),
        ("/a/b", "/a/{id}", False),
        ("/a/*", "/a/**", False),
        ("/a/*", "/a/", False),
        ("/a/**/*", "/a/*/**", False),  # /a/b/ ends with an empty segment
        ("/a/*/**", "/a/**/*", True),
        ("/**/b/**", "/a/**/b/*", True),
        ("/%61", "/a", True),
    ],
)
def test_paths(wide: str, narrow: str, expected: bool) -> None:
    assert covers(parse_pattern(wide).parts, parse_pattern(narrow).parts) is expected


def test_each_pattern_is_covered_by_some_one() -> None:
    wide = [parse_pattern(text).parts for text in ("/a/**", "/b")]
    assert all_covered(wide, [("a", "x"), ("b",)])
    assert not all_covered(wide, [("a", "x"), ("c",)])


def test_what_would_take_long_is_not_answered_with_yes() -> None:
    wide = parse_pattern("/**/a" + "/*" * 16).parts
    narrow = parse_pattern("/**" + "/*" * 16 + "/**/a" + "/*" * 16).parts
    assert not covers(wide, narrow)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ((), (), True),
        ((), ("a.x",), True),
        (("a.x",), (), False),
        (("*.x",), ("a.x", "*.b.x"), True),
        (("*.x",), ("x",), False),
        (("a.x", "b.x"), ("b.x",), True),
        (("a.x",), ("*.x",), False),
    ],
)
def test_hosts(wide: tuple[str, ...], narrow: tuple[str, ...], expected: bool) -> None:
    assert hosts_cover(wide, narrow) is expected


def test_hosts_that_meet() -> None:
    assert hosts_meet((), ("a",))
    assert hosts_meet(("*.x",), ("a.x",))
    assert hosts_meet(("a.x",), ("*.x",))
    assert not hosts_meet(("*.x",), ("x", "a.y"))


def test_methods() -> None:
    assert methods_cover(frozenset(), frozenset())
    assert not methods_cover(frozenset({"GET", "HEAD"}), frozenset())
    assert methods_cover(frozenset({"GET", "HEAD"}), frozenset({"HEAD"}))
