"""(method, host, path) -> the few rules that can apply, in order.

A trie over decoded path segments, walked as a set of states, so that no pattern can make a path
cost more than (segments x states). Which rules end where is settled at compile time; a request
only walks, then filters by method and host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from sidecar.decide.pace import pause
from sidecar.decide.request import canonical_path, decoded_segments
from sidecar.errors import BadRequest

T = TypeVar("T")

_VARIABLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# In parts. A decoded segment holds no NUL, so a `*` that a path spells `%2A` is only itself.
REST: Final = "\0**"
ONE: Final = "\0*"
_WRITTEN: Final = {"**": REST, "*": ONE}
_KEPT: Final = 4096  # paths whose rules are remembered, up to this many characters of path and host
_LONGEST_KEPT: Final = 512


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path pattern: its parts, and where its variables stand (negative: from the end)."""

    text: str
    parts: tuple[str, ...]
    variables: tuple[tuple[str, int], ...]

    def params(self, segments: Sequence[str]) -> dict[str, str]:
        """The variables' values for a path that matches, decoded."""
        return {name: segments[place] for name, place in self.variables}


ANY: Final = Pattern("/**", (REST,), ())


def parse_pattern(text: str) -> Pattern:
    """A pattern as the documents write it. Raises ValueError with what is wrong."""
    if not text.startswith("/"):
        raise ValueError("a path pattern starts with /")
    if "?" in text or "#" in text:
        raise ValueError("a path pattern has no query and no fragment")
    raw = text.split("/")[1:]
    rests = [place for place, part in enumerate(raw) if part == "**"]
    parts: list[str] = []
    variables: dict[str, int] = {}
    for place, part in enumerate(raw):
        match = _VARIABLE.fullmatch(part)
        if match:
            name = match.group(1)
            if name in variables:
                raise ValueError(f"{{{name}}} is bound twice")
            variables[name] = _position(place, rests, len(raw), name)
            parts.append(ONE)
        elif part in _WRITTEN:
            parts.append(_WRITTEN[part])
        elif "*" in part or "{" in part or "}" in part:
            raise ValueError(f"{part!r}: *, ** and {{name}} stand for whole segments")
        else:
            parts.append(_literal(part, last=place == len(raw) - 1))
    return Pattern(text, tuple(parts), tuple(variables.items()))


def _position(place: int, rests: list[int], count: int, name: str) -> int:
    if not rests or place < rests[0]:
        return place
    if place > rests[-1]:
        return place - count
    raise ValueError(f"{{{name}}} stands between two **, so it has no one place")


def _literal(part: str, *, last: bool) -> str:
    """A literal segment, decoded as `request.decoded_segments` decodes the path's."""
    if part == "" and last:
        return ""
    quoted = "".join(
        char if char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in part
    )
    try:
        path = canonical_path(b"/" + quoted.encode("ascii"))
    except BadRequest as error:
        raise ValueError(f"{part!r} can never be in a path: {error.reason}") from None
    segments = decoded_segments(path)
    if len(segments) != 1 or segments[0] == "":
        raise ValueError(f"{part!r} can never be a segment of a canonical path")
    return segments[0]


class _Node(Generic[T]):
    __slots__ = ("ends", "literals", "loops", "one", "rest")

    def __init__(self, *, loops: bool = False) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.one: _Node[T] | None = None
        self.rest: _Node[T] | None = None  # reached without a segment
        self.loops = loops  # a ** node: takes any segment and stays
        self.ends: list[tuple[int, T, Pattern]] = []

    def following(self, part: str) -> Iterator[_Node[T]]:
        """Where a segment leads that a pattern's part takes."""
        if self.loops:
            yield self
        if part in (ONE, REST):
            yield from [each for text, each in self.literals.items() if text or part == REST]
        elif part in self.literals:
            yield self.literals[part]
        if self.one is not None and part:
            yield self.one


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """One rule as the index holds it; `order` is its place among all rules."""

    order: int
    rule: T
    patterns: tuple[Pattern, ...]
    methods: frozenset[str]
    hosts: tuple[str, ...]
    slash: bool = False  # also matches with a trailing slash (deny, guard)


class Candidates(Generic[T]):
    """The rules that can apply, in order, each with its first pattern that matches.

    One object for all paths to which the same ones apply by the same patterns. `about` is what a
    decision found out about them, once.
    """

    __slots__ = ("about", "rules")

    def __init__(self, rules: list[tuple[T, Pattern]]) -> None:
        self.rules = rules
        self.about: Any = None


