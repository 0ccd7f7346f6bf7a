"""A request and its caller as somebody describes them -> the decision that a sidecar would make.

What `test`, `explain`, `why` and `replay` have in common. It goes through `authorize` as every
request does; only what cannot be described is supplied: the signature of a token, which is taken
for good, and the key of a proof.
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
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.decide import enrichment, nonces
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.credentials import SAFE_METHODS, Location
from sidecar.decide.dpop import thumbprint
from sidecar.decide.enrichment import CompiledEnricher, Enriched
from sidecar.decide.nodes import closest
from sidecar.decide.outcomes import (
    Code,
    Identity,
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
    Unread,
    canonical_authority,
    canonical_target,
)
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.strict import beyond_cel
from sidecar.decide.subjects import NOT_KNOWN, Subject
from sidecar.decide.tokens import (
    WEIGHT,
    Bad,
    Rejected,
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
SOMEBODY: Final = "somebody"
"""The subject of a token that names none."""
JUNK: Final = Rejected("malformed", "The token is not a well-formed JWT.")
UNREACHED: Final = Unavailable("enricher_unavailable")
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
    stand, and why. `identity` is whose token it is where that was settled before, times and all;
    left out, `claims` say it as those of a token do. `api_key` is the id of an ApiKey. `workload`
    is the SPIFFE id of a client certificate. `proof` are the kinds that are shown with the token.
    `cross_origin`: a page of another origin sends the credential, as a cookie.

    `subject` is what is known of the caller, `enriched` what each Enricher answers, or why that
    cannot be had; `otherwise` is why the answers of all others cannot.
    """

    method: str = "GET"
    target: str = "/"
    host: str = "localhost"
    scheme: str = "https"
    address: str = "192.0.2.1"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Unread = b""
    claims: Mapping[str, Any] | None = None
    identity: Identity | None = None
    bad: Rejected | None = None
    api_key: str = ""
    workload: str = ""
    proof: tuple[str, ...] = ()
    cross_origin: bool = False
    subject: Subject | Unavailable = NOT_KNOWN
    enriched: Mapping[str, Mapping[str, Any] | Unavailable] = field(default_factory=dict)
    otherwise: Unavailable = UNREACHED
    now: float = 0.0


@dataclass(frozen=True)
class Decided:
    """The outcome, and what it was decided from, for whoever looks closer. `rejected`: why the
    credential does not stand."""

    outcome: Permit | Refuse
    request: Request
    evidence: Evidence
    now: float
    rejected: Rejected | None = None


def decide(scenario: Scenario, snapshot: Snapshot, *, shadows: bool = True) -> Decided:
    """Raises ScenarioInvalid and BadRequest, the latter for what no door lets in.

    `shadows`: say also what shadow policies would have made of it.
    """
    for name in scenario.enriched:
        if name not in snapshot.enrichers:  # else a slip would pass for one that is not reached
            hint = closest(name, list(snapshot.enrichers))
            raise ScenarioInvalid(
                f"enriched.{name}", f"there is no such Enricher{f'; {hint}' if hint else ''}"
            )
    found = _credential(scenario, snapshot)
    rejected = found if isinstance(found, Rejected) else None
    verified = found if isinstance(found, Verified) else None
    cookies = any(place.cookie for place in snapshot.service.credentials)
    presented = found is not None and (cookies or not scenario.cross_origin)
    request = _request(scenario, snapshot, verified, presented=presented)
    tokens: ExpiringCache[bytes, Verified] = ExpiringCache(1)
    enriched: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(1000)
    evidence = Evidence(
        {},
        tokens,
        ExpiringCache(1),
        nonce_key=_NONCES,
        subjects=lambda identity, now: scenario.subject,
        enriched=enriched,
    )
    if verified is not None:
        tokens.put(snapshot.trust + _GOOD_DIGEST, verified, inf)
    outcome: Outcome = Need(())
    for _ in range(ROUNDS):
        outcome = authorize(request, snapshot, evidence, scenario.now, shadows=shadows)
        if type(outcome) is not Need:
            break
        for want in outcome.wants:
            if type(want) is not NeedEnrichment:
                raise ScenarioInvalid("token", "cannot be decided on without fetching keys")
            enriched.put(want.key, _answer(scenario, want.enricher), inf)
    if type(outcome) is Need:
        raise ScenarioInvalid("enriched", "is never enough")
    if (
        type(outcome) is Refuse
        and rejected is not None
        and outcome.code is Code.INVALID_TOKEN
        and outcome.identity is None
    ):
        outcome = msgspec.structs.replace(
            outcome, reason=rejected.reason, detail=rejected.detail, code=rejected.code
        )
    return Decided(outcome, request, evidence, scenario.now, rejected)


