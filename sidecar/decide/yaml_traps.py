"""Text that is no YAML -> which value was meant to be text, where it begins, and how to write it.

Policies are full of what YAML reads as its own: quotes, brackets, `!`, `*`, `: `. The parser says
where it stumbled; this finds the value around that place, in its line, and shows it quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_KEY: Final = re.compile(r"""([\w.$/-]+|"[^"]*"|'[^']*')\s*:(?=\s|$)\s*""")
_ITEM: Final = re.compile(r"-\s+")
_QUOTED: Final = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")
_CLOSING: Final = {"{": "}", "[": "]", "(": ")"}
_OPENING: Final = {closing: opening for opening, closing in _CLOSING.items()}
_LONGEST: Final = 2_000  # characters of a line that is looked into
_DEEPEST: Final = 64
_SHOWN: Final = 200  # of a value, in a hint


@dataclass(frozen=True, slots=True)
class Trap:
    """`column` counts from 1; it is that of the value, if the value is to be quoted."""

    column: int
    hint: str


@dataclass(frozen=True, slots=True)
class _Value:
    key: str
    begin: int
    end: int  # behind it

    @property
    def label(self) -> str:
        return f"{self.key}: " if self.key else ""


def trap(row: str, column: int, problem: str) -> Trap | None:
    """What `problem`, found at this column (from 1) of a line, comes from; None where it is not
    clear."""
    row = row[:_LONGEST]
    if "tab character" in problem or "\t" in row[:column].replace(row[:column].lstrip(), ""):
        return Trap(column, "indent with spaces; YAML takes no tabs there")
    value = _at(row, column - 1)
    if value is None:
        if "expected key" in problem and not row[: column - 1].strip(" -"):
            return Trap(column, "its indentation is that of no line above it")
        return None
    written = row[value.begin : value.end]
    if written[:1] in ("|", ">"):
        return Trap(
            value.begin + 1,
            f"text after {written[0]} begins on the next line; or in one line: "
            f"{value.label}{quoted(written[1:].strip())}",
        )
    if not written or _QUOTED.fullmatch(written) or _brackets(written):
        return None
    if written[-1] in ("}", "]") and written.count(written[-1]) > written.count(
        _OPENING[written[-1]]
    ):
        return Trap(value.end, f"{written[-1]} closes what another bracket opened")
    shown = quoted(written) if len(written) <= _SHOWN else '"..."'
    return Trap(value.begin + 1, f"quote the whole value: {value.label}{shown}")


def as_text(row: str, column: int) -> str:
    """The value that begins at this column of a line, with its key and in quotes; empty where that
    is not clear."""
    row = row[:_LONGEST]
    value = _at(row, column - 1)
    if value is None or value.begin != column - 1 or not 0 < value.end - value.begin <= _SHOWN:
        return ""
    return f"{value.label}{quoted(row[value.begin : value.end])}"


def _at(row: str, place: int) -> _Value | None:
    """The innermost value around a place."""
    return next((each for each in _values(row) if each.begin <= place <= each.end), None)


def quoted(text: str) -> str:
    """As a YAML scalar in quotes, by the quotes that it does not hold itself."""
    if '"' not in text and "\\" not in text:
        return f'"{text}"'
    if "'" not in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _values(row: str) -> list[_Value]:
    """The values of a line, as they were meant; inner ones before those that hold them."""
    found: list[_Value] = []
    at = len(row) - len(row.lstrip(" "))
    while item := _ITEM.match(row, at):
        at = item.end()
    key = _KEY.match(row, at)
    _value(row, key.end() if key else at, key[1] if key else "", "", found, 0)
    return found


def _value(row: str, at: int, key: str, closing: str, found: list[_Value], depth: int) -> int:
    """Reads one value up to what ends it: `closing` or a comma, or the line where it is not inside
    brackets of YAML's. Returns where that is."""
    begin = at
    if row[at : at + 1] in ("{", "[") and depth < _DEEPEST:
        at = _members(row, at + 1, _CLOSING[row[at]], found, depth + 1)
        if at < len(row):
            at += 1
    else:
        whole = _QUOTED.match(row, at)
        if whole:
            at = whole.end()
    end = _plain(row, at, closing)
    found.append(_Value(key, begin, len(row[:end].rstrip())))
    return end


def _members(row: str, at: int, closing: str, found: list[_Value], depth: int) -> int:
    """Reads what stands inside YAML's brackets, up to the closing one."""
    while at < len(row):
        while row[at : at + 1] in (" ", ","):
            at += 1
        if row[at : at + 1] == closing or at >= len(row):
            return at
        key = _KEY.match(row, at) if closing == "}" else None
        before, at = (
            at,
            _value(row, key.end() if key else at, key[1] if key else "", closing, found, depth),
        )
        if row[at : at + 1] == closing:
            return at
        at = max(at, before + 1)
    return at


def _plain(row: str, at: int, closing: str) -> int:
    """Where text that is not quoted as a whole ends, its own brackets and quotes counted."""
    depth: list[str] = []
    while at < len(row):
        char = row[at]
        inner = _QUOTED.match(row, at)
        if inner:
            at = inner.end()
            continue
        if not depth and (
            (closing and char in (",", closing)) or (char == "#" and row[at - 1 : at] == " ")
        ):
            return at
        if char in _CLOSING:
            depth.append(_CLOSING[char])
        elif depth and char == depth[-1]:
            depth.pop()
        at += 1
    return at


def _brackets(text: str) -> bool:
    """Whether all of it stands in brackets of YAML's."""
    return text[0] in ("{", "[") and _members(text, 1, _CLOSING[text[0]], [], 1) == len(text) - 1
