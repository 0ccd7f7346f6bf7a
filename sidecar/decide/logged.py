"""What a decision by some rules reads, and so what a record of it holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.decide.cache import footprints
from sidecar.decide.snapshot import CompiledRule, Snapshot

PLAIN: Final = frozenset(
    (
        "request.method", "request.host", "request.path", "request.address", "request.params",
        "request.time", "subject.id", "subject.anonymous", "source.spiffe", "source.namespace",
        "source.serviceAccount", "source.segments",
    )
)  # fmt: skip
"""What a record says anyway, or what follows from it."""
MAPS: Final = frozenset(
    (
        "request.headers", "request.query", "request.body", "token", "subject.profile", "enriched",
    )
)  # fmt: skip


def reads(rules: Iterable[CompiledRule], snapshot: Snapshot) -> dict[str, set[str] | None]:
    """All that a decision by these rules may read: variable to keys, None is the whole of it."""
    found: dict[str, set[str] | None] = {}
    segments = False
    for rule in rules:
        for footprint in footprints(rule, snapshot.enrichers):
            for name, keys in footprint.items():
                _add(found, name, keys)
        require = rule.require
        if require.consent:
            _add(found, "subject.consents", None)
        if require.transactions:
            _add(found, "subject.grants", None)
        if require.profile:
            _add(found, "subject.profile", frozenset(require.profile))
        segments = segments or bool(require.segments)
    if segments or "subject.segments" in found or "source.segments" in found:
        _add(found, "subject.segments", None)
        for segment in snapshot.segments.values():
            if segment.when is not None:
                for name, keys in segment.when.footprint.items():
                    _add(found, name, keys)
    if "request.body" in found:
        _add(found, "request.contentType", None)
    return found


def _add(found: dict[str, set[str] | None], name: str, keys: frozenset[str] | None) -> None:
    known = found.setdefault(name, set())
    if keys is None:
        found[name] = None
    elif known is not None:
        known |= keys
