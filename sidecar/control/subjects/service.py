"""Customers, as the control plane serves them: the store, who follows what, and what is due.

What is due: that reads are written down, that what may not be kept any longer is let go of, and
that journeys nobody completed are called abandoned.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from sidecar.control.catalogue import Catalogue
from sidecar.control.events import Signal
from sidecar.control.pages.site import routes
from sidecar.control.repeating import Repeating
from sidecar.control.subjects.admin import Admin, Noted
from sidecar.control.subjects.asking import Asking
from sidecar.control.subjects.delivery import Delivery
from sidecar.control.subjects.hub import Hub
from sidecar.control.subjects.published import Published
from sidecar.control.subjects.records import SUBJECT, Identifier
from sidecar.control.subjects.store import SubjectStore
from sidecar.decide.documents import IdentityPolicy, seconds
from sidecar.decide.kinds.journey import Risk
from sidecar.errors import StoreFailed

WRITE_READS: Final = 1.0  # seconds
EXPIRE: Final = 60.0
AGAIN: Final = 5.0
KEYS: Final = "/receipts/jwks.json"
_log: Final = logging.getLogger(__name__)


class Subjects:
    """One per control plane. `start` once, `stop` once."""

    def __init__(
        self,
        engine: AsyncEngine,
        catalogue: Catalogue,
        clock: Callable[[], float],
        *,
        sink: str = "",
        source: str = "",
    ) -> None:
        """`sink` is where events go (`delivery`); empty: nowhere. `source` is whose they are."""
        self.store = SubjectStore(engine, clock)
        self.stages: Counter[tuple[str, str]] = Counter()
        """How far people came, by kind of challenge and stage."""
        self.delivery = Delivery(self.store, engine, sink, source, clock) if sink else None
        """What brings events to other systems, if anything does."""
        self._catalogue = catalogue
        self._published = Published(catalogue, clock)
        self._clock = clock
        self._hub: Hub | None = None
        self._asking: Asking | None = None
        self._marker: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._repeating: list[Repeating] = []

    async def pages(self, *, insecure_cookies: bool) -> list[web.RouteDef]:
        """What customers see, for the HTTP side. Raises StoreFailed."""
        secret = await self.store.secret("pages")
        found = routes(self.asking, secret, self._clock, insecure_cookies=insecure_cookies)
        return [*found, web.get(KEYS, self._keys)]

    async def _keys(self, _request: web.Request) -> web.Response:
        """What verifies receipts, for whoever was given one (RFC 7517)."""
        return web.json_response(
            await self.store.jwks(),
            content_type="application/jwk-set+json",
            headers={"cache-control": "public, max-age=300"},
        )

    @property
    def asking(self) -> Asking:
        """What pages and people ask of it."""
        if self._asking is None:
            self._asking = Asking(
                self.store, self._published, self.hub.ticket_secret, self.stages, self._clock
            )
        return self._asking

    async def signalled(self, signal: Signal) -> None:
        """Raises the risk of whom an event is about, wherever a policy says that it counts. Raises
        StoreFailed."""
        identifier = Identifier(SUBJECT, signal.issuer, signal.subject)
        for pool, risk in self._policies():
            points = risk.signals.get(signal.name, 0.0)
            customer = await self.store.find(pool, identifier) if points else None
            if customer is not None:
                half_life = seconds(risk.half_life)
                await self.store.raise_risk(customer, points, half_life, signal.name)

    def _policies(self) -> list[tuple[str, Risk]]:
        return [
            (f"{document.namespace}/{document.name}", document.spec.risk)
            for release in self._catalogue.releases()
            for document in release.documents
            if isinstance(document.spec, IdentityPolicy)
        ]

    def admin(self, noted: Noted) -> Admin:
        """The Subjects service; `noted` puts something into the audit trail."""
        return Admin(self.store, self.hub, self._published, self._clock, noted)

    @property
    def hub(self) -> Hub:
        """After `start`."""
        if self._hub is None:
            raise StoreFailed("customers are not served yet")
        return self._hub

    async def start(self) -> None:
        """Raises StoreFailed."""
        secret = await self.store.secret("sidecars")
        self._hub = Hub(self.store, self._catalogue, secret, self._clock)
        self.store.changed = self._changed
        _, self._marker = await self.store.changes_since(None)
        self._repeating = [
            Repeating("who read what", self._write_reads, WRITE_READS),
            Repeating("retention", self._expire, EXPIRE),
        ]
        for each in self._repeating:
            each.start()
        if self.delivery is not None:
            self._tasks.append(asyncio.create_task(always(self.delivery.run, AGAIN)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._repeating:
            await each.stop()
        if self._hub is not None:
            await self._hub.close()
        try:
            await self.store.flush_reads()
        except StoreFailed as error:
            _log.error("who read what in the last second is lost: %s", error)

    async def take_over(self) -> None:
        """What other replicas have changed. Raises StoreFailed."""
        more = True
        while more:
            changed, marker = await self.store.changes_since(self._marker)
            more = bool(changed) and marker != self._marker
            self._marker = marker
            self.hub.changed(changed)

    def _changed(self, customers: Iterable[str]) -> None:
        self.hub.changed(customers)

    async def _write_reads(self) -> None:
        await self.store.flush_reads()

    async def _expire(self) -> None:
        if self.delivery is None:  # nobody waits for events: they go once they are old
            _, newest = await self.store.changes_since(None)
            await self.store.delivered(newest)
        await self.store.expire(self._clock())
        for kind in await self.store.abandoned():
            self.stages[kind, "abandoned"] += 1


async def always(work: Callable[[], Awaitable[None]], pause: float) -> None:
    """Do it again `pause` seconds after it ended, however it did, until cancelled: what brings
    events out must not end for ever with one record that it stumbles over."""
    while True:
        try:
            await work()
        except StoreFailed as error:
            _log.error("%s", error)
        except Exception:  # noqa: BLE001 - a bug of ours: said, and tried again
            _log.exception("customers: what is done again and again failed")
        await asyncio.sleep(pause)
