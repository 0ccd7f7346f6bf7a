"""Public keys in a ConfigMap: how those who sign and those who check find each other in a cluster.

Whoever may write the ConfigMap decides whose signatures count, so each has its own, and its RBAC
names one writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.errors import ClusterUnreachable
from sidecar.facts.kubernetes import KubernetesApi

RETRY: Final = 10.0  # seconds
_log: Final = logging.getLogger("sidecar.kubernetes")


async def publish_keys(
    api: KubernetesApi,
    where: tuple[str, str],
    entry: str,
    pem: str,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Put `pem` as `entry` into the ConfigMap at (namespace, name); again until it is there."""
    namespace, name = where
    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
    said = ""
    while True:
        try:
            await api.patch(path, {"data": {entry: pem}})
        except ClusterUnreachable as error:
            if str(error) != said:
                said = str(error)
                _log.warning("the public keys are not published yet: %s", said)
            await sleep(RETRY)
        else:
            _log.info("public keys are in ConfigMap %s/%s, %s", namespace, name, entry)
            return
