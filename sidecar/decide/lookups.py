"""An Enricher's question as an HTTP request, and for how long the answer holds. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final, final
from urllib.parse import quote

import msgspec
import orjson

from sidecar.decide.enrichment import CompiledEnricher, Value

MAX_TARGET: Final = 8192  # bytes of path and query: what servers commonly take
LEAST: Final = 1.0  # seconds that an answer holds at least: whoever waits for it decides with it
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_AS_WRITTEN: Final = "/%:@!$&'()*+,;=~"
_CLIMBING: Final = ("", ".", "..")
_STALE_NEVER: Final = frozenset(("no-store", "no-cache", "must-revalidate"))


@final
class Question(msgspec.Struct, frozen=True):
    """`target` is the path and query, in visible ASCII; `content` a JSON object, if one is sent."""

    origin: str
    target: str
    content: bytes | None


def question(enricher: CompiledEnricher, values: tuple[tuple[str, Value], ...]) -> Question:
    """What to send. Each value in the path is one segment of it or a part of one, whatever it
    holds. Raises ValueError, without the value, for one that cannot be sent as what it is."""
    scheme, _, rest = enricher.url.partition("://")
    authority, _, path = rest.partition("/")
    left = dict(values)
    for name, value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the parameter {name} is no finite number")

    def in_path(match: re.Match[str]) -> str:
        value = _text(found[match.group(1)])
        if value in _CLIMBING:
            raise ValueError(f"the parameter {match.group(1)} is no segment of a path")
        left.pop(match.group(1), None)
        return quote(value, safe="")

    found = dict(values)
    pieces = []
    end = 0
    for match in _PARAMETER.finditer(path):
        pieces += [quote(path[end : match.start()], safe=_AS_WRITTEN), in_path(match)]
        end = match.end()
    target = "/" + "".join(pieces) + quote(path[end:], safe=_AS_WRITTEN)
    content = None
    if enricher.method == "POST":
        content = orjson.dumps(left)
    elif left:
        target += "?" + "&".join(
            f"{quote(name, safe='')}={quote(_text(value), safe='')}" for name, value in left.items()
        )
    if len(target) > MAX_TARGET:
        raise ValueError(f"its parameters make an address of more than {MAX_TARGET} bytes")
    return Question(f"{scheme}://{authority}", target, content)


def _text(value: Value) -> str:
    """As a text expression gives it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@final
class Holding(msgspec.Struct, frozen=True):
    """For how many seconds an answer is believed, and after that where no other can be had."""

    cache: float
    stale: float


def holding(enricher: CompiledEnricher, headers: Mapping[str, str]) -> Holding:
    """What the document says, or less where the answer says so (RFC 9111 section 5.2.2, RFC 5861
    section 4). `headers` have lower-case names."""
    cache, stale = enricher.cache, enricher.stale_if_error
    for directive in headers.get("cache-control", "").split(","):
        name, _, argument = directive.strip().lower().partition("=")
        if name in ("no-store", "no-cache"):
            cache = LEAST
        elif name == "max-age":
            cache = min(cache, _seconds(argument) - _seconds(headers.get("age", "0")))
        elif name == "stale-if-error":
            stale = min(stale, _seconds(argument))
        if name in _STALE_NEVER:
            stale = 0.0
    return Holding(max(LEAST, cache), stale)


def _seconds(text: str) -> float:
    """What is no number of seconds counts as none (RFC 9111 section 4.2.1)."""
    text = text.strip().strip('"')
    return float(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0.0


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that it is JSON in UTF-8, as it is."""
    kind, *parameters = headers.get("content-type", "").lower().split(";")
    kind = kind.strip()
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            return False
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return False
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def weight(content: bytes) -> int:
    """Bytes of memory that the values of a JSON text take, at most, roughly."""
    return (
        512
        + 4 * len(content)  # one character in four bytes, where any is beyond the BMP
        + 250 * content.count(b"{")
        + 64 * (content.count(b"[") + content.count(b","))
    )
