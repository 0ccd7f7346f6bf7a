"""Path templates -> patterns, and what keeps patterns apart where several templates match one path.

OpenAPI matches concrete paths before templated ones; rules know no such order, since every allow
rule that matches admits. So a rule for `/pets/{id}` must say that `/pets/mine` is not meant, where
that path asks for something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

from sidecar.decide.routes import parse_pattern

T = TypeVar("T")

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What CEL cannot read as a field's name.
_RESERVED: Final = frozenset(
    (
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import",
        "in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void",
        "while",
    )
)  # fmt: skip
MAX_PATTERN: Final = 4096  # characters, as documents have it


@dataclass(frozen=True, slots=True)
class Part:
    """A segment: `literal` (decoded), or a variable's `name`, or the texts around the variables in
    it (`pieces`)."""

    literal: str | None = None
    name: str = ""
    pieces: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """How concrete it is."""
        return 2 if self.literal is not None else 1 if self.pieces else 0

    def meets(self, other: Part) -> bool:
        """Whether a segment can be both; of two with pieces it is assumed."""
        if self.literal is None and other.literal is None:
            return True
        if self.literal is not None and other.literal is not None:
            return self.literal == other.literal
        text, pieces = (
            (self.literal, other.pieces)
            if self.literal is not None
            else (other.literal or "", self.pieces)
        )
        if not pieces:
            return text != ""
        return (
            text.startswith(pieces[0])
            and text.endswith(pieces[-1])
            and all(piece in text for piece in pieces)
        )


@dataclass(frozen=True, slots=True)
class Template:
    """A path as OpenAPI has it; `pattern` is empty where no rule can match exactly it, and `why`
    says so. `odd`: variables whose names hint at more than one segment."""

    pattern: str
    parts: tuple[Part, ...]
    why: str = ""
    odd: tuple[str, ...] = ()


def template(path: str) -> Template:
    """What becomes of a path."""
    texts: list[str] = []
    parts: list[Part] = []
    odd: list[str] = []
    why = ""
    segments = path.split("/")[1:]
    for place, segment in enumerate(segments):
        variable = _VARIABLE.fullmatch(segment)
        if variable:
            name = _fresh(variable.group(1), {part.name for part in parts})
            if re.search(r"[*+:]", variable.group(1)):
                odd.append(segment)
            texts.append(f"{{{name}}}")
            parts.append(Part(name=name))
            continue
        texts.append(segment)
        part, mistake = _fixed(segment, last=place == len(segments) - 1)
        parts.append(part)
        why = why or mistake
    pattern = "/" + "/".join(texts)
    if len(pattern) > MAX_PATTERN:
        why = why or f"longer than {MAX_PATTERN} characters"
    return Template("" if why else pattern, tuple(parts), why, tuple(odd))


def _fixed(segment: str, *, last: bool) -> tuple[Part, str]:
    """A segment that is no variable, and why no pattern can have it."""
    plain = Part(literal=unquote(segment))
    if "{" in segment or "}" in segment:
        pieces = tuple(unquote(piece) for piece in _VARIABLE.split(segment)[::2])
        if len(pieces) == 1 or any("{" in piece or "}" in piece for piece in pieces):
            return plain, f"the braces in {segment!r} do not match"
        return Part(pieces=pieces), f"{segment!r}: a variable is a whole segment of a pattern"
    if "*" in (plain.literal or ""):
        return plain, f"{segment!r}: a star stands for itself in OpenAPI, never in a pattern"
    if segment == "" and last:
        return plain, ""
    try:
        return Part(literal=parse_pattern(f"/{segment}/").parts[0]), ""
    except ValueError as error:
        return plain, str(error)


def _fresh(name: str, taken: set[str]) -> str:
    """A name that patterns and expressions can use."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)[:64]
    if not _NAME.fullmatch(name) or name in _RESERVED:
        name = f"p_{name}"
    count, fresh = 1, name
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    return fresh


# Those that match one path.


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[str, _Node[T]] = field(default_factory=dict)
    others: dict[tuple[str, ...], tuple[Part, _Node[T]]] = field(default_factory=dict)
    ends: list[tuple[Template, T]] = field(default_factory=list)


class Index(Generic[T]):
    """Templates by their segments. `spend` is told of every step, so that somebody may say no."""

    def __init__(self, items: Iterable[tuple[Template, T]], spend: Callable[[int], None]) -> None:
        self._root: _Node[T] = _Node()
        self._spend = spend
        for each, item in items:
            node = self._root
            for part in each.parts:
                if part.literal is not None:
                    node = node.literals.setdefault(part.literal, _Node())
                else:
                    node = node.others.setdefault(part.pieces, (part, _Node()))[1]
            node.ends.append((each, item))

    def meeting(self, one: Template) -> Iterator[tuple[Template, T]]:
        """All templates that match some path that this one matches, itself among them."""
        states = [self._root]
        for part in one.parts:
            following: list[_Node[T]] = []
            for node in states:
                self._spend(1 + len(node.others))
                if part.literal is not None:
                    if part.literal in node.literals:
                        following.append(node.literals[part.literal])
                else:
                    self._spend(len(node.literals))
                    following += [
                        child
                        for text, child in node.literals.items()
                        if part.meets(Part(literal=text))
                    ]
                following += [child for other, child in node.others.values() if part.meets(other)]
            states = following
        for node in states:
            self._spend(len(node.ends))
            yield from node.ends


def goes_first(one: Template, other: Template) -> bool:
    """Whether every segment of the one is as concrete as the other's, or more."""
    return all(
        mine.rank >= theirs.rank for mine, theirs in zip(one.parts, other.parts, strict=True)
    )


def conditions(one: Template, other: Template) -> tuple[tuple[str, str], ...]:
    """When a path that matches `one` also matches `other`: all of these expressions, each in two
    parts, what is looked at and how it must be."""
    found = []
    for mine, theirs in zip(one.parts, other.parts, strict=True):
        if mine.rank == 0 and theirs.rank:
            value = f"request.params.{mine.name}"
            if theirs.literal is not None:
                found.append((value, f" == {quoted(theirs.literal)}"))
                continue
            first, *middle, last = theirs.pieces
            if first:
                found.append((value, f".startsWith({quoted(first)})"))
            found += [(value, f".contains({quoted(piece)})") for piece in middle if piece]
            if last:
                found.append((value, f".endsWith({quoted(last)})"))
    return tuple(found)


def quoted(text: str) -> str:
    """A CEL string."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '\\"':
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"
