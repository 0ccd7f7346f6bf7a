"""Raw upstream responses as data, each with what must come of it at the client.

An answer is whole (`Seen`), refused before any of it went on (`Refused`), or broken off by a reset
once it had begun (`Cut`): never anything that a client could take for another answer. How the bytes
were cut on their way decides nothing but this: what is wrong behind a sound head (`Case.rest`) is
refused where it came along with that head, and broken off where it came later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Seen:
    """A whole answer. `head` holds the interim ones as well; `body` and `trailers` are unframed.

    `client` and `upstream`: whether that connection can go on.
    """

    head: bytes
    body: bytes = b""
    trailers: bytes = b""
    client: bool = True
    upstream: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """The beginning of an answer, then a reset; the upstream connection ends too."""

    head: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """502 behind the interim answers in `first`; the upstream connection ends.

    Behind bytes that could be read two ways (`bad_response`) the client's connection ends as well;
    where the upstream just went away (`closed`) that can go on.
    """

    reason: str = "bad_response"
    first: bytes = b""


Outcome = Seen | Cut | Refused


def _request(start: bytes, *lines: bytes) -> bytes:
    return _lines((start, b"Host: a.example", *lines))


def _lines(lines: tuple[bytes, ...]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


GET: Final = _request(b"GET /a HTTP/1.1")
HEAD: Final = _request(b"HEAD /a HTTP/1.1")
CLOSING: Final = _request(b"GET /a HTTP/1.1", b"Connection: close")
LATE: Final = _request(b"GET /a HTTP/1.1", b"TE: trailers", b"Connection: TE")
OLD: Final = _request(b"GET /a HTTP/1.0")
OLD_KEPT: Final = _request(b"GET /a HTTP/1.0", b"Connection: keep-alive")


@dataclass(frozen=True, slots=True)
class Case:
    """What the upstream says to `request`: `sent`, later `rest`; `ends`: then it closes."""

    name: str
    sent: bytes
    outcome: Outcome
    request: bytes = GET
    ends: bool = False
    rest: bytes = b""


CL: Final = b"Content-Length: 2"
CL5: Final = b"Content-Length: 5"
TE: Final = b"Transfer-Encoding: chunked"


def _said(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    """A response."""
    return _lines((start, *lines)) + body


def _ok(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response with `ok` as its body."""
    return _said(*lines, CL, start=start, body=b"ok")


def _seen(
    *lines: bytes,
    status: bytes = b"200 OK",
    first: bytes = b"",
    body: bytes = b"",
    trailers: bytes = b"",
    client: bool = True,
    upstream: bool = True,
) -> Seen:
    head = first + _lines((b"HTTP/1.1 " + status, *lines))
    return Seen(head, body, trailers, client, upstream)


def _seen_ok(
    *lines: bytes, status: bytes = b"200 OK", first: bytes = b"", upstream: bool = True
) -> Seen:
    return _seen(
        *lines, b"content-length: 2", status=status, first=first, body=b"ok", upstream=upstream
    )


def _chunks(body: bytes, *lines: bytes) -> bytes:
    """A response in chunks."""
    return _said(*lines, TE, body=body)


_CHUNKED: Final = b"transfer-encoding: chunked"
_ENDING: Final = b"connection: close"
_CHUNKS_HEAD: Final = _said(TE)


def _seen_chunks(body: bytes, trailers: bytes = b"", *, upstream: bool = True) -> Seen:
    return _seen(_CHUNKED, body=body, trailers=trailers, upstream=upstream)


def _cut_chunks(body: bytes = b"") -> Cut:
    return Cut(_lines((b"HTTP/1.1 200 OK", _CHUNKED)), body)


def _bad_chunks(name: str, bad: bytes, good: bytes = b"", body: bytes = b"") -> Case:
    """A case whose chunks are `good` to begin with, which brings the client `body`."""
    return Case(f"chunks: {name}", _chunks(good), _cut_chunks(body), rest=bad)


def _late(name: str, bad: bytes) -> Case:
    """A case whose trailer section is bad."""
    good = b"2\r\nok\r\n0\r\n"
    return Case(f"trailers: {name}", _chunks(good), _cut_chunks(b"ok"), LATE, rest=bad)


def _bad(name: str, *lines: bytes) -> Case:
    """A case with these field lines before the rest of a good response."""
    return Case(name, _ok(*lines), BAD)


def _start(name: str, start: bytes) -> Case:
    """A case with this start before the rest of a good response."""
    return Case(f"start: {name}", _ok(start=start), BAD)


def _hint(*lines: bytes, start: bytes = b"HTTP/1.1 103 Early Hints") -> bytes:
    return _lines((start, *lines))


OK: Final = _seen_ok()
OK_LAST: Final = _seen_ok(upstream=False)
BAD: Final = Refused()
GONE: Final = Refused("closed")
_FULL: Final = 65536 - len(_ok(b"X: "))  # what is left of the largest head, and its body

