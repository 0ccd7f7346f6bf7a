"""Who vouches for callers: TokenIssuer and ApiKey."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sidecar.decide.kinds.values import (
    ALGORITHMS,
    Algorithm,
    CredentialLocation,
    Duration,
    Part,
    SecretSource,
    Selector,
    Text,
)


class JwksSource(Part, frozen=True):
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


class ClaimNames(Part, frozen=True):
    """Where to read what other parts of the system ask for; dotted paths into the claims."""

    subject: Annotated[Text, Meta(description="The claim that names the subject.")] = "sub"
    scopes: Annotated[
        Text,
        Meta(description="The claim that holds the scopes: a string with spaces, or a list."),
    ] = "scope"


class Introspection(Part, frozen=True):
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


class TokenIssuer(Part, frozen=True):
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


class ApiKey(Part, frozen=True):
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
