"""Issuers that a file of the control plane names: where their keys are, or the keys themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from sidecar.decide.documents import JwksSource
from sidecar.decide.keys import KeySet, parse_jwks, private_members

_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))


def issuer_keys(
    issuer: str, source: JwksSource | None, folder: Path
) -> tuple[KeySet | None, str | None]:
    """The keys, or where to fetch them; neither: by discovery at the issuer. Raises ValueError.

    Files are relative to `folder`.
    """
    if source is None:
        check_address("issuer (for discovery; or give jwks)", issuer)
        return None, None
    given = [each for each in (source.uri, source.file, source.inline) if each is not None]
    if len(given) != 1:
        raise ValueError("jwks: exactly one of uri, file and inline is expected")
    if source.uri is not None:
        check_address("jwks.uri", source.uri)
        return None, source.uri
    jwks: Any = source.inline
    if source.file is not None:
        try:
            jwks = orjson.loads((folder / source.file).read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"jwks.file: {source.file} is no JWK Set: {error}") from None
    private = private_members(jwks)
    if private:
        raise ValueError(f"jwks: holds private key material ({private}); name public keys only")
    return parse_jwks(jwks), None


def check_address(name: str, address: str) -> None:
    """That nobody can change what is fetched from there. Raises ValueError, which names `name`."""
    parts = urlsplit(address)
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"{name}: {address!r} is not an https address")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"{name}: an https address is expected; http is admitted on loopback only")
