"""The document kinds as types. Field docs here are the source of docs/reference.md.

Structs hold what people write, already of the right type; what it means (durations, patterns,
expressions) is worked out once, in `compile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

Kind = Literal["TokenIssuer", "ApiKey", "ProtectedService", "AccessPolicy"]
PLATFORM: Final = "platform"
"""Documents of this namespace apply in every namespace, and come first in order."""

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
ALGORITHMS: Final[tuple[Algorithm, ...]] = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Expression = Annotated[str, Meta(min_length=1, max_length=16384)]
Duration = Annotated[str, Meta(pattern=r"\A[0-9]{1,9}(ms|s|m|h|d)\Z")]  # as _DURATION
Rate = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,8}/(s|m|h|d)\Z")]  # as rates.Rate
Selector = dict[str, str]

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")


def seconds(duration: str) -> float:
    """`30s`, `5m`, `1h`, `250ms`, `2d` as seconds. Raises ValueError when it is none of these."""
    match = _DURATION.fullmatch(duration)
    if not match:
        raise ValueError(f"{duration!r} is not a duration such as 30s, 5m or 1h")
    return int(match.group(1)) * _UNITS[match.group(2)]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What every part of a document has in common: unknown fields are errors."""


class JwksSource(_Spec, frozen=True):
    """Where the issuer's keys are: exactly one of `uri`, `file` and `inline`."""

    uri: Annotated[
        Text | None, Meta(description="An `https` (on loopback also `http`) address of a JWK Set.")
    ] = None
    file: Annotated[
        Text | None,
        Meta(description="A JWK Set beside the document; read by the client that applies."),
    ] = None
    inline: Annotated[
        dict[str, Any] | None, Meta(description="A JWK Set, `{keys: [...]}` (RFC 7517).")
    ] = None


class ClaimNames(_Spec, frozen=True):
    """Where to read what other parts of the system ask for; dotted paths into the claims."""

    subject: Annotated[Text, Meta(description="The claim that names the subject.")] = "sub"
    scopes: Annotated[
        Text,
        Meta(description="The claim that holds the scopes: a string with spaces, or a list."),
    ] = "scope"


class CredentialLocation(_Spec, frozen=True):
    """A place to look for the credential: exactly one of `header` and `cookie`."""

    header: Annotated[
        Text | None,
        Meta(description="A header; in `authorization` the Bearer scheme is expected."),
    ] = None
    cookie: Annotated[
        Text | None, Meta(description="A cookie; the Origin is checked on unsafe methods.")
    ] = None


class SecretSource(_Spec, frozen=True):
    """Where a secret is, beside the service: exactly one. It never travels or enters history."""

    from_file: Annotated[
        Text | None,
        Meta(description="A file below the sidecar's `--secrets` folder; read when it is used."),
    ] = None
    from_env: Annotated[
        Text | None, Meta(description="A variable of the sidecar, `SIDECAR_SECRET_...`.")
    ] = None


class Introspection(_Spec, frozen=True):
    """Ask the issuer about opaque tokens (RFC 7662), authenticated by exactly one of: a secret, a
    private key (`private_key_jwt`), a certificate with its private key (mutual TLS)."""

    endpoint: Annotated[Text, Meta(description="An `https` (on loopback also `http`) address.")]
    client_id: Annotated[Text, Meta(description="As whom the sidecar asks.")]
    client_secret: Annotated[SecretSource | None, Meta(description="For Basic.")] = None
    private_key: Annotated[
        SecretSource | None, Meta(description="PEM: RSA, P-256, P-384, P-521 or Ed25519.")
    ] = None
    key_id: Annotated[
        Text | None, Meta(description="The `kid` by which the issuer knows the private key.")
    ] = None
    certificate: Annotated[
        SecretSource | None, Meta(description="PEM: the chain that goes with the private key.")
    ] = None
    ca: Annotated[
        SecretSource | None,
        Meta(description="PEM: CAs that may vouch for the endpoint, instead of the system's."),
    ] = None
    token_prefix: Annotated[
        Text | None,
        Meta(description="What its tokens begin with. Left out: any that is no JWT."),
    ] = None
    location: Annotated[
        CredentialLocation | None,
        Meta(description="Where its tokens stand, one of the service's. Left out: anywhere."),
    ] = None
    audience: Annotated[
        Literal["required", "insecureIfPresent"],
        Meta(
            description="Whether the answer must name an audience of ours, or only no other one; "
            "the latter trusts the issuer to tell services apart by who asks."
        ),
    ] = "required"
    cache: Annotated[
        Duration,
        Meta(description="How long an answer is believed, at most 1h and never beyond `exp`."),
    ] = "30s"
    negative_cache: Annotated[
        Duration, Meta(description="How long a token is refused that is not active.")
    ] = "5s"


