"""Which header names cross from one side to the other, and which a decision may see. Pure.

What a decision reads is what the upstream gets: a header that is never forwarded, or that this
request's Connection takes away, is not there for rules either (DESIGN section 8, rule 2).
"""

from __future__ import annotations

from typing import Final

from sidecar.decide.credentials import Location
from sidecar.decide.request import Headers

_KEPT: Final = 2048  # names whose fate is remembered, in each table
_LONGEST_KEPT: Final = 64

# Of a response that is to be looked through all is needed, and in no coding but its own.
_PARTS: Final = frozenset((
    b"accept-encoding", b"range", b"if-range", b"a-im",
))  # fmt: skip
# The caller's are of what it was shown, so nothing to the service. If-Match stays: it fails there.
_VALIDATORS: Final = frozenset((b"if-none-match", b"if-modified-since"))

_FOLD: Final = bytes(
    c + 32 if 65 <= c <= 90 else c if 97 <= c <= 122 or 48 <= c <= 57 else 45 for c in range(256)
)
_OURS: Final = b"x-sidecar-"

# RFC 9110 section 7.6.1, and what older or other software treats the same way.
HOP_BY_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"http2-settings",
))  # fmt: skip
# What TLS terminators say of a client's certificate, whom upstreams believe it: RFC 9440, and what
# nginx, HAProxy, Apache, Traefik and cloud load balancers use.
_CERTIFICATE: Final = (
    b"client-cert", b"x-client-cert", b"x-client-verify", b"x-client-dn", b"x-ssl-", b"ssl-client",
    b"x-tls-client", b"tls-client", b"x-amzn-mtls-", b"x-arr-clientcert", b"x-mtls-",
    b"x-goog-client-cert", b"cf-client-cert",
)  # fmt: skip
_SPOKEN_FOR: Final = (b"x-forwarded-", *_CERTIFICATE)
# What would tell an upstream another target, method or origin than the one decided.
_MISLEADING: Final = frozenset((
    b"forwarded", b"x-original-url", b"x-original-uri", b"x-original-method", b"x-original-host",
    b"x-rewrite-url", b"x-method", b"x-http-method", b"x-http-method-override",
    b"x-method-override", b"x-http-path-override",
))  # fmt: skip
# Said anew by us, or never said to an upstream.
NOT_FORWARDED: Final = HOP_BY_HOP | _MISLEADING | {
    b"host", b"content-length", b"expect", b"traceparent", b"proxy-authorization",
    b"proxy-authenticate",
}  # fmt: skip

# Connection may name hop-by-hop headers and nothing else. These are for all recipients: letting a
# caller remove them would forward another request than the one decided (RFC 9110 section 7.6.1).
_END_TO_END: Final = frozenset((
    b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control",
    b"content-encoding", b"content-language", b"content-location", b"content-range",
    b"content-type", b"cookie", b"date", b"dpop", b"etag", b"expires", b"if-match",
    b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since",
    b"last-modified", b"location", b"origin", b"pragma", b"range", b"referer", b"set-cookie",
    b"signature", b"signature-input", b"tracestate", b"user-agent", b"vary", b"via",
    b"www-authenticate", b"x-real-ip", b"x-request-id",
))  # fmt: skip
# RFC 9110 section 6.5.1: what frames, routes, authenticates, modifies or steers may not come late.
_NEVER_LATE: Final = frozenset((
    b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"age", b"allow",
    b"authentication-info", b"authorization", b"cache-control", b"content-disposition",
    b"content-encoding", b"content-language", b"content-location", b"content-range",
    b"content-type", b"cookie", b"date", b"dpop", b"expires", b"from", b"if-match",
    b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since",
    b"last-modified", b"location", b"max-forwards", b"origin", b"pragma", b"range", b"referer",
    b"retry-after", b"set-cookie", b"strict-transport-security", b"tracestate", b"user-agent",
    b"vary", b"via", b"warning", b"www-authenticate", b"x-real-ip", b"x-request-id",
))  # fmt: skip
# Framing and the door itself read these before anybody decides.
_FRAMING: Final = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"traceparent"}
_ABOUT_CONNECTION: Final = frozenset((b"close", b"keep-alive"))


def folded(name: bytes) -> bytes:
    """A header name as the most careless upstream would read it."""
    return name.translate(_FOLD)


def ours(name: bytes) -> bool:
    """Whether an upstream might take the name for one that only we may say."""
    plain = folded(name)
    return plain.startswith(_OURS) or plain == _OURS[:-1]


def misleading(name: bytes) -> bool:
    """Whether a request header is removed whatever rules say: it speaks for us or against us."""
    plain = folded(name)
    return b"_" in name or plain in _MISLEADING or ours(name) or plain.startswith(_SPOKEN_FOR)


