"""Asking issuers about opaque tokens (RFC 7662): one question for each token at a time, bounded.

What comes back is kept as evidence under the token's digest, for as long as `decide.introspection`
believes it. A server that fails again and again is left alone for a while (a breaker), then tried
with one question; meanwhile its tokens cannot be checked, which decides as 503.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final
from urllib.parse import quote_plus

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.decide.cache import ExpiringCache
from sidecar.decide.introspection import (
    INACTIVE,
    Answer,
    Introspector,
    Unknown,
    held,
    key_of,
    read,
)
from sidecar.decide.outcomes import NeedIntrospection
from sidecar.decide.tokens import Rejected, Verified
from sidecar.errors import FetchFailed
from sidecar.facts.breaker import Breaker
from sidecar.facts.client_tls import ClientTls
from sidecar.facts.flights import Flights
from sidecar.facts.http import HttpClient
from sidecar.facts.secrets import Secrets

ANSWERS: Final = 50_000  # remembered, 64 MiB at most
MAX_BODY: Final = 64 * 1024  # bytes of an answer
TIMEOUT: Final = 5.0  # seconds for one
AT_ONCE: Final = 64  # questions to one issuer; the next wait
WAITING: Final = 1024  # of them, at most
PER_ADDRESS: Final = 16  # questions at a time for one client address
ASSERTION: Final = 60  # seconds that a client assertion is valid
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_log: Final = logging.getLogger("sidecar.introspection")


_OURS: Final = frozenset((401, 403, 404, 405, 408, 429))  # not about the token


class _NotAsked(FetchFailed):
    """What says who asks cannot be had: nobody was asked, and nothing is known of the server."""


@dataclass(slots=True)
class _Server:
    """What goes with one introspector."""

    introspector: Introspector
    tls: ClientTls
    breaker: Breaker = field(default_factory=Breaker)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    waiting: int = 0
    last_error: str = ""
    key: Any = None
    key_of: bytes = b""


class Introspections:
    """Answers of every issuer that the snapshot names; `answers` is evidence for decisions."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        clock: Callable[[], float] = time.time,
        http: HttpClient | None = None,
    ) -> None:
        self.answers: ExpiringCache[bytes, Answer] = ExpiringCache(ANSWERS)
        self.outcomes: Counter[str] = Counter()
        """Questions by what came of them: active, inactive, refused, failed, spared."""
        self._secrets = secrets
        self._clock = clock
        self._http = http or HttpClient(timeout=TIMEOUT, max_body=MAX_BODY)
        self._servers: dict[str, _Server] = {}
        self._flights = Flights()
        self._asking: Counter[str] = Counter()  # by client address

    def use(self, introspectors: Iterable[Introspector]) -> None:
        """Ask exactly these; one that is described in another way starts anew."""
        servers: dict[str, _Server] = {}
        for each in introspectors:
            known = self._servers.get(each.issuer.issuer)
            if known is not None and known.introspector.mark == each.mark:
                known.introspector = each
                servers[each.issuer.issuer] = known
            else:
                tls = ClientTls(self._secrets, each.ca, each.certificate, each.secret)
                servers[each.issuer.issuer] = _Server(each, tls)
        self._servers = servers

    def asks_too_much(self, address: str) -> bool:
        """Whether as many questions as may be are under way for a client address."""
        return self._asking.get(_network(address), 0) >= PER_ADDRESS

    async def fetch(self, want: NeedIntrospection) -> None:
        """Have an answer put into `answers`, or join a question under way."""
        if want.key not in self._flights:
            if self.asks_too_much(want.address) and not want.reviewed:
                return  # since it was decided to ask; the next round says so
            network = _network(want.address)
            # At once: many may be decided before any of them flies.
            self._asking[network] += 1
            self._flights.begin(
                want.key, self._fly(want), f"introspection by {want.issuer}",
                lambda: self._landed(network),
            )  # fmt: skip
        await self._flights.join(want.key)

    async def close(self) -> None:
        await self._flights.close()
        await self._http.close()

    def status(self) -> dict[str, dict[str, Any]]:
        """For inspection: each issuer's breaker and last error."""
        return {
            name: {"open": server.breaker.open, "error": server.last_error}
            for name, server in self._servers.items()
        }

    async def _fly(self, want: NeedIntrospection) -> None:
        server = self._servers.get(want.issuer)
        # Of another snapshot: the next round decides with the new one.
        if server is not None and key_of(server.introspector, want.token) == want.key:
            self._keep(want, server, await self._answer(want, server))

    def _landed(self, network: str) -> None:
        self._asking[network] -= 1
        if not self._asking[network]:
            del self._asking[network]

    def _keep(self, want: NeedIntrospection, server: _Server, answer: Answer) -> None:
        now = self._clock()
        weight = answer.weight if isinstance(answer, Verified) else 256
        self.answers.put(want.key, answer, held(answer, server.introspector, now), weight)

    async def _answer(self, want: NeedIntrospection, server: _Server) -> Answer:
        if server.waiting >= WAITING:
            self.outcomes["spared"] += 1
            return Unknown("too many questions are waiting")
        server.waiting += 1
        try:
            async with server.turn:
                # Only now: those in line must not go on to a server that fails meanwhile.
                ticket = server.breaker.admits(self._clock())
                if not ticket:
                    self.outcomes["spared"] += 1
                    return Unknown("the server has failed again and again; it is left alone")
                return await self._asked(want, server, ticket)
        finally:
            server.waiting -= 1

    async def _asked(self, want: NeedIntrospection, server: _Server, ticket: int) -> Answer:
        try:
            body = await self._ask(want.token, server)
            answer = read(body, server.introspector, want.token, self._clock())
            if isinstance(answer, Unknown):
                raise FetchFailed(answer.why, 200)
        except _NotAsked as error:
            server.breaker.abandoned(ticket)
            return self._failure(server, str(error))
        except FetchFailed as error:
            self._blame(server, ticket, error.status)
            return self._failure(server, str(error))
        except asyncio.CancelledError:
            server.breaker.abandoned(ticket)
            raise
        except Exception as error:  # noqa: BLE001  (a defect of ours decides as 503, not as a crash)
            _log.exception("asking %s about a token failed", want.issuer)
            self._blame(server, ticket)
            return self._failure(server, f"internal error: {type(error).__name__}")
        server.breaker.succeeded(ticket)
        server.last_error = ""
        self.outcomes[_outcome(answer)] += 1
        return answer

    def _failure(self, server: _Server, error: str) -> Unknown:
        self.outcomes["failed"] += 1
        if error != server.last_error:
            _log.warning("introspection by %s: %s", server.introspector.issuer.issuer, error)
        server.last_error = error
        return Unknown(error)

    def _blame(self, server: _Server, ticket: int, status: int = 0) -> None:
        if status == 200 or (400 <= status < 500 and status not in _OURS):
            # It did not like the question, or says of this token what we cannot read; and callers
            # choose the token: none may have the server left alone for everybody.
            server.breaker.succeeded(ticket)
        else:
            server.breaker.failed(ticket, self._clock())

    async def _ask(self, token: bytes, server: _Server) -> bytes:
        introspector = server.introspector
        try:
            form = {"token": token.decode("ascii"), "token_type_hint": "access_token"}
        except UnicodeDecodeError:
            return b'{"active": false}'  # no issuer has made it (RFC 6750 section 2.1)
        try:
            headers, tls = await asyncio.to_thread(
                lambda: (self._authenticate(server, form), server.tls.context())
            )
        except FetchFailed as error:
            raise _NotAsked(str(error)) from None
        return await self._http.post(introspector.endpoint, form, headers, tls)

    # Who we are (RFC 7662 section 2.1).

    def _authenticate(self, server: _Server, form: dict[str, str]) -> Mapping[str, str]:
        """Puts what says who asks into the form or the headers, if TLS does not say it. Reads
        files."""
        introspector = server.introspector
        match introspector.method:
            case "client_secret_basic":
                secret = self._secrets.read(introspector.secret).decode("utf-8", "replace")
                # RFC 6749 section 2.3.1: both are form-encoded first.
                pair = f"{quote_plus(introspector.client_id)}:{quote_plus(secret)}"
                return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
            case "private_key_jwt":
                form["client_id"] = introspector.client_id
                form["client_assertion_type"] = ASSERTION_TYPE
                form["client_assertion"] = self._assertion(server)
            case "tls_client_auth":
                form["client_id"] = introspector.client_id
        return {}

    def _assertion(self, server: _Server) -> str:
        """RFC 7523 section 3; the audience is the issuer, as its successor will have it."""
        introspector = server.introspector
        pem = self._secrets.read(introspector.secret)
        if server.key is None or pem != server.key_of:
            server.key, server.key_of = _private_key(pem, introspector.secret.file), pem
        now = int(self._clock())
        claims = {
            "iss": introspector.client_id,
            "sub": introspector.client_id,
            "aud": introspector.issuer.issuer,
            "iat": now,
            "exp": now + ASSERTION,
            "jti": os.urandom(16).hex(),
        }
        headers = {"kid": introspector.key_id} if introspector.key_id else None
        return jwt.encode(claims, server.key, _algorithm(server.key), headers=headers)


def _network(address: str) -> str:
    """An IPv6 address counts with its /64, as for every limit of a client."""
    if ":" not in address:
        return address
    try:
        return str(IPv6Address(int(IPv6Address(address)) >> 64 << 64))
    except ValueError:
        return address


def _outcome(answer: Answer) -> str:
    if isinstance(answer, Rejected):
        return "inactive" if answer is INACTIVE else "refused"
    return "active"


def _private_key(pem: bytes, name: str) -> Any:
    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FetchFailed(f"the secret {name} is no private key (PEM, no password)") from None


def _algorithm(key: Any) -> str:
    match key:
        case rsa.RSAPrivateKey():
            return "RS256"
        case ed25519.Ed25519PrivateKey():
            return "EdDSA"
        case ec.EllipticCurvePrivateKey():
            curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
            if key.curve.name in curves:
                return curves[key.curve.name]
    raise FetchFailed("the private key is of a kind that signs no client assertions")
