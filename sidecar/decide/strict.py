"""Strict base64url and JSON: one reading only, bounded, for bytes that a stranger sent."""

from __future__ import annotations

import binascii
import json
import re
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 16
MAX_SAFE: Final = 2**63

_BASE64URL: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
# The last character's unused bits must be zero (RFC 4648 section 3.5): two readings otherwise.
_LAST: Final = {0: None, 2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
_ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def base64url(text: bytes) -> bytes:
    """Decode unpadded base64url (RFC 7515 section 2). Raises ValueError unless canonical."""
    rest = len(text) % 4
    if rest == 1 or text.translate(None, _BASE64URL):
        raise ValueError("not base64url")
    allowed = _LAST[rest]
    if allowed is not None and text[-1] not in allowed:
        raise ValueError("base64url with trailing bits")
    return binascii.a2b_base64(text.translate(_TO_STANDARD) + b"=" * (-len(text) % 4))


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN, lone surrogates or deep nesting.

    Raises ValueError. Integers keep their size; see `beyond_cel`.
    """
    plain = _written_plainly(data)
    return _any_object(data) if plain is None else plain


def _any_object(data: bytes) -> dict[str, Any]:
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _require_shallow(data)
    text = data.decode("utf-8").strip(" \t\n\r")  # all that JSON takes for white space
    try:
        value, end = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if b"\\u" in data and _ESCAPED_SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair") from None
    return value


def _written_plainly(data: bytes) -> dict[str, Any] | None:
    """The object, where a fast parser and writer give back the very same bytes, as they do for the
    claims of nearly every token.

    None: it must be looked at closely. A fast parser says nothing of a key that is there twice, and
    rounds large integers; but then what is written again is not what was read.
    """
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        return None
    try:
        value = orjson.loads(data)
        return value if type(value) is dict and orjson.dumps(value) == data else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def beyond_cel(value: Any) -> bool:
    """Whether CEL cannot hold the value: an integer beyond 64 bits, anywhere inside."""
    if isinstance(value, int):
        return not -MAX_SAFE <= value < MAX_SAFE
    if isinstance(value, dict):
        return any(beyond_cel(item) for item in value.values())
    return isinstance(value, list) and any(beyond_cel(item) for item in value)


def _require_shallow(data: bytes) -> None:
    """Brackets inside strings count too, which errs on the side of refusing."""
    depth = 0
    for byte in data:
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError("nested too deeply")
        elif byte in b"]}":
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
