"""Rules as lint looks at them: where each stands, and an index by path patterns.

A path that stands for a pattern finds, in a route index of patterns, the few that could cover it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from sidecar.decide.compile_policy import RoutedRule
from sidecar.decide.documents import PLATFORM, AccessPolicy, Document, Rule, order_key
from sidecar.decide.expressions import Program
from sidecar.decide.inclusion import Parts, example
from sidecar.decide.problems import problem_at
from sidecar.decide.routes import REST, Pattern, Route, RouteIndex
from sidecar.errors import Problem


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A rule as it is written and as it is compiled; `sound` if no mistake was found in it."""

    document: Document
    place: int
    rule: Rule
    routed: RoutedRule
    sound: bool

    @property
    def order(self) -> tuple[bool, str, str, int]:
        return (*order_key(self.document), self.place)

    @property
    def pointer(self) -> str:
        return f"spec.rules[{self.place}]"

    @property
    def parts(self) -> tuple[Parts, ...]:
        """Of its patterns."""
        return tuple([pattern.parts for pattern in self.routed.patterns])

    @property
    def all_parts(self) -> tuple[Parts, ...]:
        """With the trailing slash that deny and guard rules tolerate (RouteIndex.build)."""
        if self.rule.effect == "allow":
            return self.parts
        more = [(*parts, "") for parts in self.parts if parts[-1] not in ("", REST)]
        return (*self.parts, *more)

    @property
    def shadow(self) -> bool:
        return self.routed.rule.shadow

    def programs(self) -> Iterator[tuple[str, Program]]:
        """Its expressions, and where they stand."""
        rule = self.routed.rule
        if rule.when is not None:
            yield ".when", rule.when
        for field_name, headers in (
            ("setHeaders", rule.set_headers), ("setResponseHeaders", rule.set_response_headers),
        ):  # fmt: skip
            for name, program in headers:
                yield f".then.{field_name}.{name}", program
        for place, each in enumerate(rule.redact):
            if each.unless is not None:
                yield f".then.redact[{place}].unless", each.unless
        if rule.limit is not None and rule.limit.per is not None:
            yield ".limit.per", rule.limit.per

    def warning(self, field_name: str, code: str, message: str, hint: str) -> Problem:
        """At a field of the rule, such as `.when`; "" is the rule itself."""
        return problem_at(
            self.document, self.pointer + field_name, message, hint=hint, warning=True, code=code
        )

    def named(self) -> str:
        """Which rule it is and where it stands."""
        line, _ = self.document.marks.get(self.pointer, (0, 0))
        where = f" ({self.document.file}:{line})" if line else ""
        return f"{self.routed.rule.ref}{where}"


def signature(at: Placed, *, match: object) -> tuple[object, ...]:
    """All that a rule says, and how it is named does not count."""
    rule = at.rule
    return (
        rule.effect, match, at.routed.methods, frozenset(at.routed.hosts), rule.when,
        at.routed.rule.auth, _encoded(rule.require), _encoded(rule.then), _encoded(rule.limit),
        rule.offer, at.shadow,
    )  # fmt: skip


def _encoded(part: object) -> bytes:
    return msgspec.json.encode(part)


@dataclass(slots=True)
class Bucket:
    """Rules with one pattern in common, by their `when`; of those that differ in nothing else that
    counts here, the first."""

    rules: dict[str | None, list[Placed]] = field(default_factory=dict)
    known: set[tuple[object, ...]] = field(default_factory=set)

    def all(self) -> Iterator[Placed]:
        for rules in self.rules.values():
            yield from rules


class Rules:
    """Rules by their patterns."""

    def __init__(self) -> None:
        self._buckets: dict[Parts, Bucket] = {}
        self._routes: RouteIndex[Bucket] = RouteIndex()

    @classmethod
    def of(cls, rules: Iterable[Placed]) -> Rules:
        index = cls()
        for each in rules:
            seen_by = tuple(sorted(selector(each).items()))
            alike = (*signature(each, match=each.parts), seen_by, is_platform(each))
            for parts in each.all_parts:
                bucket = index._buckets.setdefault(parts, Bucket())
                if alike not in bucket.known:
                    bucket.known.add(alike)
                    bucket.rules.setdefault(each.rule.when, []).append(each)
        index._routes = RouteIndex.build(
            [
                Route(order, bucket, (Pattern("", parts, ()),), frozenset(), ())
                for order, (parts, bucket) in enumerate(index._buckets.items())
            ]
        )
        return index

    def near(self, parts: Parts) -> list[Bucket]:
        """Those that could cover these parts; all of them match some path that the parts match."""
        return [bucket for bucket, _ in self._routes.find("", "", example(parts))]

    def meeting(self, parts: Parts) -> Iterator[Bucket | None]:
        """Those that have a path in common with these parts, and None for each step between."""
        return self._routes.meeting(parts)


def selector(at: Placed) -> Mapping[str, str]:
    """Labels of the sidecars that see it."""
    spec = at.document.spec
    return spec.selector if isinstance(spec, AccessPolicy) else {}


def overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a sidecar can have the labels of both selectors."""
    return all(other.get(key, value) == value for key, value in one.items())


def is_platform(at: Placed) -> bool:
    """Whether it applies in every namespace."""
    return at.document.namespace == PLATFORM
