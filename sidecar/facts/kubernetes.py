"""The few calls to the Kubernetes API that we make, as the pod's own service account.

A client library of the whole API has a hundred times what is needed here, in code and in memory:
these are four REST calls (https://kubernetes.io/docs/reference/using-api/api-concepts/). The token
is read from its file for each call, since the kubelet replaces it there.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from sidecar.errors import ClusterUnreachable

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT: Final = 5.0  # seconds for one call
MAX_BODY: Final = 4 * 1024 * 1024
MERGE: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the API is, what this pod shows to it, and the CAs that may vouch for it; without `ca`
    the system's."""

    server: str
    token: Path | None
    ca: Path | None

    @classmethod
    def named(cls, server: str, variable: Callable[[str], str | None]) -> Cluster:
        """The one at this address or, where it is empty, as the kubelet tells every pod in its
        environment. Raises ClusterUnreachable outside of a pod."""
        token, ca = (
            path if path.is_file() else None for path in (ACCOUNT / "token", ACCOUNT / "ca.crt")
        )
        if server.startswith("https://"):
            return cls(server, token, ca)
        if server:  # without TLS anybody on the way could take the token
            return cls(server, None, None)
        host, port = (variable(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
        if not host or not port:
            raise ClusterUnreachable(
                "this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set; name the API "
                "server with --kubernetes URL"
            )
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", token, ca)


class Answered(ClusterUnreachable):
    """The API server's answer was not a success; `status` is its code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class KubernetesApi:
    """`get`, `create` and `patch`, then `close`. What goes wrong is a ClusterUnreachable."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> dict[str, Any]:
        """An object, by its path in the API. Raises Answered with 404 where there is none."""
        return await self._call("GET", path)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the API made of a new object."""
        return await self._call("POST", path, body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object after a JSON merge patch (RFC 7396)."""
        return await self._call("PATCH", path, body, MERGE)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _call(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> dict[str, Any]:
        what = f"Kubernetes API: {method} {path}"
        try:
            headers = {"Accept": "application/json"}
            if self._cluster.token is not None:
                token = await asyncio.to_thread(self._cluster.token.read_text, "ascii")
                headers["Authorization"] = f"Bearer {token.strip()}"
            if body is not None:
                headers["Content-Type"] = kind
            async with self._open().request(
                method, self._cluster.server + path, headers=headers,
                data=None if body is None else json.dumps(body), allow_redirects=False,
            ) as response:  # fmt: skip
                received = await response.content.read(MAX_BODY + 1)
                while len(received) <= MAX_BODY and not response.content.at_eof():
                    received += await response.content.read(MAX_BODY + 1 - len(received))
                if len(received) > MAX_BODY:
                    raise ClusterUnreachable(f"{what}: the answer is too large")
        except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ClusterUnreachable(f"{what}: {error or type(error).__name__}") from None
        try:
            found = json.loads(received)
        except ValueError:
            found = None
        if not 200 <= response.status < 300:
            said = found.get("message", "") if isinstance(found, dict) else ""
            raise Answered(f"{what}: {response.status} {str(said)[:500]}", response.status)
        if not isinstance(found, dict):
            raise ClusterUnreachable(f"{what}: the answer is no JSON object")
        return found

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            ca = self._cluster.ca
            context = ssl.create_default_context(cafile=str(ca)) if ca is not None else None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context if context is not None else True),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                auto_decompress=True,
            )
        return self._session
