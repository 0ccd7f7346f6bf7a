"""Rules admit to their own operations only, whatever else matches the same paths."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import Misuse
from tests.cli.openapi.calling import KEYED, LOCKED, LOW, Caller, api, rules, snapshot, written


def test_an_unsupported_operation_is_not_reached_through_another() -> None:
    call = Caller(
        snapshot(
            api(
                """
                /a/{x}: {get: {security: []}}
                /a/closed: {get: {security: [{d: []}]}}
                /{kind}/*: {get: {security: [{o: []}]}}
                "/a/{p}-{q}": {get: {security: [{o: []}]}}
                "/a/v{p}": {get: {security: [{o: []}]}}
                """
            )
        )
    )
    assert call("GET", "/a/open") == "GET /a/{x}"
    assert call("GET", "/a/closed") == LOCKED
    assert call("GET", "/a/*") == LOCKED
    assert call("GET", "/a/1-2") == LOCKED
    assert call("GET", "/a/v1") == LOCKED


def test_what_is_ambiguous_stays_refused() -> None:
    text = api(
        """
        /a/{x}: {get: {security: [{o: [one]}]}}
        /{y}/b: {get: {security: [{o: [two]}]}}
        /same/{p}: {get: {security: [{o: [one]}]}}
        /same/{q}: {get: {security: [{o: [two]}]}}
        /like/{p}: {get: {security: [{o: [one]}]}}
        /like/x: {get: {security: [{o: [one]}]}}
        """
    )
    call = Caller(snapshot(text))
    assert call("GET", "/a/c", "one") == "GET /a/{x}"
    assert call("GET", "/c/b", "two") == "GET /{y}/b"
    assert call("GET", "/a/b", "one two") == "denied"
    assert call("GET", "/same/x", "one two") == "denied"
    assert call("GET", "/like/x", "one") == "GET /like/{p}"
    _, said = written(text)
    assert "OpenAPI does not say; it stays refused: GET /a/{x} | GET /{y}/b" in said
    assert (
        "has the same path and asks for something else; it stays refused: GET /same/{p} |" in said
    )


def test_a_rule_is_never_more_than_its_operations() -> None:
    text = api(
        """
        /a: {get: {tags: [t]}, post: {tags: [t]}}
        /b: {get: {tags: [t]}}
        /c: {post: {tags: [t]}, get: {tags: [t]}}
        /d: {get: {tags: [t], security: [{o: [more]}]}}
        """,
        "security: [{o: []}]",
    )
    found = rules(text)
    assert [(each["name"], each["match"]["methods"], each["match"]["paths"]) for each in found] == [
        ("t GET, POST with a token", ["GET", "POST"], ["/a", "/c"]),
        ("GET /b", ["GET"], ["/b"]),
        ("GET /d", ["GET"], ["/d"]),
    ]
    call = Caller(snapshot(text))
    assert call("POST", "/b", "") == "denied"


SEGMENTS = ("a", "b", "{x}", "{y}", "v{z}")
ASKED: tuple[Any, ...] = (
    [], [{"o": []}], [{"o": ["r"]}], [{"o": ["r", "w"]}], [{"k": []}], [{}, {"o": ["r"]}],
    [{"k": []}, {"o": ["w"]}], [{"d": []}], None,
)  # fmt: skip
SCHEMES = {
    "o": {"type": "oauth2"},
    "k": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "d": {"type": "http", "scheme": "basic"},
}
CALLERS: dict[str, tuple[str | None, dict[str, str]]] = {
    "anonymous": (None, {}), "token": ("", {}), "r": ("r", {}), "r w": ("r w", {}),
    "key": (None, KEYED),
}  # fmt: skip
REFUSED = ("denied", "invalid_token", LOCKED, LOW)
PATHS = (
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=3)
    .filter(lambda parts: all(parts.count(each) < 2 for each in ("{x}", "{y}")))
    .map(lambda parts: "/" + "/".join(parts))
)


def ranks(path: str) -> list[int]:
    return [
        0 if part in ("{x}", "{y}") else 1 if "{" in part else 2 for part in path.split("/")[1:]
    ]


def is_for(path: str, target: str) -> bool:
    parts, segments = path.split("/"), target.split("/")
    return len(parts) == len(segments) and all(
        segment == part or (part[0] == "{" or (part == "v{z}" and segment[0] == "v"))
        for part, segment in zip(parts[1:], segments[1:], strict=True)
    )


def goes_before(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """As OpenAPI has it: the more concrete path; and HEAD itself before the GET that includes it."""
    mine, theirs = ranks(one[0]), ranks(other[0])
    if any(a < b for a, b in zip(mine, theirs, strict=True)):
        return False
    return mine != theirs or (one[1] == "head" and other[1] == "get")


def satisfies(caller: str, asked: list[dict[str, list[str]]] | None) -> bool:
    if asked is None:
        return caller != "anonymous"
    if not asked or {} in asked:
        return True
    for each in asked:
        if "k" in each and caller == "key":
            return True
        if (
            "o" in each
            and caller in ("token", "r", "r w")
            and set(each["o"]) <= set(caller.split())
        ):
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.tuples(PATHS, st.sampled_from(("get", "head", "post"))),
        st.sampled_from(ASKED),
        min_size=1,
        max_size=7,
    )
)
def test_nobody_gets_where_the_description_does_not_let_them(
    operations: dict[tuple[str, str], Any],
) -> None:
    paths: dict[str, Any] = {}
    for (path, method), asked in operations.items():
        said = {} if asked is None else {"security": asked}
        paths.setdefault(path, {})[method] = {"tags": ["t"], **said}
    body = {"openapi": "3.0.0", "paths": paths, "components": {"securitySchemes": SCHEMES}}
    try:
        call = Caller(snapshot(json.dumps(body)))
    except Misuse:  # nothing of it can be carried over
        return
    targets = [
        "/" + "/".join(parts) for at in (1, 2) for parts in product(("a", "c", "v7"), repeat=at)
    ]
    for target, method in product(targets, ("GET", "HEAD", "POST")):
        meant = [
            each
            for each in operations
            if is_for(each[0], target)
            and (each[1].upper() == method or (method == "HEAD" and each[1] == "get"))
        ]
        first = [each for each in meant if not any(goes_before(other, each) for other in meant)]
        for caller, (scopes, headers) in CALLERS.items():
            permitted = call(method, target, scopes, headers=headers) not in REFUSED
            right = bool(first) and all(satisfies(caller, operations[each]) for each in first)
            assert right or not permitted
            if len(first) == 1 and method != "HEAD" and "{z}" not in first[0][0]:
                unsure = caller == "key" and operations[first[0]] is None
                assert permitted == right or unsure
