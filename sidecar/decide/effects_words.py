"""How effects put things: on one line, bounded, with nothing that could pass for another. Pure.

What is shown was written by the publisher whose change somebody reviews: no text of it may begin a
line of its own, and none is cut at its end, where `|| true` would stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec
import orjson

from sidecar.decide.disclosed import is_secret

Change = Literal["wider", "check", "stricter", "neutral"]
"""`wider`: more is admitted, less required, less enforced or more disclosed than before. `check`:
whether it is cannot be told from the documents. In the order in which people should read them."""
ORDER: Final[tuple[Change, ...]] = ("wider", "check", "stricter", "neutral")

T = TypeVar("T")

LONGEST: Final = 240  # characters of one text
MOST: Final = 10  # items of one list
NOT_SHOWN: Final = "(not shown)"
_BREAK: Final = re.compile(r"[ \t]*\n\s*")
_CREDENTIALS: Final = re.compile(r"//[^/?#@]*@")


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence and where it points."""

    change: Change
    text: str


def opposite(change: Change) -> Change:
    """What it is the other way round."""
    turned: dict[Change, Change] = {"wider": "stricter", "stricter": "wider"}
    return turned.get(change, change)


def printable(text: str) -> str:
    """On one line: breaks show as such, and what would not show is written out."""
    text = _BREAK.sub(" ⏎ ", text.strip())
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def shown(text: str) -> str:
    """The same, of what is too long its beginning and its end."""
    text = printable(text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 100]} … {text[-90:]} ({len(text)} characters)"


def pair(before: str, after: str) -> tuple[str, str]:
    """Two texts that differ, shown so that one sees it."""
    left, right = shown(before), shown(after)
    if left != right:
        return left, right
    left, right = printable(before), printable(after)
    if left == right:
        return left[:LONGEST], "another" if before == after else "the same with other white space"
    apart = next(
        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    start = max(0, apart - 40)
    return "… " + left[start : start + 160], "… " + right[start : start + 160]


def listed(items: Iterable[str], joint: str = "and") -> str:
    """`a, b and c`; of many the first ones and how many more."""
    every = list(items)
    texts = [shown(item) for item in every[:MOST]]
    if len(every) > MOST:
        more = len(every) - MOST
        return f"{', '.join(texts)} and {more} more"
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} {joint} {texts[-1]}"


def apart(before: Sequence[T], after: Sequence[T]) -> tuple[list[T], list[T]]:
    """What the one has not and what the other has not: gained and lost, in order."""
    old, new = [[msgspec.json.encode(item) for item in items] for items in (before, after)]
    had, has = set(old), set(new)
    gained = [item for item, key in zip(after, new, strict=True) if key not in had]
    return gained, [item for item, key in zip(before, old, strict=True) if key not in has]


def sidecars(selector: Mapping[str, str]) -> str:
    """Whom a selector names."""
    if not selector:
        return "all sidecars of the namespace"
    return "sidecars with " + listed(f"{key}={value}" for key, value in sorted(selector.items()))


def address(url: str) -> str:
    """Without what might be a secret in it: what stands before the host, and the query."""
    bare, query, _ = _CREDENTIALS.sub("//…@", url).partition("?")
    return bare + ("?…" if query else "")


def place(location: Any) -> str:
    """A credential's: `header authorization`."""
    places = [
        f"{kind} {name}" for kind in ("header", "cookie") if (name := getattr(location, kind))
    ]
    return listed(places) or "nowhere"


def secret(source: Any) -> str:
    """Where a secret is; what it is nobody here knows."""
    named = (("file", source.from_file), ("variable", source.from_env))
    return listed(f"{kind} {name}" for kind, name in named if name) or "nowhere"


def plain(value: Any) -> str:
    """Any value of a field."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case [] | {}:
            return "none"
        case list() if all(isinstance(item, str) for item in value):
            return ", ".join(value)
    return orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_SORT_KEYS).decode(
        "utf-8", "replace"
    )


def fallback(pointer: str, before: Any, after: Any) -> list[Said]:
    """What differs below a field for which there are no words: `spec.x.y: 30s → 5m`."""
    if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
        before, after = msgspec.to_builtins(before), msgspec.to_builtins(after)
    if isinstance(before, dict) and isinstance(after, dict):
        names = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
        return [
            said
            for name in names[:MOST]
            for said in fallback(f"{pointer}.{shown(name)}", before.get(name), after.get(name))
        ]
    if is_secret(pointer.rpartition(".")[2]):
        return [Said("check", f"{pointer} is another one {NOT_SHOWN}")]
    left, right = pair(plain(before), plain(after))
    return [Said("check", f"{pointer}: {left} → {right}")]
