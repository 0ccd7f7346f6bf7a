"""What a sidecar decides with: compiled once, immutable, swapped by one reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from sidecar.decide.api_keys import ApiKeys
from sidecar.decide.cors import Cors
from sidecar.decide.credentials import Location
from sidecar.decide.documents import PLATFORM
from sidecar.decide.dpop import Dpop
from sidecar.decide.enrichment import CompiledEnricher
from sidecar.decide.expressions import Program
from sidecar.decide.introspection import Introspector
from sidecar.decide.journey import NO_JOURNEY, Journey
from sidecar.decide.rates import Rate
from sidecar.decide.redact import Redaction
from sidecar.decide.routes import RouteIndex
from sidecar.decide.segments import CompiledSegment
from sidecar.decide.step_up import StepUp
from sidecar.decide.tokens import Issuer
from sidecar.decide.workloads import Workloads

LOGIN: Final = frozenset(("authentication", "step_up", "scope"))
"""Kinds of plans of which a new token is what is asked for."""
NO_DPOP: Final = Dpop()
FAILED_CREDENTIALS: Final = Rate.parse("100/s", units=20)
_OF_PLATFORM: Final = f"{PLATFORM}/"
Auth = Literal["token", "workload", "either", "optional", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """One rule. `ref` is `namespace/policy/rule`."""

    ref: str
    effect: Literal["allow", "guard", "deny"]
    auth: Auth
    when: Program | None
    require: Requirements
    set_headers: tuple[tuple[str, Program], ...]
    remove_headers: tuple[str, ...]
    set_response_headers: tuple[tuple[str, Program], ...]
    remove_response_headers: tuple[str, ...]
    redact: tuple[RedactRule, ...]
    limit: CompiledLimit | None
    offer: bool
    shadow: bool
    late: bool
    """Whether `when` reads facts beyond the request and its token."""
    asks_token: bool
    """Whether it requires anything that the credential must show."""
    asks_subject: bool
    """Whether it requires anything that only the subject's record, or a segment, can show."""
    reads_caller: bool
    """Whether anything in the rule depends on who calls."""
    obliges: bool
    """Whether anything is to be done with what it admits."""
    stale: float = 0.0
    """For how many seconds what is known of the subject is believed when nobody can be asked."""
    visitor: bool = False
    """Whether an anonymous caller whom it admits is to be known again."""
    cuts: bool = False
    """Whether it cuts out of responses what nobody can say would be left in, instead of 503."""

    def programs(self) -> list[Program]:
        """All its expressions."""
        found = [program for _, program in (*self.set_headers, *self.set_response_headers)]
        found += [each.unless for each in self.redact if each.unless is not None]
        if self.when is not None:
            found.insert(0, self.when)
        if self.limit is not None and self.limit.per is not None:
            found.append(self.limit.per)
        found += [program for each in self.require.transactions for _, program in each.parts]
        return found


@dataclass(frozen=True, slots=True)
class RedactRule:
    """What to cut, unless the expression is true: if it fails, it is cut."""

    redaction: Redaction
    unless: Program | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Requirements:
    """What a rule requires; empty parts are not asked for."""

    scopes: tuple[str, ...] = ()
    issuers: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    step_up: StepUp | None = None
    proof: tuple[str, ...] = ()
    consent: tuple[str, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    profile: tuple[str, ...] = ()
    segments: frozenset[str] = frozenset()
    workloads: Workloads | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """A consent to these values of a request: what people see each as, and where it is."""

    purpose: str
    parts: tuple[tuple[str, Program], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledLimit:
    """A token bucket for each value of `per`; one for all where that is None."""

    rate: Rate
    per: Program | None


@dataclass(frozen=True, slots=True, eq=False)
class AssertionTerms:
    """What the signed assertion towards the upstream says of itself; `lifetime` in seconds."""

    issuer: str
    audience: str
    algorithm: Literal["ES256", "EdDSA"]
    lifetime: float


@dataclass(frozen=True, slots=True, eq=False)
class Friction:
    """Weight of one missing item of each kind."""

    scope: int = 1
    proof: int = 1
    consent: int = 2
    profile: int = 3
    step_up: int = 5


DEFAULT_FRICTION: Final = Friction()


@dataclass(frozen=True, slots=True)
class Service:
    """The ProtectedService that is for this sidecar, or what holds where there is none."""

    name: str = "sidecar"
    observe: bool = False
    observes_platform: bool = False
    """Whether mode `observe` holds for what rules of `platform` refuse, too."""
    credentials: tuple[Location, ...] = (Location(b"authorization"),)
    cors: Cors | None = None
    per_address: Rate | None = None
    failed_credentials: Rate = FAILED_CREDENTIALS
    assertion: AssertionTerms | None = None
    remove_credential: bool = False
    dpop: Dpop = NO_DPOP
    body: int = 64 * 1024
    friction: Friction = DEFAULT_FRICTION
    interaction: str = ""
    login: str = ""
    logs_inputs: bool = True

    def only_observes(self, rule: str) -> bool:
        """Whether a refusal by this rule, or by none, is logged and no more. No team can so lift a
        guard of another's (DESIGN section 5)."""
        return self.observe and (self.observes_platform or not rule.startswith(_OF_PLATFORM))

    def place(self, kind: str) -> str:
        """Where people complete what a plan of this kind asks for; empty: nowhere."""
        return self.login if self.login and kind in LOGIN else self.interaction


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
    segments: Mapping[str, CompiledSegment] = field(default_factory=dict)
    vouchers: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    """Labels of what vouches for a credential: (issuer, "") TokenIssuer, ("api-key", id) ApiKey."""
    enrichers: Mapping[str, CompiledEnricher] = field(default_factory=dict)
    journey: Journey = NO_JOURNEY
    mark: object = field(default_factory=object)
    """Equal to itself only: what outlives the snapshot remembers it by this, and keeps no more."""
