"""Cross-origin requests: which pages may ask, and what their browsers are told. Pure.

Preflights carry no credential, so they are answered before anything is decided; the request that
follows is decided like any other. Source: the Fetch standard, section 3.2 (https://fetch.spec.whatwg.org).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.decide.challenge import Answer, problem
from sidecar.decide.request import Headers, Request

ANY: Final = "*"
_VARY: Final = (b"vary", b"origin")
_VARY_PREFLIGHT: Final = (
    b"vary",
    b"origin, access-control-request-method, access-control-request-headers",
)


@dataclass(frozen=True)
class Cors:
    """What a service admits. `origins` may hold `*`, `headers` are lower case, `max_age` in s."""

    origins: frozenset[str]
    methods: tuple[str, ...]
    headers: frozenset[str]
    expose: tuple[str, ...]
    credentials: bool
    max_age: int

    def admits(self, origin: str) -> bool:
        return origin in self.origins or ANY in self.origins

    def origin_headers(self, origin: str) -> Headers:
        """Who may read the answer. With credentials the origin is named, never `*`."""
        if not self.admits(origin):
            return []
        everyone = ANY in self.origins and not self.credentials
        found = [(b"access-control-allow-origin", b"*" if everyone else origin.encode("latin-1"))]
        if self.credentials:
            found.append((b"access-control-allow-credentials", b"true"))
        return found


def origin_of(request: Request) -> str | None:
    """The page that asks; None without exactly one Origin."""
    values = request.values(b"origin")
    return values[0].decode("latin-1") if len(values) == 1 else None


def preflight(request: Request, cors: Cors) -> Answer | None:
    """The answer to a preflight; None if `request` is none."""
    origin = origin_of(request)
    asked = request.values(b"access-control-request-method")
    if request.method != "OPTIONS" or origin is None or len(asked) != 1:
        return None
    method = asked[0].decode("latin-1")
    wanted = _names(request)
    if not cors.admits(origin) or method not in cors.methods or not wanted <= cors.headers:
        answer = problem(
            403, "denied", "This service does not admit such requests from other origins.", ""
        )
        answer.headers.append(_VARY_PREFLIGHT)
        return answer
    headers = [
        *cors.origin_headers(origin),
        (b"access-control-allow-methods", ", ".join(cors.methods).encode("ascii")),
        (b"access-control-max-age", b"%d" % cors.max_age),
        _VARY_PREFLIGHT,
    ]
    if wanted:
        headers.append((b"access-control-allow-headers", ", ".join(sorted(wanted)).encode("ascii")))
    return Answer(204, headers, b"")


def response_headers(request: Request, cors: Cors) -> Headers:
    """What every answer to `request` says besides: with no page of another origin, that it varies.

    A cache that is not told so would hand the answer without these headers to such a page.
    """
    origin = origin_of(request)
    headers = cors.origin_headers(origin) if origin is not None else []
    if headers and cors.expose:
        headers.append((b"access-control-expose-headers", ", ".join(cors.expose).encode("ascii")))
    return [*headers, _VARY]


def _names(request: Request) -> frozenset[str]:
    listed = b",".join(request.values(b"access-control-request-headers")).decode("latin-1")
    return frozenset(name.strip(" \t").lower() for name in listed.split(",")) - {""}
