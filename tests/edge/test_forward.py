from __future__ import annotations

import re

import pytest

from sidecar.decide.challenge import Answer, problem
from sidecar.decide.credentials import Location
from sidecar.decide.outcomes import NO_OBLIGATIONS, Identity, Obligations, Permit
from sidecar.edge import forward
from sidecar.edge import names as names_module
from sidecar.edge.decision import edits
from sidecar.edge.forward import client_framing, encoded, request_head
from sidecar.edge.http1 import Framing, parse_request_head
from sidecar.edge.names import RequestNames, folded, late_request_lines
from sidecar.edge.response_head import parse_response_head

TRACE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00"
ALICE = Identity("https://issuer.example", "alice", frozenset({"write", "read"}))


def upstream_lines(
    *lines: bytes,
    start: bytes = b"GET / HTTP/1.1",
    permit: Permit | None = None,
    set_by_rules: frozenset[str] = frozenset(),
    host: bytes = b"Host: a.example\r\n",
) -> list[bytes]:
    """The lines of the head that goes upstream for a request with these header lines."""
    raw = start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    head = parse_request_head(raw)
    out = forward.request_head(
        head,
        head.request("http", "192.0.2.1"),
        permit or Permit("r"),
        RequestNames(set_by_rules),
        decision_id="f" * 32,
        traceparent=TRACE,
        default_host="127.0.0.1:9000",
    )
    assert out.endswith(b"\r\n\r\n")
    parsed = parse_request_head(out)  # what we write, we would accept
    assert parsed.path == head.path
    return out[:-4].split(b"\r\n")


OURS = [
    b"x-forwarded-for: 192.0.2.1",
    b"x-forwarded-proto: http",
    b"x-forwarded-host: a.example",
    b"x-sidecar-decision: " + b"f" * 32,
    b"traceparent: " + TRACE,
]


def test_the_whole_head() -> None:
    lines = upstream_lines(
        b"Accept: */*",
        b"Authorization: Bearer abc",
        start=b"GET /a/../b%7e?c=%zz HTTP/1.1",
        host=b"Host: A.Example:80\r\n",
        permit=Permit("r", ALICE, Obligations((("x-tier", "gold, 50% €"),))),
    )
    assert lines == [
        b"GET /b~?c=%zz HTTP/1.1",
        b"host: a.example:80",
        b"accept: */*",
        b"authorization: Bearer abc",
        b"x-forwarded-for: 192.0.2.1",
        b"x-forwarded-proto: http",
        b"x-forwarded-host: a.example:80",
        b"x-sidecar-subject: alice",
        b"x-sidecar-issuer: https://issuer.example",
        b"x-sidecar-scopes: read write",
        b"x-tier: gold,%2050%25%20%E2%82%AC",
        b"x-sidecar-decision: " + b"f" * 32,
        b"traceparent: " + TRACE,
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"X-Sidecar-Subject: root",
        b"x-sidecar-anything: 1",
        b"X-SIDECAR-SCOPES: admin",
        b"x_sidecar_subject: root",
        b"X-Sidecar_Subject: root",
        b"x.sidecar.subject: root",
        b"x-sidecar.subject: root",
        b"x~sidecar~subject: root",
        b"x-sidecar: 1",
        b"X-Tier: platinum",
        b"x_tier: platinum",
        b"x.tier: platinum",
        b"X-Original-URL: /admin",
        b"X-Rewrite-URL: /admin",
        b"x.rewrite.url: /admin",
        b"X-HTTP-Method: DELETE",
        b"X-HTTP-Method-Override: DELETE",
        b"X-Method-Override: DELETE",
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic abc",
        b"TE: trailers",
        b"Trailer: x",
        b"Upgrade: websocket",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Expect: 100-continue",
        b"Forwarded: for=192.0.2.60",
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-User: root",
        b"X-Forwarded-Prefix: /admin",
        b"x.forwarded.for: 10.0.0.1",
        b"Traceparent: 00-0-0-00",
        b"Foo_Bar: 1",
        b"Content_Length: 5",
        b"Content.Length: 5",
        b"Transfer.Encoding: chunked",
        b"Ho_st: evil.example",
    ],
)
def test_what_never_goes_upstream(line: bytes) -> None:
    lines = upstream_lines(line, set_by_rules=frozenset({"x-tier"}))
    assert lines == [b"GET / HTTP/1.1", b"host: a.example", *OURS]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"X-Tierra: 1", b"x-tierra: 1"),
        (b"X-Side: 1", b"x-side: 1"),
        (b"Cookie: a=b", b"cookie: a=b"),
        (b"X-Request-Id:  1 2 ", b"x-request-id: 1 2"),
        (b"X-Bytes: \xff", b"x-bytes: \xff"),
        (b"X-Empty:", b"x-empty: "),
        (b"Tracestate: a=b", b"tracestate: a=b"),
    ],
)
def test_what_does(line: bytes, kept: bytes) -> None:
    lines = upstream_lines(line, set_by_rules=frozenset({"x-tier"}))
    assert lines == [b"GET / HTTP/1.1", b"host: a.example", kept, *OURS]


