"""Responses that are redacted, through the real proxy: what goes on, what is withheld."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import Any

import pytest

from sidecar.decide.outcomes import Identity, Obligations, Permit
from sidecar.decide.redact import Redaction, parse_redaction, redact
from sidecar.edge import redacting
from sidecar.edge.redacting import INLINE

from .conftest import Peer, Rig, soon
from .raw_requests import websocket
from .test_proxy import GET, MIB, OK, post

DROP = Permit(
    "r",
    Identity("iss", "alice"),
    Obligations(redact=(parse_redaction(drop=["$..ssn"]),)),
)
WHOLE = b'{"name" : "Ada", "ssn":"123-45-6789", "tier": 1.50}'
CUT = b'{"name" : "Ada", "tier": 1.50}'
JSON = b"Content-Type: application/json"
SECRET = b"123-45"


@pytest.fixture(autouse=True)
def _redacts(rig: Rig) -> None:
    rig.authorizer.permit = DROP


def answer(*lines: bytes, body: bytes = WHOLE, status: bytes = b"200 OK") -> bytes:
    """With its length, if the lines say nothing of framing."""
    said = b"\r\n".join(lines).lower()
    if b"transfer-encoding:" not in said and b"content-length:" not in said:
        lines += (b"Content-Length: %d" % len(body),)
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(x + b"\r\n" for x in lines) + b"\r\n" + body


def get(*lines: bytes, method: bytes = b"GET") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return method + b" /a HTTP/1.1\r\nHost: a.example\r\n" + head + b"\r\n"


async def asked(rig: Rig, request: bytes, response: bytes) -> tuple[Peer, Peer, bytes]:
    client = await rig.client(request)
    upstream = await rig.upstream.accept()
    head = await upstream.head()
    upstream.send(response)
    return client, upstream, head


async def received(client: Peer) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of a response with content-length, or without any body."""
    lines = (await client.head()).split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
    raw = dict(line.split(b": ", 1) for line in lines[1:] if line)
    if b"etag" in raw:
        headers[b"etag"] = raw[b"etag"]
    return (
        int(lines[0][9:12]),
        headers,
        await client.exactly(int(headers.get(b"content-length", 0))),
    )


async def withheld(rig: Rig, client: Peer, reason: str) -> None:
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b"x-upstream" not in head
    length = next(int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"content-length:"))
    body = await client.exactly(length)
    assert SECRET not in body
    problem = json.loads(body)
    assert (problem["code"], problem["decision_id"]) == ("response_withheld", "f" * 32)
    assert rig.stats.withheld == {reason: 1}
    assert rig.stats.upstream_errors == {}
    await quiet(rig)


async def quiet(rig: Rig) -> None:
    """Nothing is held and nothing is under way."""
    await rig.becomes(lambda: not rig.stats.inspecting and not rig.stats.in_flight)


def rows(count: int, more: int = 0) -> tuple[bytes, bytes]:
    """A large body, whole and redacted."""
    whole = [{"id": i, "ssn": f"123-45-{i}", "x": "é" * more} for i in range(count)]
    left = [{"id": i, "x": "é" * more} for i in range(count)]
    return (
        json.dumps(whole, ensure_ascii=False).encode(),
        json.dumps(left, ensure_ascii=False).encode(),
    )


# -- what goes on


FRAMINGS = [
    answer(JSON),
    answer(b"content-type: Application/JSON ; charset=UTF-8"),
    answer(b'content-type: application/problem+json; charset="utf-8"; v=1;'),
    answer(JSON, b"Content-Encoding: identity"),
    answer(JSON, status=b"500 Oops"),
    answer(
        JSON,
        b"Transfer-Encoding: chunked",
        b"Trailer: X-T",
        body=b"9\r\n"
        + WHOLE[:9]
        + b"\r\n%x;e=1\r\n" % len(WHOLE[9:])
        + WHOLE[9:]
        + b"\r\n0\r\nX-T: 123-45\r\n\r\n",
    ),
]


