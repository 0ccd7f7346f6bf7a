"""The certificate that the API server is shown: the webhook's own, or files of somebody else's."""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
from pathlib import Path
from typing import Final

from sidecar.errors import Misuse
from sidecar.inject.certificates import Material

FRESH: Final = 10.0  # seconds between two looks at files
_log: Final = logging.getLogger("sidecar.inject")


class Shown:
    """The TLS context, whose certificate can be changed while it serves."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.ends = 0.0  # of the certificate, Unix time

    def missing(self) -> str:
        """Why nothing can be shown; empty: it can."""
        return "" if self.ends else "there is no certificate yet"

    def use(self, material: Material) -> None:
        """Of a Secret. The library takes files only, so it gets some for a moment."""
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for file, data in (
                (certificate, material.certificate), (key, material.certificate_key),
            ):  # fmt: skip
                file.touch(0o600)
                file.write_bytes(data)
            self.context.load_cert_chain(certificate, key)
        self.ends = material.ends()

    def use_files(self, certificate: Path, key: Path) -> None:
        """Raises Misuse."""
        try:
            self.context.load_cert_chain(certificate, key)
            self.ends = Material.of({"tls.crt": certificate.read_bytes()}).ends()
        except (OSError, ValueError) as error:
            raise Misuse(f"--tls-cert, --tls-key: {error}") from None


async def watch_files(shown: Shown, certificate: Path, key: Path) -> None:
    """Shows new files once they have changed; those that are of no use are said, and the ones
    before stay in use."""

    def stamp() -> tuple[tuple[int, int], ...]:
        return tuple((f.stat().st_mtime_ns, f.stat().st_ino) for f in (certificate, key))

    seen = stamp()
    while True:
        await asyncio.sleep(FRESH)
        try:
            found = await asyncio.to_thread(stamp)
            if found != seen:
                seen = found
                shown.use_files(certificate, key)
        except (OSError, Misuse) as error:
            _log.error("the certificate before stays in use: %s", error)
