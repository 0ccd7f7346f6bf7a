"""A decision with what identifies it: an id that doubles as a trace id, and the caller's trace."""

from __future__ import annotations

import random
import re
import time
from typing import Any, Final

from sidecar.decide.outcomes import Obligations, Permit, Refuse
from sidecar.decide.request import NO_HEADERS, Headers, Request

_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Edits:
    """What a response's head says beside, or in place of, what the upstream says: whole `lines`,
    each with its end, and the names of what is `left_out`, lower case."""

    __slots__ = ("left_out", "lines")

    def __init__(self, lines: bytes = b"", left_out: frozenset[bytes] = frozenset()) -> None:
        self.lines = lines
        self.left_out = left_out

    def setting(self, cookie: bytes) -> Edits:
        """This Set-Cookie line, too. It is for one browser, and does not keep shared caches from
        handing it to others by itself (RFC 9111 section 7.3)."""
        private = b"" if _PRIVATE in self.lines else _PRIVATE
        return Edits(self.lines + cookie + private, self.left_out | FOR_CACHES)


NO_EDITS: Final = Edits()
CORS: Final = frozenset(
    b"access-control-" + name
    for name in (
        b"allow-origin", b"allow-credentials", b"allow-methods", b"allow-headers",
        b"expose-headers", b"max-age",
    )
)  # fmt: skip


FOR_CACHES: Final = frozenset(
    (
        b"cache-control", b"expires", b"age", b"surrogate-control", b"cdn-cache-control",
        b"cloudflare-cdn-cache-control", b"vercel-cdn-cache-control", b"netlify-cdn-cache-control",
    )
)  # fmt: skip
"""What shared caches go by (RFC 9111; RFC 9213 and its kin)."""
_PRIVATE: Final = b"cache-control: private, no-store\r\n"


def edits(obligations: Obligations, cors: Headers, nonce: str, limits: Headers) -> Edits:
    """All that a response has to say: by rules, to a page of another origin (`cors`), of the
    caller's next proof, of its limits. Each replaces what the upstream says of that."""
    said = [*cors, *limits]
    left_out = {name for name, _ in limits}
    if cors:
        left_out |= CORS
    for name, value in obligations.set_response_headers:
        raw = name.encode("ascii")
        left_out.add(raw)
        said.append((raw, encoded_text(value)))
    left_out.update([name.encode("ascii") for name in obligations.remove_response_headers])
    if obligations.unshared:
        left_out |= FOR_CACHES
        said.append((b"cache-control", b"private, no-store"))
    if nonce:
        # For this caller's next proof, so for nobody's cache (RFC 9449 section 8.2).
        said.append((b"dpop-nonce", nonce.encode("ascii")))
        if not obligations.unshared:
            said.append((b"cache-control", b"no-store"))
        left_out |= {b"dpop-nonce", b"cache-control"}
    lines = [name + b": " + value + b"\r\n" for name, value in said]
    return Edits(b"".join(lines), frozenset(left_out))


_UNPRINTABLE: Final = re.compile(r"[^ -~]")


def encoded_text(text: str) -> bytes:
    """The value of a response header: UTF-8, percent-encoded outside printable ASCII."""
    return _UNPRINTABLE.sub(
        lambda found: "".join(
            [f"%{byte:02X}" for byte in found.group().encode("utf-8", "surrogatepass")]
        ),
        text.strip(" "),
    ).encode("ascii")


class Decision:
    """An outcome with what identifies it. `id` is 32 hex digits and doubles as a trace id.

    `said` are headers of the answer, whoever gives it; `edits` is what becomes of the head of the
    upstream's response. `logged` belongs to whoever logs it.
    """

    __slots__ = (
        "edits",
        "id",
        "logged",
        "outcome",
        "said",
        "seconds",
        "started",
        "traceparent",
        "version",
    )

    def __init__(
        self,
        outcome: Permit | Refuse,
        id_: str,
        traceparent: bytes,
        started: float,
        version: str,
    ) -> None:
        self.outcome = outcome
        self.id = id_
        self.traceparent = traceparent
        self.started = started
        self.seconds = time.perf_counter() - started
        self.version = version
        self.said = NO_HEADERS
        self.edits = NO_EDITS
        self.logged: Any = None


class _Ids:
    """Decision ids and span ids: distinct, not secret. Made many at a time, ten times as fast."""

    def __init__(self) -> None:
        self._random = random.Random()
        self._digits = ""
        self._at = 0

    def take(self) -> tuple[str, str]:
        """32 and 16 hex digits, neither all zero (W3C Trace Context section 3.2.2)."""
        at = self._at
        if at == len(self._digits):
            self._digits = self._random.randbytes(24 * 256).hex()
            at = 0
        self._at = at + 48
        id_, span = self._digits[at : at + 32], self._digits[at + 32 : at + 48]
        return (id_, span) if id_ != _NO_ID and span != _NO_SPAN else self.take()


_NO_ID: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
take_ids: Final = _Ids().take


def traceparent(request: Request) -> bytes:
    """The caller's trace goes on; without one (empty), the decision starts it (W3C Trace Context).

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    values = request.values(b"traceparent")
    return values[0] if len(values) == 1 and _TRACEPARENT.fullmatch(values[0]) else b""
