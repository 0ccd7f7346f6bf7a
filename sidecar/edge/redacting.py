"""A response that has to be redacted: held until all of it is there, looked through, then sent on.

What cannot be looked through is withheld, status and headers included.

What goes on is another representation than the service's, and another for each caller, so what
describes bytes does not go with it: validators, digests and signatures of the whole would even let
the caller try what was cut. Its ETag is one of its own bytes, so strong (RFC 9110 section 8.8.1),
and If-None-Match is answered here. It is `private, no-cache`: what may be seen was decided about
this caller and this moment, and a cache that asks again is answered 304 as long as nothing changed
(RFC 9111 section 5.2.2). Ranges are never asked for, since a part cannot be looked through.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from sidecar.decide.redact import Redaction, redact
from sidecar.decide.request import Headers
from sidecar.edge.fields import Framed
from sidecar.edge.http1 import NONE, RequestHead
from sidecar.edge.limits import Limits, ProxyStats
from sidecar.edge.names import named_away
from sidecar.edge.response_head import ResponseHead
from sidecar.errors import Uninspectable

INLINE: Final = 16 * 1024  # bytes that are looked through at once, in 3 ms; more in a thread

# One thread: two would only take turns, each with the memory of one text. What waits for it is
# bounded by Limits.inspecting.
_thread: Final = ThreadPoolExecutor(1, thread_name_prefix="redacting")

_JSON: Final = re.compile(rb"application/json|[!#$&^_.+0-9a-z-]+/[!#$&^_.+0-9a-z-]+\+json")
_PARAMETER: Final = re.compile(
    rb"""[ \t]*;[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#$%&'*+.^_`|~0-9A-Za-z-]+|"[^"\\]*"))?"""
)
_UTF_8: Final = frozenset((b"utf-8", b"utf8", b"us-ascii"))
# Of the service's representation; and what caches are told, which is said anew.
_ABOUT_THE_WHOLE: Final = frozenset((
    b"etag", b"last-modified", b"accept-ranges", b"content-range", b"content-encoding",
    b"content-md5", b"digest", b"content-digest", b"repr-digest", b"signature", b"signature-input",
    b"x-goog-hash", b"cache-control", b"expires", b"age", b"surrogate-control",
))  # fmt: skip
_CHECKSUM: Final = b"x-amz-checksum-"
_FOR_SOME_CACHES: Final = b"-cache-control"  # RFC 9213
_TAG: Final = re.compile(rb'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_NOT_MODIFIED: Final = b"304 Not Modified"


class Inspected(Protocol):
    """Whose response it is: an exchange."""

    def inspected(self, head: ResponseHead, body: bytes) -> None:
        """The whole response, as the client may have it. Framed by `head.length`."""

    def withhold(self) -> None:
        """Nothing of the response may be sent."""


class Inspection:
    """One response on its way through. `begin`, then `more` until `done`; or `cancel`."""

    __slots__ = (
        "_exchange", "_held", "_job", "_limits", "_over", "_pieces", "_redactions", "_request",
        "_response", "_stats",
    )  # fmt: skip

    _response: ResponseHead

    def __init__(
        self,
        exchange: Inspected,
        request: RequestHead,
        redactions: tuple[Redaction, ...],
        limits: Limits,
        stats: ProxyStats,
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._redactions = redactions
        self._limits = limits
        self._stats = stats
        self._pieces: list[bytes] = []
        self._held = 0  # bytes
        self._job: Future[bytes] | None = None
        self._over = False

    def begin(self, head: ResponseHead, payload: bytes, done: bool) -> None:
        """The head, with the payload that came along."""
        self._response = head
        if head.status == 304:
            self._withhold("not_modified")  # we asked unconditionally
        elif head.status in (206, 226):
            self._withhold("partial")
        elif head.framing is NONE:
            self._deliver(b"")
        elif head.length > self._limits.redacted_body:
            self._withhold("too_large")
        elif payload or done:
            self.more(payload, done)

    def more(self, payload: bytes, done: bool) -> None:
        """More of the body."""
        if self._over:
            return
        if payload:
            unfit = None if self._held else _unfit(self._response.headers)
            self._hold(len(payload))
            if unfit is not None:
                self._withhold(unfit)
            elif self._held > self._limits.redacted_body:
                self._withhold("too_large")
            elif self._stats.inspecting > self._limits.inspecting:
                self._withhold("crowded")
            else:
                self._pieces.append(payload)
        if done and not self._over:
            self._look()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._over = True
        self._pieces.clear()
        job = self._job
        if job is None:
            self._hold(-self._held)
        else:
            job.cancel()  # if it has begun, what it holds is held until it ends

    # -- within

    def _look(self) -> None:
        body = b"".join(self._pieces)
        self._pieces.clear()
        if not body:
            self._deliver(b"")
            return
        if len(body) <= INLINE:
            job: Future[bytes] = Future()
            try:
                job.set_result(redact(body, self._redactions))
            except Exception as error:  # noqa: BLE001  (told apart below, as from the thread)
                job.set_exception(error)
            self._looked(job)
            return
        loop = asyncio.get_running_loop()

        def looked(job: Future[bytes]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._looked, job)

        self._job = job = _thread.submit(redact, body, self._redactions)
        job.add_done_callback(looked)

    def _looked(self, job: Future[bytes]) -> None:
        self._job = None
        if self._over:
            self._hold(-self._held)
            return
        error = job.exception()
        if error is None:
            self._deliver(job.result())
        elif isinstance(error, Uninspectable):
            self._withhold(error.reason)
        else:
            # A defect of ours: nothing may be seen, and we must hear of it.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "redacting failed", "exception": error}
            )
            self._withhold("defect")

    def _deliver(self, body: bytes) -> None:
        response, method = self._response, self._request.method
        line = response.line
        headers = _described(response)
        if method == "GET" and response.status == 200:
            tag = _tag(headers, body)
            if _matches(tag, self._request.block.headers):
                line, body = _NOT_MODIFIED, b""
                headers = [field for field in headers if not _describes_content(field[0])]
            headers.append((b"etag", tag))
        head = ResponseHead(line, 1, headers, Framed([]), "HEAD")
        if response.framing is not NONE and line is not _NOT_MODIFIED:
            head.length = len(body)
        self._end()
        self._stats.redacted += 1
        self._exchange.inspected(head, body)

    def _withhold(self, reason: str) -> None:
        self._end()
        self._stats.withhold(reason)
        self._exchange.withhold()

    def _end(self) -> None:
        self._over = True
        self._pieces.clear()
        self._hold(-self._held)

    def _hold(self, size: int) -> None:
        self._held += size
        self._stats.inspecting += size


def _unfit(headers: Headers) -> str | None:
    """Why a body under these headers cannot be read as JSON, if so."""
    types = [value for name, value in headers if name == b"content-type"]
    if len(types) != 1:
        return "type"
    essence, *_ = types[0].split(b";", 1)
    if not _JSON.fullmatch(essence.rstrip(b" \t").lower()):
        return "type"
    rest = types[0][len(essence) :]
    at = 0
    while at < len(rest):
        parameter = _PARAMETER.match(rest, at)
        if parameter is None or parameter.end() == at:
            return "type"
        at = parameter.end()
        name, value = parameter.groups()
        charset = name is not None and name.lower() == b"charset"
        if charset and value.strip(b'"').lower() not in _UTF_8:
            return "charset"
    for name, value in headers:
        if name == b"content-encoding" and value.lower() not in (b"identity", b""):
            return "encoding"
    return None


def _described(response: ResponseHead) -> Headers:
    """The headers of what is left, but for its tag."""
    away = named_away(response.options) | _ABOUT_THE_WHOLE
    headers = [
        field
        for field in response.headers
        if field[0] not in away
        and not field[0].startswith(_CHECKSUM)
        and not field[0].endswith(_FOR_SOME_CACHES)
    ]
    said = {
        directive.strip(b" \t").lower()
        for name, value in response.headers
        if name == b"cache-control"
        for directive in value.split(b",")
    }
    kept = [each for each in (b"no-store", b"no-transform") if each in said]
    headers.append((b"cache-control", b", ".join([b"private", b"no-cache", *kept])))
    return headers


def _describes_content(name: bytes) -> bool:
    """RFC 9110 section 15.4.5: what a 304 leaves out."""
    return name.startswith(b"content-") and name != b"content-location"


def _tag(headers: Headers, body: bytes) -> bytes:
    """Of what the client sees and nothing else: it tells nobody that what was cut has changed."""
    digest = hashlib.sha256()
    for name, value in headers:
        if name in (b"content-type", b"content-language"):
            digest.update(value + b"\n")
    digest.update(body)
    return b'"' + base64.urlsafe_b64encode(digest.digest()[:18]) + b'"'


def _matches(tag: bytes, headers: Headers) -> bool:
    """Whether If-None-Match names it (RFC 9110 section 13.1.2), compared weakly."""
    values = [value for name, value in headers if name == b"if-none-match"]
    if values == [b"*"]:
        return True
    return any(tag in _TAG.findall(value) for value in values)
