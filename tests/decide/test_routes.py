"""The route index against a naive matcher, and what patterns may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.pace import let_go
from sidecar.decide.routes import (
    ONE,
    REST,
    Pattern,
    Route,
    RouteIndex,
    _Node,
    parse_pattern,
)


def route(order: int, *patterns: str, slash: bool = False, **match: object) -> Route[str]:
    methods = match.get("methods", ())
    hosts = match.get("hosts", ())
    assert isinstance(methods, tuple)
    assert isinstance(hosts, tuple)
    return Route(
        order, f"r{order}", tuple(map(parse_pattern, patterns)), frozenset(methods), hosts, slash
    )


def find(index: RouteIndex[str], path: str, method: str = "GET", host: str = "h") -> list[str]:
    return [rule for rule, _ in index.find(method, host, path.split("/")[1:])]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/", ["/"], ["/a", "/a/"]),
        ("/a", ["/a"], ["/", "/a/", "/b", "/a/b"]),
        ("/a/", ["/a/"], ["/a", "/a/b"]),
        ("/*", ["/a"], ["/", "/a/", "/a/b"]),
        ("/{x}/b", ["/a/b"], ["/a", "//b", "/a/b/"]),
        ("/**", ["/", "/a", "/a/", "/a/b/c"], []),
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c/"], ["/", "/b", "/ab"]),
        ("/**/z", ["/z", "/a/z", "/a/b/z"], ["/", "/z/a", "/a/z/"]),
        ("/a/**/z", ["/a/z", "/a/b/c/z"], ["/a", "/a/z/b"]),
        ("/a/**/*", ["/a/b", "/a/b/c"], ["/a", "/a/"]),
        ("/**/m/**", ["/m", "/a/m", "/m/b", "/a/m/b/m"], ["/", "/a"]),
        ("/**/**", ["/", "/a/b"], []),
    ],
)
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    index = RouteIndex.build([route(0, pattern)])
    assert [path for path in matching + other if find(index, path)] == matching


def test_trailing_slash_for_denies_and_guards() -> None:
    index = RouteIndex.build(
        [
            route(0, "/a", slash=True),
            route(1, "/{x}", slash=True),
            route(2, "/b/", slash=True),
            route(3, "/**/z", slash=True),
        ]
    )
    assert find(index, "/a/") == ["r0", "r1"]
    assert find(index, "/b/") == ["r1", "r2"]
    assert find(index, "/q/z/") == ["r3"]
    assert find(index, "/a/b/") == []


def test_order_methods_and_hosts() -> None:
    index = RouteIndex.build(
        [
            route(0, "/a/**", methods=("GET", "HEAD")),
            route(1, "/**", hosts=("api.example", "*.example.com")),
            route(2, "/a/b"),
        ]
    )
    assert find(index, "/a/b") == ["r0", "r2"]
    assert find(index, "/a/b", "POST") == ["r2"]
    assert find(index, "/a/b", "POST", "api.example") == ["r1", "r2"]
    assert find(index, "/a/b", "POST", "x.y.example.com") == ["r1", "r2"]
    assert find(index, "/a/b", "POST", "example.com") == ["r2"]
    assert find(index, "/a/b", "POST", "badexample.com") == ["r2"]


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/a/{x}", "/a/1", {"x": "1"}),
        ("/{x}/{y}/**", "/1/2/3/4", {"x": "1", "y": "2"}),
        ("/**/{x}", "/1/2/3", {"x": "3"}),
        ("/{a}/**/{b}/end", "/1/2/3/end", {"a": "1", "b": "3"}),
    ],
)
def test_params(pattern: str, path: str, params: dict[str, str]) -> None:
    index = RouteIndex.build([route(0, pattern)])
    [(_, found)] = index.find("GET", "h", path.split("/")[1:])
    assert found.params(path.split("/")[1:]) == params


def test_params_with_the_slash_that_a_guard_tolerates() -> None:
    index = RouteIndex.build([route(0, "/**/{x}/end", slash=True)])
    [(_, found)] = index.find("GET", "h", "/1/2/end/".split("/")[1:])
    assert found.params("/1/2/end/".split("/")[1:]) == {"x": "2"}


def test_the_pattern_written_first_binds() -> None:
    index = RouteIndex.build([route(0, "/a/{x}", "/{x}/**")])
    [(_, found)] = index.find("GET", "h", ["a", "b"])
    assert found.text == "/a/{x}"


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [("/%41b", "Ab"), ("/über", "über"), ("/%C3%BCber", "über"), ("/a!", "a!")],
)
def test_literals_are_decoded_as_paths_are(pattern: str, literal: str) -> None:
    assert parse_pattern(pattern).parts == (literal,)


@pytest.mark.parametrize(
    "pattern",
    [
        "", "a", "a/b", "/a*", "/{x", "/x}", "/{1x}", "/{x}/{x}", "/**/{x}/**", "/a//b", "/a/../b",
        "/./a", "/a?x", "/a#x", "/a;b", "/a b", "/%zz", "/%2f", "/***",
    ],
)  # fmt: skip
def test_patterns_that_could_never_match_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_pattern(pattern)


PARTS = st.sampled_from(["a", "b", "*", "**", "{x}"])


def naive(parts: tuple[str, ...], segments: list[str]) -> bool:
    if not parts:
        return not segments
    if parts[0] == REST:
        return any(naive(parts[1:], segments[n:]) for n in range(len(segments) + 1))
    if not segments:
        return False
    fits = segments[0] != "" if parts[0] == ONE else parts[0] == segments[0]
    return fits and naive(parts[1:], segments[1:])


@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5),
    st.booleans(),
)
def test_the_index_matches_what_each_pattern_matches(
    patterns: list[list[str]], path: list[str], slash: bool
) -> None:
    routes: list[Route[str]] = []
    parsed: list[Pattern] = []
    for parts in patterns:
        try:
            pattern = parse_pattern("/" + "/".join(parts))
        except ValueError:
            continue
        parsed.append(pattern)
        routes.append(Route(len(routes), f"r{len(routes)}", (pattern,), frozenset(), ()))
    segments = [*path, ""] if slash else path
    expected = [f"r{n}" for n, pattern in enumerate(parsed) if naive(pattern.parts, segments)]
    assert [rule for rule, _ in RouteIndex.build(routes).find("GET", "h", segments)] == expected


def test_an_escaped_star_is_only_itself() -> None:
    index = RouteIndex.build(
        [
            Route(0, "one", (parse_pattern("/files/%2A"),), frozenset(), ()),
            Route(1, "all", (parse_pattern("/deep/%2A%2A"),), frozenset(), ()),
        ]
    )
    assert [rule for rule, _ in index.find("GET", "", ["files", "*"])] == ["one"]
    assert [rule for rule, _ in index.find("GET", "", ["deep", "**"])] == ["all"]
    for segments in (["files", "secret"], ["deep"], ["deep", "a"], ["deep", "a", "b"]):
        assert index.find("GET", "", segments) == []


def test_an_index_falls_into_parts_each_before_what_holds_it() -> None:
    index = RouteIndex.build([route(0, "/a/{x}/b", "/a/**"), route(1, "/c")])
    index.candidates("GET", "h", "/c", ["c"])
    parts = index.parts()
    nodes = [part for part in parts if isinstance(part, _Node)]
    assert len(nodes) == 6
    assert parts[-6:] == nodes
    assert len(parts) == 6 + 1 + 1  # what is remembered of the path, and of what applies there
    for place, node in enumerate(nodes):
        for held in (node.one, node.rest, *node.literals.values()):
            assert held is None or held in nodes[:place]
    let_go(parts)
    assert parts == []
    assert find(index, "/c") == ["r1"], "it is as it was"