@pytest.mark.parametrize(
    "name",
    [
        b"Client-Cert", b"Client-Cert-Chain", b"X-Client-Cert", b"X-Client-Certificate",
        b"X-SSL-Client-S-DN", b"x-ssl_client.verify", b"SSL-Client-Cert", b"SSL_CLIENT_VERIFY",
        b"X-Forwarded-Client-Cert", b"X-Forwarded-Tls-Client-Cert", b"X-Amzn-Mtls-Clientcert",
        b"X-ARR-ClientCert", b"X-TLS-Client-CN",
    ],
)  # fmt: skip
def test_callers_do_not_speak_for_a_terminator_of_tls(name: bytes) -> None:
    assert upstream_lines(name + b": CN=admin") == [
        b"GET / HTTP/1.1", b"host: a.example", *OURS
    ]  # fmt: skip


def test_a_chain_of_proxies_goes_on() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    head = parse_request_head(raw)
    out = forward.request_head(
        head, head.request("https", "192.0.2.7", "192.0.2.7, 10.0.0.1"), Permit("r"),
        RequestNames(), decision_id="f" * 32, traceparent=TRACE, default_host="",
    )  # fmt: skip
    assert b"\r\nx-forwarded-for: 192.0.2.7, 10.0.0.1\r\nx-forwarded-proto: https\r\n" in out


def test_connection_names_hop_by_hop_headers_only() -> None:
    lines = upstream_lines(
        b"Connection: x-hop, authorization, cookie, host, content-type, x-sidecar-decision",
        b"X-Hop: 1",
        b"Authorization: Bearer abc",
        b"Cookie: a=b",
        b"Content-Type: text/plain",
    )
    assert lines == [
        b"GET / HTTP/1.1",
        b"host: a.example",
        b"authorization: Bearer abc",
        b"cookie: a=b",
        b"content-type: text/plain",
        *OURS,
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"Content-Length: 007", b"content-length: 7"),
        (b"Content-Length: 0", b"content-length: 0"),
        (b"Transfer-Encoding: Chunked", b"transfer-encoding: chunked"),
    ],
)
def test_framing_is_said_anew(line: bytes, said: bytes) -> None:
    lines = upstream_lines(line, start=b"POST / HTTP/1.1")
    assert lines == [b"POST / HTTP/1.1", b"host: a.example", said, *OURS]


def test_a_caller_of_1_0_without_host_gets_the_upstreams_own() -> None:
    lines = upstream_lines(start=b"GET / HTTP/1.0", host=b"")
    assert lines[1] == b"host: 127.0.0.1:9000"
    assert not any(line.startswith(b"x-forwarded-host") for line in lines)


def test_an_anonymous_request_carries_no_identity() -> None:
    assert not any(re.match(rb"x-sidecar-(?!decision)", line) for line in upstream_lines())