@dataclass(slots=True)
class RouteIndex(Generic[T]):
    """Immutable once built."""

    _root: _Node[Route[T]] = field(default_factory=_Node)
    _size: int = 0
    _found: dict[tuple[str, str, str], Candidates[T]] = field(default_factory=dict)
    _sets: dict[tuple[tuple[T, Pattern], ...], Candidates[T]] = field(default_factory=dict)

    @classmethod
    def build(cls, routes: Sequence[Route[T]]) -> RouteIndex[T]:
        index: RouteIndex[T] = cls()
        for route in routes:
            pause()
            for pattern in route.patterns:
                index._insert(route, pattern)
                if route.slash and pattern.parts[-1] not in ("", REST):
                    index._insert(
                        route, Pattern(pattern.text, (*pattern.parts, ""), _shifted(pattern))
                    )
        index._size = len(routes)
        return index

    def __len__(self) -> int:
        return self._size

    def _insert(self, route: Route[T], pattern: Pattern) -> None:
        node = self._root
        for part in pattern.parts:
            if part == REST:
                if node.loops:
                    continue  # `**/**` is `**`
                if node.rest is None:
                    node.rest = _Node(loops=True)
                node = node.rest
            elif part == ONE:
                if node.one is None:
                    node.one = _Node()
                node = node.one
            else:
                node = node.literals.setdefault(part, _Node())
        node.ends.append((route.order, route, pattern))

    def candidates(
        self, method: str, host: str, path: str, segments: Sequence[str]
    ) -> Candidates[T]:
        """The same as `find`; remembered by the path whose decoded parts `segments` are."""
        key = (method, host, path)
        known = self._found.get(key)
        if known is None:
            rules = self.find(method, host, segments)
            known = self._sets.get(tuple(rules))
            if known is None:
                if len(self._sets) >= _KEPT:
                    self._sets.clear()
                known = self._sets[tuple(rules)] = Candidates(rules)
            if len(path) + len(host) <= _LONGEST_KEPT:
                if len(self._found) >= _KEPT:
                    self._found.clear()
                self._found[key] = known
        return known

    def find(self, method: str, host: str, segments: Sequence[str]) -> list[tuple[T, Pattern]]:
        """The rules whose `match` holds, in order, each with its first pattern that does."""
        states = self._states(segments)
        found: dict[int, tuple[T, Pattern]] = {}
        for node in states:
            for order, route, pattern in node.ends:
                if (
                    order not in found
                    and (not route.methods or method in route.methods)
                    and (not route.hosts or host_matches(route.hosts, host))
                ):
                    found[order] = (route.rule, _first(route, pattern, states, order))
        if len(found) < 2:
            return list(found.values())
        return [found[order] for order in sorted(found)]

    def on_path(self, segments: Sequence[str]) -> list[tuple[Route[T], Pattern]]:
        """What would be found there were method and host others, likewise; for explanations."""
        states = self._states(segments)
        found = {order: (route, pattern) for node in states for order, route, pattern in node.ends}
        return [
            (route, _first(route, pattern, states, order))
            for order, (route, pattern) in sorted(found.items())
        ]

    def parts(self) -> list[object]:
        """All that the index is made of, what holds others after them."""
        nodes = self._nodes()
        nodes.reverse()
        return [*self._found.items(), *self._sets.items(), *nodes]

    def routes(self) -> list[Route[T]]:
        """All that there is, in order; a walk through the whole index."""
        ends = [end for node in self._nodes() for end in node.ends]
        found = {order: route for order, route, _ in ends}
        return [found[order] for order in sorted(found)]

    def _nodes(self) -> list[_Node[Route[T]]]:
        """All of them, each before those that it leads to."""
        nodes = [self._root]
        for node in nodes:
            pause()
            nodes += [each for each in (node.one, node.rest, *node.literals.values()) if each]
        return nodes

    def _states(self, segments: Sequence[str]) -> list[_Node[Route[T]]]:
        """The nodes at which a path ends."""
        states = [self._root]
        if self._root.rest is not None:
            states.append(self._root.rest)
        for segment in segments:
            following: list[_Node[Route[T]]] = []
            for node in states:
                if node.loops and node not in following:
                    following.append(node)
                literal = node.literals.get(segment)
                if literal is not None and literal not in following:
                    following.append(literal)
                    if literal.rest is not None and literal.rest not in following:
                        following.append(literal.rest)
                one = node.one
                if one is not None and segment and one not in following:
                    following.append(one)
                    if one.rest is not None and one.rest not in following:
                        following.append(one.rest)
            if not following:
                return []
            states = following
        return states

    def meeting(self, parts: Sequence[str]) -> Iterator[T | None]:
        """The rules with a pattern that has some path in common with the pattern of these parts,
        whatever their methods and hosts; one may come again. None for each step in between, so that
        who asks can give up."""
        states = [(self._root, 0)]
        seen: set[tuple[int, int]] = set()
        while states:
            node, place = states.pop()
            if (id(node), place) in seen:
                continue
            seen.add((id(node), place))
            yield None
            if node is not self._root and place == len(parts):
                yield from [route.rule for _, route, _ in node.ends]
            if node.rest is not None:
                states.append((node.rest, place))
            if place == len(parts):
                continue
            part = parts[place]
            if part == REST:
                states.append((node, place + 1))
            states += [(each, place + (part != REST)) for each in node.following(part)]


def _first(route: Route[T], pattern: Pattern, states: list[_Node[Route[T]]], order: int) -> Pattern:
    """Of a rule's patterns that match, the one written first binds the parameters."""
    if len(route.patterns) == 1:
        return pattern
    texts = {
        found.text: found for node in states for place, _, found in node.ends if place == order
    }
    return next(texts[candidate.text] for candidate in route.patterns if candidate.text in texts)


def _shifted(pattern: Pattern) -> tuple[tuple[str, int], ...]:
    """Places from the end move by the trailing empty segment."""
    return tuple((name, place - 1 if place < 0 else place) for name, place in pattern.variables)


def host_matches(hosts: tuple[str, ...], host: str) -> bool:
    return any(
        host == known or (known.startswith("*.") and host.endswith(known[1:])) for known in hosts
    )
