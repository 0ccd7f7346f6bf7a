"""What somebody presents at the control plane's doors, to who that is and what they may do.

A token counts where there is one, a certificate that the listener has verified otherwise. Tokens
are checked as sidecars check them (`decide.tokens`, `facts.jwks`); what stands is remembered for as
long as its keys are those it was checked with, so that guessing from the same address does not keep
a pipeline out. The file of publishers is read again when it changes: one that is of no use is said,
and the one before stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from sidecar.control import publishers
from sidecar.control.attempts import Attempts
from sidecar.control.authority import Caller, Unauthenticated, certificate_name, oidc_name
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.control.strangers import Crowded, Strangers
from sidecar.decide import tokens
from sidecar.decide.outcomes import NeedKeys
from sidecar.decide.tokens import Rejected, Verified
from sidecar.errors import Misuse
from sidecar.facts.jwks import KeyStore

WITHIN: Final = 10.0  # seconds in which keys come, or nobody can say
REMEMBERED: Final = 1024  # tokens
AGAIN: Final = 5.0  # seconds after which a file of no use is tried again: another that it names may
# have been the reason
LONGEST_SUBJECT: Final = 255  # characters (OpenID Connect Core 1.0 section 2)
_log: Final = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


class Authority:
    """By one file of publishers. `start` before `identify`, `close` at the end."""

    def __init__(
        self, file: Path, keys: KeyStore | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises Misuse for a file that is of no use. `keys` fetches those of issuers."""
        self._file = file
        self._clock = clock
        self._keys = KeyStore(clock) if keys is None else keys
        self._attempts = Attempts()
        self._strangers = Strangers()
        self._stood: OrderedDict[bytes, Verified] = OrderedDict()
        self.error = ""
        """Why the file as it is now is not the one that counts; empty: it is."""
        self._again = 0.0
        before = _stamp([file])  # so that a file that changes meanwhile is read again
        self._publishers = publishers.load(file)
        self._seen = (*before, *_stamp(self._publishers.files))
        self._keys.use(self._publishers.issuers.values())

    @property
    def takes_tokens(self) -> bool:
        """Whether any issuer's tokens count."""
        return bool(self._publishers.issuers)

    async def start(self) -> None:
        """Fetches the keys that it will need."""
        await self._keys.start()

    async def close(self) -> None:
        """Lets go of connections."""
        await self._keys.close()

    def refresh(self) -> None:
        """Reads the file again if it is another one now. Never raises."""
        now = self._clock()
        stamp = _stamp([self._file, *self._publishers.files])
        rests = not self.error or self._again - AGAIN <= now < self._again
        if stamp == self._seen and rests:
            return
        self._seen, self._again = stamp, now + AGAIN
        try:
            found = publishers.load(self._file)
        except Misuse as error:
            if str(error) != self.error:
                _log.error("the publishers before stay: %s", error)
            self.error = str(error)
            return
        self.error = ""
        self._publishers = found
        self._seen = (stamp[0], *_stamp(found.files))
        self._stood.clear()
        self._keys.use(found.issuers.values())
        _log.info("publishers: %d permissions, %d issuers", len(found.grants), len(found.issuers))

    async def identify(
        self,
        authorization: str | None,
        certificate: PeerCertificate | None,
        peer: str = "",
    ) -> Caller:
        """Who presents this: the value of an Authorization field, and a certificate that was
        verified, from ADDRESS:PORT. A caller without a permission is one. Raises Unauthenticated.
        """
        self.refresh()
        if authorization is not None:
            verified = await self._token(_bearer(authorization), certificate, peer)
            name = verified.identity
            return Caller(
                oidc_name(name.issuer, name.subject),
                self._publishers.of_token(name.issuer, name.subject, verified.claims),
                verified.expires,
            )
        if certificate is None:
            raise Unauthenticated(
                "nobody can tell who calls: give a token (--server-token-file FILE) or a "
                "certificate (--server-cert FILE, --server-key FILE)",
                "missing",
            )
        return self._holder(certificate)

    def _holder(self, certificate: PeerCertificate) -> Caller:
        if self._clock() >= certificate.expires:
            raise Unauthenticated("the certificate has expired", "expired")
        if not certificate.spiffe and not certificate.dns:
            raise Unauthenticated(
                "the certificate names nobody: a SPIFFE id or a DNS name has to be among its "
                "subject alternative names; its common name does not count",
                "subject_missing",
            )
        return Caller(
            certificate_name(certificate.spiffe, certificate.dns),
            self._publishers.of_certificate(certificate),
            certificate.expires,
        )

    async def _token(self, token: str, certificate: PeerCertificate | None, peer: str) -> Verified:
        known = self._remembered(token)
        if known is not None:
            _check_holder(known, certificate)
            return known
        address = peer.rpartition(":")[0]
        if self._attempts.wait(address, self._clock()) > 0:
            raise Unauthenticated(
                "too many credentials from this address did not stand; wait a moment",
                "throttled",
                later=True,
            )
        try:
            with self._strangers.one(peer):
                found = await self._verified(token)
        except Crowded:
            raise Unauthenticated(
                "too many credentials are being checked", "crowded", later=True
            ) from None
        try:
            if isinstance(found, Rejected):
                raise Unauthenticated(f"the token does not stand: {found.detail}", found.reason)
            if not isinstance(found, Verified):
                _log.warning("the keys of an issuer of publishers' tokens cannot be had")
                raise Unauthenticated(
                    "the keys of the token's issuer cannot be had", "keys_unavailable", later=True
                )
            _check_claims(found)
            _check_holder(found, certificate)
        except Unauthenticated as error:
            if not error.later:
                self._attempts.failed(address, self._clock())
            raise
        self._stood[tokens.digest(token.encode())] = found
        if len(self._stood) > REMEMBERED:
            self._stood.popitem(last=False)
        return found

    async def _verified(self, token: str) -> object:
        found = self._verify(token)
        if isinstance(found, NeedKeys):
            try:
                async with asyncio.timeout(WITHIN):
                    await self._keys.fetch(found.issuer)
            except TimeoutError:
                return None
            found = self._verify(token)
        return found

    def _verify(self, token: str) -> object:
        issuers = self._publishers.issuers
        return tokens.verify(token.encode(), issuers, self._keys.states, self._clock())

    def _remembered(self, token: str) -> Verified | None:
        if len(token) > tokens.MAX_TOKEN:
            return None
        digest = tokens.digest(token.encode())
        found = self._stood.get(digest)
        if found is None:
            return None
        issuer = self._publishers.issuers.get(found.identity.issuer)
        state = self._keys.states.get(found.identity.issuer)
        held = state.keys if state is not None else None
        if (
            issuer is None
            or self._clock() >= found.expires
            or (issuer.keys is None and found.fetched is not held)
        ):
            del self._stood[digest]
            return None
        return found


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii():
        raise Unauthenticated("a Bearer token is expected (RFC 6750)", "scheme")
    return token.strip()