def test_an_identity_without_scopes_says_none() -> None:
    lines = upstream_lines(permit=Permit("r", Identity("i", "s")))
    assert not any(line.startswith(b"x-sidecar-scopes") for line in lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("alice", b"alice"),
        ("", b""),
        ("a b", b"a%20b"),
        ("100%", b"100%25"),
        ("é€😀", b"%C3%A9%E2%82%AC%F0%9F%98%80"),
        ("a\r\nx-evil: 1", b"a%0D%0Ax-evil:%201"),
        ("\0\x7f", b"%00%7F"),
        ("\ud800", b"%ED%A0%80"),
        ("!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", b"!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    ],
)
def test_values_are_visible_ascii(text: str, value: bytes) -> None:
    assert encoded(text) == value


def test_folding() -> None:
    assert folded(b"X_Sidecar.Sub~9") == b"x-sidecar-sub-9"


def test_made_up_names_do_not_fill_the_memory() -> None:
    names = RequestNames()
    for number in range(3 * names_module._KEPT):
        assert names[b"x-%d" % number]
    assert names[b"x" * 1000] == b"x" * 1000 + b": "
    assert len(names) <= names_module._KEPT


# -- towards the client


def client_lines(
    *lines: bytes,
    start: bytes = b"HTTP/1.1 200 OK",
    method: str = "HEAD",
    version: int = 1,
    keep_alive: bool = True,
) -> list[bytes]:
    raw = b"".join(line + b"\r\n" for line in (start, *lines)) + b"\r\n"
    head = parse_response_head(raw, method)
    out = forward.response_head(head, version=version, keep_alive=keep_alive)
    assert out.endswith(b"\r\n\r\n")
    return out[:-4].split(b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive",
        b"Keep-Alive: timeout=5",
        b"Transfer-Encoding: chunked",
        b"Trailer: x",
        b"Upgrade: h2c",
        b"X-Sidecar-Decision: forged",
        b"x_sidecar_decision: forged",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Connection: close",
    ],
)
def test_what_is_not_returned(line: bytes) -> None:
    assert client_lines(line) == [b"HTTP/1.1 200 OK"]


def test_what_is_returned_comes_in_order() -> None:
    assert client_lines(
        b"Set-Cookie: a=b",
        b"Set-Cookie: c=d",
        b"Connection: x-hop, set-cookie",
        b"X-Hop: 1",
        b"Content-Length: 05",
        start=b"HTTP/1.0 404 Not here",
    ) == [b"HTTP/1.1 404 Not here", b"set-cookie: a=b", b"set-cookie: c=d", b"content-length: 5"]


@pytest.mark.parametrize(
    ("version", "keep_alive", "said"),
    [
        (1, True, []),
        (1, False, [b"connection: close"]),
        (0, True, [b"connection: keep-alive"]),
        (0, False, [b"connection: close"]),
    ],
)
def test_persistence_is_said_where_the_version_needs_it(
    version: int, keep_alive: bool, said: list[bytes]
) -> None:
    lines = client_lines(version=version, keep_alive=keep_alive)
    assert lines == [b"HTTP/1.1 200 OK", *said]


@pytest.mark.parametrize("line", [b"Transfer-Encoding: chunked", b"X: close-delimited"])
def test_chunks_for_1_1_and_the_end_of_the_stream_for_1_0(line: bytes) -> None:
    head = parse_response_head(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n", "GET")
    assert client_framing(head, 1) is Framing.CHUNKED
    assert client_framing(head, 0) is Framing.CLOSE
    assert b"transfer-encoding: chunked" in client_lines(line, method="GET")
    said = client_lines(line, method="GET", version=0, keep_alive=False)
    assert b"transfer-encoding: chunked" not in said
    assert said[-1] == b"connection: close"


def test_the_lines_that_go_upstream_follow_the_rules_of_the_moment() -> None:
    for _ in range(3):  # the same block, remembered by now
        before = upstream_lines(b"X-Tier: gold", b"X-Other: same block")
        after = upstream_lines(
            b"X-Tier: gold", b"X-Other: same block", set_by_rules=frozenset({"x-tier"})
        )
        assert b"x-tier: gold" in before
        assert b"x-tier: gold" not in after


def test_an_answer_of_our_own() -> None:
    answer = problem(503, "unavailable", "Later.", "f" * 32)
    out = forward.answer(answer, version=1, keep_alive=True)
    head, _, body = out.partition(b"\r\n\r\n")
    assert body == answer.body
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 503 Service Unavailable",
        b"content-type: application/problem+json",
        b"cache-control: no-store",
        b"x-sidecar-decision: " + b"f" * 32,
        b"content-length: %d" % len(body),
    ]
    assert forward.answer(answer, version=1, keep_alive=True, body=False) == head + b"\r\n\r\n"


