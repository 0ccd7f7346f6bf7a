"""Raw client streams as data, each with what must come of it.

An outcome lists, in order, the requests an upstream may see as `METHOD target host body`, and
ends with a status where the rest of the stream is refused. The pure parser and the running proxy
are both held to it: a refused stream's upstream saw nothing beyond what is listed.
"""

from __future__ import annotations

from typing import Final

Outcome = tuple[str | int, ...]

_H = b"Host: a.example\r\n"


def _get(*lines: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + _H + _lines(lines)


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\n" + _H + _lines(lines) + body


def _chunked(body: bytes, *lines: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", *lines, body=body)


def _lines(lines: tuple[bytes, ...]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
_WEBSOCKET: Final = {
    b"Connection": b"Upgrade",
    b"Upgrade": b"websocket",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def websocket(
    *more: bytes, target: bytes = b"/ws", start: bytes = b"GET %b HTTP/1.1", **other: bytes
) -> bytes:
    """A handshake with some of its fields said in another way, or (b"") not at all."""
    fields = _WEBSOCKET | {name.replace("_", "-").encode(): value for name, value in other.items()}
    lines = tuple(name + b": " + value for name, value in fields.items() if value)
    return start % target + b"\r\n" + _H + _lines((*lines, *more))


def _start(line: bytes) -> bytes:
    return line + b"\r\n" + _H + b"\r\n"


_ROOT: Final[Outcome] = ("GET / a.example ",)
_WS: Final[Outcome] = ("GET /ws a.example ",)
_BAD: Final[Outcome] = (400,)


def _p(body: str) -> Outcome:
    return (f"POST /p a.example {body}",)


RAW: Final[list[tuple[str, bytes, Outcome]]] = [
    # -- sound
    ("plain", _get(), _ROOT),
    ("pipelined", _get() + _get(target=b"/2"), ("GET / a.example ", "GET /2 a.example ")),
    ("one empty line first", b"\r\n" + _get(), _ROOT),
    ("empty line between", _get() + b"\r\n" + _get(), _ROOT * 2),
    ("query kept as sent", _get(target=b"/?a=%zz&[x]=|"), ("GET /?a=%zz&[x]=| a.example ",)),
    ("empty query kept", _get(target=b"/?"), ("GET /? a.example ",)),
    ("unknown method", _start(b"BREW / HTTP/1.1"), ("BREW / a.example ",)),
    ("value with obs-text", _get(b"X: \xe9\xff"), _ROOT),
    ("value with tab inside", _get(b"X: a\tb"), _ROOT),
    ("empty value", _get(b"X:"), _ROOT),
    ("no space after colon", _get(b"X:y"), _ROOT),
    ("space after value", _get(b"X: y  \t"), _ROOT),
    ("long value", _get(b"X: " + b"y" * 8000), _ROOT),
    ("repeated plain header", _get(b"X: 1", b"X: 2"), _ROOT),
    ("strange token name", _get(b"!#$%&'*+-.^`|~9: y"), _ROOT),
    ("1.0", _get(version=b"HTTP/1.0"), _ROOT),
    ("1.0 keep-alive", _get(b"Connection: keep-alive", version=b"HTTP/1.0"), _ROOT),
    ("1.0 expectation ignored", _get(b"Expect: anything", version=b"HTTP/1.0"), _ROOT),
    # -- request line
    ("two empty lines first", b"\r\n\r\n" + _get(), _BAD),
    ("empty line of LF", b"\n" + _get(), _BAD),
    ("empty line of CR", b"\r" + _get(), _BAD),
    ("space first", b" " + _get(), _BAD),
    ("no version", _start(b"GET /"), _BAD),
    ("0.9", b"GET /\r\n\r\n", _BAD),
    ("two spaces", _start(b"GET  / HTTP/1.1"), _BAD),
    ("space at end", _start(b"GET / HTTP/1.1 "), _BAD),
    ("tab for space", _start(b"GET\t/\tHTTP/1.1"), _BAD),
    ("space in target", _start(b"GET /a b HTTP/1.1"), _BAD),
    ("2.0", _start(b"GET / HTTP/2.0"), (505,)),
    ("1.2", _start(b"GET / HTTP/1.2"), (505,)),
    ("0.9 named", _start(b"GET / HTTP/0.9"), (505,)),
    ("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
    ("version 1.01", _start(b"GET / HTTP/1.01"), _BAD),
    ("version 1", _start(b"GET / HTTP/1"), _BAD),
    ("version 11", _start(b"GET / HTTP/11"), _BAD),
    ("version lower case", _start(b"GET / http/1.1"), _BAD),
    ("another protocol", _start(b"GET / RTSP/1.0"), _BAD),
    ("version with Arabic digit", _start("GET / HTTP/1.\u0661".encode()), _BAD),
    ("method with colon", _start(b"G:T / HTTP/1.1"), _BAD),
    ("method with slash", _start(b"G/T / HTTP/1.1"), _BAD),
    ("empty method", _start(b" / HTTP/1.1"), _BAD),
    ("method not ASCII", _start(b"G\xcbT / HTTP/1.1"), _BAD),
    ("get in lower case", _start(b"get / HTTP/1.1"), _BAD),
    ("delete in mixed case", _start(b"Delete / HTTP/1.1"), _BAD),
    ("long method", _start(b"A" * 33 + b" / HTTP/1.1"), (501,)),
    ("longest method", _start(b"A" * 32 + b" / HTTP/1.1"), ("A" * 32 + " / a.example ",)),
    ("CONNECT", b"CONNECT a.example:443 HTTP/1.1\r\n" + _H + b"\r\n", (501,)),
    ("CONNECT with a path", _start(b"CONNECT / HTTP/1.1"), (501,)),
    ("TRACE", _start(b"TRACE / HTTP/1.1"), (501,)),
    ("trace in lower case", _start(b"trace / HTTP/1.1"), (501,)),
    # -- target
    ("dots resolved", _get(target=b"/a/./b/../c"), ("GET /a/c a.example ",)),
    ("encoded dots", _get(target=b"/a/%2e%2e/b"), ("GET /b a.example ",)),
    ("slashes collapsed", _get(target=b"//a///b"), ("GET /a/b a.example ",)),
    ("unreserved decoded", _get(target=b"/%61%2D"), ("GET /a- a.example ",)),
    ("decoded once", _get(target=b"/%2561"), ("GET /%2561 a.example ",)),
    ("escapes in upper case", _get(target=b"/%c3%a9"), ("GET /%C3%A9 a.example ",)),
    ("climbs out", _get(target=b"/../etc"), _BAD),
    ("climbs out later", _get(target=b"/a/../../etc"), _BAD),
    ("climbs out encoded", _get(target=b"/%2e%2e/etc"), _BAD),
    ("encoded slash", _get(target=b"/a%2fb"), _BAD),
    ("encoded backslash", _get(target=b"/a%5cb"), _BAD),
    ("encoded NUL", _get(target=b"/a%00b"), _BAD),
    ("backslash", _get(target=b"/a\\b"), _BAD),
    ("path parameter", _get(target=b"/a;b=c"), _BAD),
    ("fragment", _get(target=b"/a#b"), _BAD),
    ("fragment in query", _get(target=b"/a?b#c"), _BAD),
    ("half an escape", _get(target=b"/%4"), _BAD),
    ("no hex in escape", _get(target=b"/%zz"), _BAD),
    ("overlong UTF-8", _get(target=b"/%c0%ae"), _BAD),
    ("surrogate in UTF-8", _get(target=b"/%ed%a0%80"), _BAD),
    ("raw UTF-8", _get(target="/é".encode()), _BAD),
    ("quote in path", _get(target=b'/a"b'), _BAD),
    ("raw UTF-8 in query", _get(target="/?é".encode()), _BAD),
    ("relative", _get(target=b"a/b"), _BAD),
    ("query alone", _get(target=b"?a"), _BAD),
    ("dot alone", _get(target=b"."), _BAD),
    ("too long", _get(target=b"/" + b"a" * 16384), (414,)),
    ("far too long", b"GET /" + b"a" * 70_000, (414,)),
    ("asterisk", _start(b"OPTIONS * HTTP/1.1"), ("OPTIONS * a.example ",)),
    ("asterisk to GET", _get(target=b"*"), _BAD),
    ("two asterisks", _start(b"OPTIONS ** HTTP/1.1"), _BAD),
    # -- absolute form
    ("absolute", _get(target=b"http://a.example/x"), ("GET /x a.example ",)),
    ("absolute without path", _get(target=b"http://a.example"), _ROOT),
    ("absolute with query", _get(target=b"http://a.example?q"), ("GET /?q a.example ",)),
    ("absolute in upper case", _get(target=b"HTTP://A.EXAMPLE/x"), ("GET /x a.example ",)),
    ("absolute over https", _get(target=b"https://a.example/x"), ("GET /x a.example ",)),
    ("absolute, other host", _get(target=b"http://b.example/x"), _BAD),
    ("absolute, other port", _get(target=b"http://a.example:81/x"), _BAD),
    ("absolute with user", _get(target=b"http://u@a.example/x"), _BAD),
    ("absolute, host as user", _get(target=b"http://a.example@b.example/x"), _BAD),
    ("absolute without host", _get(target=b"http:///x"), _BAD),
    ("absolute, other scheme", _get(target=b"ftp://a.example/x"), _BAD),
    ("absolute, one slash", _get(target=b"http:/a.example/x"), _BAD),
    ("absolute with fragment", _get(target=b"http://a.example#x"), _BAD),
    ("absolute, climbing", _get(target=b"http://a.example/../x"), _BAD),
    ("absolute, backslash", _get(target=b"http://a.example\\@b.example/"), _BAD),
    ("absolute on 1.0 without Host", b"GET http://a.example/ HTTP/1.0\r\n\r\n", _BAD),
    # -- Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", _BAD),
    ("no Host on 1.0", b"GET / HTTP/1.0\r\n\r\n", ("GET / upstream ",)),
    ("two Hosts", _get(b"Host: b.example"), _BAD),
    ("two equal Hosts", _get(b"Host: a.example"), _BAD),
    ("two Hosts on 1.0", _get(b"Host: b.example", version=b"HTTP/1.0"), _BAD),
    ("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", _BAD),
    ("Host in capitals", b"GET / HTTP/1.1\r\nHOST: A.EXAMPLE\r\n\r\n", _ROOT),
    ("Host with port", b"GET / HTTP/1.1\r\nHost: a.example:80\r\n\r\n", ("GET / a.example:80 ",)),
    ("Host with trailing dot", b"GET / HTTP/1.1\r\nHost: a.example.\r\n\r\n", _ROOT),
    ("Host as list", b"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", _BAD),
    ("Host with space", b"GET / HTTP/1.1\r\nHost: a.example b\r\n\r\n", _BAD),
    ("Host with user", b"GET / HTTP/1.1\r\nHost: u@a.example\r\n\r\n", _BAD),
    ("Host with path", b"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n", _BAD),
    ("Host with bad port", b"GET / HTTP/1.1\r\nHost: a.example:x\r\n\r\n", _BAD),
    ("Host with huge port", b"GET / HTTP/1.1\r\nHost: a.example:70000\r\n\r\n", _BAD),
    ("Host, IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", ("GET / [::1]:80 ",)),
    ("Host, half an IPv6", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", _BAD),
    ("Host not ASCII", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", _BAD),
    # -- field lines
    ("space before colon", _get(b"X : y"), _BAD),
    ("tab before colon", _get(b"X\t: y"), _BAD),
    ("Host, space before colon", b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", _BAD),
    ("folded", _get(b"X: y", b" z"), _BAD),
    ("folded by tab", _get(b"X: y", b"\tz: 1"), _BAD),
    ("folded first line", b"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", _BAD),
    ("no colon", _get(b"X"), _BAD),
    ("known name without colon", _get(b"Accept"), _BAD),
    ("empty name", _get(b": y"), _BAD),
    ("name in brackets", _get(b"X(y): z"), _BAD),
    ("name not ASCII", _get(b"X\xe9: z"), _BAD),
    ("name with space", _get(b"X y: z"), _BAD),
    ("NUL in value", _get(b"X: a\0b"), _BAD),
    ("bell in value", _get(b"X: a\x07b"), _BAD),
    ("DEL in value", _get(b"X: a\x7fb"), _BAD),
    ("NUL in name", _get(b"X\0: a"), _BAD),
    ("bare CR in value", _get(b"X: a\rb"), _BAD),
    ("bare LF in value", _get(b"X: a\nY: b"), _BAD),
    ("bare LF line ends", b"GET / HTTP/1.1\nHost: a.example\n\n", _BAD),
    ("one bare LF", b"GET / HTTP/1.1\r\nHost: a.example\n\r\n", _BAD),
    ("bare LF for the blank line", b"GET / HTTP/1.1\r\nHost: a.example\r\n\n", _BAD),
    ("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n", _BAD),
    ("TLS client hello", b"\x16\x03\x01\x02\x00\x01\x00", _BAD),
    ("100 headers", _get(*(b"X: y",) * 99), _ROOT),
    ("101 headers", _get(*(b"X: y",) * 100), (431,)),
    ("head too large", _get(*(b"X: " + b"y" * 999,) * 70), (431,)),
    ("endless header", _get()[:-2] + b"X: " + b"y" * 70_000, (431,)),
    # -- content-length
    ("body", _post(b"Content-Length: 5", body=b"hello"), _p("hello")),
    ("no body", _post(b"Content-Length: 0"), _p("")),
    ("leading zeros", _post(b"Content-Length: 005", body=b"hello"), _p("hello")),
    ("body of a GET", _get(b"Content-Length: 2") + b"hi", ("GET / a.example hi",)),
    (
        "body looks like a request",
        _post(b"Content-Length: %d" % len(_get()), body=_get()),
        _p(_get().decode()),
    ),
    ("body then request", _post(b"Content-Length: 2", body=b"hi") + _get(), _p("hi") + _ROOT),
    ("two lengths", _post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), _BAD),
    ("two equal lengths", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), _BAD),
    ("length as list", _post(b"Content-Length: 5, 5", body=b"hello"), _BAD),
    ("length with comma", _post(b"Content-Length: 5,", body=b"hello"), _BAD),
    ("length with plus", _post(b"Content-Length: +5", body=b"hello"), _BAD),
    ("length with minus", _post(b"Content-Length: -5", body=b"hello"), _BAD),
    ("length in hex", _post(b"Content-Length: 0x5", body=b"hello"), _BAD),
    ("length with underscore", _post(b"Content-Length: 1_0", body=b"hello"), _BAD),
    ("length with fraction", _post(b"Content-Length: 5.0", body=b"hello"), _BAD),
    ("length with space inside", _post(b"Content-Length: 5 0", body=b"hello"), _BAD),
    ("length in quotes", _post(b'Content-Length: "5"', body=b"hello"), _BAD),
    ("empty length", _post(b"Content-Length:", body=b"hello"), _BAD),
    ("huge length", _post(b"Content-Length: 1000000000000000000"), _BAD),
    ("length beyond 64 bits", _post(b"Content-Length: 18446744073709551621", body=b"hello"), _BAD),
    ("length in Arabic digits", _post("Content-Length: \u0665".encode(), body=b"hello"), _BAD),
    # -- transfer-encoding
    ("chunked", _chunked(b"5\r\nhello\r\n0\r\n\r\n"), _p("hello")),
    ("chunked in capitals", _post(b"Transfer-Encoding: CHUNKED", body=b"0\r\n\r\n"), _p("")),
    ("chunked with tab", _post(b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n"), _p("")),
    ("chunks", _chunked(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), _p("abc")),
    ("chunked then request", _chunked(b"0\r\n\r\n") + _get(), _p("") + _ROOT),
    ("size in both cases", _chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
     _p("0123456789" * 2)),
    ("size with zeros", _chunked(b"0005\r\nhello\r\n000\r\n\r\n"), _p("hello")),
    ("extension", _chunked(b"5;a=b\r\nhello\r\n0;c\r\n\r\n"), _p("hello")),
    ("quoted extension", _chunked(b'5;a="b;\\"c"\r\nhello\r\n0\r\n\r\n'), _p("hello")),
    ("trailer", _chunked(b"0\r\nX: y\r\n\r\n"), _p("")),
    ("trailer that would smuggle", _chunked(b"0\r\nContent-Length: 9\r\n\r\n"), _p("")),
    ("length and chunked", _chunked(b"0\r\n\r\n", b"Content-Length: 5"), _BAD),
    ("chunked and length", _post(b"Content-Length: 5", b"Transfer-Encoding: chunked",
                                 body=b"0\r\n\r\n"), _BAD),
    ("two codings", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: identity"), _BAD),
    ("chunked twice", _chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), _BAD),
    ("coding as list", _post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), _BAD),
    ("gzip, chunked", _post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), _BAD),
    ("identity", _post(b"Transfer-Encoding: identity"), _BAD),
    ("empty coding", _post(b"Transfer-Encoding:"), _BAD),
    ("coding with parameter", _post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), _BAD),
    ("coding with comma", _post(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), _BAD),
    ("coding in quotes", _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), _BAD),
    ("coding with vertical tab", _post(b"Transfer-Encoding: \x0bchunked"), _BAD),
    ("coding, space before colon", _post(b"Transfer-Encoding : chunked"), _BAD),
    ("coding, folded", _post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), _BAD),
    ("coding misspelt", _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), _BAD),
    ("coding on 1.0", b"POST /p HTTP/1.0\r\n" + _H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     _BAD),
    # The upstream removes headers with `_`; to us they say nothing of framing.
    ("underscored coding", _get(b"Transfer_Encoding: chunked"), _ROOT),
    ("underscored length", _get(b"Content_Length: 5"), _ROOT),
    ("dotted length", _get(b"Content.Length: 5"), _ROOT),
    # -- chunks
    ("size not hex", _chunked(b"g\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("size with prefix", _chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("size with sign", _chunked(b"+5\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("negative size", _chunked(b"-5\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("size with underscore", _chunked(b"0_5\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("space before size", _chunked(b" 5\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("space after size", _chunked(b"5 \r\nhello\r\n0\r\n\r\n"), _BAD),
    ("tab after size", _chunked(b"5\t\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("no size", _chunked(b"\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("huge size", _chunked(b"1000000000000000\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("size that wraps", _chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("size line ends in LF", _chunked(b"5\nhello\r\n0\r\n\r\n"), _BAD),
    ("size line ends in CR", _chunked(b"5\rhello\r\n0\r\n\r\n"), _BAD),
    ("chunk ends in LF", _chunked(b"5\r\nhello\n0\r\n\r\n"), _BAD),
    ("chunk too long", _chunked(b"5\r\nhelloo\r\n0\r\n\r\n"), _BAD),
    ("chunk too short", _chunked(b"5\r\nhell\r\n0\r\n\r\n"), _BAD),
    ("last chunk in LF", _chunked(b"0\n\n"), _BAD),
    ("semicolon alone", _chunked(b"5;\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("extension with LF", _chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("extension with CR", _chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("extension with NUL", _chunked(b"5;a\0\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("extension not closed", _chunked(b'5;a="b\r\nhello\r\n0\r\n\r\n'), _BAD),
    ("extension too long", _chunked(b"5;a=" + b"b" * 1024 + b"\r\nhello\r\n0\r\n\r\n"), _BAD),
    ("too many extensions", _chunked((b"1;" + b"b" * 1000 + b"\r\nx\r\n") * 17 + b"0\r\n\r\n"),
     _BAD),
    ("trailer folded", _chunked(b"0\r\nX: y\r\n z\r\n\r\n"), _BAD),
    ("trailer with LF", _chunked(b"0\r\nX: y\nZ: 1\r\n\r\n"), _BAD),
    ("trailer without colon", _chunked(b"0\r\nX\r\n\r\n"), _BAD),
    ("too many trailers", _chunked(b"0\r\n" + b"X: y\r\n" * 33 + b"\r\n"), _BAD),
    ("trailer too large", _chunked(b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n"), _BAD),
    # -- connection
    ("close", _get(b"Connection: close"), _ROOT),
    ("close in a list", _get(b"Connection: x, CLOSE"), _ROOT),
    ("upgrade to h2c", _get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
                            b"HTTP2-Settings: AAMAAABkAAQAAP__"), _ROOT),
    ("upgrade with a body", _post(b"Connection: Upgrade", b"Upgrade: x", b"Content-Length: 2",
                                  body=b"hi"), _p("hi")),
    # -- WebSocket: behind a handshake nothing is a request; what is none changes nothing
    ("handshake", websocket(), _WS),
    ("request behind a handshake", websocket() + _get(target=b"/2"), _WS),
    ("rubbish behind a handshake", websocket() + b"\x81\x85\r\n\r\n\0\0\n GET", _WS),
    ("handshake in capitals", websocket(Connection=b"UPGRADE", Upgrade=b"WEBSOCKET") + _get(), _WS),
    ("handshake, keep-alive", websocket(Connection=b"keep-alive, Upgrade") + _get(), _WS),
    ("no handshake: POST", websocket(start=b"POST %b HTTP/1.1"), ("POST /ws a.example ",)),
    ("no handshake: HEAD", websocket(start=b"HEAD %b HTTP/1.1"), ("HEAD /ws a.example ",)),
    ("no handshake: 1.0", websocket(start=b"GET %b HTTP/1.0"), _WS),
    ("no handshake: a body", websocket(b"Content-Length: 2") + b"hi" + _get(),
     ("GET /ws a.example hi", *_ROOT)),
    ("no handshake: an empty body", websocket(b"Content-Length: 0") + _get(), _WS + _ROOT),
    ("no handshake: chunks", websocket(b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + _get(),
     _WS + _ROOT),
    ("no handshake: version 8", websocket(Sec_WebSocket_Version=b"8") + _get(), _WS + _ROOT),
    ("no handshake: version 013", websocket(Sec_WebSocket_Version=b"013") + _get(), _WS + _ROOT),
    ("no handshake: versions", websocket(Sec_WebSocket_Version=b"13, 8") + _get(), _WS + _ROOT),
    ("no handshake: two versions", websocket(b"Sec-WebSocket-Version: 13") + _get(), _WS + _ROOT),
    ("no handshake: no version", websocket(Sec_WebSocket_Version=b"") + _get(), _WS + _ROOT),
    ("no handshake: no key", websocket(Sec_WebSocket_Key=b"") + _get(), _WS + _ROOT),
    ("no handshake: two keys", websocket(b"Sec-WebSocket-Key: " + KEY) + _get(), _WS + _ROOT),
    ("no handshake: short key", websocket(Sec_WebSocket_Key=KEY[4:]) + _get(), _WS + _ROOT),
    ("no handshake: long key", websocket(Sec_WebSocket_Key=b"AAAA" + KEY) + _get(), _WS + _ROOT),
    ("no handshake: odd key", websocket(Sec_WebSocket_Key=b"-" + KEY[1:]) + _get(), _WS + _ROOT),
    ("no handshake: no Upgrade", websocket(Upgrade=b"") + _get(), _WS + _ROOT),
    ("no handshake: another Upgrade", websocket(Upgrade=b"h2c") + _get(), _WS + _ROOT),
    ("no handshake: two Upgrades", websocket(b"Upgrade: h2c") + _get(), _WS + _ROOT),
    ("no handshake: Upgrade as list", websocket(Upgrade=b"h2c, websocket") + _get(), _WS + _ROOT),
    ("no handshake: with version", websocket(Upgrade=b"websocket/13") + _get(), _WS + _ROOT),
    ("no handshake: no Connection", websocket(Connection=b"") + _get(), _WS + _ROOT),
    ("no handshake: Connection alone", websocket(Connection=b"keep-alive") + _get(), _WS + _ROOT),
    ("no handshake: close", websocket(Connection=b"close") + _get(), _WS),
    ("no handshake: key named away", websocket(Connection=b"upgrade, sec-websocket-key") + _get(),
     _WS + _ROOT),
    ("no handshake: underscores", websocket(b"Sec_WebSocket_Key: " + KEY, Sec_WebSocket_Key=b"")
     + _get(), _WS + _ROOT),
    ("Upgrade, space before colon", websocket(b"Upgrade : websocket", Upgrade=b""), _BAD),
    ("Upgrade folded", websocket(b"Upgrade:", b" websocket", Upgrade=b""), _BAD),
    ("CONNECT for a WebSocket", websocket(start=b"CONNECT %b HTTP/1.1"), (501,)),
    ("unknown expectation", _get(b"Expect: miracles"), (417,)),
    ("two expectations", _get(b"Expect: 100-continue", b"Expect: 100-continue"), _BAD),
    # -- smuggling: what one parser takes for a body, another would take for a request
    ("CL.TE", _post(b"Content-Length: 6", b"Transfer-Encoding: chunked",
                    body=b"0\r\n\r\nG"), _BAD),
    ("TE.CL", _chunked(b"5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n", b"Content-Length: 4"), _BAD),
    ("TE.TE", _chunked(b"0\r\n\r\n", b"Transfer-encoding: x"), _BAD),
    ("TE.0", b"OPTIONS / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked\r\n\r\n"
     b"12\r\nGET /x HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", _BAD),
    ("CL.0", _post(b"Content-Length: 28", body=b"GET /x HTTP/1.1\r\nHost: a.e\r\n")[:-1]
     + _get(), (*_p("GET /x HTTP/1.1\r\nHost: a.e\rG"), "ET / a.example ")),
    ("length hidden by CR", _post(b"X: y\rContent-Length: 5", body=b"hello"), _BAD),
    ("good then bad", _get() + _get(b"X : y"), (*_ROOT, 400)),
    ("nothing after close", _get(b"Connection: close") + _get(target=b"/2"), _ROOT),
    # -- absolute form that names the same in other words
    ("absolute form with the default port", _get(target=b"http://a.example:80/x"),
     ("GET /x a.example ",)),
    ("absolute form with another port", _get(target=b"http://a.example:81/x"), _BAD),
    ("absolute form with the port of https", _get(target=b"http://a.example:443/x"), _BAD),
    ("OPTIONS of an absolute form without path", _start(b"OPTIONS http://a.example HTTP/1.1"),
     ("OPTIONS * a.example ",)),
    ("OPTIONS of an absolute form with a query", _start(b"OPTIONS http://a.example?q HTTP/1.1"),
     ("OPTIONS /?q a.example ",)),
]  # fmt: skip