class TokenIssuer(_Spec, frozen=True):
    """An issuer whose tokens are admitted as credentials, and how they are validated."""

    issuer: Annotated[
        Text,
        Meta(description="Equals the token's `iss`; unique within what a sidecar sees."),
    ]
    audiences: Annotated[
        list[Text], Meta(description="Default for services that name no audiences.")
    ] = []
    jwks: Annotated[
        JwksSource | None, Meta(description="The issuer's keys. Left out: OpenID discovery.")
    ] = None
    algorithms: Annotated[
        list[Algorithm],
        Meta(min_length=1, description="Signature algorithms that are admitted."),
    ] = msgspec.field(default_factory=lambda: list(ALGORITHMS))
    token_types: Annotated[
        list[Text],
        Meta(
            min_length=1,
            description="Admitted `typ` values; case-insensitive, `application/` dropped, "
            "an absent `typ` is `JWT`.",
        ),
    ] = msgspec.field(default_factory=lambda: ["at+jwt", "JWT"])
    clock_skew: Annotated[
        Duration, Meta(description="Tolerance for `exp`, `nbf` and `iat`; at most 10m.")
    ] = "30s"
    profile: Annotated[
        Literal["jwt", "rfc9068"],
        Meta(
            description="`rfc9068`: its JWTs must be access tokens by that profile: `typ` at+jwt, "
            "and `iss`, `exp`, `aud`, `sub`, `client_id`, `iat` and `jti`."
        ),
    ] = "jwt"
    introspection: Annotated[
        Introspection | None, Meta(description="Ask about opaque tokens. Left out: not.")
    ] = None
    claims: Annotated[ClaimNames, Meta(description="Where to read subject and scopes.")] = (
        ClaimNames()
    )


class ApiKey(_Spec, frozen=True):
    """A caller that presents `id.secret`, wherever a credential is looked for. Only a hash of the
    secret is ever written down; make secrets of 32 random bytes or more, never of words."""

    id: Annotated[
        Text,
        Meta(description="What stands before the dot; unique in its namespace with `platform`'s."),
    ]
    hash: Annotated[
        Text, Meta(description="`sha256:` and the SHA-256 of the secret in 64 hexadecimal digits.")
    ]
    selector: Annotated[
        Selector,
        Meta(description="Labels of the sidecars it is for; `{}` is all of the namespace."),
    ] = {}
    subject: Annotated[
        Text | None, Meta(description="Who calls; of the issuer `api-key`. Left out: the id.")
    ] = None
    scopes: Annotated[list[Text], Meta(description="What a token would carry as its scopes.")] = []
    expires: Annotated[
        Text | None, Meta(description="`2027-01-31T00:00:00Z` (RFC 3339). Left out: never.")
    ] = None
    attributes: Annotated[
        dict[str, Any],
        Meta(description="What expressions read as `token`, beside `iss`, `sub` and `scope`."),
    ] = {}


