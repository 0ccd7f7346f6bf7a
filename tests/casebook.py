"""Decision cases as data: tests/cases/*.yaml, run by the core and by every door alike.

A file holds `documents` (in which `$JWKS` stands for the test issuer's key set) and `cases`. A case
names a request, a token (claims over defaults; times are seconds from now; `$JKT` in them stands for
the thumbprint of a key), perhaps a `proof` by that key (claims over right ones) and the `scheme` that
the token comes with, a `body` (text, or a value that is sent as JSON), what is known of the `subject`
(`unavailable`: it cannot be had), what enrichers answer (`enriched`, by name; null: they do not), and
what is expected.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import validate
from sidecar.decide.documents import Document
from sidecar.decide.enrichment import Enriched
from sidecar.decide.outcomes import Identity, Need, NeedBody, NeedEnrichment, Outcome, Unavailable
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import TOO_LARGE, Request, canonical_authority, canonical_target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.edge.authorizer import ROUNDS
from tests.proofs import Prover

FOLDER = Path(__file__).parent / "cases"
ISSUER = "https://idp.example"
_TIMES = ("exp", "nbf", "iat", "auth_time")


@functools.cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def stranger_key() -> ed25519.Ed25519PrivateKey:
    """A key that no issuer publishes."""
    return ed25519.Ed25519PrivateKey.generate()


@functools.cache
def prover() -> Prover:
    """Whose key bound tokens are bound to."""
    return Prover()


@functools.cache
def jwks() -> dict[str, Any]:
    okp = jwt.algorithms.OKPAlgorithm.to_jwk(ed25519_key().public_key(), as_dict=True)
    pair = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True)
    return {"keys": [{**okp, "kid": "ed"}, {**pair, "kid": "rsa"}]}


def token(now: float, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
    """A signed token. `header.key: stranger` signs with a key that nobody publishes."""
    header = dict(header or {})
    body: dict[str, Any] = {
        "iss": ISSUER, "aud": "bank", "sub": "alice", "exp": 300, "iat": 0, **claims,
    }  # fmt: skip
    for name in _TIMES:
        if type(body.get(name)) is int:
            body[name] = int(now) + body[name]
    body = {name: value for name, value in body.items() if value is not None}
    algorithm = header.pop("alg", "EdDSA")
    key: Any = {"EdDSA": ed25519_key, "RS256": rsa_key, "PS256": rsa_key}[algorithm]()
    if header.pop("key", None) == "stranger":
        key = stranger_key()
    headers = {"kid": "rsa" if algorithm != "EdDSA" else "ed", **header}
    # The JWS layer, since the JWT layer refuses to sign the odd claims that cases are about.
    return jwt.PyJWS().encode(json.dumps(body).encode(), key, algorithm, headers)


@dataclass(frozen=True)
class Case:
    """One case of one file."""

    file: str
    documents: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.file}: {self.spec['name']}"

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """The request's headers, the credential among them."""
        request = self.spec.get("request", {})
        found = [(b"host", request.get("host", "bank.example").encode())]
        if self.body():
            found.append((b"content-length", b"%d" % len(self.body())))
            kind = request.get("contentType", "application/json")
            if kind:
                found.append((b"content-type", kind.encode()))
        for name, value in request.get("headers", {}).items():
            values = value if isinstance(value, list) else [value]
            found += [(name.lower().encode(), self._fill(item, now).encode()) for item in values]
        if "token" in self.spec:
            text = self._token(now)
            scheme = self.spec.get("scheme", "Bearer")
            found.append((b"authorization", f"{scheme} {text}".encode()))
            if "proof" in self.spec:
                found.append((b"dpop", self._proof(text, now)))
        return found

    def body(self) -> bytes:
        """What is sent: text as it is (`$SPACES` stands for 70,000 of them), other values as JSON."""
        body = self.spec.get("body", b"")
        if isinstance(body, str):
            return body.replace("$SPACES", " " * 70_000).encode("utf-8", "surrogateescape")
        return json.dumps(body).encode() if body != b"" else b""

    def known(self) -> Known:
        """What is known beyond the request."""
        return Known(self.spec.get("subject"), self.spec.get("enriched", {}))

    def _proof(self, text: str, now: float) -> bytes:
        request = self.spec.get("request", {})
        target = f"http://{request.get('host', 'bank.example')}{request.get('path', '/')}"
        more = {"jti": self.id, **self.spec["proof"]}
        if "iat" in more:
            more["iat"] += int(now)
        return prover().proof(request.get("method", "GET"), target, text, now, **more)

    def _fill(self, value: str, now: float) -> str:
        """`$TOKEN` in a header stands for a valid token."""
        return value.replace("$TOKEN", token(now, {}))

    def _token(self, now: float) -> str:
        claims = self.spec["token"]
        if isinstance(claims, str):
            return claims
        filled = json.loads(json.dumps(claims).replace("$JKT", prover().thumbprint))
        text = token(now, filled, self.spec.get("header"))
        if self.spec.get("damage"):
            head, body, signature = text.split(".")
            raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
            raw[0] ^= 1
            text = f"{head}.{body}.{base64.urlsafe_b64encode(bytes(raw)).decode().rstrip('=')}"
        return text

    def request(self, now: float) -> Request:
        """As a door presents it; `with_body` where a decision needs that."""
        request = self.spec.get("request", {})
        path, segments, query = canonical_target(request.get("path", "/").encode())
        headers = self.headers(now)
        authority, host = canonical_authority(headers[0][1])
        return Request(
            request.get("method", "GET"), path, segments, query, authority, host, "http", headers,
            "127.0.0.1",
        )  # fmt: skip


