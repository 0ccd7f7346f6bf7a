"""Where an authorizer's evidence comes from, as it sees those who fetch it (`facts`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from sidecar.decide.cache import ExpiringCache
from sidecar.decide.enrichment import CompiledEnricher, Enriched
from sidecar.decide.introspection import Answer, Introspector
from sidecar.decide.outcomes import (
    Identity,
    NeedBody,
    NeedEnrichment,
    NeedIntrospection,
    Unavailable,
)
from sidecar.decide.request import Unread
from sidecar.decide.subjects import Subject
from sidecar.decide.tokens import Issuer, KeyState

ReadBody = Callable[[NeedBody], Awaitable[bytes | Unread]]
"""Reads the whole body of the request at hand, up to a limit, beyond which it is TOO_LARGE."""


class Keys(Protocol):
    """Issuers' keys: `facts.jwks` fetches them, `facts.shared_keys` is given them."""

    states: dict[str, KeyState]
    """By issuer; always the same dictionary."""

    def use(self, issuers: Iterable[Issuer]) -> None:
        """Hold keys for exactly these issuers."""

    async def fetch(self, name: str) -> None:
        """Have an issuer's keys fetched into `states`; a failure is a state."""


class Introspections(Protocol):
    """What issuers say of opaque tokens: `facts.introspection`."""

    answers: ExpiringCache[bytes, Answer]

    def use(self, introspectors: Iterable[Introspector]) -> None:
        """Ask exactly these."""

    def asks_too_much(self, address: str) -> bool:
        """Whether as many questions as may be are under way for a client address."""

    async def fetch(self, want: NeedIntrospection) -> None:
        """Have an answer put into `answers`; a failure is an answer."""


class Subjects(Protocol):
    """What is known of subjects: `facts.subjects`."""

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        """The record; None: it has to be fetched."""

    async def fetch(self, identity: Identity) -> None:
        """Have it fetched; a failure is known by `get`, too."""


class Enrichments(Protocol):
    """What enrichers answer: `facts.enrich`."""

    answers: ExpiringCache[bytes, Enriched | Unavailable]

    def use(self, enrichers: Iterable[CompiledEnricher]) -> None:
        """Ask exactly these."""

    async def fetch(self, want: NeedEnrichment) -> None:
        """Have an answer put into `answers`; a failure is one, too."""


class Nobody:
    """Where nobody is asked about opaque tokens."""

    def __init__(self) -> None:
        self.answers: ExpiringCache[bytes, Answer] = ExpiringCache(1)

    def asks_too_much(self, address: str) -> bool:
        return False
