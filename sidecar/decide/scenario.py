"""A request and its caller as somebody describes them -> the decision that a sidecar would make.

What `test`, `explain` and `replay` have in common. It goes through `authorize` as every request
does; only what cannot be described is supplied: the signature of a token, which is taken for good.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import msgspec
import orjson
from cryptography.hazmat.primitives.asymmetric import ed25519

from sidecar.decide import nonces
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.dpop import thumbprint
from sidecar.decide.enrichment import CompiledEnricher, Enriched, declared
from sidecar.decide.outcomes import (
    Code,
    Need,
    NeedEnrichment,
    Outcome,
    Permit,
    Refuse,
    Unavailable,
)
from sidecar.decide.request import (
    TOO_LARGE,
    Request,
    canonical_authority,
    canonical_target,
)
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.strict import beyond_cel
from sidecar.decide.subjects import NOT_KNOWN, Subject
from sidecar.decide.tokens import (
    WEIGHT,
    Bad,
    Verified,
    check_audience,
    check_times,
    digest,
    identity_of,
)
from sidecar.decide.workloads import Certificate, workload

ROUNDS: Final = 5
TIMES: Final = ("exp", "nbf", "iat", "auth_time")
RELATIVE: Final = 100_000_000
"""A time of a token below this is so many seconds from the moment of the request."""
_NONCES: Final = b"\x00" * 32
_CERTIFICATE: Final = "scenario" + "0" * 35  # a thumbprint


class ScenarioInvalid(ValueError):
    """What is described cannot be: `where` names the part of it."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.message = message


@dataclass(frozen=True)
class Scenario:
    """One request. `claims` None: nobody presents a token; `bad`: a credential comes that does not
    stand. `api_key` is the id of an ApiKey. `workload` is the SPIFFE id of a client certificate.
    `proof` are the kinds that are shown with the token. `enriched` is what each Enricher answers,
    None: that it cannot be reached; one that is not there is as one that is not reached.
    """

    method: str = "GET"
    target: str = "/"
    host: str = "localhost"
    scheme: str = "https"
    address: str = "192.0.2.1"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    claims: Mapping[str, Any] | None = None
    bad: bool = False
    api_key: str = ""
    workload: str = ""
    proof: tuple[str, ...] = ()
    subject: Subject = NOT_KNOWN
    subject_unavailable: bool = False
    enriched: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    now: float = 0.0


@dataclass(frozen=True)
class Decided:
    """The outcome, and what it was decided from, for whoever looks closer."""

    outcome: Permit | Refuse
    request: Request
    evidence: Evidence
    now: float


def decide(scenario: Scenario, snapshot: Snapshot) -> Decided:
    """Raises ScenarioInvalid and BadRequest, the latter for what no door lets in."""
    verified, bad = _verified(scenario, snapshot)
    request, token = _request(
        scenario, snapshot, verified, presented=verified is not None or bad is not False
    )
    enriched: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(1000)
    evidence = Evidence(
        {},
        ExpiringCache(1),
        ExpiringCache(1),
        nonce_key=_NONCES,
        subjects=lambda identity, now: (
            Unavailable("subject_unavailable") if scenario.subject_unavailable else scenario.subject
        ),
        enriched=enriched,
    )
    if verified is not None:
        evidence.tokens.put(snapshot.trust + digest(token), verified, inf)
    outcome: Outcome = Need(())
    for _ in range(ROUNDS):
        outcome = authorize(request, snapshot, evidence, scenario.now)
        if type(outcome) is not Need:
            break
        for want in outcome.wants:
            if type(want) is not NeedEnrichment:
                raise ScenarioInvalid("token", "cannot be decided on without fetching keys")
            enriched.put(want.key, _answer(scenario, want.enricher), inf)
    if type(outcome) is Need:
        raise ScenarioInvalid("enriched", "is never enough")
    if type(outcome) is Refuse and isinstance(bad, Bad) and outcome.code is Code.INVALID_TOKEN:
        rejected = bad.rejected
        outcome = msgspec.structs.replace(
            outcome, reason=rejected.reason, detail=rejected.detail, code=rejected.code
        )
    return Decided(outcome, request, evidence, scenario.now)


def _answer(scenario: Scenario, enricher: CompiledEnricher) -> Enriched | Unavailable:
    values = scenario.enriched.get(enricher.name)
    if values is None:
        return Unavailable("enricher_unavailable")
    try:
        return Enriched(declared(enricher, values), inf)
    except ValueError as error:
        raise ScenarioInvalid(f"enriched.{enricher.name}", str(error)) from None


