"""What others see of a data plane: health and admin ports, `/snapshot`, `/config`, numbers."""

from __future__ import annotations

import asyncio
import errno
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from prometheus_client.core import Metric

from sidecar import __version__
from sidecar.config import Address, RunSettings
from sidecar.decide.documents import PLATFORM, Document
from sidecar.decide.snapshot import Snapshot
from sidecar.edge.pages import LocalPages, Pages, PageServer
from sidecar.errors import Misuse
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.metrics import counter, gauge, labelled_gauge


class Servers:
    """The health and admin ports."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}  # with the ports that were chosen for port 0
        self._running: list[PageServer] = []

    async def start(
        self, name: str, address: Address, pages: Pages, local: LocalPages | None = None
    ) -> None:
        """Raises Misuse: who should change what. `name` is the setting's."""

        async def bind(host: str, port: int) -> None:
            server = PageServer(pages, local)
            self._running.append(server)
            self.addresses[name] = str(Address(*await server.start(host, port)))

        await _listening(f"--{name}", address, bind)

    async def close(self) -> None:
        for server in self._running:
            await server.close()


class Enforced:
    """The documents that are enforced, packed: they are looked at once in a blue moon."""

    def __init__(self) -> None:
        self._packed = zlib.compress(b"")
        self._about: dict[str, Any] = {"version": None}

    async def keep(self, documents: Sequence[Document], snapshot: Snapshot) -> None:
        """These are, from now on."""
        seen = (PLATFORM, snapshot.namespace)
        texts = [each.canonical for each in documents if each.namespace in seen]
        self._packed = await asyncio.to_thread(lambda: zlib.compress(b",".join(texts)))
        self._about = {
            "version": snapshot.version,
            "namespace": snapshot.namespace,
            "labels": dict(snapshot.labels),
        }

    async def page(self) -> bytes:
        """As JSON, each document in its canonical form."""
        about = orjson.dumps(self._about)
        texts = await asyncio.to_thread(zlib.decompress, self._packed)
        return about[:-1] + b',"documents":[' + texts + b"]}\n"


def snapshot_state(snapshot: Snapshot | None, adopted: float) -> dict[str, Any] | None:
    """What is enforced, since when."""
    if snapshot is None:
        return None
    return {
        "version": snapshot.version,
        "digest": snapshot.digest,
        "namespace": snapshot.namespace,
        "labels": dict(snapshot.labels),
        "service": snapshot.service.name,
        "mode": "observe" if snapshot.service.observe else "enforce",
        "documents": snapshot.documents,
        "rules": snapshot.rules,
        "issuers": sorted(snapshot.issuers),
        "adopted": adopted,
    }


def config_state(settings: RunSettings) -> dict[str, Any]:
    """The settings in force."""
    plain = (str, int, float, dict, tuple, type(None))
    state = {
        name: value if isinstance(value, plain) else str(getattr(settings, name))
        for name, value in asdict(settings).items()
    }
    return {**state, "probes": {name: str(each) for name, each in settings.probes.items()}}


def build_family() -> Metric:
    return labelled_gauge("sidecar_build_info", "The program's version.", version=__version__)


def key_families(keys: KeyStore) -> Iterable[Metric]:
    yield counter("sidecar_key_fetches", "Fetches of issuers' keys.", keys.fetches)
    yield counter("sidecar_key_fetch_failures", "Those that failed.", keys.failures)


def snapshot_families(snapshot: Snapshot | None, adopted: float, age: float) -> Iterable[Metric]:
    """`age` is in seconds, `adopted` in seconds since 1970."""
    yield gauge("sidecar_snapshot_ready", "Whether there is one.", float(snapshot is not None))
    if snapshot is None:
        return
    yield gauge(
        "sidecar_snapshot_age_seconds",
        "Since what is enforced was last known to be the newest.",
        age,
    )
    yield gauge("sidecar_snapshot_adopted_timestamp_seconds", "When it was.", adopted)
    yield labelled_gauge(
        "sidecar_snapshot_info", "What is enforced.",
        version=snapshot.version, namespace=snapshot.namespace, digest=snapshot.digest[:16],
    )  # fmt: skip
    yield gauge("sidecar_snapshot_rules", "Rules in it.", snapshot.rules)
    yield gauge(
        "sidecar_observe_mode", "1: refusals are only logged.", float(snapshot.service.observe)
    )


async def _listening(
    flag: str, address: Address, bind: Callable[[str, int], Awaitable[Any]]
) -> None:
    """Bind, or say who should change what."""
    try:
        await bind(address.host, address.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is taken by another program; stop that one or choose another port"
        elif error.errno == errno.EACCES:
            why = "needs privileges that this user does not have; choose a port from 1024"
        elif isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            why = "is not an address of this machine; 0.0.0.0 and [::] are all of its addresses"
        else:
            why = f"cannot be listened on: {error.strerror or error}"
        raise Misuse(f"{flag}: {address} {why}") from None
