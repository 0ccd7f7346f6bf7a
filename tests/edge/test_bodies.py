from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.edge.bodies import LAST_CHUNK, Body, ChunkedBody, CloseBody, LengthBody, chunk
from sidecar.errors import BadMessage


def read(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    payload = b""
    for place, piece in enumerate(pieces):
        more, rest, done = body.feed(piece)
        payload += more
        if done:
            return payload, rest + b"".join(pieces[place + 1 :]), True
    return payload, b"", False


def test_a_length_body_ends_where_it_says() -> None:
    assert read(LengthBody(5), [b"he", b"llo", b"next"]) == (b"hello", b"next", True)
    assert read(LengthBody(5), [b"hellonext"]) == (b"hello", b"next", True)
    assert read(LengthBody(5), [b"hell"]) == (b"hell", b"", False)
    assert not LengthBody(5).end()


def test_a_close_body_ends_with_the_stream() -> None:
    body = CloseBody()
    assert body.feed(b"abc") == (b"abc", b"", False)
    assert body.end()


def test_trailers_are_kept_apart() -> None:
    body = ChunkedBody()
    assert read(body, [b"1\r\na\r\n0\r\nX-Sum: 1\r\nY:2\r\n\r\nnext"]) == (b"a", b"next", True)
    assert body.trailers == [(b"x-sum", b"1"), (b"y", b"2")]


def test_fresh_until_something_came() -> None:
    length, chunked = LengthBody(2), ChunkedBody()
    assert length.fresh()
    assert chunked.fresh()
    length.feed(b"a")
    chunked.feed(b"1")
    assert not length.fresh()
    assert not chunked.fresh()


def test_no_chunk_of_ours_ends_the_body_by_mistake() -> None:
    assert chunk(b"") == b""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.lists(st.integers(0, 300)))
def test_what_is_chunked_comes_out_again(payloads: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(map(chunk, payloads)) + LAST_CHUNK + b"next"
    places = [0, *sorted(at % (len(raw) + 1) for at in cuts), len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(places)]
    assert read(ChunkedBody(), pieces) == (b"".join(payloads), b"next", True)


def feed_many(body: Body, data: bytes, times: int) -> None:
    for _ in range(times):
        body.feed(data)


def test_what_is_held_back_is_bounded() -> None:
    with pytest.raises(BadMessage, match="chunk line too long"):
        feed_many(ChunkedBody(), b"0", 2000)
    body = ChunkedBody()
    body.feed(b"0\r\n")
    with pytest.raises(BadMessage, match="trailers too large"):
        feed_many(body, b"x", 9000)
