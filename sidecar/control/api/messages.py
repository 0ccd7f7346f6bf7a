"""Protobuf messages <-> plain JSON values, by their descriptors. No I/O.

As protobuf's own JSON has it (lowerCamelCase; bytes are base64; maps are objects), but for what
would be in people's way:

- documents are JSON objects, and what is text in a `bytes` field is a string (`OBJECTS`, `TEXTS`);
- 64-bit numbers are numbers as long as every reader of JSON has them exactly (RFC 8259 section 6),
  strings beyond; both are read;
- enums are the lower-case words that the command line says: `OUTCOME_WOULD_PUBLISH` is
  `would_publish`;
- fields with their default value are written, too, so that an answer always has the same members.

One reading only: nothing unknown, no other spelling of a name, no null for "left out".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from math import inf, isfinite
from typing import Any, Final, TypeVar, cast

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

OBJECTS: Final = frozenset(
    (
        "sidecar.v1.ApplyRequest.documents",
        "sidecar.v1.GetResponse.documents",
        "sidecar.v1.DiffResponse.Pair.before",
        "sidecar.v1.DiffResponse.Pair.after",
    )
)
"""Bytes that are JSON objects; empty ones are null."""
TEXTS: Final = frozenset(
    ("sidecar.v1.AuditRecord.content", "sidecar.v1.DelegateSigningRequest.public_key")
)
"""Bytes that are text: of an audit record exactly that which its hash is of."""
SAFE: Final = 2**53 - 1
"""The largest number that everybody reads exactly."""
RANGES: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**63 - 1),  # as the store has them
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
}
"""Of whole numbers. There are no other types of these in the service; a test looks."""
SIXTY_FOUR: Final = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
_DIGITS: Final = re.compile(r"-?[0-9]{1,20}")
MOST_ITEMS: Final = 100_000  # of a list: what is wrong with {} takes a hundred times its size
MOST_MISTAKES: Final = 10  # told at once
M = TypeVar("M", bound=Message)


class Unreadable(ValueError):
    """Not the message that is expected; `mistakes` say where and what, the first ones of them."""

    def __init__(self, mistakes: Collection[str]) -> None:
        self.mistakes = tuple(mistakes)[:MOST_MISTAKES]
        super().__init__("; ".join(self.mistakes))


def words(enum: EnumDescriptor) -> dict[str, int]:
    """The word for each value: without what all of them begin with, in lower case."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {each.name.removeprefix(prefix).lower(): each.number for each in enum.values}


def fields_of(kind: Descriptor) -> Sequence[FieldDescriptor]:
    """In their order."""
    return kind.fields


def value_of_map(field: FieldDescriptor) -> FieldDescriptor | None:
    """What stands for each name in an object with any names; None: it is none such."""
    kind = field.message_type
    if kind is None or not kind.GetOptions().map_entry:
        return None
    return kind.fields_by_name["value"]


# Writing.


def plain(message: Message) -> dict[str, Any]:
    """A value for `orjson.dumps`."""
    found: dict[str, Any] = {}
    for field in fields_of(_kind(message)):
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        inner = value_of_map(field)
        if inner is not None:
            found[field.json_name] = {key: _written(inner, value[key]) for key in sorted(value)}
        elif field.is_repeated:
            found[field.json_name] = [_written(field, each) for each in value]
        else:
            found[field.json_name] = _written(field, value)
    return found


def json_of(message: Message) -> bytes:
    """JSON text."""
    return orjson.dumps(plain(message))


