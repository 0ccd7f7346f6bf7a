"""Which Kubernetes this is, as far as it matters: whether it runs sidecar containers (KEP-753)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sidecar.errors import ClusterUnreachable
from sidecar.facts.kubernetes import KubernetesApi
from sidecar.inject.sources import Sources

RETRY: Final = 5.0  # seconds until it is asked again that did not say
EVERY: Final = 3600.0
NATIVE_SINCE: Final = (1, 29)  # they are on by default
_log: Final = logging.getLogger("sidecar.inject")


async def native_sidecars(api: KubernetesApi) -> bool:
    """Whether the cluster runs sidecar containers. Raises ClusterUnreachable."""
    found = await api.get("/version")
    try:
        digits = ("".join(filter(str.isdigit, str(found[part]))) for part in ("major", "minor"))
        major, minor = (int(each) for each in digits)
    except (KeyError, ValueError):
        raise ClusterUnreachable("the API server does not say its version") from None
    return (major, minor) >= NATIVE_SINCE


async def watch_version(api: KubernetesApi, sources: Sources) -> None:
    """Tells `sources` whether the cluster runs sidecar containers, once it says so, and again
    should it be upgraded."""
    said = ""
    while True:
        try:
            sources.native = await native_sidecars(api)
        except ClusterUnreachable as error:
            if str(error) != said:
                said = str(error)
                _log.warning("%s", error)
            await asyncio.sleep(RETRY)
        else:
            await asyncio.sleep(EVERY)
