"""What is looked up elsewhere for a decision: an Enricher compiled, its question, its answer. Pure.

Who asks is `facts.enrich`; here is what to ask and what an answer must be like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, final

import msgspec
import orjson

from sidecar.decide.expressions import Program
from sidecar.decide.introspection import Secret
from sidecar.decide.kinds.facts import FieldType
from sidecar.decide.strict import beyond_cel, json_object

Value = str | int | float | bool


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


def key_of(enricher: CompiledEnricher, values: tuple[tuple[str, Value], ...]) -> bytes:
    """What the answer to this question is remembered by."""
    asked = orjson.dumps([enricher.name, enricher.digest, values])
    return hashlib.sha256(asked).digest()


def answer(enricher: CompiledEnricher, content: bytes) -> dict[str, Any]:
    """The declared members of an answer's body. Raises ValueError: it is not as declared."""
    members = json_object(content)
    found: dict[str, Any] = {}
    for name, kind in enricher.fields.items():
        value = members.get(name)
        if value is None:
            if name not in enricher.optional:
                raise ValueError(f"{name} is missing")
            continue
        if not _CHECKS[kind](value) or beyond_cel(value):
            raise ValueError(f"{name} is no {kind}")
        found[name] = datetime.fromisoformat(value) if kind == "time" else value
    return found


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "time": _is_time,
    "list": lambda value: isinstance(value, list),
    "map": lambda value: isinstance(value, dict),
}
