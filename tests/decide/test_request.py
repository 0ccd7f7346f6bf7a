"""Canonical targets and authorities: one reading, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.decide.request import canonical_authority, canonical_path, canonical_target
from sidecar.errors import BadRequest


@pytest.mark.parametrize(
    ("raw", "path", "segments"),
    [
        (b"/", "/", [""]),
        (b"/a", "/a", ["a"]),
        (b"/a/", "/a/", ["a", ""]),
        (b"//a///b//", "/a/b/", ["a", "b", ""]),
        (b"/a/./b", "/a/b", ["a", "b"]),
        (b"/a/../b", "/b", ["b"]),
        (b"/a/..", "/", [""]),
        (b"/a/.", "/a/", ["a", ""]),
        (b"/a/b/../..", "/", [""]),
        (b"/%61%2D%7e", "/a-~", ["a-~"]),
        (b"/a/%2e%2E/b", "/b", ["b"]),
        (b"/a%20b", "/a%20b", ["a b"]),
        (b"/%c3%a9", "/%C3%A9", ["é"]),
        (b"/%252e", "/%252e", ["%2e"]),
        (b"/%25%32%65", "/%252e", ["%2e"]),
        (b"/...", "/...", ["..."]),
        (b"/.well-known/x", "/.well-known/x", [".well-known", "x"]),
        (b"/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,=", ["a:b@c!$&'()*+,="]),
        (b"/a%3Bb", "/a%3Bb", ["a;b"]),
        (b"/a%3Fb%23c", "/a%3Fb%23c", ["a?b#c"]),
    ],
)
def test_canonical(raw: bytes, path: str, segments: list[str]) -> None:
    assert canonical_target(raw) == (path, segments, None)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"a", b"*", b"/..", b"/a/../..", b"/%2e%2e", b"/a%2fb", b"/a%2Fb", b"/a%5cb", b"/a\\b",
        b"/a%00", b"/a;b", b"/;", b"/%", b"/%2", b"/%zz", b"/%ff", b"/%c0%af", b"/%ed%a0%80",
        b"/a b", b'/"', b"/<", b"/>", b"/^", b"/`", b"/{a}", b"/|", b"/[", b"/\xc3\xa9", b"/\x7f",
        b"/a#b", b"/\x00", b"/a\n",
    ],
)  # fmt: skip
def test_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        canonical_target(raw)


@pytest.mark.parametrize("query", [b"", b"a=b&c", b"a?b/c", b'a={"b":[1]}|^`\\<>', b"%zz", b"a;b"])
def test_query_is_kept_as_sent(query: bytes) -> None:
    assert canonical_target(b"/a?" + query) == ("/a", ["a"], query)


@pytest.mark.parametrize("query", [b"a b", b"a#b", b"a\xff", b"a\x00", b"a\t", b"a\x7f"])
def test_query_refused(query: bytes) -> None:
    with pytest.raises(BadRequest):
        canonical_target(b"/a?" + query)


def test_long_target_is_414() -> None:
    with pytest.raises(BadRequest) as caught:
        canonical_target(b"/" + b"a" * 20_000)
    assert caught.value.status == 414


@given(st.lists(st.sampled_from("/ . .. a %2e %2E %61 %41 %C3%A9 %25 ~ %7E : %20".split())))
def test_canonical_is_a_fixed_point(parts: list[str]) -> None:
    try:
        path = canonical_path(b"/" + "".join(parts).encode())
    except BadRequest:
        return
    assert canonical_path(path.encode()) == path
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))


@given(st.binary(max_size=30))
def test_any_bytes_are_canonical_or_refused(raw: bytes) -> None:
    try:
        path, segments, _ = canonical_target(b"/" + raw)
    except BadRequest:
        return
    assert canonical_target(path.encode())[:2] == (path, segments)


@pytest.mark.parametrize(
    ("raw", "authority", "host"),
    [
        (b"Example.COM", "example.com", "example.com"),
        (b"example.com:8080", "example.com:8080", "example.com"),
        (b"example.com.", "example.com", "example.com"),
        (b"example.com.:80", "example.com:80", "example.com"),
        (b"example.com:", "example.com", "example.com"),
        (b"127.0.0.1:7400", "127.0.0.1:7400", "127.0.0.1"),
        (b"[::1]:7400", "[::1]:7400", "[::1]"),
        (b"[0:0::1]", "[::1]", "[::1]"),
        (b"[2001:DB8::0001]:443", "[2001:db8::1]:443", "[2001:db8::1]"),
        (b"my_service", "my_service", "my_service"),
    ],
)
def test_authority(raw: bytes, authority: str, host: str) -> None:
    assert canonical_authority(raw) == (authority, host)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"a b", b"a/b", b"user@host", b"host:x", b"host:99999", b"host:80:80", b"[::1", b"::1",
        b"[::1]x", b"a,b", b"-a", b"a..", b".", b"\xc3\xa9", b"a?b", b"a#b", b"host:-1", b"host:+1", b"[::1%25eth0]", b"[]", b"[1.2.3.4]", b"[:::1]",
    ],
)  # fmt: skip
def test_authority_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        canonical_authority(raw)
