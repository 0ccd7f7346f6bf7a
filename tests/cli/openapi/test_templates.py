"""Path templates, and the servers before them."""

from __future__ import annotations

import pytest

from sidecar.cli.openapi.templates import Part, quoted, template
from tests.cli.openapi.calling import rules


def test_servers() -> None:
    def paths(servers: str) -> list[str]:
        found = rules(f"openapi: 3.0.0\nservers: {servers}\npaths: {{/a: {{get: {{}}}}}}")
        return [path for each in found for path in each["match"]["paths"]]

    assert paths("[]") == ["/a"]
    assert paths("[{url: /}]") == ["/a"]
    assert paths("[{url: 'https://h/v1/'}, {url: /v1}, {url: '//h/v2'}]") == ["/v1/a", "/v2/a"]
    assert paths("[{url: v1}, {url: ./v2}, {url: .}]") == ["/v1/a", "/v2/a", "/a"]
    assert paths("[{url: '/x?y'}, {url: '/{z}'}, {url: /ok}]") == ["/ok/a"]
    many = "[{url: '/{a}{b}', variables: {a: {enum: [%s]}, b: {enum: [%s]}}}]"
    some = ",".join(f"x{at}" for at in range(20))
    assert len(paths(many % (some, some))) == 100


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"), ("/a/", "/a/"), ("/a/{b-c}", "/a/{b_c}"), ("/{in}/{1}", "/{p_in}/{p_1}"),
        ("/{a}/{a}", "/{a}/{a_2}"), ("/{}", "/{p_}"), ("/{proxy+}", "/{proxy_}"),
        ("/é", "/é"), ("/a/{b}.c", ""), ("/a*", ""), ("/a/*", ""), ("/**", ""), ("/%2A", ""),
        ("/a?b", ""), ("/a b", ""), ("/a//b", ""), ("/..", ""), ("/a;b", ""), ("/%2F", ""),
        ("/{a", ""), ("/a}", ""), ("/{a}{b", ""), ("/" + "a" * 5000, ""),
    ],
)  # fmt: skip
def test_templates(path: str, pattern: str) -> None:
    found = template(path)
    assert found.pattern == pattern
    assert bool(found.why) == (not pattern)


def test_parts_that_meet() -> None:
    assert Part(name="a").meets(Part(literal="b"))
    assert not Part(name="a").meets(Part(literal=""))
    assert Part(pieces=("a", "c")).meets(Part(literal="abc"))
    assert not Part(literal="b").meets(Part(pieces=("a", "")))
    assert Part(pieces=("a", "")).meets(Part(pieces=("b", "")))
    assert quoted('a"\\\n') == '"a\\"\\\\\\U0000000a"'