class Cors(_Spec, frozen=True):
    """Pages of other origins that may call the service. Their preflights are answered here."""

    origins: Annotated[
        list[Text],
        Meta(min_length=1, description="Such as `https://app.example`; `*` is any."),
    ]
    methods: Annotated[list[Text], Meta(min_length=1, description="Methods they may use.")] = (
        msgspec.field(default_factory=lambda: ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
    )
    headers: Annotated[list[Text], Meta(description="Request headers they may send.")] = (
        msgspec.field(default_factory=lambda: ["authorization", "content-type", "dpop"])
    )
    expose_headers: Annotated[list[Text], Meta(description="Response headers they may read.")] = (
        msgspec.field(
            default_factory=lambda: [
                "www-authenticate",
                "dpop-nonce",
                "retry-after",
                "x-sidecar-decision",
            ]
        )
    )
    credentials: Annotated[
        bool, Meta(description="Whether their browsers may send cookies; not with `*`.")
    ] = False
    max_age: Annotated[
        Duration, Meta(description="How long a browser may remember a preflight.")
    ] = "10m"


class ServiceLimits(_Spec, frozen=True):
    """What one client address may do; an IPv6 address counts with its /64."""

    per_address: Annotated[
        Rate | None,
        Meta(
            description="All requests of one address, such as `100/s`; a unit's worth may come at "
            "once; beyond it 429. Left out: none."
        ),
    ] = None
    failed_credentials: Annotated[
        Rate,
        Meta(
            description="Credentials of one address that do not stand, 20 units' worth at once; "
            "beyond it 429 before any signature is checked. Verified ones still pass; DPoP "
            "proofs, each a new signature, do not."
        ),
    ] = "100/s"


class Assertion(_Spec, frozen=True):
    """A signed statement of who calls, `x-sidecar-assertion`, beside the plain headers. Its keys
    are at `/.well-known/sidecar/jwks.json`."""

    audience: Annotated[Text, Meta(description="Its `aud`: who is to believe it.")]
    issuer: Annotated[
        Text | None,
        Meta(description="Its `iss`. Left out: `urn:sidecar:NAMESPACE:NAME` of this document."),
    ] = None
    algorithm: Annotated[Literal["ES256", "EdDSA"], Meta(description="What it is signed with.")] = (
        "ES256"
    )
    lifetime: Annotated[
        Duration,
        Meta(description="From 30s to 1h; never longer than the caller's credential."),
    ] = "5m"


class Dpop(_Spec, frozen=True):
    """What DPoP proofs must be like (RFC 9449). Where it is there, challenges name the scheme."""

    algorithms: Annotated[
        list[Algorithm], Meta(min_length=1, description="Signature algorithms that are admitted.")
    ] = msgspec.field(default_factory=lambda: list(ALGORITHMS))
    max_age: Annotated[
        Duration,
        Meta(description="How old a proof may be, and how long a nonce is handed out; at most 5m."),
    ] = "60s"
    nonce: Annotated[
        Literal["none", "required"],
        Meta(description="`required`: a proof must carry a nonce of ours, and is told which."),
    ] = "none"


class ProtectedService(_Spec, frozen=True):
    """The service behind the sidecars that `selector` names, and how callers present themselves."""

    selector: Annotated[
        Selector,
        Meta(description="Labels of the sidecars it is for; `{}` is all of the namespace."),
    ] = {}
    audiences: Annotated[
        list[Text],
        Meta(description="A token must name one of these; default: those of its issuer."),
    ] = []
    mode: Annotated[
        Literal["enforce", "observe"],
        Meta(description="`observe` decides, logs, counts and forwards; for adoption."),
    ] = "enforce"
    credentials: Annotated[
        list[CredentialLocation],
        Meta(min_length=1, description="Where to look for the credential."),
    ] = msgspec.field(default_factory=lambda: [CredentialLocation(header="authorization")])
    cors: Annotated[
        Cors | None,
        Meta(
            description="Which pages of other origins may call. With it, what the service itself "
            "says of that is replaced. Left out: nothing is answered or changed."
        ),
    ] = None
    limits: Annotated[ServiceLimits, Meta(description="What one client address may do.")] = (
        ServiceLimits()
    )
    assertion: Annotated[
        Assertion | None,
        Meta(description="Tell the service who calls in a signed JWT. Left out: not."),
    ] = None
    remove_credential: Annotated[
        bool,
        Meta(
            description="Whether a credential that admitted a request is kept from the service: "
            "its header, or its cookie out of several."
        ),
    ] = False
    dpop: Annotated[
        Dpop | None,
        Meta(
            description="What DPoP proofs must be like. Left out: the defaults, and only who needs "
            "a proof is told of them."
        ),
    ] = None


class Match(_Spec, frozen=True):
    """Which requests a rule is about. All given parts must match; left out is any."""

    hosts: Annotated[
        list[Text],
        Meta(description="Host names, lower case, without port; `*.example.com` is any below it."),
    ] = []
    methods: Annotated[list[Text], Meta(description="Upper-case methods; GET includes HEAD.")] = []
    paths: Annotated[
        list[Text],
        Meta(
            description="Patterns: `{x}` and `*` are one segment, `**` is zero or more. "
            "Deny and guard patterns also match with a trailing slash."
        ),
    ] = []


class Require(_Spec, frozen=True):
    """What the caller must bring beyond being known."""

    scopes: Annotated[list[Text], Meta(description="All of these scopes.")] = []
    issuers: Annotated[
        list[Text], Meta(description="The credential comes from one of these (`iss` values).")
    ] = []
    proof: Annotated[
        list[Literal["dpop", "mtls"]],
        Meta(
            description="The token is bound to a key (`dpop`, RFC 9449) or a certificate (`mtls`, "
            "RFC 8705): one of these. A bound token is always held to its proof."
        ),
    ] = []
    workloads: Annotated[
        list[Text],
        Meta(
            description="The client certificate is of one of these SPIFFE ids; `*` is one segment "
            "of the path, a last `**` is all that follow."
        ),
    ] = []


class Then(_Spec, frozen=True):
    """What the upstream's request carries when the rule admitted it."""

    set_headers: Annotated[
        dict[str, Expression],
        Meta(
            description="Header names and the expressions that give their values; callers can "
            "never send these headers themselves."
        ),
    ] = {}


class Rule(_Spec, frozen=True):
    """One rule. Admitted: no deny fires, all selected guards hold and at least one allow does."""

    name: Annotated[Text, Meta(description="Unique within the policy; shown in the decision log.")]
    effect: Annotated[
        Literal["allow", "guard", "deny"],
        Meta(description="Allow rules widen, guards narrow, a deny refuses."),
    ] = "allow"
    match: Annotated[Match, Meta(description="Left out: every request.")] = Match()
    auth: Annotated[
        Literal["token", "workload", "either", "optional", "none"] | None,
        Meta(
            description="Only on allow rules; default `token`. `optional`: absent is anonymous, "
            "present and bad is 401. `none`: the credential is not looked at. `workload` and "
            "`either` take a verified client certificate."
        ),
    ] = None
    when: Annotated[
        Expression | None,
        Meta(
            description="A CEL expression. If it fails: a deny fires, a guard is selected, "
            "an allow does not match."
        ),
    ] = None
    require: Annotated[Require, Meta(description="Not on deny rules.")] = Require()
    then: Annotated[Then, Meta(description="Not on deny rules.")] = Then()


class AccessPolicy(_Spec, frozen=True):
    """Rules for the sidecars that `selector` names."""

    rules: Annotated[list[Rule], Meta(min_length=1, description="In order.")]
    selector: Annotated[
        Selector,
        Meta(description="Labels of the sidecars it is for; `{}` is all of the namespace."),
    ] = {}
    mode: Annotated[Literal["enforce"], Meta(description="Its rules are enforced.")] = "enforce"


Spec = TokenIssuer | ApiKey | ProtectedService | AccessPolicy
KINDS: Final[Mapping[str, type[Spec]]] = {
    "TokenIssuer": TokenIssuer,
    "ApiKey": ApiKey,
    "ProtectedService": ProtectedService,
    "AccessPolicy": AccessPolicy,
}

Mark = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, checked for shape. `canonical` is its JSON form, sorted; `digest` its SHA-256.

    `marks` maps pointers (`spec.rules[0].when`) to places in `file`; it is empty for a document
    that came over the wire.
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
