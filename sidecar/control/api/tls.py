"""What the API shows its clients, from the files that the publishers' gRPC listener shows.

Certificates of clients are asked for where there are CAs, and may be left out, for tokens come to
the same address. TLS 1.3 alone: what it resumes could be turned off, so that each connection's
certificate is verified by the CAs of that moment.
"""

from __future__ import annotations

import logging
import ssl
from typing import Final

from sidecar.control.certificates import ServerCertificates, Stamp, check_pair, stamp
from sidecar.errors import Misuse

_log: Final = logging.getLogger(__name__)


def context_of(certificates: ServerCertificates) -> ssl.SSLContext:
    """New files count from the next connection on; files of no use are said, and those before them
    stay in use. Raises Misuse where they are of no use now."""
    return _Shown(certificates).first


class _Shown:
    def __init__(self, certificates: ServerCertificates) -> None:
        self._certificates = certificates
        self._error = ""
        try:
            self._seen: Stamp = stamp(certificates.files)
            self.first = self._now = self._made()
        except (OSError, ValueError) as error:
            raise Misuse(f"{certificates.flags}: {error}") from None
        self.first.sni_callback = self._chosen

    def _chosen(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Called in each handshake, whether a name is asked for or not."""
        try:
            found = stamp(self._certificates.files)
            if found != self._seen:
                self._now = self._made()
                self._seen, self._error = found, ""
        except (OSError, ValueError) as error:
            if str(error) != self._error:
                self._error = str(error)
                _log.error("the certificate before stays in use: %s", error)
        connection.context = self._now

    def _made(self) -> ssl.SSLContext:
        """Raises OSError and ValueError."""
        certificate, key, ca = self._certificates.files
        check_pair(certificate.read_bytes(), key.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(certificate, key)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context
