"""Which questions a customer is asked, in which order. Pure.

No more than a route needs and nobody knows yet; and by the way one more, now and then, that they
may decline: then it is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sidecar.decide.documents import ProfileAttribute, seconds

VISIT = 900.0
"""Seconds within which what was asked by the way is the same question still."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a customer, by attribute (`namespace/name`): which are known, and when they
    declined one or were asked for one (seconds since the epoch)."""

    known: frozenset[str]
    declined: Mapping[str, float]
    asked: Mapping[str, float]


def required(
    asked: Iterable[str], documents: Mapping[str, ProfileAttribute], told: Told
) -> list[str]:
    """Those of a route's attributes that are missing, in order; of which there is no document
    nobody can be asked."""
    wanted = [ref for ref in dict.fromkeys(asked) if ref in documents and ref not in told.known]
    return sorted(wanted, key=lambda ref: (documents[ref].order, ref))


def by_the_way(
    documents: Mapping[str, ProfileAttribute], told: Told, now: float, besides: Iterable[str] = ()
) -> str | None:
    """One that nobody requires and that is due, if any is: so long as its `askEvery` after whatever
    was asked by the way last. `besides` are asked anyway."""
    optional = {ref: spec for ref, spec in documents.items() if not spec.required}
    last = max((told.asked[ref] for ref in optional if ref in told.asked), default=None)
    taken = frozenset(besides) | told.known
    due = [
        ref
        for ref in sorted(optional, key=lambda ref: (optional[ref].order, ref))
        if ref not in taken and ref not in told.declined
    ]
    for ref in due:
        if ref in told.asked and now - told.asked[ref] < VISIT:
            return ref
    for ref in due:
        if last is None or now - last >= seconds(optional[ref].ask_every):
            return ref
    return None
