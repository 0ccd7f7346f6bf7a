"""ProtectedService: what stands behind a sidecar, and how callers present themselves."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.decide.kinds.values import (
    ALGORITHMS,
    Algorithm,
    CredentialLocation,
    Duration,
    Part,
    Rate,
    Selector,
    Size,
    Text,
)


class Cors(Part, frozen=True):
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


class ServiceLimits(Part, frozen=True):
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

    body: Annotated[
        Size,
        Meta(description="Of a request's body that rules read; at most 1MiB; beyond it 413."),
    ] = "64KiB"


Weight = Annotated[int, Meta(ge=0, le=1000)]


class Friction(Part, frozen=True):
    """What one missing item of each kind costs the caller: of all ways in, the cheapest is
    proposed."""

    scope: Annotated[Weight, Meta(description="A scope.")] = 1
    proof: Annotated[Weight, Meta(description="A proof of possession.")] = 1
    consent: Annotated[Weight, Meta(description="A consent.")] = 2
    profile: Annotated[Weight, Meta(description="An attribute of the profile.")] = 3
    step_up: Annotated[Weight, Meta(description="A stronger or newer login.")] = 5


class Interaction(Part, frozen=True):
    """Where people complete what they are asked for."""

    url: Annotated[
        Text,
        Meta(
            description="An `https` (on loopback also `http`) address. Browsers are redirected to "
            "it with what is asked for in the query; others are told of it as `completeAt`. The "
            "control plane's own pages are at `/i` of its HTTP address: they are told of consents "
            "and profiles by a ticket that nobody else can read."
        ),
    ]
    login: Annotated[
        Text | None,
        Meta(
            description="Another address for who has to log in, or to do so better. Left out: the "
            "same one."
        ),
    ] = None


class Assertion(Part, frozen=True):
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


class Dpop(Part, frozen=True):
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


class DecisionLog(Part, frozen=True):
    """What the records of its decisions hold."""

    inputs: Annotated[
        Literal["read", "none"],
        Meta(
            description="`read`: what the rules that could apply have read of the request, its "
            "token and its subject, so that `sidecar replay` can decide it again; never a "
            "credential. `none`: not."
        ),
    ] = "read"


class ProtectedService(Part, frozen=True):
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
        Meta(
            description="`observe` decides, logs, counts and forwards; for adoption. What rules of "
            "`platform` refuse is refused all the same, unless the document is `platform`'s."
        ),
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
    decision_log: Annotated[
        DecisionLog, Meta(description="What the records of its decisions hold.")
    ] = DecisionLog()
    remove_credential: Annotated[
        bool,
        Meta(
            description="Whether a credential that admitted a request is kept from the service: "
            "its header, or its cookie out of several."
        ),
    ] = False
    friction: Annotated[
        Friction, Meta(description="What one missing item of each kind costs the caller.")
    ] = Friction()
    interaction: Annotated[
        Interaction | None,
        Meta(description="Where people complete what they are asked for. Left out: nowhere."),
    ] = None
    dpop: Annotated[
        Dpop | None,
        Meta(
            description="What DPoP proofs must be like. Left out: the defaults, and only who needs "
            "a proof is told of them."
        ),
    ] = None
