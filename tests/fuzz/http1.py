"""Coverage-guided fuzzing of what reads callers' and upstreams' bytes: `make fuzz`.

What must hold for any bytes: nothing but a refusal is raised; where a stream is cut changes
nothing; a canonical target is a fixed point; a response head says what it says however it comes.
Seeds are the raw requests of the test-suite. A finding is a traceback and a file named crash-...
"""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sidecar.edge", "sidecar.decide.request"]):
    from sidecar.edge import forwarded
    from sidecar.edge.bodies import body_of
    from sidecar.edge.http1 import parse_request_head
    from sidecar.edge.response_head import parse_response_head, response_head_end
    from sidecar.errors import BadMessage, BadRequest
    from tests.edge.raw_requests import RAW
    from tests.edge.test_http1 import read_stream

SECONDS = "60"


def one(data: bytes) -> None:
    """The first byte says what to read the rest as, the second where it is cut."""
    if len(data) < 2:
        return
    kind, at, rest = data[0] % 4, data[1], data[2:]
    if kind == 0:
        requests(rest, at)
    elif kind == 1:
        target(rest)
    elif kind == 2:
        response(rest, at)
    else:
        addresses(rest)


def requests(raw: bytes, at: int) -> None:
    whole = read_stream([raw])
    place = at * len(raw) // 255
    assert read_stream([raw[:place], raw[place:]]) == whole
    step = at % 7 + 1
    assert read_stream([raw[i : i + step] for i in range(0, len(raw), step)]) == whole


def target(raw: bytes) -> None:
    try:
        first = parse_request_head(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % raw)
    except BadRequest:
        return
    query = b"" if first.query is None else b"?" + first.query
    again = parse_request_head(
        b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % (first.path.encode("ascii") + query)
    )
    assert (again.path, again.segments, again.query) == (first.path, first.segments, first.query)


def response(raw: bytes, at: int) -> None:
    try:
        end = response_head_end(raw)
        if end < 0:
            return
        head = parse_response_head(raw[:end], "GET")
        body = body_of(head)
        if body is not None:
            body.feed(raw[end:])
    except BadMessage:
        return
    place = at * end // 255
    assert response_head_end(raw[:place]) == -1 or place == end
    assert response_head_end(raw, place) == end


def addresses(raw: bytes) -> None:
    """A chain that a trusted proxy sends never makes anything but an address of it."""
    trusted = forwarded.TrustedProxies([forwarded.network("127.0.0.0/8")])
    origin = trusted.origin("127.0.0.1", "http", forwarded.Claims(raw, raw))
    assert ip_address(origin.address)
    assert origin.scheme in ("http", "https")


def seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, raw, _) in enumerate(RAW):
        (folder / f"request-{number}").write_bytes(b"\0\x80" + raw)
        (folder / f"target-{number}").write_bytes(b"\1\0" + raw[5:60])
    for number, text in enumerate(
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n",
            b"HTTP/1.0 304 Not Modified\r\nConnection: keep-alive\r\n\r\n",
        )
    ):
        (folder / f"response-{number}").write_bytes(b"\2\x80" + text)
    (folder / "addresses").write_bytes(b"\3\0" + b"192.0.2.1, [2001:db8::1]:80,127.0.0.1:7")


def main() -> None:
    corpus = Path("corpus")
    seeds(corpus)
    options = sys.argv[1:] or [f"-max_total_time={SECONDS}"]
    atheris.Setup([sys.argv[0], "-max_len=4096", "-timeout=5", *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
