"""What a response's head says, and which are none."""

from __future__ import annotations

import pytest

from sidecar.edge.http1 import Framing
from sidecar.edge.response_head import parse_response_head, response_head_end
from sidecar.errors import BadResponse


def test_equal_bytes_mean_the_same_each_time() -> None:
    response = b"HTTP/1.1 200 OK\r\nX: same\r\nContent-Length: 5\r\n\r\n"
    answers = [parse_response_head(response, "GET") for _ in range(4)]
    assert answers[3] is answers[2]
    assert parse_response_head(response, "HEAD").framing is Framing.NONE
    assert parse_response_head(response, "GET").framing is Framing.LENGTH


def _response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"".join(line + b"\r\n" for line in (start, *lines)) + b"\r\n"


CL5 = b"Content-Length: 5"
TE = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("raw", "method", "framing", "length", "keep_alive"),
    [
        (_response(CL5), "GET", Framing.LENGTH, 5, True),
        (_response(CL5), "HEAD", Framing.NONE, 5, True),
        (_response(TE), "GET", Framing.CHUNKED, -1, True),
        (_response(TE), "HEAD", Framing.NONE, -1, True),
        (_response(), "GET", Framing.CLOSE, -1, False),
        (_response(start=b"HTTP/1.0 200 OK"), "GET", Framing.CLOSE, -1, False),
        (_response(CL5, start=b"HTTP/1.0 200 OK"), "GET", Framing.LENGTH, 5, False),
        (
            _response(CL5, b"Connection: keep-alive", start=b"HTTP/1.0 200 OK"),
            "GET",
            Framing.LENGTH,
            5,
            True,
        ),
        (_response(CL5, b"Connection: close"), "GET", Framing.LENGTH, 5, False),
        (_response(start=b"HTTP/1.1 204 No Content"), "GET", Framing.NONE, -1, True),
        (
            _response(b"Content-Length: 0", start=b"HTTP/1.1 204 No Content"),
            "GET",
            Framing.NONE,
            -1,
            True,
        ),
        (_response(CL5, start=b"HTTP/1.1 304 Not Modified"), "GET", Framing.NONE, 5, True),
        (_response(start=b"HTTP/1.1 103 Early Hints"), "GET", Framing.NONE, -1, True),
        (_response(CL5, start=b"HTTP/1.1 200"), "GET", Framing.LENGTH, 5, True),
        (_response(CL5, start=b"HTTP/1.1 200 "), "GET", Framing.LENGTH, 5, True),
        (_response(CL5, start=b"HTTP/1.1 999 \xe9"), "GET", Framing.LENGTH, 5, True),
    ],
)
def test_framing_of_responses(
    raw: bytes, method: str, framing: Framing, length: int, keep_alive: bool
) -> None:
    head = parse_response_head(raw, method)
    assert (head.framing, head.length, head.keep_alive) == (framing, length, keep_alive)


@pytest.mark.parametrize(
    "raw",
    [
        _response(CL5, TE),
        _response(TE, CL5),
        _response(CL5, CL5),
        _response(b"Content-Length: 5, 5"),
        _response(b"Content-Length: -5"),
        _response(b"Content-Length: +5"),
        _response(b"Content-Length:"),
        _response(TE, TE),
        _response(b"Transfer-Encoding: gzip, chunked"),
        _response(b"Transfer-Encoding: identity"),
        _response(TE, start=b"HTTP/1.0 200 OK"),
        _response(CL5, start=b"HTTP/1.1 204 No Content"),
        _response(TE, start=b"HTTP/1.1 204 No Content"),
        _response(CL5, start=b"HTTP/1.1 100 Continue"),
        _response(b"X : y"),
        _response(b"X: y", b" folded"),
        _response(b"X"),
        _response(b": y"),
        _response(b"X: a\0b"),
        _response(b"X: a\rb"),
        _response(b"X: a\nb"),
        _response(*(b"X: y",) * 201),
        _response(start=b"HTTP/2 200 OK"),
        _response(start=b"HTTP/1.2 200 OK"),
        _response(start=b"HTTP/1.1 20 OK"),
        _response(start=b"HTTP/1.1 2000 OK"),
        _response(start=b"HTTP/1.1  200 OK"),
        _response(start=b"HTTP/1.1 099 OK"),
        _response(start=b"HTTP/1.1 2x0 OK"),
        _response(start=b"HTTP/1.1 200\tOK"),
        _response(start=b"ICY 200 OK"),
        _response(start=b""),
    ],
)
def test_responses_that_two_parsers_could_read_differently(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_response_head(raw, "GET")


def test_where_a_response_head_ends() -> None:
    raw = _response(CL5)
    assert response_head_end(raw) == len(raw)
    assert response_head_end(raw + b"hello") == len(raw)
    assert response_head_end(raw[:-1]) == -1
    with pytest.raises(BadResponse):
        response_head_end(b"HTTP/1.1 200 OK\nX")
    with pytest.raises(BadResponse):
        response_head_end(b"x" * 70_000)
