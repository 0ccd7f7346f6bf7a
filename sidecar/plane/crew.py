"""All workers together: started, led to each release, asked for their numbers, drained."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.errors import Misuse, SidecarError
from sidecar.facts.shared_keys import SharedKeys
from sidecar.plane import messages
from sidecar.plane.shared_customers import SharedCustomers
from sidecar.plane.slot import Orders, Release, Slot
from sidecar.plane.tasks import Tasks
from sidecar.telemetry.decision_log import CLOSE, RECENT
from sidecar.telemetry.merged import Family, Merged

SCRAPE: Final = 1.0  # seconds for an answer; whoever is later is shown as it was last known
POLL: Final = 5.0  # seconds between counts: what one that is killed counted since is lost
HUNG: Final = 20.0  # seconds of silence after which a worker is replaced
LAG: Final = 1.0  # seconds that a release may take before we are not ready
_log: Final = logging.getLogger("sidecar")

STATES: Final = ("starting", "serving", "waiting", "ended")


class Crew:
    """`start` once the port is known; `adopt` before it and after."""

    def __init__(
        self,
        count: int,
        begin: Callable[[int], messages.Begin],
        descriptors: tuple[int, ...],
        keys: Callable[[], list[SharedKeys]],
        need_keys: Callable[[str], Awaitable[None]],
        withdrawn: Callable[[], bytes],
        *,
        customers: bool = False,
    ) -> None:
        """`customers`: workers may ask about them, through `self.customers`."""
        self.customers = SharedCustomers(count, self._tell) if customers else None
        self._orders = Orders(
            begin, descriptors, keys, need_keys, withdrawn, self._moved, self.customers
        )
        self.slots = [Slot(number, self._orders) for number in range(count)]
        self._since = 0.0  # when the newest release was brought, by the monotonic clock
        self._gone: list[Family] = []  # what the dead have counted
        self._progress = asyncio.Event()
        self._lives: list[asyncio.Task[None]] = []
        self._tasks = Tasks()

    async def start(self, port: int) -> None:
        """Until all serve. Raises Misuse for what they found wrong in the settings."""
        self._orders.port = port
        self._lives = [self._tasks.spawn(slot.run(self._bury)) for slot in self.slots]
        while not all(slot.serving for slot in self.slots):
            await self.next_move()
            for slot in self.slots:
                if slot.mistakes:
                    raise Misuse(slot.mistakes)
                if slot.restarts:
                    raise SidecarError(f"worker {slot.number} ended before it could serve")
        self._tasks.spawn(self._watch())

    async def adopt(self, release: Release) -> None:
        """Until no worker serves with an older one."""
        self._orders.release = release
        self._since = time.monotonic()
        for slot in self.slots:
            slot.wake()
        while self._lagging():
            await self.next_move()

    def keys_changed(self, keys: SharedKeys) -> None:
        for slot in self.slots:
            slot.keys_changed(keys.issuer)

    async def withdraw(self, packed: bytes) -> None:
        """Until every worker that answers refuses them; one that does not is replaced in time."""
        await asyncio.gather(*(slot.send(messages.Withdrawn(packed)) for slot in self.slots))
        await self._ask()  # in order: who answers this has read that

    def _tell(self, worker: int, message: messages.ToWorker) -> None:
        """Sent soon, in order: what waits for a channel waits in line."""
        self._tasks.spawn(self.slots[worker].send(message))

    def reload(self) -> None:
        """SIGHUP, for all of them."""
        for slot in self.slots:
            self._tasks.spawn(slot.send(messages.Reload()))

    async def drain(self, seconds: float) -> None:
        """All finish what is in flight; nobody is left."""
        self._orders.stopping.set()
        for slot in self.slots:
            if slot.live:
                self._tasks.spawn(slot.send(messages.Drain()))
            else:
                slot.kill()
        if self._lives:
            await asyncio.wait(self._lives, timeout=seconds + CLOSE + 2 * SCRAPE)
        for slot in self.slots:
            slot.kill()
        await asyncio.gather(*self._lives, return_exceptions=True)
        await self._tasks.cancel()

    async def next_move(self) -> None:
        """Until a worker has got further, or died."""
        await self._progress.wait()

    # What others see.

    def not_ready(self) -> str:
        """Why; empty when at least one serves and none decides with an old release."""
        if not any(slot.serving for slot in self.slots):
            return "no worker serves"
        lagging = self._lagging()
        if lagging and time.monotonic() - self._since > LAG:
            return f"worker {lagging[0].number} has not adopted the newest release yet"
        return ""

    def status(self) -> list[dict[str, Any]]:
        """For inspection."""
        release = self._orders.release
        return [
            {
                "worker": slot.number,
                "pid": slot.pid,
                "state": slot.state,
                "restarts": slot.restarts,
                "current": release is None or slot.adopted == release.number,
            }
            for slot in self.slots
        ]

    async def count(self) -> Merged:
        """The numbers of all workers, the dead included. Asks each, for a second at most."""
        await self._ask()
        merged = Merged()
        merged.add(self._gone)
        for slot in self.slots:
            merged.add(slot.families)
        return merged

    async def decisions(self) -> list[dict[str, Any]]:
        """The latest records of all, oldest first."""
        await self._ask(decisions=True)
        records = [record for slot in self.slots for record in slot.decisions]
        return sorted(records, key=lambda record: float(record["time"]))[-RECENT:]

    def families(self) -> Iterable[Metric]:
        """Of the workers as processes."""
        states = GaugeMetricFamily("sidecar_workers", "By what they do.", labels=["state"])
        for state in STATES:
            states.add_metric([state], sum(slot.state == state for slot in self.slots))
        yield states
        yield CounterMetricFamily(
            "sidecar_worker_restarts", "Workers that died and were started again.",
            value=sum(slot.restarts for slot in self.slots),
        )  # fmt: skip

    # Within.

    async def _ask(self, *, decisions: bool = False) -> None:
        await asyncio.gather(
            *(slot.ask(SCRAPE, decisions=decisions) for slot in self.slots if slot.serving)
        )

    async def _watch(self) -> None:
        """Count now and then, and replace who does not answer any more."""
        while True:
            await asyncio.sleep(POLL)
            await self._ask()
            for slot in self.slots:
                if slot.serving and time.monotonic() - slot.heard > HUNG:
                    _log.error("worker %d says nothing any more; it is replaced", slot.number)
                    slot.kill()

    def _lagging(self) -> list[Slot]:
        release = self._orders.release
        if release is None:
            return []
        return [slot for slot in self.slots if slot.live and slot.adopted < release.number]

    def _bury(self, families: list[Family]) -> None:
        merged = Merged()
        merged.add(self._gone, growing=True)
        merged.add(families, growing=True)
        self._gone = merged.families

    def _moved(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()