@pytest.mark.parametrize("unshared", [False, True])
def test_a_cookie_that_is_set_is_for_nobodys_cache(unshared: bool) -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nCache-Control: public, max-age=600\r\nCDN-Cache-Control: max-age=60\r\n"
        b"ETag: 1\r\nContent-Length: 0\r\n\r\n"
    )
    before = edits(Obligations(unshared=unshared), [], "", [])
    out = forward.response_head(
        parse_response_head(raw, "GET"), version=1, keep_alive=True,
        edits=before.setting(b"set-cookie: v=1\r\n"),
    )  # fmt: skip
    assert b"set-cookie: v=1\r\n" in out
    assert out.count(b"cache-control: private, no-store\r\n") == out.count(b"cache-control") == 1
    assert b"etag: 1\r\n" in out


def test_cors_replaces_what_the_upstream_says() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: accept\r\n"
        b"Access-Control-Max-Age: 1\r\nContent-Length: 0\r\n\r\n"
    )
    head = parse_response_head(raw, "GET")
    cors = [(b"access-control-allow-origin", b"https://app.example"), (b"vary", b"origin")]
    assert forward.response_head(
        head, version=1, keep_alive=True, edits=edits(NO_OBLIGATIONS, cors, "", [])
    ) == (
        b"HTTP/1.1 200 OK\r\nvary: accept\r\ncontent-length: 0\r\n"
        b"access-control-allow-origin: https://app.example\r\nvary: origin\r\n\r\n"
    )
    plain = forward.response_head(head, version=1, keep_alive=True)
    assert b"access-control-allow-origin: *" in plain


def late(*names: bytes, read: frozenset[str] | None = frozenset({"x-read"})) -> list[bytes]:
    known = RequestNames(frozenset({"x-tier"}), read)
    lines = late_request_lines([(name, b"1") for name in names], known)
    return [line.partition(b":")[0] for line in lines.split(b"\r\n")[:-1]]


def test_trailers_go_on_unless_a_decision_could_have_depended_on_them() -> None:
    names = (b"x-sum", b"x-read", b"server-timing", b"x_read", b"x-tier", b"x-sidecar-subject")
    assert late(*names) == [b"x-sum", b"server-timing"]
    assert late(b"x-sum", read=None) == []


@pytest.mark.parametrize(
    "name",
    [
        b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie", b"te",
        b"content-type", b"expect", b"connection", b"trailer", b"x-forwarded-for", b"traceparent",
        b"x-http-method-override", b"set-cookie", b"range", b"sec-websocket-key",
        b"access-control-request-method", b"proxy-authorization", b"x-original-url",
    ],
)  # fmt: skip
def test_what_never_comes_late(name: bytes) -> None:
    assert late(name) == []


def test_what_rules_take_from_a_response_comes_neither_early_nor_late() -> None:
    left_out = frozenset((b"x-internal",))
    trailers = [(b"x-internal", b"1"), (b"x-sum", b"2")]
    assert forward.response_trailers(trailers, left_out) == b"x-sum: 2\r\n"
    head = parse_response_head(b"HTTP/1.1 103 Early\r\nX-Internal: 1\r\nLink: </a>\r\n\r\n", "GET")
    lines = forward.interim_head(head, left_out)
    assert lines == b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n"


def test_response_trailers() -> None:
    lines = forward.response_trailers([
        (b"x-sum", b"1"), (b"set-cookie", b"a=b"), (b"content-length", b"5"), (b"x-sidecar-x", b"1"),
        (b"grpc-status", b"0"), (b"access-control-allow-origin", b"*"), (b"location", b"/"),
    ])  # fmt: skip
    assert lines == b"x-sum: 1\r\ngrpc-status: 0\r\n"


@pytest.mark.parametrize(
    ("te", "wanted"),
    [
        (b"trailers", True), (b"Trailers", True), (b"deflate, trailers", True), (b"deflate", False),
        (b"xtrailers", False), (b"trailers;q=0", False),
    ],
)  # fmt: skip
def test_who_wants_trailers(te: bytes, wanted: bool) -> None:
    head = parse_request_head(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nTE: " + te + b"\r\n\r\n"
    )
    assert head.block.wants_trailers() is wanted


