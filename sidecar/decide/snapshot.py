"""What a sidecar decides with: compiled once, immutable, swapped by one reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from sidecar.decide.api_keys import ApiKeys
from sidecar.decide.cors import Cors
from sidecar.decide.credentials import Location
from sidecar.decide.dpop import Dpop
from sidecar.decide.expressions import Program
from sidecar.decide.introspection import Introspector
from sidecar.decide.rates import Rate
from sidecar.decide.routes import RouteIndex
from sidecar.decide.tokens import Issuer
from sidecar.decide.workloads import Workloads

NO_DPOP: Final = Dpop()
FAILED_CREDENTIALS: Final = Rate.parse("100/s", units=20)
Auth = Literal["token", "workload", "either", "optional", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """One rule. `ref` is `namespace/policy/rule`."""

    ref: str
    effect: Literal["allow", "guard", "deny"]
    auth: Auth
    when: Program | None
    scopes: tuple[str, ...]
    issuers: frozenset[str]
    proof: tuple[str, ...]
    workloads: Workloads | None
    set_headers: tuple[tuple[str, Program], ...]
    reads_caller: bool
    """Whether anything in the rule depends on who calls."""
    volatile: bool
    """Whether an expression in it may change its value for the same request and caller."""
    requires: bool
    """Whether it requires anything."""

    def programs(self) -> list[Program]:
        """All its expressions."""
        headers = [program for _, program in self.set_headers]
        return headers if self.when is None else [self.when, *headers]


@dataclass(frozen=True, slots=True, eq=False)
class AssertionTerms:
    """What the signed assertion towards the upstream says of itself; `lifetime` in seconds."""

    issuer: str
    audience: str
    algorithm: Literal["ES256", "EdDSA"]
    lifetime: float


@dataclass(frozen=True, slots=True)
class Service:
    """The ProtectedService that is for this sidecar, or what holds where there is none."""

    name: str = "sidecar"
    observe: bool = False
    credentials: tuple[Location, ...] = (Location(b"authorization"),)
    cors: Cors | None = None
    per_address: Rate | None = None
    failed_credentials: Rate = FAILED_CREDENTIALS
    assertion: AssertionTerms | None = None
    remove_credential: bool = False
    dpop: Dpop = NO_DPOP


NO_SERVICE: Final = Service()


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that decisions need. `trust` changes when verifying a token could give another result.

    `rule_headers` are the headers that some rule sets, lower case: a caller can never send them.
    `headers_read` are those that a decision may depend on, likewise; None is any.
    """

    version: str
    namespace: str
    labels: Mapping[str, str]
    digest: str
    trust: bytes
    service: Service
    issuers: Mapping[str, Issuer]
    api_keys: ApiKeys
    introspectors: tuple[Introspector, ...]
    routes: RouteIndex[CompiledRule]
    rule_headers: frozenset[str]
    headers_read: frozenset[str] | None
    documents: int
    rules: int
    mark: object = field(default_factory=object)
    """Equal to itself only: what outlives the snapshot remembers it by this, and keeps no more."""
