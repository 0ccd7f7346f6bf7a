from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.edge.bodies import body_of
from sidecar.edge.http1 import (
    Framing,
    parse_request_head,
    request_head_end,
    skip_empty_line,
)
from sidecar.errors import BadMessage, BadRequest

from .raw_requests import RAW, Outcome


def read_stream(pieces: list[bytes]) -> Outcome:
    """What the client connection does with a stream, without sockets."""
    out: list[str | int] = []
    data = b""
    scanned = 0
    skipped = False
    head = body = None
    payload = b""
    for piece in pieces:
        data += piece
        while data:
            try:
                if body is not None:
                    more, data, done = body.feed(data)
                    payload += more
                    if not done:
                        break
                else:
                    if not skipped:
                        rest = skip_empty_line(data)
                        if rest is None:
                            break
                        skipped, data = len(rest) < len(data), rest
                    end = request_head_end(data, scanned)
                    if end < 0:
                        scanned = len(data)
                        break
                    head = parse_request_head(data[:end])
                    data, scanned, skipped, payload = data[end:], 0, False, b""
                    body = body_of(head.block)
                    if body is not None:
                        continue
            except BadRequest as error:
                return (*out, error.status)
            except BadMessage:
                return (*out, 400)
            assert head is not None
            query = "" if head.query is None else "?" + head.query.decode()
            out.append(
                f"{head.method} {head.path}{query} {head.block.authority or 'upstream'} "
                + payload.decode("latin-1")
            )
            body = None
            if not head.block.keep_alive:
                return tuple(out)
    return tuple(out)


@pytest.mark.parametrize(("raw", "outcome"), [pytest.param(r, o, id=n) for n, r, o in RAW])
def test_a_stream_in_one_piece(raw: bytes, outcome: Outcome) -> None:
    assert read_stream([raw]) == outcome


@pytest.mark.parametrize(
    ("raw", "outcome"), [pytest.param(r, o, id=n) for n, r, o in RAW if len(r) < 5000]
)
def test_the_same_byte_by_byte(raw: bytes, outcome: Outcome) -> None:
    assert read_stream([raw[i : i + 1] for i in range(len(raw))]) == outcome


def test_there_are_enough_cases_and_each_is_named_once() -> None:
    assert len(RAW) >= 200
    assert len({name for name, _, _ in RAW}) == len(RAW)


streams = st.one_of(
    st.sampled_from([raw for _, raw, _ in RAW if len(raw) < 20_000]),
    st.lists(st.sampled_from([raw for _, raw, _ in RAW if len(raw) < 2000]), max_size=3).map(
        b"".join
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A known stream with one byte changed, put in or taken out."""
    raw = draw(streams)
    at = draw(st.integers(0, len(raw)))
    new = draw(
        st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b",", b";", b"%", b"0", b"x"])
    )
    return raw[:at] + new + raw[at + draw(st.integers(0, 1)) :]


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(at % (len(raw) + 1) for at in cuts), len(raw)]
    return [raw[a:b] for a, b in pairwise(places)]


@settings(max_examples=400, deadline=None)
@example(b"GET / HTTP/2.0\r\n\nHost: a.example\r\n\r\n", [165])
@given(mutated(), st.lists(st.integers(0, 20_000), max_size=6))
def test_how_a_stream_is_cut_changes_nothing(raw: bytes, cuts: list[int]) -> None:
    assert read_stream(cut(raw, cuts)) == read_stream([raw])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(raw: bytes) -> None:
    read_stream([raw])
    read_stream([b"GET /" + raw + b" HTTP/1.1\r\nHost: a\r\n\r\n"])
    read_stream([b"GET / HTTP/1.1\r\nHost: a\r\n" + raw + b"\r\n\r\n"])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="/.%2eEfF5cC0aA~;?#\\é", max_size=20))
def test_canonicalising_again_changes_nothing(target: str) -> None:
    def head(path: bytes) -> bytes:
        return b"GET /" + path + b" HTTP/1.1\r\nHost: A.Example.:80\r\n\r\n"

    try:
        first = parse_request_head(head(target.encode()))
    except BadRequest:
        return
    query = b"" if first.query is None else b"?" + first.query
    again = parse_request_head(
        b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n"
        % (first.path.encode() + query, first.block.authority.encode())
    )
    assert (again.path, again.segments, again.query, again.block.authority) == (
        first.path,
        first.segments,
        first.query,
        first.block.authority,
    )


# -- heads, one by one


def test_a_request_head_in_parts() -> None:
    head = parse_request_head(
        b"POST /a/b?c=d HTTP/1.1\r\nHost: A.example:8080\r\nX-Y:  z \r\n"
        b"Content-Length: 5\r\nExpect: 100-Continue\r\nConnection: X-Y, close\r\n\r\n"
    )
    assert (head.method, head.path, head.segments, head.query) == (
        "POST",
        "/a/b",
        ["a", "b"],
        b"c=d",
    )
    assert (head.block.authority, head.block.host, head.version) == (
        "a.example:8080",
        "a.example",
        1,
    )
    assert head.block.headers[1] == (b"content-length", b"5"), "Connection takes x-y away"
    assert (head.block.framing, head.block.length) == (Framing.LENGTH, 5)
    assert head.block.expect_continue
    assert not head.block.keep_alive
    assert head.block.options == {b"x-y", b"close"}


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: keep-alive, Close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_persistence_of_requests(version: bytes, connection: bytes, keep_alive: bool) -> None:
    raw = b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n"
    assert parse_request_head(raw).block.keep_alive is keep_alive


def test_equal_bytes_mean_the_same_each_time() -> None:
    raw = b"GET /%d HTTP/1.1\r\nHost: same.example\r\nX: y\r\n\r\n"
    heads = [parse_request_head(raw % number) for number in range(4)]
    assert heads[3].block is heads[2].block
    assert heads[3].path == "/3"
    assert heads[3].block.headers == heads[0].block.headers
    with pytest.raises(BadRequest) as caught:
        parse_request_head(raw % 5, 1)
    assert caught.value.status == 431
    old = parse_request_head((raw % 6).replace(b"/1.1", b"/1.0"))
    assert not old.block.keep_alive


def test_what_is_never_forwarded_is_not_decided_on() -> None:
    head = parse_request_head(
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Tenant: a\r\nX-Forwarded-For: 10.0.0.1\r\n"
        b"X_Tenant: b\r\nX-Sidecar-Subject: admin\r\nX-Original-URL: /admin\r\n"
        b"Forwarded: for=1\r\nX-HTTP-Method-Override: PUT\r\nAuthorization: Bearer t\r\n"
        b"Connection: x-tenant, authorization\r\n\r\n"
    )
    seen = {name for name, _ in head.request("http", "192.0.2.1").headers}
    assert seen == {b"host", b"authorization", b"connection"}
