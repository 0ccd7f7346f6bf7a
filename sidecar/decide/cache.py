"""Bounded memory of what was verified and decided. No outcome can show that it is there.

What a decision depends on is found at compile time (an expression's footprint), so equal keys mean
equal decisions: DESIGN section 3, Cache.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from math import inf
from typing import Any, Final, Generic, TypeVar

from sidecar.decide.bindings import Bindings, Footprint
from sidecar.decide.enrichment import CompiledEnricher
from sidecar.decide.readers import Unreadable
from sidecar.decide.routes import ANY, Candidates, Pattern
from sidecar.decide.snapshot import CompiledRule
from sidecar.decide.tokens import Verified

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

WEIGHT: Final = 1024  # bytes that a remembered permit takes beside the texts of its key, roughly
MOST_READS: Final = 32  # parts of a key
LONGEST_VALUE: Final = 512  # characters of one of them


class ExpiringCache(Generic[K, V]):
    """Key to (expiry, value), bounded in entries and in weight; at a bound the oldest go.

    Time is an argument (seconds since the epoch). Expired entries are dropped when met, and by age
    at the bound. `weight` is what the caller says an entry takes, in bytes.
    """

    __slots__ = ("_entries", "bound", "evictions", "heaviest", "hits", "misses", "weight")

    def __init__(self, bound: int, heaviest: int = 64 * 1024 * 1024) -> None:
        self.bound = bound
        self.heaviest = heaviest
        self.weight = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        # Not a dict: finding its oldest entry means stepping over all that went before.
        self._entries: OrderedDict[K, tuple[float, V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> V | None:
        """The value, unless it was never put or its time has come."""
        entry = self._entries.get(key)
        if entry is not None:
            if now < entry[0]:
                self.hits += 1
                return entry[1]
            self.drop(key)
        self.misses += 1
        return None

    def until(self, key: K) -> float:
        """When what `get` found expires."""
        entry = self._entries.get(key)
        return -inf if entry is None else entry[0]

    def put(self, key: K, value: V, expires: float, weight: int = 0) -> None:
        """Remember until `expires`; what alone outweighs the bound is not remembered."""
        self.drop(key)
        if weight > self.heaviest:
            return
        while len(self._entries) >= self.bound or self.weight + weight > self.heaviest:
            self.drop(next(iter(self._entries)))
            self.evictions += 1
        self._entries[key] = (expires, value, weight)
        self.weight += weight

    def drop(self, key: K) -> None:
        """Forget one entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[2]

    def retain(self, keep: Callable[[K], bool]) -> None:
        """Forget all entries but those whose key is to be kept."""
        for key in [key for key in self._entries if not keep(key)]:
            self.drop(key)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.weight = 0


Key = tuple[Any, ...]


class Reads:
    """What a permit to some candidates depends on, beside the caller, time, keys and policy.

    `settled`: on nothing that may change by itself.
    """

    __slots__ = ("_few", "_reads", "settled", "subject")

    def __init__(
        self,
        rules: list[tuple[CompiledRule, Pattern]],
        enrichers: Mapping[str, CompiledEnricher],
        *,
        customers: bool = False,
    ) -> None:
        """`customers`: the permit says who the customer is."""
        reads: dict[tuple[str, frozenset[str] | None, Pattern], None] = {}
        for rule, pattern in rules:
            for footprint in footprints(rule, enrichers):
                for name, keys in footprint.items():
                    if name not in _OF_THE_CALLER:
                        reads[(name, keys, pattern if name == "request.params" else ANY)] = None
        self.settled = not any(name in _VOLATILE for name, _, _ in reads)
        self.subject = any(name in _OF_THE_SUBJECT for name, _, _ in reads) or any(
            rule.asks_subject for rule, _ in rules
        )
        self.subject = self.subject or customers
        self._reads = [each for each in reads if each[0] not in _KEPT_BESIDE]
        whole = any(keys is None and name in _MAPS for name, keys, _ in self._reads)
        parts = sum(1 if keys is None else len(keys) for _, keys, _ in self._reads)
        self._few = self.settled and not whole and parts <= MOST_READS

    def key(
        self,
        candidates: Candidates[CompiledRule],
        verified: Verified | None,
        bindings: Bindings,
    ) -> Key | None:
        """Equal for requests that get the same permit. None where more counts than a key holds."""
        if not self._few:
            return None
        # Also where nothing reads the workload: a permit lasts no longer than it does.
        workload = bindings.standing()
        subject = None
        if self.subject:
            subject = (
                bindings.subject_if_known()
            )  # each reading of a record is an object of its own
            if subject is None:
                return None
        if not self._reads:
            return (candidates, verified, workload, subject)
        key: list[Any] = [candidates, verified, workload, subject]
        for name, keys, pattern in self._reads:
            try:
                value = bindings.read(name, keys, pattern)
            except Unreadable:
                return None
            if isinstance(value, dict):
                for wanted in sorted(keys or ()):
                    each = value.get(wanted)  # always text, so that None is: not there
                    if each is not None and len(each) > LONGEST_VALUE:
                        return None
                    key.append(each)
            elif isinstance(value, str) and len(value) > LONGEST_VALUE:
                return None
            else:
                key.append(value)
        return tuple(key)


def weight(key: Key, verified: Verified | None) -> int:
    """Bytes that a remembered permit takes, roughly, with the token that its key keeps alive."""
    texts = sum([sys.getsizeof(part) for part in key if isinstance(part, str)])
    return WEIGHT + texts + (0 if verified is None else verified.weight)


def footprints(
    rule: CompiledRule, enrichers: Mapping[str, CompiledEnricher]
) -> Iterator[Footprint]:
    """What a rule reads, what the enrichers that it reads are asked included."""
    for program in rule.programs():
        yield program.footprint
        if "enriched" in program.footprint:
            names = program.footprint["enriched"]
            for name in enrichers if names is None else names:
                if name in enrichers:
                    yield from [each.footprint for _, each in enrichers[name].parameters]


_OF_THE_CALLER: Final = frozenset(("token", "subject.id", "subject.anonymous", "source.segments"))
_OF_THE_SUBJECT: Final = frozenset(
    ("subject.consents", "subject.profile", "subject.segments", "subject.risk")
)
# The record of the subject is in the key as a whole; a permit lasts no longer than an answer does.
_KEPT_BESIDE: Final = _OF_THE_SUBJECT | {"enriched"}
# What may change its value for the same request and caller.
_VOLATILE: Final = frozenset(("request.time", "request.body"))
_MAPS: Final = frozenset(("request.headers", "request.query", "request.params"))