def _check_claims(found: Verified) -> None:
    """What a token must not be, or say, to be somebody's word here. Raises Unauthenticated."""
    claims: Any = found.claims
    if "events" in claims:  # RFC 8417 section 4.4: no security event token is taken for another
        raise Unauthenticated("the token does not stand: it is an event", "type_not_admitted")
    subject = found.identity.subject
    if len(subject) > LONGEST_SUBJECT:
        raise Unauthenticated("the token does not stand: its subject is too long", "malformed")
    if claims.get("email") == subject and claims.get("email_verified", True) is not True:
        raise Unauthenticated(
            "the token does not stand: it is known by an address that nobody verified", "email"
        )


def _check_holder(found: Verified, certificate: PeerCertificate | None) -> None:
    """A token that is bound to a key (RFC 7800) is its holder's alone. Raises Unauthenticated."""
    bound = found.claims.get("cnf")
    if bound is None:
        return
    shown = {"x5t#S256": certificate.thumbprint} if certificate is not None else None
    if shown is None or bound != shown:
        raise Unauthenticated(
            "the token is bound to a key: present the certificate that it is bound to with it",
            "not_bound",
        )


def _stamp(files: Iterable[Path]) -> _Stamp:
    """Differs once one of the files is another; a file that cannot be looked at has zeros."""
    found = []
    for file in files:
        try:
            stat = file.stat()
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)
