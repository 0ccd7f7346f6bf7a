"""The document kinds as types. Field docs here are the source of docs/reference.md.

Structs (`kinds`) hold what people write, already of the right type; what it means (durations,
patterns, expressions) is worked out once, in `compile`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sidecar.decide.kinds.credentials import ApiKey, Introspection, JwksSource, TokenIssuer
from sidecar.decide.kinds.facts import Enricher, Segment
from sidecar.decide.kinds.journey import (
    Bound,
    ClaimSource,
    ConsentPurpose,
    IdentifierSource,
    IdentityPolicy,
    ProfileAttribute,
)
from sidecar.decide.kinds.policy import (
    AccessPolicy,
    Limit,
    Match,
    Redact,
    Require,
    Rule,
    StepUp,
    SubjectTerms,
    Then,
)
from sidecar.decide.kinds.service import (
    Assertion,
    Cors,
    Dpop,
    Friction,
    Interaction,
    ProtectedService,
)
from sidecar.decide.kinds.values import (
    ALGORITHMS,
    Algorithm,
    CredentialLocation,
    Duration,
    Rate,
    SecretSource,
    Size,
    Text,
    seconds,
    size,
)

__all__ = [
    "ALGORITHMS",
    "KINDS",
    "PLATFORM",
    "AccessPolicy",
    "Algorithm",
    "ApiKey",
    "Assertion",
    "Bound",
    "ClaimSource",
    "ConsentPurpose",
    "Cors",
    "CredentialLocation",
    "Document",
    "Dpop",
    "Duration",
    "Enricher",
    "Friction",
    "IdentifierSource",
    "IdentityPolicy",
    "Interaction",
    "Introspection",
    "JwksSource",
    "Kind",
    "Limit",
    "Mark",
    "Match",
    "ProfileAttribute",
    "ProtectedService",
    "Rate",
    "Redact",
    "Require",
    "Rule",
    "SecretSource",
    "Segment",
    "Size",
    "Spec",
    "StepUp",
    "SubjectTerms",
    "Text",
    "Then",
    "TokenIssuer",
    "order_key",
    "seconds",
    "selects",
    "size",
]  # fmt: skip

Kind = Literal[
    "TokenIssuer", "ApiKey", "ProtectedService", "AccessPolicy", "Segment", "Enricher",
    "IdentityPolicy", "ConsentPurpose", "ProfileAttribute",
]  # fmt: skip
PLATFORM: Final = "platform"
"""Documents of this namespace apply in every namespace, and come first in order."""

Spec = (
    TokenIssuer
    | ApiKey
    | ProtectedService
    | AccessPolicy
    | Segment
    | Enricher
    | IdentityPolicy
    | ConsentPurpose
    | ProfileAttribute
)
KINDS: Final[Mapping[str, type[Spec]]] = {
    "TokenIssuer": TokenIssuer,
    "ApiKey": ApiKey,
    "ProtectedService": ProtectedService,
    "AccessPolicy": AccessPolicy,
    "Segment": Segment,
    "Enricher": Enricher,
    "IdentityPolicy": IdentityPolicy,
    "ConsentPurpose": ConsentPurpose,
    "ProfileAttribute": ProfileAttribute,
}

Mark = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, checked for shape. `canonical` is its JSON form, sorted; `digest` its SHA-256.

    `marks` maps pointers (`spec.rules[0].when`) to places in `file`; it is empty for a document
    that came over the wire. `memo` belongs to `compile`: what the document came to by itself, so
    that who keeps those that did not change has only the others compiled.
    """

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    spec: Spec
    canonical: bytes
    digest: str
    file: str = field(default="", compare=False)
    marks: Mapping[str, Mark] = field(default_factory=dict, compare=False)
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ref(self) -> str:
        """`Kind/namespace/name`, unique within a store."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def selector(self) -> Mapping[str, str]:
        """Labels of the sidecars it is for; empty is all."""
        return getattr(self.spec, "selector", {})


def order_key(document: Document) -> tuple[bool, str, str]:
    """Order wherever order matters: `platform` first, then namespace and name."""
    return document.namespace != PLATFORM, document.namespace, document.name


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a sidecar with `labels` is one that `selector` names."""
    return all(labels.get(key) == value for key, value in selector.items())
