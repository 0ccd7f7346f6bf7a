"""Keeps the webhook's Secret and configuration right, and says what they hold now.

In order, at the start and then every so often: read the Secret; make anew what is due, and write it
if nobody else did first; put the authorities and the secret path into the webhook's configuration;
and only then use what they vouch for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from sidecar.errors import ClusterUnreachable
from sidecar.facts.kubernetes import Answered, KubernetesApi
from sidecar.inject.certificates import Material, renewed
from sidecar.inject.path import review_path

EVERY: Final = 60.0  # seconds: so long may a replica not know what another has written anew
RETRY: Final = 5.0
RACES: Final = 5  # with other replicas, in a row
CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
_CONFLICT: Final = 409
T = TypeVar("T")
_log: Final = logging.getLogger("sidecar.inject")


@dataclass(frozen=True, slots=True)
class Kept:
    """Where: the Secret as (namespace, name); the host that the certificate is for, empty where
    somebody else makes and announces one (cert-manager); and the name of the webhook's
    configuration, empty where somebody else writes all of it."""

    secret: tuple[str, str]
    host: str
    configuration: str


class Keeper:
    """`run` until cancelled; `material` is what to use, None before the first time.

    `expect` is told each path before the API server is, and may be told the same again."""

    def __init__(
        self,
        api: KubernetesApi,
        kept: Kept,
        use: Callable[[Material], None],
        expect: Callable[[bytes], None],
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.material: Material | None = None
        self.error = ""
        self._api = api
        self._kept = kept
        self._use = use
        self._expect = expect
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except ClusterUnreachable as error:
                if str(error) != self.error:
                    self.error = str(error)
                    _log.warning("%s", error)
                await self._sleep(RETRY)
            else:
                self.error = ""
                await self._sleep(EVERY)

    async def look(self) -> None:
        """Once. Raises ClusterUnreachable."""
        material = await self._alone(self._secret)
        self._expect(material.path)
        if self._kept.configuration:
            await self._alone(lambda: self._vouch(material))
        if material != self.material:
            self.material = material
            self._use(material)

    async def _alone(self, change: Callable[[], Awaitable[T]]) -> T:
        """What `change` comes to, once no other replica wrote in between."""
        for _ in range(RACES):
            try:
                return await change()
            except Answered as error:
                if error.status != _CONFLICT:
                    raise
        raise ClusterUnreachable("what the webhook keeps is written by others all the time")

    async def _secret(self) -> Material:
        """What the Secret holds, after what was due was made anew."""
        namespace, name = self._kept.secret
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        found = await self._api.get(path)
        before = Material.of(_decoded(found.get("data")))
        after = renewed(before, self._kept.host, self._clock())
        if after is not before:
            entries = after.entries()
            data = {key: base64.b64encode(entries[key]).decode("ascii") for key in entries}
            await self._api.patch(path, {"data": data, **_as_read(found)})
            _log.info("wrote new keys or certificates into Secret %s/%s", namespace, name)
        return after

    async def _vouch(self, material: Material) -> None:
        """Puts authorities and path into the webhook's configuration, if they are not there."""
        path = CONFIGURATIONS + self._kept.configuration
        found = await self._api.get(path)
        before: list[dict[str, Any]] = found.get("webhooks") or []
        bundle = material.bundle if self._kept.host else b""
        webhooks = [
            {
                **each,
                "clientConfig": _told(each.get("clientConfig") or {}, material.path, bundle),
            }
            for each in before
        ]
        if webhooks == before:
            return
        await self._api.patch(path, {"webhooks": webhooks, **_as_read(found)})
        _log.info("the API server believes the webhook by %s", self._kept.configuration)


def _told(client: Mapping[str, Any], secret: bytes, bundle: bytes) -> dict[str, Any]:
    """A clientConfig with that path and, unless it is empty, that bundle; the rest of it stays."""
    told = dict(client)
    if bundle:
        told["caBundle"] = base64.b64encode(bundle).decode("ascii")
    if "url" in told:
        told["url"] = urlsplit(told["url"])._replace(path=review_path(secret)).geturl()
    else:
        told["service"] = {**(told.get("service") or {}), "path": review_path(secret)}
    return told


def _as_read(found: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the API server refuse a patch of an object that has changed since."""
    version = (found.get("metadata") or {}).get("resourceVersion")
    return {"metadata": {"resourceVersion": version}}


def _decoded(data: Any) -> dict[str, bytes]:
    found = {}
    for name, text in (data or {}).items():
        try:
            found[name] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            continue  # made anew, like what is missing
    return found
