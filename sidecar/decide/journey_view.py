"""What of a customer one sidecar's policies read: it is sent that, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.decide.cache import footprints
from sidecar.decide.compile_facts import compile_facts
from sidecar.decide.compile_journey import compile_journey, ref_of
from sidecar.decide.compile_policy import compile_policy
from sidecar.decide.documents import PLATFORM, Document, order_key
from sidecar.decide.enrichment import CompiledEnricher
from sidecar.decide.expressions import Footprint
from sidecar.decide.journey import Journey
from sidecar.decide.kinds.journey import ProfileAttribute
from sidecar.decide.pace import pause
from sidecar.decide.snapshot import CompiledRule
from sidecar.errors import Problem


@dataclass(frozen=True, slots=True)
class View:
    """`values` and `present` are attributes (`namespace/name`) of which the value, or merely
    whether there is one, is read; `values` None: all of them. `purposes` likewise; None: all that
    it knows of. Everything is of `namespace` or of `platform`. `specs` are of the attributes that
    it may tell."""

    namespace: str
    journey: Journey
    values: frozenset[str] | None = frozenset()
    present: frozenset[str] = frozenset()
    purposes: frozenset[str] | None = frozenset()
    segments: bool = False
    risk: bool = False
    specs: Mapping[str, ProfileAttribute] = field(default_factory=dict)

    def shows_value(self, ref: str) -> bool:
        """Whether it reads what this attribute is."""
        return self._own(ref) and (self.values is None or ref in self.values)

    def shows_presence(self, ref: str) -> bool:
        """Whether it reads that this attribute is known, and no more."""
        return ref in self.present and not self.shows_value(ref)

    def shows_purpose(self, ref: str) -> bool:
        """Whether it asks for this purpose."""
        return self._own(ref) and (self.purposes is None or ref in self.purposes)

    def _own(self, ref: str) -> bool:
        return ref.partition("/")[0] in (PLATFORM, self.namespace)

    def takes(self, ref: str) -> bool:
        """Whether this attribute is one that it may tell of a customer: one of its documents'."""
        return any(each.ref == ref for each in self.journey.attributes.values())


def view(documents: Sequence[Document], namespace: str) -> View:
    """Of the documents that such a sidecar holds. Whatever is wrong with them was said before."""
    problems: list[Problem] = []
    seen = sorted(documents, key=order_key)
    policies = []
    for document in seen:
        pause()
        policies.append((document, compile_policy(document, problems)))
    customers = compile_journey(seen, policies, namespace, problems)
    enrichers = compile_facts(seen, policies, problems).enrichers
    reads = _Reads(customers.journey)
    for each in customers.redact:
        if each.unless is not None:
            reads.add(each.unless.footprint)
    for _, rules in policies:
        for routed in rules:
            pause()
            reads.rule(routed.rule, enrichers)
    return View(
        namespace,
        customers.journey,
        None if reads.values is None else frozenset(reads.values),
        frozenset(reads.present),
        None if reads.purposes is None else frozenset(reads.purposes),
        reads.segments,
        reads.risk,
        {
            ref_of(document): document.spec
            for document in seen
            if isinstance(document.spec, ProfileAttribute)
        },
    )


class _Reads:
    def __init__(self, journey: Journey) -> None:
        self._journey = journey
        self.values: set[str] | None = set()
        self.present: set[str] = set()
        self.purposes: set[str] | None = set()
        self.segments = False
        self.risk = False

    def rule(self, rule: CompiledRule, enrichers: Mapping[str, CompiledEnricher]) -> None:
        require, journey = rule.require, self._journey
        self.present |= {journey.attribute(name).ref for name in require.profile}
        if self.purposes is not None:
            asked = (*require.consent, *[each.purpose for each in require.transactions])
            self.purposes |= {journey.purpose(name).ref for name in asked}
        self.segments = self.segments or bool(require.segments)
        for footprint in footprints(rule, enrichers):
            self.add(footprint)

    def add(self, footprint: Footprint) -> None:
        if "subject.profile" in footprint:
            names = footprint["subject.profile"]
            if names is None:
                self.values = None
            elif self.values is not None:
                self.values |= {self._journey.attribute(name).ref for name in names}
        if "subject.consents" in footprint:
            self.purposes = None
        self.segments = self.segments or "subject.segments" in footprint
        self.risk = self.risk or "subject.risk" in footprint