def _verified(scenario: Scenario, snapshot: Snapshot) -> tuple[Verified | None, Bad | bool]:
    """Whom the credential names; or that it does not stand, and why."""
    if scenario.api_key:
        key = snapshot.api_keys.get(scenario.api_key.encode())
        if key is None:
            raise ScenarioInvalid("apiKey", f"there is no ApiKey {scenario.api_key!r}")
        if scenario.now >= key.expires:
            return None, Bad("expired", "The API key has expired.")
        return key.verified(), False
    if scenario.claims is None:
        return None, scenario.bad
    claims = dict(scenario.claims)
    for name in TIMES:
        value = claims.get(name)
        if isinstance(value, int | float) and abs(value) < RELATIVE:
            claims[name] = int(scenario.now) + value
    claims.setdefault("exp", int(scenario.now) + 300)
    if "iss" not in claims and len(snapshot.issuers) == 1:
        claims["iss"] = next(iter(snapshot.issuers))
    issuer = snapshot.issuers.get(claims.get("iss", ""))
    if issuer is None:
        return None, Bad("issuer_unknown", "The token's issuer is not admitted.")
    if issuer.audiences:
        claims.setdefault("aud", min(issuer.audiences))
    cnf = {"jkt": _thumbprint()} if "dpop" in scenario.proof else {}
    if "mtls" in scenario.proof:
        cnf["x5t#S256"] = _CERTIFICATE
    claims.pop("cnf", None)
    if cnf:
        claims["cnf"] = cnf
    try:
        expires = check_times(claims, issuer.skew, scenario.now)
        check_audience(claims, issuer)
        identity = identity_of(claims, issuer)
    except Bad as bad:
        return None, bad
    opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
    return Verified(identity, claims, opaque, expires, None, WEIGHT), False


def _request(
    scenario: Scenario, snapshot: Snapshot, verified: Verified | None, *, presented: bool
) -> tuple[Request, bytes]:
    path, segments, query = canonical_target(scenario.target.encode())
    authority, host = canonical_authority(scenario.host.encode())
    headers = [(b"host", scenario.host.encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in scenario.headers]
    token = b""
    if presented:
        token = b"c2NlbmFyaW8.c2NlbmFyaW8." + (b"c2NlbmFyaW8" if verified is not None else b"YmFk")
        place = snapshot.service.credentials[0]
        if place.cookie:
            headers.append((b"cookie", place.name + b"=" + token))
        else:
            scheme = b"DPoP " if "dpop" in scenario.proof else b"Bearer "
            headers.append((place.name, scheme + token))
    if scenario.body and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(scenario.body)))
    if scenario.body and not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))
    request = Request(
        scenario.method, path, segments, query, authority, host, scenario.scheme, headers,
        scenario.address, certificate=_certificate(scenario),
    )  # fmt: skip
    if verified is not None and "dpop" in scenario.proof:
        headers.append((b"dpop", _proof(request, token, snapshot, scenario.now)))
    large = len(scenario.body) > snapshot.service.body
    return request.with_body(TOO_LARGE if large else scenario.body), token


def _certificate(scenario: Scenario) -> Certificate | None:
    if scenario.workload:
        try:
            return Certificate(_CERTIFICATE, workload(scenario.workload, scenario.now + 3600))
        except ValueError as error:
            raise ScenarioInvalid("workload", str(error)) from None
    return Certificate(_CERTIFICATE) if "mtls" in scenario.proof else None


# A key that everybody may know: what it signs is believed by nobody but a scenario.
_SEED: Final = 0x5CE11A810
_ED25519: Final = ed25519.Ed25519PrivateKey.from_private_bytes(_SEED.to_bytes(32, "big"))


def _thumbprint() -> str:
    return thumbprint(_jwk())


def _jwk() -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": _b64(_ED25519.public_key().public_bytes_raw())}


def _proof(request: Request, token: bytes, snapshot: Snapshot, now: float) -> bytes:
    """A DPoP proof (RFC 9449 section 4.2)."""
    dpop = snapshot.service.dpop
    claims = {
        "jti": "scenario",
        "htm": request.method,
        "htu": f"{request.scheme}://{request.authority}{request.path}",
        "iat": int(now),
        "ath": _b64(hashlib.sha256(token).digest()),
    }
    if dpop.nonce:
        claims["nonce"] = nonces.current(_NONCES, dpop.max_age, now)
    header = {"typ": "dpop+jwt", "alg": "EdDSA", "jwk": _jwk()}
    said = f"{_b64(orjson.dumps(header))}.{_b64(orjson.dumps(claims))}".encode()
    return said + b"." + _b64(_ED25519.sign(said)).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