def test_what_connection_names_is_not_in_an_interim_head_either() -> None:
    raw = b"HTTP/1.1 103 Early\r\nConnection: x-hop\r\nX-Hop: 1\r\nLink: </a>\r\n\r\n"
    head = parse_response_head(raw, "GET")
    assert forward.interim_head(head) == b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n"


DATE = b"date: Tue, 24 Nov 2026 23:05:40 GMT\r\n"


def test_what_came_without_a_date_gets_one_and_no_other_does() -> None:
    """RFC 9110 section 6.6.1."""
    undated = parse_response_head(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET")
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
    for date in (DATE, DATE.replace(b":40", b":41")):  # nothing of it is remembered
        out = forward.response_head(undated, version=1, keep_alive=True, date=date)
        assert out == plain + date + b"\r\n"
    dated = parse_response_head(
        b"HTTP/1.1 200 OK\r\nDATE: yesterday\r\nContent-Length: 0\r\n\r\n", "GET"
    )
    for keep_alive, cors in ((True, []), (False, []), (True, [(b"vary", b"origin")])):
        out = forward.response_head(
            dated,
            version=1,
            keep_alive=keep_alive,
            edits=edits(NO_OBLIGATIONS, cors, "", []),
            date=DATE,
        )
        assert out.count(b"date: ") == 1
        assert b"date: yesterday\r\n" in out


def test_our_own_answers_bear_the_date_they_are_given() -> None:
    out = forward.answer(Answer(204, [], b""), version=1, keep_alive=False, date=DATE)
    assert out == b"HTTP/1.1 204 No Content\r\n" + DATE + b"connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "said", "forwarded"),
    [
        (b"OPTIONS", b"Max-Forwards: 7", b"max-forwards: 6"),
        (b"OPTIONS", b"Max-Forwards: 010", b"max-forwards: 9"),
        (b"OPTIONS", b"Max-Forwards: many", b"max-forwards: many"),
        (b"OPTIONS", b"Max-Forwards: " + b"1" * 10, b"max-forwards: " + b"1" * 10),
        (b"GET", b"Max-Forwards: 7", b"max-forwards: 7"),
    ],
)
def test_an_options_request_comes_one_hop_nearer(
    method: bytes, said: bytes, forwarded: bytes
) -> None:
    """RFC 9110 section 7.6.2."""
    lines = upstream_lines(b"X-A: 1", said, start=method + b" / HTTP/1.1")
    assert lines[2:4] == [b"x-a: 1", forwarded]


def test_what_callers_make_long_is_not_remembered() -> None:
    """Neither an authority nor a subject: their number is bounded, and so are their bytes."""
    before = forward.remembered()
    for number in range(3):
        authority = f"{number}" * (forward.LONGEST_KEPT + 1)
        subject = Identity("iss", f"{number}" * (forward.LONGEST_KEPT + 1))
        scopes = frozenset(map(str, range(forward.SCOPES_KEPT + 1 + number)))
        assert authority.encode() in forward.origin_lines(authority, "192.0.2.1", "http")
        assert subject.subject.encode() in forward.identity_lines(subject)
        forward.identity_lines(Identity("iss", "alice", scopes))
    assert forward.remembered() == before


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"sid=secret", b""),
        (b"a=1; sid=secret; b=2", b"a=1; b=2"),
        (b"sid=secret;sid=other", b""),
        (b"a=1;sid=x", b"a=1"),
        (b"sid =x; a=1", b"a=1"),
        (b"sidx=1; xsid=2", b"sidx=1; xsid=2"),
        (b" ; ;a", b"a"),
        (b'sid="quoted"; a=1', b"a=1"),
    ],
)
def test_a_cookie_that_stays_here_leaves_the_others(value: bytes, left: bytes) -> None:
    head = parse_request_head(b"GET / HTTP/1.1\r\nhost: h\r\ncookie: " + value + b"\r\n\r\n")
    names = RequestNames(removed=(Location(b"sid", cookie=True),))
    request = head.request("http", "192.0.2.1")
    sent = request_head(
        head, request, Permit("r"), names, decision_id="d", traceparent=b"t", default_host="h"
    )
    assert (b"cookie: " + left + b"\r\n" in sent) if left else (b"cookie" not in sent)
    assert b"secret" not in sent
