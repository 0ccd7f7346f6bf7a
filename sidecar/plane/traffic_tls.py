"""TLS of the traffic, on both sides, as the settings say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from sidecar import config_tls
from sidecar.config import RunSettings
from sidecar.edge.address import Address
from sidecar.edge.certificates import ClientFiles, ServerFiles
from sidecar.edge.original import ORIGINAL_DESTINATION
from sidecar.edge.rotation import Rotation
from sidecar.errors import Misuse, TlsFilesUnusable

_log: Final = logging.getLogger("sidecar")


def client_side(settings: RunSettings) -> Rotation | None:
    """What clients are shown; None where they speak plain HTTP."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    optional = settings.tls_client_auth == "optional"
    bundles = tuple(config_tls.trust_bundle(each) for each in settings.trust_bundles)
    files = ServerFiles(
        settings.tls_cert, settings.tls_key, settings.tls_client_ca, optional, bundles
    )
    return Rotation("client", files)


def upstream_side(settings: RunSettings) -> Rotation | None:
    """What the upstream is shown and must show; None where it speaks plain HTTP."""
    if settings.upstream == ORIGINAL_DESTINATION or not Address.parse(settings.upstream).tls:
        return None
    files = ClientFiles(
        settings.upstream_ca,
        settings.upstream_cert,
        settings.upstream_key,
        not settings.insecure_upstream_skip_verify,
    )
    return Rotation("upstream", files)


async def load(rotations: Iterable[Rotation]) -> None:
    """For the first time. Raises Misuse with every file's mistake."""
    mistakes = []
    for rotation in rotations:
        try:
            await asyncio.to_thread(rotation.load)
        except TlsFilesUnusable as error:
            mistakes.append(f"TLS towards the {rotation.side}: {error}")
    if mistakes:
        raise Misuse(mistakes)


def warn_of_insecure(settings: RunSettings) -> None:
    """Say at the start which safety was traded away."""
    if settings.insecure_upstream_skip_verify:
        _log.warning(
            "insecure-upstream-skip-verify: whoever answers at %s is taken for the upstream",
            settings.upstream,
        )
