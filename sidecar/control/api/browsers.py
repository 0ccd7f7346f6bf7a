"""Who must not reach an API on loopback: pages of other sites, and whoever a proxy brings along.

Where nobody has to show who they are, being on this machine is all that is asked for, and a browser
on this machine does what a page of anybody's says. So: nothing that comes of a page, no name for
this machine that somebody else may have chosen (DNS rebinding), nothing that was passed on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from sidecar.control.api.problems import Refused
from sidecar.facts.signing import is_loopback

_PASSED_ON: Final = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip",
)  # fmt: skip


def check(headers: CIMultiDictProxy[str], version: tuple[int, int], *, loopback: bool) -> None:
    """Whether a request may go on to where it is asked who sent it. `loopback`: it came to a
    listener of this machine alone. Raises Refused."""
    if "origin" in headers or _site(headers) not in ("none", "same-origin"):
        raise Refused(403, "browser", "no page may call this; it is for programs")
    hosts = headers.getall("host", [])
    if len(hosts) != 1:
        raise Refused(400, "invalid_request", "one Host is expected")
    if not loopback:
        return
    if not _is_ours(hosts[0]):
        raise Refused(
            421, "host", "on loopback it is served as localhost or by address, by no other name"
        )
    if version < (1, 1) or any(name in headers for name in _PASSED_ON):
        raise Refused(
            403, "proxy", "a proxy has passed it on; let programs come to --api, with TLS"
        )


def _site(headers: Mapping[str, str]) -> str:
    """As browsers say it (Fetch Metadata section 2.2); programs say nothing."""
    return headers.get("sec-fetch-site", "none")


def _is_ours(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.path:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return is_loopback(name)
    return True
