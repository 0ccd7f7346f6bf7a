"""Cuts out of a JSON text what a caller may not see; every other byte stays as it was written.

Each redaction is about the text as it came, and what any of them cuts is cut: a `drop` what its
queries select, a `keep` whatever is neither selected, nor inside of what is, nor on the way to it.
Members and elements go with one comma, so what is left is JSON; the elements behind one that is
gone move up. Of the root itself `null` is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.decide.spans import UNCUT, Array, Object, Text

if TYPE_CHECKING:
    from sidecar.decide.queries import Query


@dataclass(frozen=True, slots=True)
class Redaction:
    """What to cut (`keep` False) or to leave. Equal where it was written the same."""

    keep: bool
    sources: tuple[str, ...]
    queries: tuple[Query, ...] = field(compare=False, repr=False)


def parse_redaction(drop: Sequence[str] = (), keep: Sequence[str] = ()) -> Redaction:
    """Exactly one of both says something. Raises ValueError for a bad query."""
    if bool(drop) is bool(keep):
        raise ValueError("exactly one of drop and keep must be given")
    from sidecar.decide.queries import parse_query  # JSONPath: 5 MiB that few rules need

    queries = tuple(parse_query(source) for source in (drop or keep))
    return Redaction(bool(keep), tuple(query.source for query in queries), queries)


def redact(body: bytes, redactions: Sequence[Redaction]) -> bytes:
    """What is left of `body`. Raises Uninspectable."""
    text = Text(body)
    cutting = _Cutting(text)
    for redaction in redactions:
        if redaction.keep:
            cutting.keep(redaction.queries)
        else:
            cutting.drop(redaction.queries)
    return cutting.done()


class _Cutting:
    """The cuts in one text."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._all = False  # the root itself
        self._touched: list[Object | Array] = []

    def drop(self, queries: Sequence[Query]) -> None:
        budget = self._text.budget
        charge = budget.charge
        for query in queries:
            for node in query.select(self._text.root, budget):
                charge(1)
                if node.parent is None:
                    self._all = True
                else:
                    self._cut(node.parent.value, node.location[-1])

    def keep(self, queries: Sequence[Query]) -> None:
        budget, root = self._text.budget, self._text.root
        charge = budget.charge
        kept: dict[int, set[int | str]] = {}  # by container
        passed: dict[int, set[int | str]] = {}  # likewise: what is on the way to something kept
        for query in queries:
            for node in query.select(root, budget):
                charge(1)
                parent = node.parent
                if parent is None:
                    return
                kept.setdefault(id(parent.value), set()).add(node.location[-1])
                while parent.parent is not None:
                    charge(1)
                    way = passed.setdefault(id(parent.parent.value), set())
                    if parent.location[-1] in way:
                        break
                    way.add(parent.location[-1])
                    parent = parent.parent
        if not isinstance(root, Object | Array):
            self._all = True
            return
        nothing: set[int | str] = set()
        walk: list[Object | Array] = [root]
        budget.weight = 1
        while walk:
            container = walk.pop()
            whole = kept.get(id(container), nothing)
            way = passed.get(id(container), nothing)
            charge(len(container) + 1)
            for key in _keys(container):
                if key in whole:
                    continue
                if key in way:
                    walk.append(container[key])  # type: ignore[index]  # `_keys` are its own
                else:
                    self._cut(container, key)

    def done(self) -> bytes:
        text = self._text.text
        pieces: list[str] = []
        at = 0
        for begin, end in self._spans():
            if begin < at:
                if end <= at:
                    continue  # inside of what is gone
                begin = at
            pieces.append(text[at:begin])
            at = end
        if self._all:
            pieces = [text[: self._text.begin], "null"]
            at = self._text.end
        pieces.append(text[at:])
        return "".join(pieces).encode("utf-8")

    def _spans(self) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for container in self._touched:
            spans += _cuts(container)
        spans.sort()
        return spans

    def _cut(self, container: Any, key: int | str) -> None:
        if container.cut is UNCUT:
            container.cut = set()
            self._touched.append(container)
        container.cut.add(key)


def _keys(container: Object | Array) -> Sequence[int | str]:
    return range(len(container)) if isinstance(container, Array) else list(container)


def _cuts(container: Object | Array) -> list[tuple[int, int]]:
    """The spans of what goes, each with one comma while something is left."""
    begins, ends, cut = container.begins, container.ends, container.cut
    if len(cut) == len(begins):
        return [(begins[0], ends[-1])]
    spans: list[tuple[int, int]] = []
    leading = True
    for place, key in enumerate(_keys(container)):
        if key not in cut:
            leading = False
        elif leading:
            spans.append((begins[place], begins[place + 1]))
        else:
            spans.append((ends[place - 1], ends[place]))
    return spans