def _answer(scenario: Scenario, enricher: CompiledEnricher) -> Enriched | Unavailable:
    values = scenario.enriched.get(enricher.name, scenario.otherwise)
    if isinstance(values, Unavailable):
        return values
    try:
        return Enriched(enrichment.declared(enricher, values), inf)
    except ValueError as error:
        raise ScenarioInvalid(f"enriched.{enricher.name}", str(error)) from None


def _credential(scenario: Scenario, snapshot: Snapshot) -> Verified | Rejected | None:
    """Whom the credential names, or why it does not stand; None: there is none."""
    if scenario.bad is not None:
        return scenario.bad
    if scenario.api_key:
        key = snapshot.api_keys.get(scenario.api_key.encode())
        if key is None:
            return Rejected("api_key_unknown", "The API key is not valid.")
        if scenario.now >= key.expires:
            return Rejected("expired", "The API key has expired.")
        return key.verified()
    if scenario.claims is None:
        return None
    try:
        if scenario.identity is not None:
            return _settled(scenario, scenario.claims, scenario.identity, snapshot)
        return _token(scenario, scenario.claims, snapshot)
    except Bad as bad:
        return bad.rejected


def _token(scenario: Scenario, given: Mapping[str, Any], snapshot: Snapshot) -> Verified:
    """As `tokens.verify`, but for the signature. Raises Bad."""
    claims = dict(given)
    for name in TIMES:
        value = claims.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if abs(value) < RELATIVE:
            claims[name] = int(scenario.now) + value
    claims.setdefault("exp", int(scenario.now) + 300)
    if "iss" not in claims:
        if len(snapshot.issuers) > 1:
            known = ", ".join(sorted(snapshot.issuers))
            raise ScenarioInvalid("token", f"iss is missing; the issuers here are {known}")
        claims["iss"] = next(iter(snapshot.issuers), "")
    issuer = _issuer(claims, snapshot)
    if issuer.audiences:
        claims.setdefault("aud", min(issuer.audiences))
    if issuer.subject == "sub":
        claims.setdefault("sub", SOMEBODY)
    expires = check_times(claims, issuer.skew, scenario.now)
    check_audience(claims, issuer)
    return _bound(scenario, claims, identity_of(claims, issuer), expires)


def _settled(
    scenario: Scenario, claims: Mapping[str, Any], identity: Identity, snapshot: Snapshot
) -> Verified:
    """A token that stood before: it does not, where its issuer or audience is not admitted any
    more. Raises Bad."""
    held = dict(claims)
    check_audience(held, _issuer(held, snapshot))
    return _bound(scenario, held, identity, scenario.now + 300)


def _issuer(claims: Mapping[str, Any], snapshot: Snapshot) -> Any:
    name = claims.get("iss")
    issuer = snapshot.issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise Bad("issuer_unknown", "The token's issuer is not admitted.")
    return issuer


def _bound(
    scenario: Scenario, claims: dict[str, Any], identity: Identity, expires: float
) -> Verified:
    """The token, bound to what is shown with it and to nothing else."""
    claims.pop("cnf", None)
    cnf = {"jkt": ""} if "dpop" in scenario.proof else {}  # filled in once it is known to be proven
    if "mtls" in scenario.proof:
        cnf["x5t#S256"] = _CERTIFICATE
    if cnf:
        claims["cnf"] = cnf
    opaque = frozenset([name for name, value in claims.items() if beyond_cel(value)])
    return Verified(identity, claims, opaque, expires, None, WEIGHT)


_HEAD: Final = b"c2NlbmFyaW8.c2NlbmFyaW8."  # two dots, as every JWT has
_GOOD: Final = _HEAD + b"c2NlbmFyaW8"
_BAD: Final = _HEAD + b"YmFk"
_GOOD_DIGEST: Final = digest(_GOOD)


