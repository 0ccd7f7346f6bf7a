"""Certificate, key and CA files, and the TLS contexts made of them. Blocking; call it in a thread.

A context is made anew for every change and never changed afterwards: taking a CA out of a live one
is not possible, and session tickets of an old context mean nothing to a new one, so no resumption
leads around a changed list of CAs.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.errors import TlsFilesUnusable

MAX_FILE: Final = 4 * 1024 * 1024  # bytes; bundles of all public CAs have a tenth of it

# Forward secret and authenticated ones only; TLS 1.3 has no others. RFC 9325 section 4.2.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A context, what its files held, and when its own certificate ends (0: it has none).

    `bundles` says by trust domain which certificates (their SHA-256) vouch for its workloads.
    """

    context: ssl.SSLContext
    digest: str
    expiry: float
    bundles: Mapping[str, frozenset[bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What the traffic listener shows, and who must sign what callers show. PEM files.

    With `client_ca` or `bundles` (trust domain and file) a caller's certificate is asked for, and
    required unless `optional`.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    optional: bool = False
    bundles: tuple[tuple[str, Path], ...] = ()

    @property
    def paths(self) -> list[Path]:
        return [self.certificate, self.key, *self._callers]

    @property
    def _callers(self) -> list[Path]:
        bundles = [path for _, path in self.bundles]
        return bundles if self.client_ca is None else [self.client_ca, *bundles]

    def vouching(self) -> dict[str, frozenset[bytes]]:
        """Raises TlsFilesUnusable."""
        found: dict[str, frozenset[bytes]] = {}
        for domain, path in self.bundles:
            held = [ssl.PEM_cert_to_DER_cert(each.decode("ascii")) for each in _blocks(path)]
            marks = frozenset(hashlib.sha256(each).digest() for each in held)
            found[domain] = found.get(domain, frozenset()) | marks
        return found

    def context(self) -> tuple[ssl.SSLContext, float]:
        """Raises TlsFilesUnusable."""
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        expiry = _own(context, self.certificate, self.key)
        for path in self._callers:
            _trust(context, path)
        if self._callers:
            context.verify_mode = ssl.CERT_OPTIONAL if self.optional else ssl.CERT_REQUIRED
            # A resumed session is not verified again, so its certificate might have expired:
            # TLS 1.3 resumes none. TLS 1.2 does for up to two hours, which Python cannot turn off;
            # its tickets end with this context, as everything does that may be resumed.
            context.num_tickets = 0
        return context, expiry


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """Whom to believe to be the upstream (`ca`, or the system's store), and what to show it."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    verify: bool = True

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.ca, self.certificate, self.key) if path is not None]

    def context(self) -> tuple[ssl.SSLContext, float]:
        """Raises TlsFilesUnusable."""
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is not None:
            _trust(context, self.ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if self.certificate is None or self.key is None:
            return context, 0.0
        return context, _own(context, self.certificate, self.key)


Files = ServerFiles | ClientFiles


def digest(files: Files) -> str:
    """A name for what the files hold now; the same whenever they hold the same."""
    found = hashlib.sha256()
    for path in files.paths:
        try:
            data = _read(path)
        except TlsFilesUnusable as error:
            data = str(error).encode()
        found.update(b"%d " % len(data) + data)
    return found.hexdigest()


def load(files: Files) -> Loaded:
    """Raises TlsFilesUnusable, also where the files change meanwhile: certificate and key are
    written one after the other, and what is made of a half-written pair must not be used."""
    before = digest(files)
    context, expiry = files.context()
    bundles = files.vouching() if isinstance(files, ServerFiles) else {}
    if digest(files) != before:
        raise TlsFilesUnusable(f"{files.paths[0]} and its companions change while they are read")
    return Loaded(context, before, expiry, bundles)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise TlsFilesUnusable(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise TlsFilesUnusable(f"{path} is larger than {MAX_FILE // 2**20} MiB")
    return data


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _trust(context: ssl.SSLContext, path: Path) -> None:
    """Believe what the file's certificates signed, roots or not: the file is what was chosen."""
    blocks = _blocks(path)
    try:
        context.load_verify_locations(cadata=b"\n".join(blocks).decode("ascii") + "\n")
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesUnusable(f"{path} holds no usable certificates: {_why(error)}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _blocks(path: Path) -> list[bytes]:
    data = _read(path)
    blocks = _CERTIFICATE.findall(data)
    if len(blocks) != data.count(b"-----BEGIN CERTIFICATE-----"):
        raise TlsFilesUnusable(f"{path} holds a certificate that is cut short or damaged")
    if not blocks:
        raise TlsFilesUnusable(f"{path} holds no PEM certificate")
    return blocks


def _own(context: ssl.SSLContext, certificate: Path, key: Path) -> float:
    """Load the pair; returns when the certificate ends, in seconds since 1970."""
    try:
        leaf = x509.load_pem_x509_certificates(_read(certificate))[0]
    except (ValueError, IndexError, UnsupportedAlgorithm):
        raise TlsFilesUnusable(f"{certificate} holds no sound PEM certificate") from None
    try:
        load_pem_private_key(_read(key), None)
    except TypeError:
        raise TlsFilesUnusable(f"{key} is encrypted; keep it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsFilesUnusable(f"{key} holds no sound PEM private key") from None
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFilesUnusable(f"{key} is not the key of {certificate}") from None
        raise TlsFilesUnusable(f"{certificate}, {key}: {_why(error)}") from None
    except (OSError, ValueError) as error:
        raise TlsFilesUnusable(f"{certificate}, {key}: {_why(error)}") from None
    return leaf.not_valid_after_utc.timestamp()


def _no_password() -> str:
    """OpenSSL would ask the terminal."""
    raise ValueError("encrypted key")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason).replace("_", " ").lower()
