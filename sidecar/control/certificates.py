"""The certificate that clients are shown, from files that are replaced where they are."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc

from sidecar.errors import Misuse

_log: Final = logging.getLogger(__name__)
Stamp = tuple[tuple[int, int], ...]


class ServerCertificates:
    """`credentials` for a listener. New files count from the next connection on; files that cannot
    be read are said, and those before them stay in use."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None,
        flags: str = "--tls-cert, --tls-key, --tls-client-ca",
    ) -> None:
        """With `client_ca` a certificate that these CAs vouch for is required of clients. `flags`
        are the settings that name the files."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._flags = flags
        self._seen: Stamp = ()
        self._error = ""
        self._ends = 0.0

    @property
    def files(self) -> tuple[Path, Path, Path | None]:
        """Certificate, key, and CAs of clients."""
        return self._certificate, self._key, self._client_ca

    @property
    def flags(self) -> str:
        """The settings that name them."""
        return self._flags

    @property
    def asks(self) -> bool:
        """Whether clients have to show one, too."""
        return self._client_ca is not None

    def ends(self) -> float:
        """When the certificate that is shown ends, Unix time."""
        return self._ends

    def credentials(self) -> grpc.ServerCredentials:
        """Raises Misuse where the files are of no use."""
        try:
            self._seen = self._stamp()
            first = self._configuration()
        except (OSError, ValueError) as error:
            raise Misuse(f"{self._flags}: {error}") from None
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._changed,  # type: ignore[arg-type]  # None is "as before"; the stubs forgot it
            require_client_authentication=self._client_ca is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake; None: as before."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            configuration = self._configuration()
        except (OSError, ValueError) as error:
            if str(error) != self._error:
                self._error = str(error)
                _log.error("the certificate before stays in use: %s", error)
            return None
        self._seen, self._error = stamp, ""
        return configuration

    def _stamp(self) -> Stamp:
        return stamp(self.files)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key = self._certificate.read_bytes(), self._key.read_bytes()
        self._ends = check_pair(certificate, key)
        ca = self._client_ca.read_bytes() if self._client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


def stamp(files: Iterable[Path | None]) -> Stamp:
    """Another one once a file is another one. Raises OSError."""
    stats = [file.stat() for file in files if file is not None]
    return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)


def check_pair(certificate: bytes, key: bytes) -> float:
    """When the certificate ends, Unix time. gRPC says nothing of a key that is another's, and then
    serves nobody. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        found = x509.load_pem_x509_certificate(certificate)
        shown = found.public_key().public_bytes(*form)
        held = load_pem_private_key(key, None).public_key().public_bytes(*form)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no readable PEM: {error}") from None
    if shown != held:
        raise ValueError("the key is not that of the certificate")
    return found.not_valid_after_utc.timestamp()
