"""Where an authorizer's evidence comes from, as it sees those who fetch it (`facts`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sidecar.decide.cache import ExpiringCache
from sidecar.decide.introspection import Answer, Introspector
from sidecar.decide.outcomes import NeedIntrospection
from sidecar.decide.tokens import Issuer, KeyState


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


class Nobody:
    """Where nobody is asked about opaque tokens."""

    def __init__(self) -> None:
        self.answers: ExpiringCache[bytes, Answer] = ExpiringCache(1)

    def asks_too_much(self, address: str) -> bool:
        return False
