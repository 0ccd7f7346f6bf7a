"""What is looked up elsewhere for a decision: an Enricher compiled, its question, its answer. Pure.

Who asks is `facts.enrich`; here is what to ask and what an answer must be like.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, final

import msgspec
import orjson

from sidecar.decide.expressions import Program, timestamp
from sidecar.decide.introspection import Secret
from sidecar.decide.kinds.facts import FieldType
from sidecar.decide.strict import beyond_cel, json_object

Value = str | int | float | bool
MAX_EXACT: Final = 2**53


@final
class CompiledEnricher(msgspec.Struct, frozen=True, eq=False):
    """An Enricher, ready to be asked. Times are seconds, sizes bytes. `digest` is its document's:
    an answer is good for as long as the document stays the same."""

    name: str
    digest: str
    url: str
    method: str
    parameters: tuple[tuple[str, Program], ...]
    headers: tuple[tuple[str, Secret], ...]
    fields: Mapping[str, FieldType]
    optional: frozenset[str]
    timeout: float
    cache: float
    stale_if_error: float
    max_size: int
    ca: Secret


@final
class Enriched(msgspec.Struct, frozen=True, eq=False):
    """An answer: the declared members that are there. It is believed until `expires`."""

    values: Mapping[str, Any]
    expires: float


MARK: Final = 16  # bytes that all keys of one enricher begin with


def mark_of(enricher: CompiledEnricher) -> bytes:
    """What the keys of its answers begin with, and no others."""
    return enricher.digest[:MARK].encode("ascii")


def key_of(enricher: CompiledEnricher, values: tuple[tuple[str, Value], ...]) -> bytes:
    """What the answer to this question is remembered by."""
    asked = orjson.dumps([enricher.name, enricher.digest, values])
    return mark_of(enricher) + hashlib.sha256(asked).digest()


def answer(enricher: CompiledEnricher, content: bytes) -> dict[str, Any]:
    """The declared members of an answer's body, as CEL takes them: a `number` is a double however
    it is written, so that an expression never fails for the point that one lacks. Raises
    ValueError: it is not as declared."""
    return declared(enricher, json_object(content))


def declared(enricher: CompiledEnricher, members: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an answer that was read already: plain values, times as text."""
    found: dict[str, Any] = {}
    for name, kind in enricher.fields.items():
        value = members.get(name)
        if value is None:
            if name not in enricher.optional:
                raise ValueError(f"{name} is missing")
            continue
        if not _CHECKS[kind](value) or beyond_cel(value):
            raise ValueError(f"{name} is no {kind}")
        if kind == "number":
            found[name] = float(value)
        elif kind == "time":
            found[name] = timestamp(datetime.fromisoformat(value))
        else:
            found[name] = value
    return found


def _is_time(value: Any) -> bool:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment is not None and moment.tzinfo is not None and bool(timestamp(moment))
    except (ValueError, OverflowError):  # the latter: beyond year 9999 in UTC, or before year 1
        return False


def _is_number(value: Any) -> bool:
    """Those that a double holds as they are."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= MAX_EXACT
    return isinstance(value, float) and math.isfinite(value)


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "time": _is_time,
    "list": lambda value: isinstance(value, list),
    "map": lambda value: isinstance(value, dict),
}
