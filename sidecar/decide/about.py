"""What is known of the rules that match a request before it is known who calls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final

from sidecar.decide.cache import Reads
from sidecar.decide.evaluate import Candidate
from sidecar.decide.snapshot import CompiledRule, Snapshot

STALE: Final = 10.0
"""Seconds, where no rule says."""


class About:
    """What holds for some candidates whoever comes. `enforced` are those of policies that are; the
    others, shadows, are only evaluated with them. `without_caller` is the `none` rule that may
    permit before any credential is looked at. `logged` belongs to the decision log: what it says of
    such requests."""

    def __init__(self, candidates: Sequence[Candidate], snapshot: Snapshot) -> None:
        self.rules = candidates
        self.enforced = [candidate for candidate in candidates if not candidate[0].shadow]
        self.shadowed = len(self.enforced) < len(candidates)
        self.shadow_looks = self.shadowed and credential_matters(candidates)
        self.reads = Reads(
            self.enforced, snapshot.enrichers, customers=snapshot.journey.identity is not None
        )
        self.stale = bound_of(candidates)
        self.credential_matters = credential_matters(self.enforced)
        self.without_caller = first_without_caller(self.enforced)
        self.logged: Any = None


def bound_of(candidates: Sequence[Candidate]) -> float:
    """For how many seconds what is known of the subject is believed while nobody can be asked: of
    the rules that read it, the shortest."""
    found = inf
    for rule, _ in candidates:
        if rule.asks_subject or any(
            name.startswith("subject.") for each in rule.programs() for name in each.footprint
        ):
            found = min(found, rule.stale)
    return STALE if found == inf else found


def credential_matters(candidates: Sequence[Candidate]) -> bool:
    """Looked at when any candidate allow rule is not `none`, or when nothing could allow."""
    looked = True
    for rule, _ in candidates:
        if rule.effect == "allow":
            if rule.auth != "none":
                return True
            looked = False
    return looked


def first_without_caller(candidates: Sequence[Candidate]) -> CompiledRule | None:
    """The `none` rule whose permit no credential could change, if its own condition holds."""
    first = None
    for rule, _ in candidates:
        if rule.effect != "allow":
            if rule.reads_caller or rule.late:
                return None
        elif first is None:
            if rule.auth != "none" or rule.reads_caller or rule.late:
                return None
            first = rule
    return first
