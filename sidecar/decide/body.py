"""A request's body as rules read it: JSON and forms, one reading only, bounded. Pure.

The very bytes that were read here go to the service, so whatever it could read otherwise is refused
(DESIGN section 8, rule 5) or, where it is no form that we know, cannot be read by a rule.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final

import orjson

from sidecar.decide.strict import beyond_cel
from sidecar.errors import SidecarError

MAX_DEPTH: Final = 32  # lists and objects inside one another
LONGEST_NUMBER: Final = 64  # characters

# A string that does not end reaches to the end: to look for its end once more from each quotation
# mark inside takes the square of its length.
_BRACKETS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


class BadBody(SidecarError):
    """A body that two readers could read differently, or that is not what it says it is."""


class NotInspected(Exception):
    """No rule can read such a body: the expression that does fails."""


def read(content: bytes, content_type: str, encodings: list[bytes], charsets: bool) -> Any:
    """The value of a body of this type (lower case, without parameters).

    `charsets`: whether the type names another character set than UTF-8. Nothing sent is an empty
    object. Raises BadBody and NotInspected.
    """
    if not content:
        return {}
    if charsets or any(each.strip().lower() not in (b"", b"identity") for each in encodings):
        raise NotInspected
    if content_type == "application/json" or (
        content_type.startswith("application/") and content_type.endswith("+json")
    ):
        return _json(content)
    if content_type == "application/x-www-form-urlencoded":
        return _form(content)
    raise NotInspected


def _json(content: bytes) -> Any:
    """RFC 8259, UTF-8 without a mark, without keys that are there twice, half surrogates, or
    numbers that a reader might round."""
    _require_shallow(content)
    plain = _written_plainly(content)
    if plain is not _LOOK_CLOSELY:
        return plain
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadBody("the body is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise BadBody("the body begins with a byte order mark")
    text = text.strip(" \t\n\r")
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        raise BadBody("the body is not well-formed JSON") from None
    if end != len(text):
        raise BadBody("the body is more than one JSON value")
    if "\\u" in text and _has_half(value):
        raise BadBody("the body holds half of a surrogate pair")
    if beyond_cel(value):
        raise BadBody("the body holds an integer beyond 64 bits")
    return value


def _written_plainly(content: bytes) -> Any:
    """The value, where a fast parser and writer give back the very same bytes: then no key was
    there twice and no number was rounded. As most programs write bodies; ten times as fast."""
    if _LONG_NUMBER.search(content):
        return _LOOK_CLOSELY
    try:
        value = orjson.loads(content)
        return value if orjson.dumps(value) == content else _LOOK_CLOSELY
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _LOOK_CLOSELY


_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")  # perhaps beyond 64 bits
_LOOK_CLOSELY: Final = object()


def _require_shallow(content: bytes) -> None:
    depth = 0
    for match in _BRACKETS.finditer(content):
        mark = match.group()
        if mark in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise BadBody("the body is nested too deeply")
        elif mark in b"]}":
            depth -= 1


def _has_half(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, dict):
        return any(_has_half(key) or _has_half(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_half(item) for item in value)


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise BadBody("the body holds a number that is too long")
    return int(digits)


def _decimal(digits: str) -> float:
    """The double that is written shortest so; others would be rounded to it (RFC 8259 section 6).

    Whole ones are exact to 2^53 only.
    """
    if len(digits) > LONGEST_NUMBER:
        raise BadBody("the body holds a number that is too long")
    value = float(digits)
    try:
        exact = value - value == 0 and Decimal(digits) == Decimal(repr(value))
    except ArithmeticError:  # an exponent beyond those of decimals, too
        exact = False
    if not exact:
        raise BadBody("the body holds a number that cannot be represented exactly")
    return value


def _no_constant(name: str) -> Any:
    raise BadBody("the body is not well-formed JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadBody("the body holds a key twice")
    return members


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_constant=_no_constant,
    parse_int=_integer,
    parse_float=_decimal,
)


def _form(content: bytes) -> dict[str, str]:
    """`application/x-www-form-urlencoded` (WHATWG URL section 5.1), strictly: each name once."""
    found: dict[str, str] = {}
    for pair in content.split(b"&"):
        name, _, value = pair.partition(b"=")
        key = _decoded(name)
        if not pair or key in found:
            raise BadBody("the form holds a field twice, or an empty one")
        found[key] = _decoded(value)
    return found


_FORM: Final = re.compile(rb"(?:[A-Za-z0-9*\-._+~!'()]|%[0-9A-Fa-f]{2})*")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def _decoded(part: bytes) -> str:
    if not _FORM.fullmatch(part):
        raise BadBody("the form is badly encoded")
    plain = part.replace(b"+", b" ")
    try:
        return _ESCAPE.sub(lambda match: bytes([int(match.group(1), 16)]), plain).decode("utf-8")
    except UnicodeDecodeError:
        raise BadBody("the form is not UTF-8") from None
