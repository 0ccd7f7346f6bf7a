"""What the webhook keeps: an authority that it makes, the certificate that this vouches for, the
key of registrations, and the secret that the API server asks by (`path`).

The API server believes a webhook by the `caBundle` in its configuration. A new authority is added
there before anything that it signed is shown, and the one before stays until it has expired, so no
call fails while both are about. All replicas share one Secret; `renewed` is pure but for the keys
that it makes, and whoever comes first wins (`keeper`).
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.facts.signing import public_key_pem

AUTHORITY_LIFE: Final = dt.timedelta(days=730)
SERVER_LIFE: Final = dt.timedelta(days=90)
EARLIER: Final = dt.timedelta(hours=1)  # for clocks that are behind
SHARE: Final = 3  # renewed when a third of its life is left
PATH_BYTES: Final = 32  # random ones
_PATH: Final = re.compile(rb"[A-Za-z0-9_-]{43}")  # as many in URL-safe base64
_NAMES: Final = ("ca.crt", "ca.key", "tls.crt", "tls.key", "registration.key", "path.key")


@dataclass(frozen=True, slots=True)
class Material:
    """What the Secret holds, PEM. `bundle` are the authorities that count, the newest first; `key`
    is the newest one's. `registration` signs registrations (Ed25519). `path` is no PEM: URL-safe
    characters, which whoever asks for a review has to know."""

    bundle: bytes
    key: bytes
    certificate: bytes
    certificate_key: bytes
    registration: bytes
    path: bytes

    def entries(self) -> dict[str, bytes]:
        """By their names in the Secret."""
        parts = (
            self.bundle, self.key, self.certificate, self.certificate_key, self.registration,
            self.path,
        )  # fmt: skip
        return dict(zip(_NAMES, parts, strict=True))

    @classmethod
    def of(cls, entries: Mapping[str, bytes]) -> Material:
        """What is there of it; what is not is empty."""
        return cls(*(entries.get(name, b"") for name in _NAMES))

    def signing_key(self) -> Ed25519PrivateKey:
        """That of registrations. Raises ValueError."""
        key = serialization.load_pem_private_key(self.registration, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("registration.key is not an Ed25519 key")
        return key

    def registration_pem(self) -> str:
        """The public half, by which registrations are checked. Raises ValueError."""
        return public_key_pem(self.signing_key().public_key().public_bytes_raw()).decode("ascii")

    def ends(self) -> float:
        """When the certificate that is shown ends, Unix time. Raises ValueError."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc.timestamp()


def renewed(before: Material, host: str, now: dt.datetime) -> Material:
    """Whatever is missing, of no use, for another host or near its end made anew; the same object
    where nothing is."""
    registration = (
        before.registration if _is_signing(before) else _pem(Ed25519PrivateKey.generate())
    )
    path = before.path
    if not _PATH.fullmatch(path):
        path = secrets.token_urlsafe(PATH_BYTES).encode("ascii")
    bundle, key = before.bundle, before.key
    authorities = _authorities(bundle, now)
    if not authorities or not _fresh(authorities[0], now) or not _is_key_of(key, authorities[0]):
        made, authority = _authority(now)
        authorities.insert(0, made)
        key = _pem(authority)
    bundle = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in authorities)
    certificate, certificate_key = before.certificate, before.certificate_key
    if not _serves(certificate, certificate_key, host, authorities[0], now):
        certificate, certificate_key = _server(host, authorities[0], key, now)
    after = Material(bundle, key, certificate, certificate_key, registration, path)
    return before if after == before else after


def _authorities(bundle: bytes, now: dt.datetime) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []
    return [each for each in found if each.not_valid_after_utc > now]


def _fresh(certificate: x509.Certificate, now: dt.datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin <= now < end - (end - begin) / SHARE


def _is_signing(material: Material) -> bool:
    try:
        material.signing_key()
    except (ValueError, TypeError):
        return False
    return True


def _is_key_of(key: bytes, certificate: x509.Certificate) -> bool:
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        held = serialization.load_pem_private_key(key, None).public_key().public_bytes(*form)
    except (ValueError, TypeError):
        return False
    return held == certificate.public_key().public_bytes(*form)


def _serves(
    pem: bytes, key: bytes, host: str, authority: x509.Certificate, now: dt.datetime
) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        _fresh(certificate, now)
        and host in names.get_values_for_type(x509.DNSName)
        and _is_key_of(key, certificate)
    )


def _authority(now: dt.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Each has a name of its own: a bundle of two with one name sends verifiers the wrong way.
    name = _name(f"sidecar webhook {x509.random_serial_number():x}"[:64])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _server(
    host: str, authority: x509.Certificate, key: bytes, now: dt.datetime
) -> tuple[bytes, bytes]:
    signer = serialization.load_pem_private_key(key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101 - `_is_key_of` has seen it
    own = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("sidecar webhook"), authority.subject, own.public_key(), now,
                       SERVER_LIFE)  # fmt: skip
    certificate = (
        builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(own)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + life)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
