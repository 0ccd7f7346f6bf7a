"""The body of a request: bytes of a stranger, bounded in size, time and depth, to one JSON object.

Of large ones there are few at a time: a body of many small values takes ten times its size.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from sidecar.control.api.problems import Refused
from sidecar.decide import nodes
from sidecar.wire.convert import MAX_MESSAGE

CONTENT_TYPE: Final = "application/json"
WITHIN: Final = 30.0  # seconds for a body
LARGE: Final = 1024 * 1024  # bytes; also what does not say how large it is
BRIEF: Final = 64 * 1024  # bytes that are read on the loop, since a thread would take longer
M = TypeVar("M")
LARGE_AT_ONCE: Final = 2
MOST_VALUES: Final = 4_000_000  # what 50,000 documents have
MAX_DEPTH: Final = nodes.MAX_DEPTH + 2  # of a document in the list of a request
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


class Bodies:
    """Reads them. `place`, then `read`."""

    def __init__(self) -> None:
        self._large = 0

    @contextmanager
    def place(self, request: web.Request) -> Iterator[None]:
        """For as long as what is in the body is held. Raises Refused."""
        large = request.body_exists and not 0 <= _length(request) <= LARGE
        if large and self._large >= LARGE_AT_ONCE:
            raise Refused(503, "unavailable", "other large requests are under way", retry=1)
        self._large += large
        try:
            yield
        finally:
            self._large -= large

    async def read(self, request: web.Request, into: Callable[[dict[str, Any]], M]) -> M:
        """What is made of the object in it. Raises Refused, and what `into` raises."""
        if request.content_type != CONTENT_TYPE or request.charset not in (None, "utf-8", "UTF-8"):
            # Browsers send no other site's page this type without asking first.
            raise Refused(415, "media_type", f"content-type: {CONTENT_TYPE} is expected")
        if "content-encoding" in request.headers:
            raise Refused(415, "media_type", "content-encoding: none is possible")
        length = _length(request)
        if length > MAX_MESSAGE:
            raise _too_large()
        data = await _bytes(request, MAX_MESSAGE if length < 0 else length)
        if len(data) <= BRIEF:
            return into(object_of(data))
        return await asyncio.to_thread(lambda: into(object_of(data)))


def _length(request: web.Request) -> int:
    """In bytes; -1: it is not said."""
    return -1 if request.content_length is None else request.content_length


async def _bytes(request: web.Request, most: int) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(WITHIN):
            while chunk := await request.content.readany():
                found += chunk
                if len(found) > most:
                    raise _too_large()
    except TimeoutError:
        raise Refused(408, "too_slow", f"the body takes more than {WITHIN:g} seconds") from None
    except (OSError, web.PayloadAccessError, BadHttpMessage, ValueError):
        raise Refused(400, "invalid_request", "the body cannot be read") from None
    return bytes(found)


def object_of(data: bytes) -> dict[str, Any]:
    """A JSON object (RFC 8259) that has one reading: no name twice, no number that nobody has, no
    half of a surrogate pair. Raises Refused."""
    if data.count(b",") + data.count(b"{") + data.count(b"[") > MOST_VALUES:
        raise Refused(413, "too_large", f"more than {MOST_VALUES} values")
    try:
        value = _DECODER.decode(data.decode().strip(" \t\n\r"))
        _require_shallow(value)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _no_json("nested too deeply") from None
    except UnicodeError:
        raise _no_json("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _no_json(f"{error.msg.lower()} ({where})") from None
    except ValueError as error:
        raise _no_json(str(error)) from None
    if not isinstance(value, dict):
        raise _no_json("an object is expected")
    return value


def _require_shallow(value: Any) -> None:
    """Raises ValueError."""
    layer, depth = [value], 0
    while layer:
        inner: list[Any] = []
        for each in layer:
            if isinstance(each, dict):
                inner += [part for part in each.values() if isinstance(part, dict | list)]
            elif isinstance(each, list):
                inner += [part for part in each if isinstance(part, dict | list)]
        layer, depth = inner, depth + 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:64]!r} is there twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or not nodes.SMALLEST <= (number := int(text)) <= nodes.LARGEST:
        raise ValueError("a number is too large")
    return number


def _broken(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _too_large() -> Refused:
    return Refused(413, "too_large", f"at most {MAX_MESSAGE} bytes are possible")


def _no_json(why: str) -> Refused:
    return Refused(400, "invalid_request", f"the body is no JSON object: {why}")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_whole, parse_float=_broken, parse_constant=_no_number
)
