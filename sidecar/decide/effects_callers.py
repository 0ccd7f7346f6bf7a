"""Words for what changes in who vouches for callers and how they come: TokenIssuer, ApiKey,
ProtectedService. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from sidecar.decide.disclosed import is_secret
from sidecar.decide.documents import ApiKey, Cors, JwksSource, ProtectedService, TokenIssuer
from sidecar.decide.effects_fields import Items, Members, Own, Saying, Section, Value
from sidecar.decide.effects_words import (
    NOT_SHOWN,
    Said,
    address,
    listed,
    pair,
    place,
    plain,
    secret,
    shown,
    sidecars,
)
from sidecar.decide.keys import thumbprint


def issuer_added(spec: TokenIssuer) -> Iterator[Said]:
    audiences = f", for audience {listed(spec.audiences, 'or')}" if spec.audiences else ""
    yield Said(
        "wider",
        f"tokens of {shown(spec.issuer)} are now accepted{audiences}; keys: {_source(spec.jwks)}",
    )
    if spec.introspection is not None:
        yield Said("wider", f"opaque tokens are accepted that {_endpoint(spec)} vouches for")


def issuer_removed(spec: TokenIssuer) -> Iterator[Said]:
    yield Said("stricter", f"tokens of {shown(spec.issuer)} are no longer accepted")


def key_added(spec: ApiKey) -> Iterator[Said]:
    yield Said(
        "wider",
        f"callers with key {shown(spec.id)} are now known as {shown(spec.subject or spec.id)}, "
        f"scopes: {listed(spec.scopes) or 'none'}, until: {plain(spec.expires or 'any time')}, at "
        f"{sidecars(spec.selector)}",
    )


def key_removed(spec: ApiKey) -> Iterator[Said]:
    yield Said("stricter", f"callers with key {shown(spec.id)} are no longer known")


def service_added(spec: ProtectedService) -> Iterator[Said]:
    audiences = listed(spec.audiences, "or") or "those of the issuer"
    credentials = listed(map(place, spec.credentials), "or")
    yield Said(
        "check",
        f"described now for {sidecars(spec.selector)}: audiences {audiences}, credentials in "
        f"{credentials}",
    )
    if spec.mode == "observe":
        yield Said("wider", _OBSERVED)
    if spec.cors is not None:
        yield Said("wider", f"pages of {listed(spec.cors.origins)} may call it now")


def service_removed(spec: ProtectedService) -> Iterator[Said]:
    yield Said(
        "check",
        f"no longer described for {sidecars(spec.selector)}: audiences, limits and places of "
        "credentials are the next one's, or the defaults",
    )
    if spec.mode == "observe":
        yield Said("stricter", "what was only observed is enforced now")


_OBSERVED: Final = "only observed now: what its rules refuse is forwarded all the same"


def _mode(before: str, after: str) -> Iterator[Said]:
    if before == after:
        return
    if after == "observe":
        yield Said("wider", _OBSERVED)
    else:
        yield Said("stricter", "enforced now: what its rules refuse was forwarded before")


def _cors(before: Cors | None, after: Cors | None) -> Iterator[Said]:
    if before is None and after is not None:
        yield Said("wider", f"pages of {listed(after.origins)} may call it now")
    elif before is not None and after is None:
        pages = listed(before.origins)
        yield Said("check", f"what it says itself of pages of other origins counts, not {pages}")


def _endpoint(spec: TokenIssuer) -> str:
    return shown(address(spec.introspection.endpoint)) if spec.introspection is not None else ""


def _source(source: JwksSource | None) -> str:
    if source is None:
        return "found by OpenID discovery"
    if source.uri is not None:
        return f"from {shown(address(source.uri))}"
    if source.file is not None:
        return f"from file {shown(source.file)}"
    return listed(_keys(source.inline)) or "none"


def _keys(jwks: Any) -> dict[str, bytes]:
    """Keys by their names; a thumbprint names one for everybody, and says nothing of it."""
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    found: dict[str, bytes] = {}
    for jwk in keys if isinstance(keys, list) else []:
        written = orjson.dumps(jwk, option=orjson.OPT_SORT_KEYS)
        kid = jwk.get("kid") if isinstance(jwk, dict) else None
        try:
            name = f"key {kid}" if isinstance(kid, str) else f"key {thumbprint(jwk)}"
        except (ValueError, KeyError, TypeError, AttributeError):
            name = "a key that nobody can use"
        while name in found and found[name] != written:
            name += " (another)"
        found[name] = written
    return found


def _jwks(before: JwksSource | None, after: JwksSource | None) -> Iterator[Said]:
    inline = [each.inline if each is not None else None for each in (before, after)]
    if None in inline:
        was, now = pair(_source(before), _source(after))
        if now != was:
            yield Said("check", f"its keys are now: {now}; before: {was}")
        else:
            yield Said("check", "its keys are taken from another address")
        return
    was_keys, now_keys = _keys(inline[0]), _keys(inline[1])
    gained = [name for name in now_keys if name not in was_keys]
    lost = [name for name in was_keys if name not in now_keys]
    other = [name for name in now_keys if was_keys.get(name, now_keys[name]) != now_keys[name]]
    if gained:
        yield Said("wider", f"tokens signed with {listed(gained)} are accepted too")
    if other:
        yield Said("check", f"another key goes by the name of {listed(other)}")
    if lost:
        yield Said("stricter", f"tokens signed with {listed(lost)} are no longer accepted")
    if not (gained or lost or other):
        yield Said("neutral", "its keys are written differently, and are the same")


def _attribute(name: str, value: Any) -> str:
    return NOT_SHOWN if is_secret(name) else plain(value)


def _secret(what: str, check: bool = False) -> Value:
    return Value(
        f"{what} is read from {{after}}; before: {{before}}", "check" if check else "never",
        absent="nowhere", show=secret,
    )  # fmt: skip


ISSUER: Final[Mapping[str, Saying]] = {
    "issuer": Value("tokens of {after} are accepted now, and those of {before} no longer", "check"),
    "audiences": Items(
        "tokens for audience {items} are accepted too, where the service names none",
        "tokens for audience {items} are no longer accepted, where the service names none",
        "more", "audiences are written in another order: {items}",
    ),
    "jwks": Own(_jwks),
    "algorithms": Items(
        "tokens signed with {items} are accepted too",
        "tokens signed with {items} are no longer accepted",
        "more", "algorithms are written in another order: {items}",
    ),
    "tokenTypes": Items(
        "tokens of type {items} are accepted too", "tokens of type {items} are no longer accepted",
        "more", "token types are written in another order: {items}",
    ),
    "clockSkew": Value(
        "tokens are accepted {after} beyond their times; before: {before}", "more", show=plain
    ),
    "profile": Value(
        "tokens are held to profile {after}; before: {before}", "less", order=("jwt", "rfc9068")
    ),
    "introspection": Section(
        "opaque tokens are accepted now that {items} vouches for",
        "opaque tokens are no longer accepted; {items} was asked about them",
        "more", show=lambda each: address(each.endpoint),
    ),
    "introspection.endpoint": Value(
        "{after} is asked about opaque tokens; before: {before}", "check", show=address
    ),
    "introspection.clientId": Value("the sidecar asks as client {after}; before: {before}"),
    "introspection.clientSecret": _secret("the client's secret"),
    "introspection.privateKey": _secret("the client's private key"),
    "introspection.keyId": Value("the client's key is named {after}; before: {before}"),
    "introspection.certificate": _secret("the client's certificate"),
    "introspection.ca": _secret("who may vouch for the endpoint", check=True),
    "introspection.tokenPrefix": Value(
        "tokens are asked about that begin with {after}; before: {before}", "check",
        absent="anything that is no JWT",
    ),
    "introspection.location": Value(
        "tokens are asked about in {after}; before: {before}", "check", absent="any place",
        show=place,
    ),
    "introspection.audience": Value(
        "of answers about opaque tokens the audience is {after}; before: {before}", "more",
        order=("required", "insecureIfPresent"),
    ),
    "introspection.cache": Value(
        "answers about opaque tokens are believed for {after}; before: {before}", "more"
    ),
    "introspection.negativeCache": Value(
        "opaque tokens that are not active are refused for {after} unasked; before: {before}"
    ),
    "claims.subject": Value("claim {after} names the subject; before: {before}", "check"),
    "claims.scopes": Value("claim {after} holds the scopes; before: {before}", "check"),
}  # fmt: skip

KEY: Final[Mapping[str, Saying]] = {
    "id": Value("callers present it as {after}; before: {before}", "check"),
    "hash": Value("another secret goes with it; the one before is refused", "check",
                  show=lambda _: NOT_SHOWN),
    "subject": Value("callers are known as {after}; before: {before}", "check", absent="its id"),
    "scopes": Items("callers now have scope {items}", "callers no longer have scope {items}",
                    "more", "scopes are written in another order: {items}"),
    "expires": Value("it is good until {after}; before: {before}", "check", absent="any time"),
    "attributes": Members(
        "rules now see {items} in `token`", "rules no longer see {items} in `token`",
        "rules see another {items} in `token`", "check", show=_attribute,
    ),
}  # fmt: skip

_RATE: Final = "one address may make {after} requests; before: {before}"
_FAILED: Final = "one address may fail with {after} credentials; before: {before}"

SERVICE: Final[Mapping[str, Saying]] = {
    "audiences": Items(
        "tokens for audience {items} are accepted too",
        "tokens for audience {items} are no longer accepted",
        "more", "audiences are written in another order: {items}",
        whole="tokens for audience {after} are accepted; before: {before}",
        empty="those of the issuer",
    ),
    "mode": Own(_mode),
    "credentials": Items(
        "credentials are looked for in {items} too",
        "credentials are no longer looked for in {items}",
        "more", "credentials are looked for in another order: {items}", show=place,
    ),
    "cors": Own(_cors),
    "cors.origins": Items("pages of {items} may call it now",
                          "pages of {items} may no longer call it",
                          "more", "origins are written in another order: {items}"),
    "cors.methods": Items("pages of other origins may use {items} now",
                          "pages of other origins may no longer use {items}",
                          "more", "their methods are written in another order: {items}"),
    "cors.headers": Items("pages of other origins may send header {items} now",
                          "pages of other origins may no longer send header {items}",
                          "more", "their headers are written in another order: {items}"),
    "cors.exposeHeaders": Items("pages of other origins may read response header {items} now",
                                "pages of other origins may no longer read response header {items}",
                                "more", "what they may read is written in another order: {items}"),
    "cors.credentials": Value("browsers may send cookies with pages of other origins: {after}; "
                              "before: {before}", "more"),
    "cors.maxAge": Value("browsers may remember preflights for {after}; before: {before}"),
    "limits.perAddress": Value(_RATE, "more", absent="any number of"),
    "limits.failedCredentials": Value(_FAILED, "more"),
    "limits.body": Value("of bodies that rules read, {after} may come; before: {before}"),
    "assertion": Section("it is now told who calls by a JWT for audience {items}",
                         "it is no longer told who calls by a JWT for audience {items}",
                         show=lambda each: each.audience),
    "assertion.audience": Value("who calls is told to audience {after}; before: {before}", "check"),
    "assertion.issuer": Value("who calls is told by issuer {after}; before: {before}",
                              absent="the name of the document"),
    "assertion.algorithm": Value("who calls is told in a JWT signed with {after}; before: "
                                 "{before}"),
    "assertion.lifetime": Value("a JWT that tells who calls is good for {after}; before: {before}",
                                "more"),
    "decisionLog.inputs": Value("its decision log holds of inputs: {after}; before: {before}",
                                "more", order=("none", "read")),
    "removeCredential": Value("it is kept from seeing callers' credentials: {after}; before: "
                              "{before}", "less"),
    "friction.scope": Value("a missing scope weighs {after} in what callers are asked for; before: "
                            "{before}"),
    "friction.proof": Value("a missing proof weighs {after} in what callers are asked for; before: "
                            "{before}"),
    "friction.consent": Value("a missing consent weighs {after} in what callers are asked for; "
                              "before: {before}"),
    "friction.profile": Value("a missing attribute weighs {after} in what callers are asked for; "
                              "before: {before}"),
    "friction.stepUp": Value("a missing step-up weighs {after} in what callers are asked for; "
                             "before: {before}"),
    "interaction": Section("people are sent to {items} for what they are asked for",
                           "people are no longer sent to {items} for what they are asked for",
                           "check", show=lambda each: address(each.url)),
    "interaction.url": Value("people are sent to {after} for what they are asked for; before: "
                             "{before}", "check", show=address),
    "interaction.login": Value("people are sent to {after} to log in; before: {before}", "check",
                               absent="where they are sent for the rest", show=address),
    "dpop": Section("DPoP proofs have terms now, and challenges name the scheme: {items}",
                    "DPoP proofs have no terms any more, and no challenge names the scheme "
                    "unasked; before: {items}", "check"),
    "dpop.algorithms": Items("DPoP proofs signed with {items} are accepted too",
                             "DPoP proofs signed with {items} are no longer accepted",
                             "more", "algorithms of DPoP proofs are written in another order: "
                             "{items}"),
    "dpop.maxAge": Value("DPoP proofs may be {after} old; before: {before}", "more"),
    "dpop.nonce": Value("of DPoP proofs a nonce is {after}; before: {before}", "less",
                        order=("none", "required")),
}  # fmt: skip
