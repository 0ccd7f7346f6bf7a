"""Which certificate a caller has shown: to us in its handshake, or to a trusted proxy that says so.

Of a handshake of ours OpenSSL has verified the chain; the leaf names a workload if a certificate
above it is in the bundle of the very trust domain that it claims (X509-SVID section 5). What a
proxy says of its own handshake is believed for tokens bound to a certificate, and makes nobody a
workload. Equal certificates are one object, so that equal requests are one as well.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from weakref import WeakSet

from cryptography import x509

from sidecar.decide.workloads import Certificate, Workload, parse_id, workload
from sidecar.edge.fields import CLIENT_CERT, FORWARDED_CLIENT_CERT
from sidecar.edge.http1 import RequestBlock

Bundles = Mapping[str, frozenset[bytes]]
"""By trust domain, the SHA-256 of each certificate that may vouch for it."""

_KEPT: Final = 4096  # certificates
_LONGEST: Final = 16 * 1024  # bytes of a header


def thumbprint(der: bytes) -> str:
    """RFC 8705 section 3.1."""
    return _text(hashlib.sha256(der).digest())


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class _Shown(Certificate):
    """With what it takes to look at it again."""

    __slots__ = ("__weakref__", "chain", "leaf")

    def __init__(self, leaf: bytes, chain: tuple[bytes, ...], bundles: Bundles) -> None:
        super().__init__(thumbprint(leaf), named(leaf, chain, bundles))
        self.leaf = leaf
        self.chain = chain


class Callers:
    """One per listener. `bundles` gives those of the moment."""

    def __init__(self, bundles: Callable[[], Bundles]) -> None:
        self._bundles = bundles
        self._known: dict[bytes, _Shown] = {}
        self._alive: WeakSet[_Shown] = WeakSet()

    def __len__(self) -> int:
        return len(self._known)

    def shown(self, tls: ssl.SSLObject) -> Certificate | None:
        """What was shown in this handshake, which is over."""
        leaf = tls.getpeercert(True)
        if not leaf:
            return None
        # A resumed session (TLS 1.2 alone has any) comes without the chain that was verified.
        chain = tuple(hashlib.sha256(each).digest() for each in _verified(tls)[1:])
        key = hashlib.sha256(leaf).digest()
        known = self._known.get(key)
        if known is None or (chain and chain != known.chain):
            known = _Shown(leaf, chain, self._bundles())
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = known
            self._alive.add(known)
        return known

    def renew(self) -> bool:
        """Other bundles: look at all certificates again. Whether any names somebody else now."""
        bundles = self._bundles()
        changed = False
        for each in list(self._alive):
            found = named(each.leaf, each.chain, bundles)
            if found != each.workload:
                each.workload = found
                each.standing = None
                changed = True
        return changed


def _verified(tls: Any) -> Sequence[bytes]:
    """The chain as it was verified, from the leaf to what is trusted; empty where none was now.

    Python has a public way from 3.13 on.
    """
    if hasattr(tls, "get_verified_chain"):
        return list(tls.get_verified_chain())
    return [each.public_bytes(_DER) for each in tls._sslobj.get_verified_chain() or ()]


_DER: Final = 2  # _ssl.ENCODING_DER


def named(leaf: bytes, chain: Sequence[bytes], bundles: Bundles) -> Workload | None:
    """Whom a verified certificate names. `chain` are the SHA-256 of those above it.

    X509-SVID section 2: exactly one URI; section 4: a leaf that signs no certificates.
    """
    if not bundles or not chain:
        return None
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1 or _signs(extensions):
            return None
        domain, _ = parse_id(uris[0])
        found = workload(
            uris[0],
            certificate.not_valid_after_utc.timestamp(),
            certificate.not_valid_before_utc.timestamp(),
        )
    except Exception:  # noqa: BLE001  (the library raises many kinds on odd certificates)
        return None
    return None if bundles.get(domain, _NOBODY).isdisjoint(chain) else found


_NOBODY: Final[frozenset[bytes]] = frozenset()


def _signs(extensions: x509.Extensions) -> bool:
    """Whether it may sign certificates or revocation lists, or may not sign handshakes."""
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return True
        if isinstance(value, x509.KeyUsage) and (
            value.key_cert_sign or value.crl_sign or not value.digital_signature
        ):
            return True
    return False


# --- what a trusted proxy says --------------------------------------------------------------------


def told(block: RequestBlock, header: int) -> Certificate | None:
    """The certificate that was shown to the proxy which sent this head; None without one."""
    values = [value for kind, value in block.certificates or () if kind == header]
    if header == FORWARDED_CLIENT_CERT:  # a list, so lines are joined (RFC 9110 section 5.3)
        values = [b",".join(values)] if values else []
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return None
    return _client_cert(values[0]) if header == CLIENT_CERT else _forwarded(values[0])


_BINARY: Final = re.compile(rb":((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?):")


@lru_cache(maxsize=1024)
def _client_cert(value: bytes) -> Certificate | None:
    """RFC 9440 section 2.2: the DER form as a byte sequence of structured fields (RFC 8941)."""
    match = _BINARY.fullmatch(value)
    if match is None:
        return None
    der = base64.b64decode(match.group(1))
    try:
        x509.load_der_x509_certificate(der)
    except Exception:  # noqa: BLE001  (as above)
        return None
    return Certificate(thumbprint(der))


_QUOTED: Final = rb'"(?:[^"\\]|\\.)*"'
_ELEMENTS: Final = re.compile(rb'(?:[^",]|' + _QUOTED + rb")*")
_PAIRS: Final = re.compile(rb'(?:[^";]|' + _QUOTED + rb")*")
_HASH: Final = re.compile(rb'"?([0-9a-fA-F]{64})"?')


@lru_cache(maxsize=1024)
def _forwarded(value: bytes) -> Certificate | None:
    """Envoy's `Hash`, of exactly one element: the names of a certificate come unquoted, so whoever
    has one with a comma in it could seem to begin another element with a hash of their choice."""
    elements = _split(value, _ELEMENTS)
    if len(elements) != 1:
        return None
    hashes = [
        rest.strip()
        for name, _, rest in (pair.partition(b"=") for pair in _split(elements[0], _PAIRS))
        if name.strip().lower() == b"hash"
    ]
    match = _HASH.fullmatch(hashes[0]) if len(hashes) == 1 else None
    return None if match is None else Certificate(_text(bytes.fromhex(match.group(1).decode())))


def _split(value: bytes, part: re.Pattern[bytes]) -> list[bytes]:
    """The parts between separators; none where quotes are left open."""
    found: list[bytes] = []
    at = 0
    while at <= len(value):
        match = part.match(value, at)
        end = len(value) if match is None else match.end()
        if end < len(value) and value[end : end + 1] == b'"':
            return []
        found.append(value[at:end])
        at = end + 1
    return found


def remembered() -> dict[str, int]:
    """Entries by table of what came before; every one of them is bounded."""
    known = _client_cert.cache_info().currsize + _forwarded.cache_info().currsize
    return {"told_certificates": known}