def _request(
    scenario: Scenario, snapshot: Snapshot, verified: Verified | None, *, presented: bool
) -> Request:
    path, segments, query = canonical_target(scenario.target.encode("utf-8", "surrogatepass"))
    authority, host = "", ""
    headers: list[tuple[bytes, bytes]] = []
    if scenario.host:
        authority, host = canonical_authority(scenario.host.encode("utf-8", "surrogatepass"))
        headers.append((b"host", scenario.host.encode("ascii")))
    headers += [
        (name.lower().encode("ascii", "replace"), value.encode("utf-8", "surrogatepass"))
        for name, value in scenario.headers
    ]
    dpop = presented and "dpop" in scenario.proof
    if presented:
        _present(scenario, _place(scenario, snapshot), headers, dpop, verified is not None)
    body = scenario.body
    if isinstance(body, bytes) and body:
        names = {name for name, _ in headers}
        if not names & {b"content-length", b"transfer-encoding"}:
            headers.append((b"content-length", b"%d" % len(body)))
        if b"content-type" not in names:
            headers.append((b"content-type", b"application/json"))
        if len(body) > snapshot.service.body:
            body = TOO_LARGE
    request = Request(
        scenario.method, path, segments, query, authority, host, scenario.scheme, headers,
        scenario.address, certificate=_certificate(scenario),
    )  # fmt: skip
    if dpop and verified is not None:
        proof, key = _proof(request, snapshot, scenario.now)
        headers.append((b"dpop", proof))
        verified.claims["cnf"]["jkt"] = key
    return request.with_body(body)


def _place(scenario: Scenario, snapshot: Snapshot) -> Location:
    """Where the credential is: in a header where there is one, the usual one first."""
    places = snapshot.service.credentials

    def order(place: Location) -> tuple[bool, bool]:
        return place.cookie is not scenario.cross_origin, place.name != b"authorization"

    return min(places, key=order)


def _present(
    scenario: Scenario,
    place: Location,
    headers: list[tuple[bytes, bytes]],
    dpop: bool,
    good: bool,
) -> None:
    token = _GOOD if good else _BAD
    if not place.cookie:
        headers.append((place.name, (b"DPoP " if dpop else b"Bearer ") + token))
        return
    headers.append((b"cookie", place.name + b"=" + token))
    if scenario.cross_origin:
        # What a browser sends from there: unsafe methods and handshakes are what it is checked for.
        headers[:] = [header for header in headers if header[0] != b"origin"]
        headers.append((b"origin", b"null"))
        if scenario.method in SAFE_METHODS:
            headers.append((b"upgrade", b"websocket"))


def _certificate(scenario: Scenario) -> Certificate | None:
    if scenario.workload:
        try:
            return Certificate(_CERTIFICATE, workload(scenario.workload, scenario.now + 3600))
        except ValueError as error:
            raise ScenarioInvalid("workload", str(error)) from None
    return Certificate(_CERTIFICATE) if "mtls" in scenario.proof else None


# Keys that everybody may know: what they sign is believed by nobody but a scenario.
_SEED: Final = 0x5CE11A810
_ED25519: Final = ed25519.Ed25519PrivateKey.from_private_bytes(_SEED.to_bytes(32, "big"))
_P256: Final = ec.derive_private_key(_SEED, ec.SECP256R1())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _okp() -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": _b64(_ED25519.public_key().public_bytes_raw())}


def _ec() -> dict[str, str]:
    numbers = _P256.public_key().public_numbers()
    x, y = (_b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _es256(said: bytes) -> bytes:
    r, s = decode_dss_signature(_P256.sign(said, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


_SIGNERS: Final = (
    ("EdDSA", _okp(), _ED25519.sign),
    ("ES256", _ec(), _es256),
)


def _proof(request: Request, snapshot: Snapshot, now: float) -> tuple[bytes, str]:
    """A DPoP proof (RFC 9449 section 4.2), and the thumbprint of its key."""
    dpop = snapshot.service.dpop
    found = next((each for each in _SIGNERS if each[0] in dpop.algorithms), None)
    if found is None:
        known = ", ".join(name for name, _, _ in _SIGNERS)
        raise ScenarioInvalid("proof", f"the service admits none of {known}")
    algorithm, jwk, sign = found
    claims = {
        "jti": "scenario",
        "htm": request.method,
        "htu": f"{request.scheme}://{request.authority}{request.path}",
        "iat": int(now),
        "ath": _b64(hashlib.sha256(_GOOD).digest()),
    }
    if dpop.nonce:
        claims["nonce"] = nonces.current(_NONCES, dpop.max_age, now)
    header = {"typ": "dpop+jwt", "alg": algorithm, "jwk": jwk}
    said = f"{_b64(orjson.dumps(header))}.{_b64(orjson.dumps(claims))}".encode()
    return said + b"." + _b64(sign(said)).encode(), thumbprint(jwk)
