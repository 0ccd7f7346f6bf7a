"""What a client certificate says of its holder, once the listener has verified its chain.

Two kinds of names count: a SPIFFE id (X509-SVID section 2: the only URI), and DNS names. Both are
subject alternative names, which is what authorities verify. The common name is not read: it is free
text, and authorities that check names leave it to whoever asks (RFC 9525 section 2 gave it up).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from sidecar.decide import workloads

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """`dns` are in lower case, `expires` is Unix time, `thumbprint` is as RFC 8705 section 3.1
    has it. Without a SPIFFE id that is one, `spiffe` is empty."""

    spiffe: str = ""
    dns: frozenset[str] = frozenset()
    expires: float = inf
    thumbprint: str = ""


@lru_cache(maxsize=256)
def read(pem: bytes) -> PeerCertificate:
    """Raises ValueError for what is no certificate."""
    from cryptography import x509

    return _read(x509.load_pem_x509_certificate(pem))


@lru_cache(maxsize=256)
def read_der(der: bytes) -> PeerCertificate:
    """The same, as TLS has it."""
    from cryptography import x509

    return _read(x509.load_der_x509_certificate(der))


def _read(found: x509.Certificate) -> PeerCertificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"its names cannot be read: {error}") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    digest = hashlib.sha256(found.public_bytes(Encoding.DER)).digest()
    return PeerCertificate(
        spiffe=uris[0] if len(uris) == 1 and _is_spiffe(uris[0]) else "",
        dns=frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        expires=found.not_valid_after_utc.timestamp(),
        thumbprint=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
    )


def _is_spiffe(uri: str) -> bool:
    try:
        workloads.parse_id(uri)
    except ValueError:
        return False
    return True
