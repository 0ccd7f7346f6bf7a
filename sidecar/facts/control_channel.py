"""How a sidecar speaks to its control plane: TLS of its CAs, and what shows whose sidecar it is.

Files are read for each connection: the kubelet and cert-manager replace them where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from sidecar.errors import FetchFailed


def pem(source: str) -> bytes:
    """PEM from the file of this name, or itself. Raises FetchFailed."""
    if source.lstrip().startswith("-----BEGIN"):
        return source.encode()
    return _read(Path(source))


def channel_credentials(
    ca: str, certificate: Path | None, key: Path | None
) -> Callable[[], grpc.ChannelCredentials]:
    """Makes them; it raises FetchFailed. `ca` is as `pem` reads it."""

    def made() -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            pem(ca),
            _read(key) if key is not None else None,
            _read(certificate) if certificate is not None else None,
        )

    return made


def pod_token(path: Path) -> Callable[[], str]:
    """Reads it; it raises FetchFailed."""

    def read() -> str:
        token = _read(path).decode("ascii", "replace").strip()
        if not token or not token.isprintable() or "\ufffd" in token:
            raise FetchFailed(f"{path} holds no service-account token")
        return token

    return read


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FetchFailed(f"{path} cannot be read: {error.strerror}") from None
