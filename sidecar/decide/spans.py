"""JSON as values that remember where in the text they stand. Strict: what two parsers could read
differently is not read (RFC 8259; duplicate names, RFC 7493 section 2.3).

Objects and arrays are dicts and lists, so that a query can be asked of them. What reads them pays
for it from the `Budget` of their text: nothing a stranger sends makes a query run for long.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C one; stubs lack it
from typing import Any, Final

from sidecar.errors import Uninspectable

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 250_000  # 50 MB where each is an empty object, 20 MB as a rule
# Values that queries may read, times what they do with each: a second's worth or two at most.
STEPS: Final = 50_000
STEPS_PER_VALUE: Final = 64
MAX_STEPS: Final = 4_000_000

# Matches everywhere, if only nothing: where its match is used at once, there is one [union-attr].
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SCALAR: Final = re.compile(
    r"(true|false|null)|-?(?:0|[1-9][0-9]*)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
)
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONSTANTS: Final = {"true": True, "false": False, "null": None}
_LONG: Final = 40  # digits of an integer; longer ones are compared as floats


class Budget:
    """How much may still be read of one text; all of it costs `weight` times as much."""

    __slots__ = ("left", "weight")

    def __init__(self) -> None:
        self.left = 0
        self.weight = 1

    def charge(self, values: int) -> None:
        """Raises Uninspectable."""
        self.left -= values * self.weight
        if self.left < 0:
            raise Uninspectable("too_complex")


UNCUT: Final[set[int | str]] = set()  # of whoever has none of its own yet; nobody adds to it


class Array(list[Any]):
    """An array; element `i` stands at `begins[i]` up to `ends[i]`. `cut` are the indexes to cut."""

    __slots__ = ("begins", "budget", "cut", "ends")
    __hash__ = None

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.cut = UNCUT

    def __iter__(self) -> Iterator[Any]:
        self.budget.charge(len(self) + 1)
        return super().__iter__()

    def __getitem__(self, place: Any) -> Any:
        if type(place) is slice:
            self.budget.charge(len(self) + 1)
        return super().__getitem__(place)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Array or len(other) != len(self):
            return False
        return all(same(one, another) for one, another in zip(self, other, strict=True))

    def __ne__(self, other: object) -> bool:
        return not self == other


class Object(dict[str, Any]):
    """An object; its members stand, in order, at `begins[i]` (of the name) up to `ends[i]`."""

    __slots__ = ("begins", "budget", "cut", "ends")
    __hash__ = None

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.cut = UNCUT

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # dict's own is final
        self.budget.charge(len(self) + 1)
        return super().items()

    def __eq__(self, other: object) -> bool:
        if type(other) is not Object or len(other) != len(self):
            return False
        return all(name in other and same(one, other[name]) for name, one in self.items())

    def __ne__(self, other: object) -> bool:
        return not self == other


def same(one: object, other: object) -> bool:
    """RFC 9535 section 2.3.5.2.2: to Python, true equals 1."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return one == other


class Text:
    """A JSON text: `root` is its value, which stands at `begin` up to `end`."""

    __slots__ = ("begin", "budget", "end", "root", "text")

    def __init__(self, data: bytes) -> None:
        """Raises Uninspectable."""
        self.budget = Budget()
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise Uninspectable("not_utf8") from None
        try:
            self._scan()
        except (IndexError, ValueError):  # the end where more must come; a bad string
            raise Uninspectable("not_json") from None

    def _scan(self) -> None:
        text = self.text
        skip, scalar = _SPACE.match, _SCALAR.match
        halves = _ESCAPED_SURROGATE.search(text) is not None
        open_: list[Object | Array] = []
        within: Object | Array | None = None
        name = ""
        values = 0
        root: Any = None
        at = member = self.begin = skip(text, 0).end()  # type: ignore[union-attr]
        while True:
            # A value begins at `at`, its member or element at `member`.
            first = text[at]
            opened: Object | Array | None = None
            value: Any
            if first == '"':
                value, at = scanstring(text, at + 1, True)
                if halves and _SURROGATE.search(value):
                    raise Uninspectable("not_utf8")
            elif first == "{":
                value = opened = Object(self.budget)
                at += 1
            elif first == "[":
                value = opened = Array(self.budget)
                at += 1
            else:
                match = scalar(text, at)
                if match is None:
                    raise Uninspectable("not_json")
                value = _value(match, at)
                at = match.end()
            values += 1
            if values > MAX_VALUES:
                raise Uninspectable("too_complex")
            if within is None:
                root = value
            else:
                within.begins.append(member)
                if type(within) is Array:
                    within.append(value)
                else:
                    within[name] = value  # type: ignore[call-overload]  # it is an Object
            if opened is not None:
                if within is not None and len(open_) + 1 >= MAX_DEPTH:
                    raise Uninspectable("too_deep")
                at = skip(text, at).end()  # type: ignore[union-attr]
                if text[at] != ("}" if first == "{" else "]"):
                    if within is not None:
                        open_.append(within)
                    within = opened
                    member = at
                    if first == "{":
                        name, at = self._name(opened, at, halves)
                    continue
                at += 1
            # A value has ended at `at`, and with it perhaps what it is in.
            while within is not None:
                within.ends.append(at)
                at = skip(text, at).end()  # type: ignore[union-attr]
                mark = text[at]
                if mark == ",":
                    at = member = skip(text, at + 1).end()  # type: ignore[union-attr]
                    if type(within) is Object:
                        name, at = self._name(within, at, halves)
                    break
                if mark != ("}" if type(within) is Object else "]"):
                    raise Uninspectable("not_json")
                at += 1
                within = open_.pop() if open_ else None
            if within is None:
                break
        self.root = root
        self.end = at
        self.budget.left = min(STEPS + STEPS_PER_VALUE * values, MAX_STEPS)
        if skip(text, at).end() != len(text):  # type: ignore[union-attr]
            raise Uninspectable("not_json")

    def _name(self, within: Object | Array, at: int, halves: bool) -> tuple[str, int]:
        """The name that begins at `at`, and where its value does."""
        text = self.text
        if text[at] != '"':
            raise Uninspectable("not_json")
        name, at = scanstring(text, at + 1, True)
        if name in within:
            raise Uninspectable("duplicate_name")
        if halves and _SURROGATE.search(name):
            raise Uninspectable("not_utf8")
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at] != ":":
            raise Uninspectable("not_json")
        return name, _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _value(match: re.Match[str], at: int) -> Any:
    constant, rest = match.groups()
    if constant is not None:
        return _CONSTANTS[constant]
    text = match.group()
    return float(text) if rest or match.end() - at > _LONG else int(text)
