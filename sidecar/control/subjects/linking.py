"""Who a caller is, given what the store holds: which identifiers join, which customers are one.

Pure. The rules, each stronger than those below it:

- the same subject (issuer and `sub`) in a pool is the same customer;
- two subjects of one issuer are two customers, whatever else they share: their issuer says so;
- what was split by hand is not joined again by the same identifiers;
- identifiers count in order of priority; one that contradicts an earlier one joins nothing, stays
  with who has it, and is noted;
- a visitor who is nobody yet is merged into who logs in, where the policy says so; one who is
  somebody already is kept apart, for people share devices.

Of customers that turn out to be one, the holder of the primary identifier survives, else the
oldest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sidecar.control.subjects.records import SUBJECT, VISITOR, Identifier, Introduction

MOST_HELD: Final = 128  # identifiers of one customer
MOST_NOTED: Final = 256  # conflicts of one customer that are written down

StepKind = Literal["created", "attached", "merged", "kept-apart", "conflict"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A customer whom some identifier was found at. `apart` was split by hand; `noted` holds what
    was written down before: an identifier and the customer that has it."""

    customer: str
    created: float
    identifiers: frozenset[Identifier]
    apart: frozenset[Identifier] = frozenset()
    noted: frozenset[tuple[Identifier, str]] = frozenset()

    @property
    def anonymous(self) -> bool:
        """Nobody has logged in as this one."""
        return all(each.type != SUBJECT for each in self.identifiers)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. `other` is merged into the customer, or has the identifier and keeps it;
    empty: nobody has it."""

    kind: StepKind
    identifier: Identifier
    other: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What an introduction means. `customer` None: a new one. No steps: nothing is new."""

    customer: str | None
    steps: tuple[Step, ...]


class _Group:
    """The customer in the making, and those who turned out to be the same."""

    def __init__(self, primary: Identifier) -> None:
        self.held = {primary}
        self.members: list[Holder] = []
        self._apart: set[Identifier] = set()
        self._noted: set[tuple[Identifier, str]] = set()

    def take(self, holder: Holder) -> None:
        self.members.append(holder)
        self.held |= holder.identifiers
        self._apart |= holder.apart
        self._noted |= holder.noted

    def separated(self, identifiers: frozenset[Identifier], apart: frozenset[Identifier]) -> bool:
        """By hand, seen from either side."""
        return not self._apart.isdisjoint(identifiers) or not apart.isdisjoint(self.held)

    def contradicts(self, identifiers: frozenset[Identifier]) -> bool:
        """Whether an issuer told them apart."""
        own = {each.issuer: each.value for each in self.held if each.type == SUBJECT}
        return any(
            own.get(each.issuer, each.value) != each.value
            for each in identifiers
            if each.type == SUBJECT
        )

    def note(self, kind: StepKind, each: Identifier, holder: Holder, why: str) -> Step | None:
        """Once, for otherwise every request would write."""
        noted = each, holder.customer
        if noted in self._noted or len(self._noted) >= MOST_NOTED:
            return None
        self._noted.add(noted)
        return Step(kind, each, holder.customer, why)


def link(
    introduction: Introduction,
    found: Mapping[Identifier, str],
    holders: Mapping[str, Holder],
) -> Plan:
    """`found` says who has each identifier that somebody has; `holders` who they are."""
    primary, *others = introduction.joining
    group = _Group(primary)
    certain = primary in found
    if certain:
        group.take(holders[found[primary]])
    steps: list[Step] = []
    for each in others:
        if each in group.held:
            continue
        if each in found:
            step = _shared(introduction, group, each, holders[found[each]])
        else:
            step = _fresh(introduction, group, each)
        if step is None:
            continue
        steps.append(step)
        if step.kind == "attached":
            group.held.add(each)
        elif step.kind == "merged":
            group.take(holders[found[each]])
    if not group.members:
        return Plan(None, (Step("created", primary, "", "nobody had it"), *steps))
    if certain:
        return Plan(group.members[0].customer, tuple(steps))
    survivor = min(group.members, key=lambda one: (one.created, one.customer)).customer
    # Nobody is merged into themself: that step found whose the new identifier is.
    by = next(step for step in steps if step.kind == "merged" and step.other == survivor)
    why = f"it came with a {by.identifier.type} of the customer's"
    first = Step("attached", primary, "", why)
    return Plan(survivor, (first, *(step for step in steps if step is not by)))


def _fresh(introduction: Introduction, group: _Group, each: Identifier) -> Step | None:
    """An identifier that nobody has. Nothing is noted of one that is left alone."""
    if each.type == VISITOR and not introduction.merge_visitor:
        return None
    one = frozenset([each])
    if group.separated(one, frozenset()) or group.contradicts(one) or len(group.held) >= MOST_HELD:
        return None
    return Step("attached", each, "", "it came with the customer's own")


def _shared(
    introduction: Introduction, group: _Group, each: Identifier, holder: Holder
) -> Step | None:
    """An identifier that another customer has; None: nothing that is not noted already."""
    if group.contradicts(holder.identifiers):
        why = "the issuer says that they are two"
        return group.note("conflict", each, holder, why)
    if group.separated(holder.identifiers | {each}, holder.apart):
        return group.note("kept-apart", each, holder, "they were separated by hand")
    if each.type == VISITOR and not introduction.merge_visitor:
        return group.note("kept-apart", each, holder, "the policy keeps visitors apart")
    if each.type == VISITOR and not holder.anonymous:
        why = "the visitor is somebody already, on a device that people share"
        return group.note("kept-apart", each, holder, why)
    if len(group.held) + len(holder.identifiers) > MOST_HELD:
        why = f"together they would have more than {MOST_HELD} identifiers"
        return group.note("kept-apart", each, holder, why)
    why = "the visitor logged in" if each.type == VISITOR else f"both have the same {each.type}"
    return Step("merged", each, holder.customer, why)