@pytest.mark.parametrize("response", FRAMINGS, ids=range(len(FRAMINGS)))
@pytest.mark.parametrize("slowly", [False, True])
async def test_what_is_cut_is_not_seen(rig: Rig, response: bytes, slowly: bool) -> None:
    client = await rig.client(get(b"TE: trailers"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    for at in range(0, len(response), 7 if slowly else len(response)):
        upstream.send(response[at : at + (7 if slowly else len(response))])
        await upstream.flush()
        await asyncio.sleep(0)
    status, headers, body = await received(client)
    assert (status, body) == (int(response[9:12]), CUT)
    assert headers[b"content-length"] == b"%d" % len(CUT)
    assert headers[b"cache-control"] == b"private, no-cache"
    assert b"transfer-encoding" not in headers
    assert b"content-encoding" not in headers
    assert rig.stats.redacted == 1
    rig.authorizer.permit = None
    client.send(GET)  # both connections go on
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.authorizer.done == [("/a", status), ("/a", 200)]
    assert (rig.stats.upstream_created, rig.stats.withheld) == (1, {})
    await quiet(rig)


async def test_a_body_that_ends_with_the_connection(rig: Rig) -> None:
    client = await rig.client(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n\r\n" + WHOLE)
    await upstream.flush()
    assert not client.reader._buffer  # type: ignore[attr-defined]
    upstream.close()
    assert (await received(client))[2] == CUT
    await quiet(rig)


async def test_a_client_of_1_0(rig: Rig) -> None:
    request = GET.replace(b"HTTP/1.1", b"HTTP/1.0")
    client, _, _ = await asked(rig, request, answer(JSON))
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert body == CUT
    assert b"content-length: %d" % len(CUT) in head


async def test_the_service_is_asked_for_the_whole(rig: Rig) -> None:
    lines = (
        b"Accept-Encoding: gzip, br", b"Range: bytes=0-9", b'If-Range: "x"', b"A-IM: gzip",
        b'If-None-Match: "x"', b"If-Modified-Since: Sun, 29 Nov 2026 10:00:00 GMT",
        b'If-Match: "y"', b"X-Other: 1",
    )  # fmt: skip
    client, upstream, head = await asked(rig, get(*lines), answer(JSON))
    await received(client)
    names = [line.split(b":")[0] for line in head.split(b"\r\n")[1:]]
    assert b"\r\naccept-encoding: identity\r\n" in head
    assert names.count(b"accept-encoding") == 1
    assert {b"if-match", b"x-other"} < set(names)
    gone = {b"range", b"if-range", b"a-im", b"if-none-match", b"if-modified-since"}
    assert not gone & set(names)
    client.send(post(b"/p", *lines, b"Content-Length: 0"))  # where these are about writing
    head = await upstream.head()
    upstream.send(answer(JSON))
    assert (await received(client))[2] == CUT
    assert b"\r\nif-none-match: " in head
    assert b"\r\nrange: " not in head
    rig.authorizer.permit = None
    client.send(get(*lines))
    head = await upstream.head()
    upstream.send(OK)
    await client.response()
    assert b"\r\naccept-encoding: gzip, br\r\n" in head
    assert b"\r\nrange: " in head


ABOUT_THE_WHOLE = (
    b'ETag: "v1"', b"Last-Modified: Sun, 29 Nov 2026 10:00:00 GMT", b"Accept-Ranges: bytes",
    b"Digest: sha-256=x", b"Content-Digest: sha-256=:x:", b"Repr-Digest: sha-256=:x:",
    b"Content-MD5: x", b"Signature: a=:x:", b"Signature-Input: a=()", b"X-Amz-Checksum-SHA256: x",
    b"Expires: 0", b"Age: 1", b"CDN-Cache-Control: max-age=9", b"Connection: X-Hop", b"X-Hop: 1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "goes_on"),
    [
        (b"public, max-age=60, s-maxage=600", b"private, no-cache"),
        (b'private="set-cookie", immutable', b"private, no-cache"),
        (b"No-Store, must-revalidate", b"private, no-cache, no-store"),
        (b"no-transform", b"private, no-cache, no-transform"),
    ],
)
async def test_what_described_the_whole_does_not_go_on(
    rig: Rig, said: bytes, goes_on: bytes
) -> None:
    lines = (*ABOUT_THE_WHOLE, b"Cache-Control: " + said, b"Vary: Accept", b"X-Other: 1")
    client, _, _ = await asked(rig, GET, answer(JSON, *lines))
    _, headers, body = await received(client)
    assert body == CUT
    assert headers[b"cache-control"] == goes_on
    assert headers[b"etag"] != b'"v1"'
    assert set(headers) == {
        b"content-type", b"content-length", b"cache-control", b"etag", b"vary", b"x-other",
    }  # fmt: skip


async def test_the_tag_is_of_what_is_seen(rig: Rig) -> None:
    client, upstream, _ = await asked(rig, GET, answer(JSON, b'ETag: "v1"'))
    _, headers, _ = await received(client)
    tag = headers[b"etag"]
    assert tag.startswith(b'"')
    other = WHOLE.replace(SECRET, b"999-99")
    for asks, body, expected in (
        (tag, WHOLE, 304),
        (b'"a,b", W/' + tag, other, 304),  # that what is cut has changed is not told
        (b"*", WHOLE, 304),
        (b'"v1"', WHOLE, 200),
        (tag, WHOLE.replace(b"Ada", b"Eva"), 200),
    ):
        client.send(get(b"If-None-Match: " + asks))
        await upstream.head()
        upstream.send(answer(JSON, b'ETag: "v1"', b"Content-Location: /a", body=body))
        status, headers, left = await received(client)
        assert status == expected, asks
        assert (headers[b"etag"] == tag) is (b"Eva" not in body)
        assert headers[b"cache-control"] == b"private, no-cache"
        if status == 304:
            assert set(headers) == {b"etag", b"cache-control", b"content-location"}
        else:
            assert left
    assert rig.authorizer.done[1] == ("/a", 304)
    assert rig.stats.upstream_created == 1


async def test_another_type_is_another_tag(rig: Rig) -> None:
    tags = set()
    for kind in (b"application/json", b"application/hal+json"):
        client, upstream, _ = await asked(rig, GET, answer(b"Content-Type: " + kind))
        tags.add((await received(client))[1][b"etag"])
        upstream.close()
        await rig.becomes(lambda: rig.stats.upstream_idle == 0)
    assert len(tags) == 2


async def test_head_tells_nothing_of_the_whole(rig: Rig) -> None:
    lines = (JSON, b"Content-Length: 4711", b'ETag: "v1"', b"Last-Modified: x", b"X-Other: 1")
    client, upstream, _ = await asked(rig, get(method=b"HEAD"), answer(*lines, body=b""))
    status, headers, _ = await received(client)
    assert status == 200
    assert set(headers) == {b"content-type", b"cache-control", b"x-other"}
    client.send(GET)
    await upstream.head()
    upstream.send(answer(JSON))
    assert (await received(client))[2] == CUT


@pytest.mark.parametrize(
    "response",
    [
        answer(b'ETag: "v"', status=b"204 No Content", body=b"").replace(
            b"Content-Length: 0\r\n", b""
        ),
        answer(b"Content-Type: text/html", b"Content-Encoding: gzip", body=b""),
        answer(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        answer(status=b"302 Found", body=b""),
    ],
)
async def test_nothing_needs_no_looking_through(rig: Rig, response: bytes) -> None:
    client, upstream, _ = await asked(rig, get(method=b"POST"), response)
    status, headers, _ = await received(client)
    assert status == int(response[9:12])
    assert b"etag" not in headers
    assert (b"content-length" in headers) is (status != 204)
    client.send(GET)
    await upstream.head()
    upstream.send(answer(JSON))
    assert (await received(client))[2] == CUT


async def test_early_hints_pass(rig: Rig) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    client, _, _ = await asked(rig, GET, hints + answer(JSON))
    assert (await client.head()).startswith(b"HTTP/1.1 103 ")
    assert (await received(client))[2] == CUT


async def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    whole, left = rows(1000)
    assert len(whole) > INLINE
    client = await rig.client(GET * 3)
    upstream = await rig.upstream.accept()
    for body in (whole, WHOLE, whole):
        await upstream.head()
        upstream.send(answer(JSON, body=body))
    assert [(await received(client))[2] for _ in range(3)] == [left, CUT, left]
    assert rig.stats.upstream_created == 1


async def test_a_body_that_is_uploaded_meanwhile(rig: Rig) -> None:
    client = await rig.client(post(b"/p", b"Content-Length: 4", body=b"ab"))
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(answer(JSON))
    _, headers, body = await received(client)
    assert body == CUT
    assert headers[b"connection"] == b"close"
    await quiet(rig)


# -- what is withheld


UPSTREAM = b"X-Upstream: 1"
SHUT = {
    "html": ("type", answer(UPSTREAM, b"Content-Type: text/html")),
    "no type": ("type", answer(UPSTREAM)),
    "two types": ("type", answer(UPSTREAM, JSON, b"Content-Type: text/html")),
    "two at once": ("type", answer(UPSTREAM, b"Content-Type: application/json, text/html")),
    "lines of JSON": ("type", answer(UPSTREAM, b"Content-Type: application/x-ndjson")),
    "sequence": ("type", answer(UPSTREAM, b"Content-Type: application/json-seq")),
    "events": ("type", answer(UPSTREAM, b"Content-Type: text/event-stream")),
    "parts": ("type", answer(UPSTREAM, b"Content-Type: multipart/mixed; boundary=x")),
    "bad parameter": ("type", answer(UPSTREAM, JSON + b'; charset="utf-8\\""')),
    "utf-16": ("charset", answer(UPSTREAM, JSON + b"; charset=utf-16")),
    "quoted": ("charset", answer(UPSTREAM, JSON + b'; a=b; Charset="latin1"')),
    "one of two": ("charset", answer(UPSTREAM, JSON + b"; charset=utf-8; charset=utf-7")),
    "gzip": (
        "encoding",
        answer(UPSTREAM, JSON, b"Content-Encoding: gzip", body=gzip.compress(WHOLE)),
    ),
    "unknown coding": ("encoding", answer(UPSTREAM, JSON, b"Content-Encoding: identity, x")),
    "206": (
        "partial",
        answer(UPSTREAM, JSON, b"Content-Range: bytes 0-50/51", status=b"206 Partial Content"),
    ),
    "226": ("partial", answer(UPSTREAM, JSON, status=b"226 IM Used")),
    "304": ("not_modified", answer(UPSTREAM, status=b"304 Not Modified", body=b"")),
    "no JSON": ("not_json", answer(UPSTREAM, JSON, body=WHOLE[:-1])),
    "guarded JSON": ("not_json", answer(UPSTREAM, JSON, body=b")]}'\n" + WHOLE)),
    "text in between": ("not_json", answer(UPSTREAM, JSON, body=WHOLE + b"\n" + WHOLE)),
    "mark": ("not_json", answer(UPSTREAM, JSON, body=b"\xef\xbb\xbf" + WHOLE)),
    "latin-1": ("not_utf8", answer(UPSTREAM, JSON, body=WHOLE.replace(b"Ada", b"\xe9"))),
    "twice": ("duplicate_name", answer(UPSTREAM, JSON, body=b'{"ssn":"123-45","ssn":1}')),
    "deep": ("too_deep", answer(UPSTREAM, JSON, body=b"[" * 500 + WHOLE + b"]" * 500)),
    "error page": (
        "type",
        answer(UPSTREAM, b"Content-Type: text/plain", status=b"500 Oops", body=b"no row 123-45"),
    ),
    "chunked": (
        "type",
        answer(UPSTREAM, b"Transfer-Encoding: chunked", body=b"7\r\n123-456\r\n0\r\n\r\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "response"), SHUT.values(), ids=SHUT.keys())
async def test_what_cannot_be_looked_through_is_withheld(
    rig: Rig, reason: str, response: bytes
) -> None:
    client, _, _ = await asked(rig, GET, response)
    await withheld(rig, client, reason)
    assert rig.authorizer.done == [("/a", 502)]
    rig.authorizer.permit = None
    client.send(GET)  # the client's connection goes on, and so does the upstream's: it was whole
    upstream = rig.upstream.peers[0]
    await upstream.head()
    upstream.send(OK)
    assert await client.response() == (200, b"ok")
    assert rig.stats.upstream_created == 1


async def test_what_cannot_be_looked_through_is_not_read_to_its_end(rig: Rig) -> None:
    client, upstream, _ = await asked(
        rig, GET, answer(UPSTREAM, b"Transfer-Encoding: chunked", body=b"7\r\n123-456\r\n")
    )
    await withheld(rig, client, "type")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)


async def test_head_of_the_same_is_withheld_without_a_body(rig: Rig) -> None:
    client, _, _ = await asked(
        rig, get(method=b"HEAD"), answer(UPSTREAM, status=b"304 Not Modified", body=b"")
    )
    assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert rig.stats.withheld == {"not_modified": 1}


@pytest.mark.limits(redacted_body=100_000)
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_a_body(rig: Rig, chunked: bool) -> None:
    whole, left = rows(1000)
    if chunked:
        response = answer(
            UPSTREAM, JSON, b"Transfer-Encoding: chunked", body=b"%x\r\n" % (8 * MIB) + bytes(MIB)
        )
    else:
        response = answer(UPSTREAM, JSON, b"Content-Length: 100001", body=b"[")
    client, upstream, _ = await asked(rig, GET, response)
    await withheld(rig, client, "too_large")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)
    client.send(GET)
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(answer(JSON, body=whole))
    assert (await received(client))[2] == left


@pytest.mark.limits(inspecting=150)
async def test_more_at_once_than_may_be_held(rig: Rig) -> None:
    first, upstream, _ = await asked(
        rig, GET, answer(JSON, b"Content-Length: 101", body=b" " * 100)
    )
    await rig.becomes(lambda: rig.stats.inspecting == 100)
    second, _, _ = await asked(rig, GET, answer(UPSTREAM, JSON))
    assert (await second.response())[0] == 502
    assert rig.stats.withheld == {"crowded": 1}
    assert rig.stats.inspecting == 100
    upstream.send(b"1")
    assert (await received(first))[2] == b" " * 100 + b"1"
    await quiet(rig)


async def test_a_websocket_is_withheld_before_the_service_hears_of_it(rig: Rig) -> None:
    client = await rig.client(websocket())
    await withheld(rig, client, "websocket")
    assert rig.stats.upstream_created == 0


async def test_a_websocket_that_would_have_to_be_redacted_from_now_on_is_cut(rig: Rig) -> None:
    rig.authorizer.permit = None
    client = await rig.client(websocket())
    upstream = await rig.upstream.accept()
    await upstream.head()
    upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    rig.authorizer.permit = DROP
    for changed in rig.authorizer.changed:
        changed()
    await rig.becomes(lambda: rig.stats.tunnels_cut == {"policy": 1})


async def test_a_switch_nobody_asked_for(rig: Rig) -> None:
    client, _, _ = await asked(rig, GET, b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + SECRET)
    status, body = await client.response()
    assert (status, json.loads(body)["code"]) == (502, "bad_gateway")


async def test_a_defect_of_ours_shows_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: heard.append(context["message"])
    )

    def broken(*_: Any) -> bytes:
        raise KeyError("a defect")

    monkeypatch.setattr(redacting, "redact", broken)
    client, upstream, _ = await asked(rig, GET, answer(UPSTREAM, JSON))
    await withheld(rig, client, "defect")
    client.send(GET)
    await upstream.head()
    upstream.send(answer(UPSTREAM, JSON, body=rows(1000)[0]))
    assert (await client.response())[0] == 502
    assert heard == ["redacting failed"] * 2


# -- ends of either side


async def test_an_upstream_that_breaks_off(rig: Rig) -> None:
    client, upstream, _ = await asked(rig, GET, answer(JSON, b"Content-Length: 99"))
    await rig.becomes(lambda: rig.stats.inspecting == len(WHOLE))
    upstream.close()
    status, body = await client.response()
    assert (status, json.loads(body)["code"]) == (502, "bad_gateway")
    assert rig.stats.upstream_errors == {"closed": 1}
    assert rig.stats.withheld == {}
    await quiet(rig)


async def test_an_upstream_that_stops(rig: Rig) -> None:
    client, _, _ = await asked(rig, GET, answer(JSON, b"Content-Length: 99"))
    await rig.becomes(lambda: rig.stats.inspecting == len(WHOLE))
    rig.pass_time(301)
    assert (await client.response())[0] == 504
    await quiet(rig)


async def test_a_client_that_leaves_while_it_is_collected(rig: Rig) -> None:
    client, upstream, _ = await asked(rig, GET, answer(JSON, b"Content-Length: 99"))
    await rig.becomes(lambda: rig.stats.inspecting == len(WHOLE))
    client.reset()
    await quiet(rig)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await upstream.exactly(1)
    assert rig.authorizer.done == [("/a", 0)]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The thread begins, and goes on when it is let."""
    begun, go_on = threading.Event(), threading.Event()

    def waits(body: bytes, redactions: tuple[Redaction, ...]) -> bytes:
        if len(body) > INLINE:
            begun.set()
            assert go_on.wait(5)
        return redact(body, redactions)

    monkeypatch.setattr(redacting, "redact", waits)
    return begun, go_on


async def test_a_client_that_leaves_while_it_is_looked_through(
    rig: Rig, slow: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow
    whole, left = rows(1000)
    client, _, _ = await asked(rig, GET, answer(JSON, body=whole))
    await rig.becomes(begun.is_set)
    waits, _, _ = await asked_again(rig, answer(JSON, body=whole))
    stays, _, _ = await asked_again(rig, answer(JSON, body=whole))
    await rig.becomes(lambda: rig.stats.inspecting == 3 * len(whole))
    other, _, _ = await asked_again(rig, answer(JSON))
    assert (await received(other))[2] == CUT  # nobody else waits for the thread
    client.reset()
    await rig.becomes(lambda: rig.stats.in_flight == 2)
    assert rig.stats.inspecting == 3 * len(whole)  # what is in work is still held
    waits.reset()
    await rig.becomes(lambda: rig.stats.inspecting == 2 * len(whole))
    go_on.set()
    assert (await received(stays))[2] == left
    await quiet(rig)
    assert sorted(status for _, status in rig.authorizer.done) == [0, 0, 200, 200]


async def asked_again(rig: Rig, response: bytes) -> tuple[Peer, Peer, bytes]:
    """Over whichever upstream connection it comes."""
    client = await rig.client(GET)
    peers = rig.upstream.peers

    async def head() -> Peer:
        while True:
            for peer in list(peers):
                if b"\r\n\r\n" in peer.reader._buffer:  # type: ignore[attr-defined]
                    return peer
            await asyncio.sleep(0)

    upstream = await soon(head())
    data = await upstream.head()
    upstream.send(response)
    return client, upstream, data


@pytest.mark.limits(total=10.0)
async def test_an_exchange_that_takes_too_long(
    rig: Rig, slow: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow
    client, _, _ = await asked(rig, GET, answer(JSON, body=rows(1000)[0]))
    await rig.becomes(begun.is_set)
    rig.pass_time(11)
    assert (await client.response())[0] == 504
    go_on.set()
    await quiet(rig)


async def test_a_revoked_credential_shows_nothing(
    rig: Rig, slow: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow
    client, _, _ = await asked(rig, GET, answer(JSON, body=rows(1000)[0]))
    await rig.becomes(begun.is_set)
    rig.authorizer.revoke("alice")
    assert (await client.response())[0] == 401
    go_on.set()
    await quiet(rig)


async def test_others_are_served_while_a_large_body_is_looked_through(rig: Rig) -> None:
    whole, left = rows(20_000)
    assert len(whole) < MIB
    client, _, _ = await asked(rig, GET, answer(JSON, body=whole))
    small, _, _ = await asked_again(rig, answer(JSON))
    assert (await received(small))[2] == CUT
    assert (await received(client))[2] == left


async def test_what_needs_no_redaction_streams(rig: Rig) -> None:
    rig.authorizer.permit = None
    client, upstream, _ = await asked(rig, GET, answer(JSON, b'ETag: "v1"', b"Content-Length: 99"))
    head = await client.head()
    assert b'etag: "v1"\r\n' in head
    assert await client.exactly(len(WHOLE)) == WHOLE
    upstream.send(b" " * (99 - len(WHOLE)))
    await client.exactly(99 - len(WHOLE))
    assert rig.stats.redacted == 0