def _written(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        return "unspecified" if known is None else known.name.removeprefix(prefix).lower()
    if field.type == FieldDescriptor.TYPE_BYTES:
        if field.full_name in OBJECTS:
            return orjson.Fragment(value) if value else None
        if field.full_name in TEXTS:
            return value.decode()
        return base64.b64encode(value).decode()
    if field.type in SIXTY_FOUR and abs(value) > SAFE:
        return str(value)
    return value


# Reading.


def read(
    kind: type[M], value: Mapping[str, Any], without: Collection[str] = (), where: str = ""
) -> M:
    """A message from the members of a JSON object. Those named in `without` are unknown to it: they
    are said by other means, in `where`. Raises Unreadable."""
    reader = _Reader()
    found = kind()
    reader.into(found, value, "", without, where)
    if reader.mistakes:
        raise Unreadable(reader.mistakes)
    return found


class _Reader:
    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def into(
        self,
        message: Message,
        value: Mapping[str, Any],
        at: str,
        without: Collection[str] = (),
        where: str = "",
    ) -> None:
        kind = _kind(message)
        fields = {each.json_name: each for each in fields_of(kind)}
        for name, inner in value.items():
            place = f"{at}.{name}" if at else name
            field = fields.get(name)
            if field is None:
                self._wrong(place, f"unknown; there are {_listed(kind, without)}")
            elif field.name in without:
                self._wrong(place, f"it is said by {where}")
            else:
                self._field(message, field, inner, place)
            if len(self.mistakes) >= MOST_MISTAKES:
                return

    def _field(self, message: Message, field: FieldDescriptor, value: Any, at: str) -> None:
        inner = value_of_map(field)
        if inner is not None:
            self._map(getattr(message, field.name), inner, value, at)
        elif field.is_repeated:
            if not isinstance(value, list):
                self._wrong(at, "a list is expected")
                return
            if len(value) > MOST_ITEMS:
                self._wrong(at, f"at most {MOST_ITEMS} are possible at once")
                return
            for place, each in enumerate(value):
                if len(self.mistakes) >= MOST_MISTAKES:
                    return
                self._one(message, field, each, f"{at}[{place}]")
        else:
            self._one(message, field, value, at)

    def _one(self, message: Message, field: FieldDescriptor, value: Any, at: str) -> None:
        """A field's value, or one more of those that it has."""
        if field.message_type is None:
            found = self._value(field, value, at)
            if found is None:
                return
            if field.is_repeated:
                getattr(message, field.name).append(found)
            else:
                setattr(message, field.name, found)
            return
        if not isinstance(value, dict):
            self._wrong(at, "an object is expected")
            return
        inner = getattr(message, field.name)
        if field.is_repeated:
            inner = inner.add()
        else:
            inner.SetInParent()
        self.into(inner, value, at)

    def _map(self, found: Any, inner: FieldDescriptor, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            self._wrong(at, "an object is expected")
            return
        for name, each in value.items():
            if len(self.mistakes) >= MOST_MISTAKES:
                return
            if "\0" in name:
                self._wrong(at, "no NUL is possible in a name")
                continue
            scalar = self._value(inner, each, f"{at}.{name}")
            if scalar is not None:
                found[name] = scalar

    def _value(self, field: FieldDescriptor, value: Any, at: str) -> Any:
        """The value as protobuf takes it; None where it is none, which has been said then."""
        try:
            return _scalar(field, value)
        except ValueError as error:
            self._wrong(at, str(error))
            return None

    def _wrong(self, at: str, what: str) -> None:
        self.mistakes.append(f"{at[:200]}: {what}")


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    """The value as protobuf takes it. Raises ValueError, which says what is expected."""
    kind = field.type
    if field.enum_type is not None:
        known = words(field.enum_type)
        if isinstance(value, str) and value != "unspecified" and value in known:
            return known[value]
        named = ", ".join(name for name in known if name != "unspecified")
        raise ValueError(f"one of {named} is expected")
    if kind == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise ValueError("true or false is expected")
        return value
    if kind == FieldDescriptor.TYPE_STRING:
        return _text(value)
    if kind == FieldDescriptor.TYPE_BYTES:
        return _bytes(field, value)
    if kind == FieldDescriptor.TYPE_DOUBLE:
        return _double(value)
    return _whole(value, *RANGES[kind])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    if "\0" in value:  # which PostgreSQL does not keep
        raise ValueError("no NUL is possible")
    return value


def _bytes(field: FieldDescriptor, value: Any) -> bytes:
    if field.full_name in OBJECTS:
        if not isinstance(value, dict):
            raise ValueError("an object is expected, a document")
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    text = _text(value)
    if field.full_name in TEXTS:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("base64 is expected (RFC 4648 section 4)") from None


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is expected")
    try:
        found = float(value)
    except OverflowError:
        found = inf
    if not isfinite(found):
        raise ValueError("a finite number is expected")
    return found


def _whole(value: Any, low: int, high: int) -> int:
    digits = isinstance(value, str) and _DIGITS.fullmatch(value)
    if digits or (isinstance(value, float) and value.is_integer() and abs(value) <= SAFE):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high} is expected")
    return value


def _kind(message: Message) -> Descriptor:
    """The stubs have two types for one."""
    return cast(Descriptor, message.DESCRIPTOR)


def _listed(kind: Descriptor, without: Collection[str]) -> str:
    names = [each.json_name for each in fields_of(kind) if each.name not in without]
    return ", ".join(names) or "no members"
