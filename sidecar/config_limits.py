"""The proxy's bounds as settings: part of `config`, which alone reads flags, environment and file.

Readers raise ValueError with what was expected. What is not set keeps the default of `edge.limits`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.decide.documents import seconds
from sidecar.edge.limits import Limits

_SIZE: Final = re.compile(r"([1-9][0-9]{0,8})(KiB|MiB|)")
_UNITS: Final = {"": 1, "KiB": 1024, "MiB": 1024 * 1024}


@dataclass(frozen=True, slots=True)
class Bound:
    """One setting, `key`, and the attribute of Limits that it sets; its default as people write."""

    key: str
    attribute: str
    read: Callable[[str], Any]
    metavar: str
    help: str
    default: str


def size(text: str) -> int:
    """`500`, `64KiB` or `1MiB` as bytes."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 500, 64KiB or 1MiB")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _rate(text: str) -> int:
    return 0 if text == "0" else size(text)


def _head(text: str) -> int:
    found = size(text)
    if not 1024 <= found <= 1024 * 1024:
        raise ValueError(f"{text!r}: a head may be limited to 1KiB to 1MiB")
    return found


def _redacted(text: str) -> int:
    found = size(text)
    if found > 16 * 1024 * 1024:
        raise ValueError(f"{text!r}: a response to be redacted may be limited to 16MiB at most")
    return found


def _time(text: str) -> float:
    found = seconds(text)
    if found <= 0:
        raise ValueError(f"{text!r} leaves no time; write 30s or 5m")
    return found


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} is not a whole number from 1 to 1000000")
    return int(text)


BOUNDS: Final = (
    Bound("max-connections", "connections", _number, "N", "client connections", "20000"),
    Bound("max-in-flight", "in_flight", _number, "N", "requests at once; beyond it 503", "4096"),
    Bound("max-head", "head", _head, "SIZE", "of a request: line and headers", "64KiB"),
    Bound("max-headers", "headers", _number, "N", "of a request", "100"),
    Bound("header-timeout", "header", _time, "TIME", "for a head, once it began", "15s"),
    Bound("idle-timeout", "idle", _time, "TIME", "between two requests", "75s"),
    Bound(
        "min-body-rate", "body_rate", _rate, "SIZE",
        "bytes a second of a request body, on average over 10s; 0: any", "500",
    ),
    Bound(
        "max-held-bodies", "bodies_held", size, "SIZE",
        "of all request bodies that are being decided on; beyond it 503", "64MiB",
    ),
    Bound("send-timeout", "send", _time, "TIME", "without a byte taken by the client", "60s"),
    Bound(
        "max-upstream-connections", "upstream_connections", _number, "N",
        "open at once; more requests wait in line", "1024",
    ),
    Bound("connect-timeout", "connect", _time, "TIME", "to reach the upstream", "5s"),
    Bound("first-byte-timeout", "first_byte", _time, "TIME", "until the upstream answers", "60s"),
    Bound(
        "response-timeout", "response", _time, "TIME", "between two pieces of a response", "300s"
    ),
    Bound(
        "total-timeout", "total", seconds, "TIME", "for a whole exchange; 0s: as long as it takes",
        "0s",
    ),
    Bound(
        "max-redacted-body", "redacted_body", _redacted, "SIZE",
        "of a response that rules redact; beyond it 502", "1MiB",
    ),
    Bound("max-tunnels", "tunnels", _number, "N", "WebSockets open at once", "10000"),
    Bound(
        "tunnel-idle-timeout", "tunnel_idle", _time, "TIME", "of silence on a WebSocket", "1h"
    ),
    Bound(
        "upstream-keep", "keep", _time, "TIME",
        "an unused upstream connection; less than the upstream keeps it", "4s",
    ),
)  # fmt: skip


def limits(values: Mapping[str, Any]) -> Limits:
    """The proxy's bounds, from the values of these settings by attribute name of the setting."""
    found = {bound.attribute: values.get(bound.key.replace("-", "_")) for bound in BOUNDS}
    return Limits(**{name: value for name, value in found.items() if value is not None})
