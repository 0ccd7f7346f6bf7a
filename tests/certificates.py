"""Certificates for tests: authorities, and what they sign. P-256, so that making one is cheap."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.decode())

    @property
    def thumbprint(self) -> str:
        """As tokens are bound to it (RFC 8705 section 3.1)."""
        digest = hashlib.sha256(self.der).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Certificate file and key file."""
        folder.mkdir(exist_ok=True)
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """A CA with one self-signed root."""

    def __init__(self, name: str = "test root", above: Authority | None = None) -> None:
        """`above`: the root that signs this one, which is then an intermediate."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        signer = self if above is None else above
        builder = _builder(self._name, signer._name, self._key.public_key(), 3650)
        self._root = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        ).sign(signer._key, hashes.SHA256())
        self.pem = self._root.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str = "localhost",
        *hosts: str,
        days: int = 30,
        since: int = 0,
        more: tuple[x509.ExtensionType, ...] = (),
    ) -> Pair:
        """For servers and clients; `hosts` are names, addresses and URIs, by default this machine's.

        Valid for `days` from `since` days from now; `more` are further extensions.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [_alternative(host) for host in hosts or ("localhost", "127.0.0.1")]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(_name(name), self._name, key.public_key(), days, since)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def write(self, folder: Path, name: str = "ca") -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.pem"
        path.write_bytes(self.pem)
        return path

    def client_context(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """A client that believes this authority and shows `pair`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem.decode())
        if pair is not None:
            context.load_cert_chain(*pair)
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, since: int = 0
) -> x509.CertificateBuilder:
    start = dt.datetime.now(dt.UTC) + dt.timedelta(days=since) - dt.timedelta(minutes=5)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
