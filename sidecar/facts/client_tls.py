"""TLS towards a server of its own CAs, or that wants a certificate; from files that may change."""

from __future__ import annotations

import ssl
from typing import Final

from sidecar.decide.introspection import Secret
from sidecar.errors import FetchFailed
from sidecar.facts.secrets import Secrets

NO_SECRET: Final = Secret()


class ClientTls:
    """The context for one server. `ca`, `certificate` and its `key` are files, each may be none."""

    def __init__(
        self,
        secrets: Secrets,
        ca: Secret,
        certificate: Secret = NO_SECRET,
        key: Secret = NO_SECRET,
    ) -> None:
        self._secrets = secrets
        self._ca = ca
        self._certificate = certificate
        self._key = key
        self._context: ssl.SSLContext | None = None
        self._of: tuple[tuple[str, int, int], ...] = ()

    def context(self) -> ssl.SSLContext | None:
        """One of the files as they are, the same as long as they are; None where the usual one
        does. Reads files. Raises FetchFailed."""
        named = [self._ca, self._certificate]
        if self._certificate.file:
            named.append(self._key)
        paths = [self._secrets.path(each) for each in named if each.file]
        if not paths:
            return None
        try:
            found = [(str(path), path.stat()) for path in paths]
            of = tuple((path, each.st_mtime_ns, each.st_ino) for path, each in found)
            if self._context is not None and self._of == of:
                return self._context
            ca = self._secrets.path(self._ca) if self._ca.file else None
            context = ssl.create_default_context(cafile=str(ca) if ca else None)
            if self._certificate.file:
                context.load_cert_chain(
                    self._secrets.path(self._certificate), self._secrets.path(self._key)
                )
        except (OSError, ssl.SSLError) as error:
            raise FetchFailed(
                f"the certificate, its key or the CAs are of no use: {error}"
            ) from None
        self._context, self._of = context, of
        return context