def named_away(options: frozenset[bytes]) -> frozenset[bytes]:
    """The headers that a Connection field with these members takes from the message."""
    return options - _ABOUT_CONNECTION - _END_TO_END


def end_to_end(fields: Headers, options: frozenset[bytes]) -> Headers:
    """The fields, trailers for one, that a Connection field with these members leaves there."""
    away = named_away(options)
    return [field for field in fields if field[0] not in away] if away else fields


class _Misleading(dict[bytes, bool]):
    """`misleading`, remembered."""

    def __missing__(self, name: bytes) -> bool:
        found = misleading(name)
        if len(name) <= _LONGEST_KEPT:
            if len(self) >= _KEPT:
                self.clear()
            self[name] = found
        return found


_misleading: Final = _Misleading()


def decided_on(headers: Headers, options: frozenset[bytes]) -> Headers:
    """The request headers that rules and credentials may see, in order."""
    hidden = _misleading
    away = named_away(options) - _FRAMING if options else frozenset[bytes]()
    if away:
        return [field for field in headers if not hidden[field[0]] and field[0] not in away]
    return [field for field in headers if not hidden[field[0]]]


class RequestNames(dict[bytes, bytes]):
    """Lower-case name of a request header -> `b"name: "` to forward it, or b"" to drop it.

    One per set of names that rules set; a new snapshot brings a new set, hence a new table.
    `removed` are the places of a credential that stays here, `beside` the table that holds without
    them; of a Cookie header only the `cookies` go.
    """

    def __init__(
        self,
        set_by_rules: frozenset[str] = frozenset(),
        read: frozenset[str] | None = None,
        removed: tuple[Location, ...] = (),
        beside: RequestNames | None = None,
    ) -> None:
        super().__init__()
        self.set_by_rules = set_by_rules
        self.read = read
        self.removed = removed
        self.beside = beside
        self.cookies = frozenset(each.name for each in removed if each.cookie)
        taken = {folded(each.name) for each in removed if not each.cookie}
        if removed:
            taken.add(b"dpop")  # the proof that goes with it
        self._taken = NOT_FORWARDED | taken | {folded(name.encode()) for name in set_by_rules}
        self._inspected: dict[bool, RequestNames] = {}

    def inspected(self, reads: bool) -> RequestNames:
        """The table for requests whose responses are looked through; `reads`: by GET or HEAD."""
        found = self._inspected.get(reads)
        if found is None:
            found = RequestNames(self.set_by_rules, self.read, self.removed, self.beside)
            found._taken |= _PARTS | _VALIDATORS if reads else _PARTS
            self._inspected[reads] = found
        return found

    def __missing__(self, name: bytes) -> bytes:
        dropped = misleading(name) or folded(name) in self._taken
        return _remember(self, name, b"" if dropped else name + b": ")


def without_cookies(value: bytes, cookies: frozenset[bytes]) -> bytes:
    """What is left of a Cookie header; empty: nothing (RFC 6265 section 4.2.1)."""
    return b"; ".join(
        pair
        for each in value.split(b";")
        if (pair := each.strip(b" \t")) and pair.partition(b"=")[0].rstrip(b" \t") not in cookies
    )


def late_request_lines(trailers: Headers, names: RequestNames) -> bytes:
    """The trailers that may follow a request's body, each with its line end.

    Some upstreams read trailers as headers. So none goes on that a decision could have depended on:
    none that a rule or a credential is read from (None: any might be).
    """
    read = names.read
    if read is None:
        return b""
    return b"".join(
        [
            prefix + value + b"\r\n"
            for name, value in trailers
            if name not in _NEVER_LATE
            and not name.startswith((b"access-control-", b"sec-"))
            and folded(name).decode("ascii") not in read
            and (prefix := names[name])
        ]
    )


def late_response_lines(
    trailers: Headers, names: ResponseNames, left_out: frozenset[bytes]
) -> bytes:
    """The same for what follows a response's body; nothing of what is `left_out` of its head."""
    return b"".join(
        [
            prefix + value + b"\r\n"
            for name, value in trailers
            if name not in _NEVER_LATE
            and not name.startswith(b"access-control-")
            and name not in left_out
            and (prefix := names[name])
        ]
    )


class ResponseNames(dict[bytes, bytes]):
    """The same for response headers."""

    _NOT_RETURNED: Final = HOP_BY_HOP | {b"content-length", b"proxy-authenticate"}

    def __missing__(self, name: bytes) -> bytes:
        dropped = name in self._NOT_RETURNED or ours(name)
        return _remember(self, name, b"" if dropped else name + b": ")


def _remember(names: dict[bytes, bytes], name: bytes, prefix: bytes) -> bytes:
    if len(name) <= _LONGEST_KEPT:
        if len(names) >= _KEPT:
            names.clear()
        names[name] = prefix
    return prefix
