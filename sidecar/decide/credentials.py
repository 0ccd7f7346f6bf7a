"""Find the credential: exactly one, in the places that the service names.

Sources: RFC 6750 section 2 (one method a request), RFC 6265 section 5.4 for cookies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from sidecar.decide.request import Request

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))


@dataclass(frozen=True)
class Location:
    """A header (lower-case bytes) or a cookie (bytes)."""

    name: bytes
    cookie: bool = False


class Credential(msgspec.Struct, frozen=True):
    """What was presented, and where. `malformed` says why it is not even looked at.

    `dpop`: with the scheme that is for tokens bound to a key (RFC 9449 section 7.1).
    """

    token: bytes
    cookie: bool = False
    malformed: str = ""
    location: Location | None = None
    dpop: bool = False


def find(request: Request, locations: Sequence[Location]) -> Credential | None:
    """The credential, or None when none is presented; two are malformed, wherever they stand."""
    if len(locations) == 1 and not locations[0].cookie:
        return _in_header(request, locations[0])
    found: Credential | None = None
    for location in locations:
        values = request.values(b"cookie" if location.cookie else location.name)
        if len(values) > 1 and not location.cookie:
            # RFC 9110 section 5.3: no list, so two can be read two ways, whatever their schemes.
            return Credential(b"", malformed="given twice")
        for value in values:
            for credential in _presented(value, location):
                if found is not None:
                    return Credential(b"", found.cookie or credential.cookie, "given twice")
                found = credential
    return found


def _in_header(request: Request, location: Location) -> Credential | None:
    """The same where there is but one place to look, as nearly always."""
    name = location.name
    presented: bytes | None = None
    for key, value in request.headers:
        if key == name:
            if presented is not None:
                return Credential(b"", malformed="given twice")
            presented = value
    return None if presented is None else _header(presented, location)


def _presented(value: bytes, location: Location) -> list[Credential]:
    if location.cookie:
        return _cookies(value, location)
    credential = _header(value, location)
    return [] if credential is None else [credential]


def _header(value: bytes, location: Location) -> Credential | None:
    scheme, _, token = value.partition(b" ")
    named = scheme.lower()
    if named == b"bearer":
        token = token.strip(b" ")
    elif named == b"dpop":
        return Credential(token.strip(b" "), location=location, dpop=True)
    elif location.name == b"authorization" or not value:
        # Another scheme (Basic, Digest) is not a credential that this service asks for.
        return None
    else:
        token = value
    return Credential(token, location=location)


def _cookies(value: bytes, location: Location) -> list[Credential]:
    found = []
    for pair in value.split(b";"):
        name, equals, token = pair.strip(b" \t").partition(b"=")
        if equals and name == location.name:
            token = token.removeprefix(b'"').removesuffix(b'"') if token[:1] == b'"' else token
            found.append(Credential(token, cookie=True, location=location))
    return found


def same_origin(request: Request) -> bool:
    """Whether a request that a cookie authenticates comes from a page of this very host.

    Browsers send Origin with every unsafe request and every WebSocket handshake, so one without it
    is not believed; schemes are not compared, since TLS may end in front of us (DESIGN section 8,
    rule 8).
    """
    if request.method in SAFE_METHODS and not _asks_for_websocket(request):
        return True
    origins = request.values(b"origin")
    if len(origins) != 1:
        return False
    scheme, mark, authority = origins[0].partition(b"://")
    if not mark or scheme not in (b"https", b"http"):
        return False
    default = b":443" if scheme == b"https" else b":80"
    mine = request.authority.encode("ascii").removesuffix(default)
    return authority.lower().removesuffix(default) == mine


def _asks_for_websocket(request: Request) -> bool:
    """Pages of any origin may open one, and read what comes (RFC 6455 section 10.2).

    Whether a tunnel comes of it is for the door to say, so every spelling counts.
    """
    return any(b"websocket" in value.lower() for value in request.values(b"upgrade"))