RESPONSES: Final[list[Case]] = [
    # -- start lines
    Case("plain", _ok(), OK),
    Case("no reason", _ok(start=b"HTTP/1.1 200 "), _seen_ok(status=b"200 ")),
    Case("no space behind the code", _ok(start=b"HTTP/1.1 200"), _seen_ok(status=b"200 ")),
    Case("space before the reason", _ok(start=b"HTTP/1.1 200  OK"), _seen_ok(status=b"200  OK")),
    Case("reason of words", _ok(start=b"HTTP/1.1 404 Not\tat all "),
         _seen_ok(status=b"404 Not\tat all ")),
    Case("reason with obs-text", _ok(start=b"HTTP/1.1 200 \xe9\xff"),
         _seen_ok(status=b"200 \xe9\xff")),
    Case("reason that looks like a status", _ok(start=b"HTTP/1.1 200 HTTP/1.1 500 No"),
         _seen_ok(status=b"200 HTTP/1.1 500 No")),
    Case("unknown code", _ok(start=b"HTTP/1.1 299 Odd"), _seen_ok(status=b"299 Odd")),
    Case("code beyond 599", _ok(start=b"HTTP/1.1 999 Odd"), _seen_ok(status=b"999 Odd")),
    Case("server error", _ok(start=b"HTTP/1.1 500 No"), _seen_ok(status=b"500 No")),
    Case("1.0", _ok(start=b"HTTP/1.0 200 OK"), OK_LAST),
    Case("1.0 keep-alive", _ok(b"Connection: Keep-Alive", start=b"HTTP/1.0 200 OK"), OK),
    Case("1.0 keep-alive and close",
         _ok(b"Connection: keep-alive, close", start=b"HTTP/1.0 200 OK"), OK_LAST),
    Case("1.0 without reason", _ok(start=b"HTTP/1.0 200"),
         _seen_ok(status=b"200 ", upstream=False)),
    _start("0.9 named", b"HTTP/0.9 200 OK"),
    _start("2.0", b"HTTP/2.0 200 OK"),
    _start("2", b"HTTP/2 200"),
    _start("1.2", b"HTTP/1.2 200 OK"),
    _start("1.01", b"HTTP/1.01 200 OK"),
    _start("1", b"HTTP/1 200 OK"),
    _start("no version", b"HTTP 200 OK"),
    _start("lower case", b"http/1.1 200 OK"),
    _start("another protocol", b"ICY 200 OK"),
    _start("protocol with a prefix", b"XHTTP/1.1 200 OK"),
    _start("version with Arabic digit", "HTTP/1.\u0661 200 OK".encode()),
    _start("code alone", b"200 OK"),
    _start("no code", b"HTTP/1.1 OK"),
    _start("version alone", b"HTTP/1.1"),
    _start("version and space", b"HTTP/1.1 "),
    _start("two digits", b"HTTP/1.1 20 OK"),
    _start("four digits", b"HTTP/1.1 2000 OK"),
    _start("code 000", b"HTTP/1.1 000 OK"),
    _start("code below 100", b"HTTP/1.1 099 OK"),
    _start("code with letter", b"HTTP/1.1 2x0 OK"),
    _start("code with sign", b"HTTP/1.1 +20 OK"),
    _start("code with minus", b"HTTP/1.1 -20 OK"),
    _start("code in Arabic digits", "HTTP/1.1 \u0662\u0660\u0660 OK".encode()),
    _start("reason joined to the code", b"HTTP/1.1 200OK"),
    _start("tab behind the code", b"HTTP/1.1 200\tOK"),
    _start("tab before the code", b"HTTP/1.1\t200 OK"),
    _start("two spaces before the code", b"HTTP/1.1  200 OK"),
    _start("space first", b" HTTP/1.1 200 OK"),
    _start("tab first", b"\tHTTP/1.1 200 OK"),
    _start("empty line first", b"\r\nHTTP/1.1 200 OK"),
    _start("two empty lines first", b"\r\n\r\nHTTP/1.1 200 OK"),
    _start("LF first", b"\nHTTP/1.1 200 OK"),
    _start("CR first", b"\rHTTP/1.1 200 OK"),
    _start("NUL first", b"\0HTTP/1.1 200 OK"),
    _start("byte order mark first", b"\xef\xbb\xbfHTTP/1.1 200 OK"),
    _start("NUL in reason", b"HTTP/1.1 200 O\0K"),
    _start("bell in reason", b"HTTP/1.1 200 O\x07K"),
    _start("DEL in reason", b"HTTP/1.1 200 O\x7fK"),
    _start("CR in reason", b"HTTP/1.1 200 O\rK"),
    _start("LF in reason", b"HTTP/1.1 200 O\nK"),
    _start("header in reason", b"HTTP/1.1 200 OK\nX: y"),
    _start("CR CR LF", b"HTTP/1.1 200 OK\r"),
    _start("a request", b"GET / HTTP/1.1"),
    _start("a header", b"Content-Type: text/plain"),
    _start("nothing", b""),
    _start("too long", b"HTTP/1.1 200 " + b"x" * 70_000),
    Case("an empty line alone", b"\r\n\r\n", BAD),
    Case("a page of 0.9", b"<html>\n<p>hello</p>\n", BAD),
    Case("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28", BAD),
    Case("an HTTP/2 settings frame", b"\0\0\0\x04\0\0\0\0\0", BAD),
    Case("LF line ends", _ok().replace(b"\r\n", b"\n"), BAD),
    Case("CR line ends", _ok().replace(b"\r\n", b"\r"), BAD),
    # -- ends before there is a head
    Case("nothing at all", b"", GONE, ends=True),
    Case("a line of 0.9, then the end", b"hello", GONE, ends=True),
    Case("half a status line", b"HTTP/1.1 20", GONE, ends=True),
    Case("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", GONE, ends=True),
    Case("no blank line", _said(CL)[:-2], GONE, ends=True),
    Case("half a blank line", _said(CL)[:-1], GONE, ends=True),
    Case("HEAD: half a head", _said(CL)[:-2], GONE, HEAD, ends=True),
    # -- field lines
    Case("names in lower case, in order", _ok(b"X-B: 1", b"Set-Cookie: a", b"x-a: 2",
                                              b"SET-COOKIE: b"),
         _seen_ok(b"x-b: 1", b"set-cookie: a", b"x-a: 2", b"set-cookie: b")),
    Case("strange token name", _ok(b"!#$%&'*+-.^_`|~9: y"), _seen_ok(b"!#$%&'*+-.^_`|~9: y")),
    Case("empty value", _ok(b"X:"), _seen_ok(b"x: ")),
    Case("no space behind the colon", _ok(b"X:y"), _seen_ok(b"x: y")),
    Case("blanks around the value", _ok(b"X: \t y \t "), _seen_ok(b"x: y")),
    Case("tab and colon in value", _ok(b"X: a\tb:c"), _seen_ok(b"x: a\tb:c")),
    Case("obs-text in value", _ok(b"X: \xe9\xff"), _seen_ok(b"x: \xe9\xff")),
    Case("long value", _ok(b"X: " + b"y" * 8000), _seen_ok(b"x: " + b"y" * 8000)),
    Case("200 headers", _ok(*(b"X: y",) * 199), _seen_ok(*(b"x: y",) * 199)),
    _bad("201 headers", *(b"X: y",) * 200),
    Case("largest head", _ok(b"X: " + b"y" * (_FULL + 2)), _seen_ok(b"x: " + b"y" * (_FULL + 2))),
    _bad("head too large", b"X: " + b"y" * (_FULL + 3)),
    Case("endless header", _said()[:-2] + b"X: " + b"y" * 70_000, BAD),
    _bad("space before colon", b"X : y"),
    _bad("tab before colon", b"X\t: y"),
    Case("length, space before colon", _said(b"Content-Length : 2", body=b"ok"), BAD),
    Case("coding, space before colon", _said(b"Transfer-Encoding : chunked"), BAD),
    _bad("folded", b"X: y", b" z"),
    _bad("folded by tab", b"X: y", b"\tz"),
    _bad("folded first line", b" X: y"),
    _bad("folded to nothing", b"X: y", b" "),
    Case("length folded", _said(b"Content-Length:", b" 2", body=b"ok"), BAD),
    _bad("no colon", b"X"),
    _bad("known name without colon", b"Date"),
    _bad("empty name", b": y"),
    _bad("colon alone", b":"),
    _bad("name with space", b"X y: z"),
    _bad("name in brackets", b"X(y): z"),
    _bad("name not ASCII", b"X\xe9: z"),
    _bad("NUL in name", b"X\0: y"),
    _bad("NUL in value", b"X: a\0b"),
    _bad("bell in value", b"X: a\x07b"),
    _bad("escape in value", b"X: a\x1bb"),
    _bad("DEL in value", b"X: a\x7fb"),
    _bad("CR in value", b"X: a\rb"),
    _bad("CR before the line end", b"X: a\r"),
    _bad("LF in value", b"X: a\nSet-Cookie: b"),
    Case("LF for the blank line", _said(CL)[:-2] + b"\nok", BAD),
    # -- content-length
    Case("empty body", _said(b"Content-Length: 0"), _seen(b"content-length: 0")),
    Case("length with zeros", _said(b"Content-Length: 002", body=b"ok"), OK),
    Case("length in capitals", _said(b"CONTENT-LENGTH: 2", body=b"ok"), OK),
    Case("length moves to the end", _said(CL, b"X: y", body=b"ok"), _seen_ok(b"x: y")),
    Case("body of line ends", _said(b"Content-Length: 4", body=b"\r\n\r\n"),
         _seen(b"content-length: 4", body=b"\r\n\r\n")),
    Case("body looks like a response", _said(b"Content-Length: %d" % len(_ok()), body=_ok()),
         _seen(b"content-length: %d" % len(_ok()), body=_ok())),
    Case("205 with a body", _ok(start=b"HTTP/1.1 205 Reset"), _seen_ok(status=b"205 Reset")),
    _bad("two lengths", CL5),
    _bad("two equal lengths", CL),
    Case("lengths as list", _said(b"Content-Length: 2, 2", body=b"ok"), BAD),
    Case("unequal lengths as list", _said(b"Content-Length: 2, 3", body=b"ok"), BAD),
    Case("length with comma", _said(b"Content-Length: 2,", body=b"ok"), BAD),
    Case("length with plus", _said(b"Content-Length: +2", body=b"ok"), BAD),
    Case("length with minus", _said(b"Content-Length: -2", body=b"ok"), BAD),
    Case("length in hex", _said(b"Content-Length: 0x2", body=b"ok"), BAD),
    Case("length with underscore", _said(b"Content-Length: 0_2", body=b"ok"), BAD),
    Case("length with fraction", _said(b"Content-Length: 2.0", body=b"ok"), BAD),
    Case("length with space", _said(b"Content-Length: 0 2", body=b"ok"), BAD),
    Case("length in quotes", _said(b'Content-Length: "2"', body=b"ok"), BAD),
    Case("length empty", _said(b"Content-Length:", body=b"ok"), BAD),
    Case("length in Arabic digits", _said("Content-Length: \u0662".encode(), body=b"ok"), BAD),
    Case("length huge", _said(b"Content-Length: 1000000000000000000"), BAD),
    Case("length that wraps", _said(b"Content-Length: 18446744073709551618", body=b"ok"), BAD),
    Case("underscored length", _ok(b"Content_Length: 5"), _seen_ok(b"content_length: 5")),
    # -- transfer-encoding
    Case("chunked", _chunks(b"2\r\nok\r\n0\r\n\r\n"), _seen_chunks(b"ok")),
    Case("chunked, empty", _chunks(b"0\r\n\r\n"), _seen_chunks(b"")),
    Case("chunked in capitals", _said(b"TRANSFER-ENCODING:\tCHUNKED", body=b"0\r\n\r\n"),
         _seen_chunks(b"")),
    Case("length and chunked", _said(CL5, TE, body=b"0\r\n\r\n"), BAD),
    Case("chunked and length", _said(TE, CL5, body=b"0\r\n\r\n"), BAD),
    Case("chunked and no length to speak of", _said(TE, b"Content-Length: 0", body=b"0\r\n\r\n"),
         BAD),
    Case("chunked twice", _said(TE, TE, body=b"0\r\n\r\n"), BAD),
    Case("chunked and identity", _said(TE, b"Transfer-Encoding: identity"), BAD),
    Case("codings as list", _said(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), BAD),
    Case("gzip, chunked", _said(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), BAD),
    Case("chunked, gzip", _said(b"Transfer-Encoding: chunked, gzip"), BAD),
    Case("gzip", _said(b"Transfer-Encoding: gzip"), BAD, ends=True),
    Case("identity", _ok(b"Transfer-Encoding: identity"), BAD),
    Case("coding empty", _ok(b"Transfer-Encoding:"), BAD),
    Case("coding with parameter", _said(b"Transfer-Encoding: chunked;q=1"), BAD),
    Case("coding with comma", _said(b"Transfer-Encoding: ,chunked"), BAD),
    Case("coding in quotes", _said(b'Transfer-Encoding: "chunked"'), BAD),
    Case("coding misspelt", _said(b"Transfer-Encoding: xchunked"), BAD),
    Case("coding with vertical tab", _said(b"Transfer-Encoding: \x0bchunked"), BAD),
    Case("coding folded", _said(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), BAD),
    Case("coding on 1.0", _said(TE, start=b"HTTP/1.0 200 OK", body=b"0\r\n\r\n"), BAD),
    Case("coding on 1.0, kept", _said(TE, b"Connection: keep-alive", start=b"HTTP/1.0 200 OK",
                                      body=b"0\r\n\r\n"), BAD),
    Case("underscored coding", _ok(b"Transfer_Encoding: chunked"),
         _seen_ok(b"transfer_encoding: chunked")),
    # -- chunks
    Case("chunks", _chunks(b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), _seen_chunks(b"ok")),
    Case("chunk sizes in both cases", _chunks(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
         _seen_chunks(b"0123456789" * 2)),
    Case("chunk sizes with zeros", _chunks(b"0002\r\nok\r\n000\r\n\r\n"), _seen_chunks(b"ok")),
    Case("chunk of line ends", _chunks(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
         _seen_chunks(b"\r\n0\r\n\r\n")),
    Case("extensions end here", _chunks(b'2;a=b;c="d;\\"e"\r\nok\r\n0;f\r\n\r\n'),
         _seen_chunks(b"ok")),
    _bad_chunks("size not hex", b"g\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size not hex, later", b"g\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n", b"ok"),
    _bad_chunks("size with prefix", b"0x2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size with plus", b"+2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size with minus", b"-2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size with underscore", b"0_2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size with fraction", b"2.0\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size in Arabic digits", "\u0662\r\nok\r\n0\r\n\r\n".encode()),
    _bad_chunks("space before size", b" 2\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("space behind size", b"2 \r\nok\r\n0\r\n\r\n"),
    _bad_chunks("tab behind size", b"2\t\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("no size", b"\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("no size, later", b"\r\n0\r\n\r\n", b"2\r\nok\r\n", b"ok"),
    _bad_chunks("size too long", b"0" * 16 + b"\r\n\r\n"),
    _bad_chunks("size that wraps", b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("size line ends in LF", b"2\nok\r\n0\r\n\r\n"),
    _bad_chunks("size line ends in CR", b"2\rok\r\n0\r\n\r\n"),
    _bad_chunks("size line with NUL", b"2\0\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("data behind a chunk", b"x\r\n0\r\n\r\n", b"2\r\nok", b"ok"),
    _bad_chunks("chunk ends in LF", b"\n0\r\n\r\n", b"2\r\nok", b"ok"),
    _bad_chunks("chunk ends in CR", b"\r0\r\n\r\n", b"2\r\nok", b"ok"),
    _bad_chunks("chunk ends in nothing", b"0\r\n\r\n", b"2\r\nok", b"ok"),
    _bad_chunks("last chunk in LF", b"0\n\n", b"2\r\nok\r\n", b"ok"),
    _bad_chunks("semicolon alone", b"2;\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("space before extension", b"2 ;a\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("extension with LF", b"2;a\nb\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("extension with CR", b"2;a\rb\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("extension with NUL", b"2;a\0\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("extension not closed", b'2;a="b\r\nok\r\n0\r\n\r\n'),
    _bad_chunks("extension too long", b"2;a=" + b"b" * 1024 + b"\r\nok\r\n0\r\n\r\n"),
    _bad_chunks("too many extensions", b"1;" + b"b" * 1000 + b"\r\nx\r\n",
                (b"1;" + b"b" * 1000 + b"\r\nx\r\n") * 16, b"x" * 16),
    _bad_chunks("a response for a chunk", _ok(), b"2\r\nok\r\n", b"ok"),
    _bad_chunks("empty lines", b"\r\n\r\n"),
    # -- trailers
    Case("trailers nobody asked for", _chunks(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"),
         _seen_chunks(b"ok")),
    Case("trailers", _chunks(b"2\r\nok\r\n0\r\nX-Sum: 1\r\nETag:  w \r\n\r\n", b"Trailer: X-Sum"),
         _seen_chunks(b"ok", b"x-sum: 1\r\netag: w\r\n"), LATE),
    Case("trailers that frame", _chunks(b"0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\n"
                                        b"X: y\r\nTrailer: X\r\n\r\n"),
         _seen_chunks(b"", b"x: y\r\n"), LATE),
    Case("trailers about the connection",
         _chunks(b"0\r\nConnection: close, x\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\n"
                 b"Proxy-Connection: x\r\nTE: x\r\nProxy-Authenticate: Basic\r\n\r\n"),
         _seen_chunks(b""), LATE),
    Case("trailers that steer", _chunks(b"0\r\nSet-Cookie: a=b\r\nLocation: /\r\nVary: *\r\n"
                                        b"Content-Type: x\r\nCache-Control: public\r\n"
                                        b"Access-Control-Allow-Origin: *\r\n\r\n"),
         _seen_chunks(b""), LATE),
    Case("trailers that only we say", _chunks(b"0\r\nX-Sidecar-Subject: eve\r\n"
                                              b"x_sidecar_decision: 1\r\nX-Sidecar: 1\r\n\r\n"),
         _seen_chunks(b""), LATE),
    Case("trailers that Connection takes away",
         _chunks(b"0\r\nX-Sum: 1\r\nX-Hop: 2\r\nETag: w\r\n\r\n", b"Connection: x-hop, etag"),
         _seen_chunks(b"", b"x-sum: 1\r\netag: w\r\n"), LATE),
    Case("32 trailers", _chunks(b"0\r\n" + b"X: y\r\n" * 32 + b"\r\n"),
         _seen_chunks(b"", b"x: y\r\n" * 32), LATE),
    _late("33 of them", b"X: y\r\n" * 33 + b"\r\n"),
    _late("too large", b"X: " + b"y" * 9000 + b"\r\n\r\n"),
    _late("folded", b"X: y\r\n z\r\n\r\n"),
    _late("no colon", b"X\r\n\r\n"),
    _late("empty name", b": y\r\n\r\n"),
    _late("space before colon", b"X : y\r\n\r\n"),
    _late("LF in value", b"X: y\nZ: 1\r\n\r\n"),
    _late("CR in value", b"X: y\rZ: 1\r\n\r\n"),
    _late("NUL in value", b"X: \0\r\n\r\n"),
    _late("LF for the blank line", b"X: y\r\n\n"),
    _late("a response instead", _ok()),
    # -- interim responses
    Case("100", b"HTTP/1.1 100 Continue\r\n\r\n" + _ok(), OK),
    Case("100 with a length of nothing", b"HTTP/1.1 100 C\r\nContent-Length: 0\r\n\r\n" + _ok(),
         OK),
    Case("102", b"HTTP/1.1 102 Processing\r\n\r\n" + _ok(),
         _seen_ok(first=b"HTTP/1.1 102 Processing\r\n\r\n")),
    Case("103", _hint(b"Link: </a>") + _ok(), _seen_ok(first=_hint(b"link: </a>"))),
    Case("103 before chunks", _hint(b"Link: </a>") + _chunks(b"2\r\nok\r\n0\r\n\r\n"),
         _seen(_CHUNKED, first=_hint(b"link: </a>"), body=b"ok")),
    Case("103 before HEAD's answer", _hint(b"Link: </a>") + _said(CL5),
         _seen(b"content-length: 5", first=_hint(b"link: </a>")), HEAD),
    Case("199 without reason", _hint(start=b"HTTP/1.1 199") + _ok(),
         _seen_ok(first=b"HTTP/1.1 199 \r\n\r\n")),
    Case("100, 103, 102", b"HTTP/1.1 100 Continue\r\n\r\n" + _hint(b"Link: </a>")
         + _hint(start=b"HTTP/1.1 102 P") + _ok(),
         _seen_ok(first=_hint(b"link: </a>") + _hint(start=b"HTTP/1.1 102 P"))),
    Case("103, less what ends here",
         _hint(b"Connection: X-Hop, close", b"X-Hop: 1", b"Keep-Alive: 1", b"Upgrade: h2c",
               b"X-Sidecar-Subject: eve", b"x_sidecar: 1", b"Access-Control-Allow-Origin: *",
               b"Link: </a>") + _ok(),
         _seen_ok(first=_hint(b"link: </a>"))),
    Case("103 for a client of 1.0", _hint(b"Link: </a>") + _ok(),
         _seen(b"content-length: 2", _ENDING, body=b"ok", client=False), OLD),
    Case("16 interim responses", _hint() * 16 + _ok(), _seen_ok(first=_hint() * 16)),
    Case("17 interim responses", _hint() * 17 + _ok(), Refused(first=_hint() * 16)),
    Case("17 times 100", b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + _ok(), BAD),
    Case("101 nobody asked for",
         _hint(b"Connection: Upgrade", b"Upgrade: websocket", start=b"HTTP/1.1 101 Switching"),
         BAD),
    Case("101 to h2c", _hint(b"Connection: Upgrade", b"Upgrade: h2c", start=b"HTTP/1.1 101 S"),
         BAD),
    Case("101 behind 103", _hint() + _hint(start=b"HTTP/1.1 101 Switching"),
         Refused(first=_hint())),
    Case("100 with a body", _hint(CL, start=b"HTTP/1.1 100 C") + b"ok" + _ok(), BAD),
    Case("103 in chunks", _hint(TE) + b"0\r\n\r\n" + _ok(), BAD),
    Case("103, then a bad head", _hint() + _ok(b"X : y"), Refused(first=_hint())),
    Case("103, then a body", _hint() + b"ok\n" + _ok(), Refused(first=_hint())),
    Case("103, then the end", _hint(), Refused("closed", _hint()), ends=True),
    # -- 204, 304, HEAD
    Case("204", _said(start=b"HTTP/1.1 204 No"), _seen(status=b"204 No")),
    Case("204 with a length of nothing", _said(b"Content-Length: 0", start=b"HTTP/1.1 204 No"),
         _seen(status=b"204 No")),
    Case("204 with a length", _ok(start=b"HTTP/1.1 204 No"), BAD),
    Case("204 in chunks", _said(TE, start=b"HTTP/1.1 204 No", body=b"0\r\n\r\n"), BAD),
    Case("204 with a body", _said(start=b"HTTP/1.1 204 No", body=b"ok"),
         _seen(status=b"204 No", upstream=False)),
    Case("204 to HEAD with a length", _said(CL5, start=b"HTTP/1.1 204 No"), BAD, HEAD),
    Case("204, then close", _said(b"Connection: close", start=b"HTTP/1.1 204 No"),
         _seen(status=b"204 No", upstream=False), ends=True),
    Case("304", _said(b"ETag: w", start=b"HTTP/1.1 304 Same"),
         _seen(b"etag: w", status=b"304 Same")),
    Case("304 with a length", _said(CL5, start=b"HTTP/1.1 304 Same"),
         _seen(b"content-length: 5", status=b"304 Same")),
    Case("304 with a body", _said(CL5, start=b"HTTP/1.1 304 Same", body=b"hello"),
         _seen(b"content-length: 5", status=b"304 Same", upstream=False)),
    Case("304 in chunks", _said(TE, start=b"HTTP/1.1 304 Same"), _seen(status=b"304 Same")),
    Case("304 with chunks", _said(TE, start=b"HTTP/1.1 304 Same", body=b"0\r\n\r\n"),
         _seen(status=b"304 Same", upstream=False)),
    Case("304 with two lengths", _said(CL, CL5, start=b"HTTP/1.1 304 Same"), BAD),
    Case("HEAD", _said(), _seen(), HEAD),
    Case("HEAD with a length", _said(CL5), _seen(b"content-length: 5"), HEAD),
    Case("HEAD with a body", _said(CL5, body=b"hello"),
         _seen(b"content-length: 5", upstream=False), HEAD),
    Case("HEAD in chunks", _said(TE), _seen(), HEAD),
    Case("HEAD with chunks", _chunks(b"2\r\nok\r\n0\r\n\r\n"), _seen(upstream=False), HEAD),
    Case("HEAD with length and chunked", _said(CL5, TE), BAD, HEAD),
    Case("HEAD with two lengths", _said(CL5, CL5), BAD, HEAD),
    Case("HEAD, then close", _said(CL5, b"Connection: close"),
         _seen(b"content-length: 5", upstream=False), HEAD, ends=True),
    Case("HEAD on 1.0", _said(CL5, start=b"HTTP/1.0 200 OK"),
         _seen(b"content-length: 5", upstream=False), HEAD, ends=True),
    # -- delimited by close
    Case("until close", _said(body=b"ok"), _seen_chunks(b"ok", upstream=False), ends=True),
    Case("until close, announced", _said(b"Connection: close", body=b"ok"),
         _seen_chunks(b"ok", upstream=False), ends=True),
    Case("until close, denied", _said(b"Connection: keep-alive", body=b"ok"),
         _seen_chunks(b"ok", upstream=False), ends=True),
    Case("until close, empty", _said(), _seen_chunks(b"", upstream=False), ends=True),
    Case("until close on 1.0", _said(start=b"HTTP/1.0 200 OK", body=b"ok"),
         _seen_chunks(b"ok", upstream=False), ends=True),
    Case("until close, looks like more", _said(body=b"0\r\n\r\n" + _ok()),
         _seen_chunks(b"0\r\n\r\n" + _ok(), upstream=False), ends=True),
    Case("until close, client of 1.0", _said(body=b"ok"),
         _seen(_ENDING, body=b"ok", client=False, upstream=False), OLD, ends=True),
    Case("until close, client that closes", _said(body=b"ok"),
         _seen(_CHUNKED, _ENDING, body=b"ok", client=False, upstream=False), CLOSING, ends=True),
    # -- surplus bytes
    Case("a byte more", _ok() + b"x", OK_LAST),
    Case("a line end more", _ok() + b"\r\n", OK_LAST),
    Case("a response more", _ok() + _said(b"Content-Length: 4", body=b"evil"), OK_LAST),
    Case("an interim response more", _ok() + _hint(), OK_LAST),
    Case("a byte behind no body", _said(b"Content-Length: 0", body=b"x"),
         _seen(b"content-length: 0", upstream=False)),
    Case("a byte behind chunks", _chunks(b"2\r\nok\r\n0\r\n\r\nx"),
         _seen_chunks(b"ok", upstream=False)),
    Case("a response behind chunks", _chunks(b"0\r\n\r\n" + _ok()),
         _seen_chunks(b"", upstream=False)),
    Case("a response behind 204", _said(start=b"HTTP/1.1 204 No", body=_ok()),
         _seen(status=b"204 No", upstream=False)),
    Case("a response behind HEAD's", _said(CL5, body=_ok()),
         _seen(b"content-length: 5", upstream=False), HEAD),
    # -- early ends
    Case("no body", _said(CL), Cut(_lines((b"HTTP/1.1 200 OK", b"content-length: 2"))), ends=True),
    Case("half a body", _said(CL, body=b"o"),
         Cut(_lines((b"HTTP/1.1 200 OK", b"content-length: 2")), b"o"), ends=True),
    Case("half a body, announced", _said(CL, b"Connection: close", body=b"o"),
         Cut(_lines((b"HTTP/1.1 200 OK", b"content-length: 2")), b"o"), ends=True),
    Case("half a body, client of 1.0", _said(CL, body=b"o"),
         Cut(_lines((b"HTTP/1.1 200 OK", b"content-length: 2", _ENDING)), b"o"), OLD, ends=True),
    Case("huge body", _said(b"Content-Length: " + b"9" * 18, body=b"ok"),
         Cut(_lines((b"HTTP/1.1 200 OK", b"content-length: " + b"9" * 18)), b"ok"), ends=True),
    Case("no chunk", _CHUNKS_HEAD, _cut_chunks(), ends=True),
    Case("no last chunk", _chunks(b"2\r\nok\r\n"), _cut_chunks(b"ok"), ends=True),
    Case("half a size line", _chunks(b"2\r\nok\r\n1"), _cut_chunks(b"ok"), ends=True),
    Case("half a chunk", _chunks(b"fffffffffffffff\r\nok"), _cut_chunks(b"ok"), ends=True),
    Case("half a line end", _chunks(b"2\r\nok\r"), _cut_chunks(b"ok"), ends=True),
    Case("half a last chunk", _chunks(b"2\r\nok\r\n0\r\n"), _cut_chunks(b"ok"), ends=True),
    Case("half a trailer section", _chunks(b"2\r\nok\r\n0\r\nX: y\r\n"), _cut_chunks(b"ok"), LATE,
         ends=True),
    Case("half of the chunks, client of 1.0", _chunks(b"2\r\nok\r\n"),
         Cut(_lines((b"HTTP/1.1 200 OK", _ENDING)), b"ok"), OLD, ends=True),
    # -- whose connection ends
    Case("close", _ok(b"Connection: close"), OK_LAST),
    Case("close in capitals", _ok(b"CONNECTION: CLOSE"), OK_LAST),
    Case("close in a list", _ok(b"Connection: ,x , Close,"), OK_LAST),
    Case("close on a second line", _ok(b"Connection: keep-alive", b"Connection: close"), OK_LAST),
    Case("close in chunks", _chunks(b"2\r\nok\r\n0\r\n\r\n", b"Connection: close"),
         _seen_chunks(b"ok", upstream=False)),
    Case("keep-alive", _ok(b"Connection: keep-alive", b"Keep-Alive: timeout=5"), OK),
    Case("not quite close", _ok(b"Connection: closed"), OK),
    Case("close of another proxy", _ok(b"Proxy-Connection: close"), OK),
    Case("the end behind a whole response", _ok(), OK_LAST, ends=True),
    Case("client that closes", _ok(),
         _seen(b"content-length: 2", _ENDING, body=b"ok", client=False), CLOSING),
    Case("client of 1.0", _ok(),
         _seen(b"content-length: 2", _ENDING, body=b"ok", client=False), OLD),
    Case("client of 1.0, kept", _ok(),
         _seen(b"content-length: 2", b"connection: keep-alive", body=b"ok"), OLD_KEPT),
    Case("client of 1.0, kept, gets chunks", _chunks(b"2\r\nok\r\n0\r\nX: y\r\n\r\n"),
         _seen(_ENDING, body=b"ok", client=False), OLD_KEPT),
    Case("client of 1.0, kept, upstream closes", _ok(b"Connection: close"),
         _seen(b"content-length: 2", b"connection: keep-alive", body=b"ok", upstream=False),
         OLD_KEPT),
    Case("bad response to a client that closes", _ok(b"X : y"), BAD, CLOSING),
    Case("bad response to a client of 1.0", _ok(b"X : y"), BAD, OLD),
    Case("bad response to HEAD", _ok(b"X : y"), BAD, HEAD),
    # -- headers that end here
    Case("hop-by-hop", _ok(b"Connection: upgrade", b"Keep-Alive: timeout=5", b"Upgrade: h2c",
                           b"TE: trailers", b"Trailer: X", b"Proxy-Connection: keep-alive",
                           b"HTTP2-Settings: AA", b"Proxy-Authenticate: Basic", b"X: y"),
         _seen_ok(b"x: y")),
    Case("named by Connection", _ok(b"Connection: X-Hop, x-other", b"X-HOP: 1", b"X-Other: 2",
                                    b"X-Hope: 3"), _seen_ok(b"x-hope: 3")),
    Case("named by a later Connection", _ok(b"X-Hop: 1", b"Connection: keep-alive",
                                            b"Connection: x-hop"), OK),
    Case("end-to-end, named by Connection",
         _ok(b"Connection: set-cookie, Content-Type, content-length, cache-control",
             b"Set-Cookie: a=b", b"Content-Type: x/y", b"Cache-Control: no-store"),
         _seen_ok(b"set-cookie: a=b", b"content-type: x/y", b"cache-control: no-store")),
    Case("framing, named by Connection",
         _chunks(b"2\r\nok\r\n0\r\n\r\n", b"Connection: transfer-encoding"), _seen_chunks(b"ok")),
    Case("headers that only we say",
         _ok(b"X-Sidecar-Subject: eve", b"x-sidecar-anything: 1", b"X_Sidecar_Subject: eve",
             b"X.Sidecar.Decision: 1", b"X-Sidecar: 1", b"X-Sidecars: 1"),
         _seen_ok(b"x-sidecars: 1")),
    Case("headers of requests", _ok(b"Host: b.example", b"X-Forwarded-For: 10.0.0.1"),
         _seen_ok(b"host: b.example", b"x-forwarded-for: 10.0.0.1")),
    Case("challenge of the upstream",
         _ok(b"WWW-Authenticate: Basic", start=b"HTTP/1.1 401 Who"),
         _seen_ok(b"www-authenticate: Basic", status=b"401 Who")),
]  # fmt: skip
