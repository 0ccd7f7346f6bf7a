"""What expressions see of the request itself, each in the form that CEL wants. Pure.

Only what is asked for is converted; what cannot be read as one value fails what reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from sidecar.decide.request import Request


class Unreadable(Exception):
    """A value that cannot be read as one: the expression that reads it fails."""


def subset(values: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _headers(request: Request, keys: frozenset[str] | None) -> dict[str, str]:
    """Header names are lower case; a repeated header fails when read as one."""
    found: dict[str, str] = {}
    for raw, value in request.headers:
        name = raw.decode("ascii")
        if keys is not None and name not in keys:
            continue
        if name in found:
            raise Unreadable
        try:
            found[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Unreadable from None
    return found


def _query(request: Request, keys: frozenset[str] | None) -> dict[str, str]:
    """`application/x-www-form-urlencoded` pairs; a repeated or badly encoded one fails."""
    found: dict[str, str] = {}
    for pair in (request.query or b"").split(b"&"):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        key = _decoded(name)
        if keys is not None and key not in keys:
            continue
        if key in found:
            raise Unreadable
        found[key] = _decoded(value)
    return found


def _decoded(part: bytes) -> str:
    text = part.replace(b"+", b" ")
    for place in range(len(text)):
        if text[place] == 0x25 and not _is_hex(text[place + 1 : place + 3]):
            raise Unreadable
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable from None


def _is_hex(digits: bytes) -> bool:
    return len(digits) == 2 and all(digit in b"0123456789abcdefABCDEF" for digit in digits)


def _size(request: Request, keys: frozenset[str] | None) -> int:
    """Declared body size in bytes; 0 without a body, -1 where it is chunked."""
    if request.values(b"transfer-encoding"):
        return -1
    lengths = request.values(b"content-length")
    return int(lengths[0]) if lengths else 0


def whole_content_type(request: Request) -> tuple[str, list[bytes], bool]:
    """Of a body: its type, its encodings, and whether its text is not UTF-8. Raises Unreadable."""
    values = request.values(b"content-type")
    charset = False
    if values:
        for parameter in values[0].split(b";")[1:]:
            name, _, value = parameter.partition(b"=")
            if name.strip().lower() == b"charset":
                charset = charset or value.strip().strip(b'"').lower() not in (b"utf-8", b"utf8")
    return _content_type(request, None), request.values(b"content-encoding"), charset


def _content_type(request: Request, keys: frozenset[str] | None) -> str:
    values = request.values(b"content-type")
    if len(values) > 1:
        raise Unreadable
    return values[0].partition(b";")[0].strip().lower().decode("latin-1") if values else ""


READERS: Final[Mapping[str, Callable[[Request, frozenset[str] | None], Any]]] = {
    "request.method": lambda request, _: request.method,
    "request.path": lambda request, _: request.path,
    "request.host": lambda request, _: request.host,
    "request.scheme": lambda request, _: request.scheme,
    "request.address": lambda request, _: request.address,
    "request.headers": _headers,
    "request.query": _query,
    "request.size": _size,
    "request.contentType": _content_type,
}