def evidence_of(case: Case) -> tuple[Evidence, Known]:
    """What `decided` decides a case with."""
    known = case.known()
    return (
        Evidence(
            {}, ExpiringCache(100), ExpiringCache(100), subjects=known.get, enriched=known.answers
        ),
        known,
    )


def decided(
    case: Case,
    request: Request,
    snapshot: Snapshot,
    evidence: Evidence,
    known: Known,
    now: float,
) -> tuple[Outcome, Request]:
    """After fetching what is needed, in as many rounds as a door takes; and the request then."""
    outcome: Outcome = Need(())
    for _ in range(ROUNDS + 1):
        outcome = authorize(request, snapshot, evidence, now)
        if not isinstance(outcome, Need):
            break
        for want in outcome.wants:
            if isinstance(want, NeedBody):
                body = case.body()
                request = request.with_body(TOO_LARGE if len(body) > want.limit else body)
            else:
                known.fetch_now(want)
    return outcome, request


class Known:
    """Subjects and enrichments, as an authorizer is given them and as the core asks."""

    def __init__(self, subject: Any, enriched: Mapping[str, Any]) -> None:
        self.answers: ExpiringCache[bytes, Enriched | Unavailable] = ExpiringCache(100)
        self._subject = subject
        self._enriched = enriched
        self._record: Subject | Unavailable | None = None
        self.asked: list[str] = []

    def get(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        return self._record

    async def fetch(self, want: Any) -> None:
        self.fetch_now(want)

    def fetch_now(self, want: Any) -> None:
        if isinstance(want, NeedEnrichment):
            self.asked.append(want.enricher.name)
            values = self._enriched.get(want.enricher.name)
            self.answers.put(
                want.key,
                Unavailable("enricher_unavailable") if values is None else Enriched(values, inf),
                inf,
            )
        else:
            self.asked.append("subject")
            if self._subject == "unavailable":
                self._record = Unavailable("subject_unavailable")
            else:
                said = self._subject or {}
                self._record = Subject(
                    frozenset(said.get("consents", ())), said.get("profile", {}),
                    frozenset(said.get("segments", ())), said.get("risk", 0),
                )  # fmt: skip

    def use(self, enrichers: Any) -> None:
        """As enrichments have it."""


def documents(text: str) -> list[Document]:
    """The documents of a case file, which must be without problems."""
    found, problems = parse([Source("case", text.replace("$JWKS", json.dumps(jwks())))])
    problems += [problem for problem in validate(found) if not problem.warning]
    assert not problems, "\n".join(map(str, problems))
    return found


def cases() -> list[Case]:
    """All cases of all files."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        found += [
            Case(path.stem, body["documents"], body.get("labels", {}), spec)
            for spec in body["cases"]
        ]
    return found
