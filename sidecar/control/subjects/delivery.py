"""Journeys' events to other systems, as CloudEvents 1.0: to an address in batches (HTTP protocol
binding section 3.3), or into a file, a line each.

At least once and in order: the next batch is sent once this one was taken, and where that stands
is in the store. Of several control planes on one store one delivers at a time. Whoever takes them
tells events apart by `id`, and sees by `sequence` which came first.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from sidecar.control.subjects.events import Event
from sidecar.control.subjects.store import SubjectStore
from sidecar.errors import StoreFailed

BATCH: Final = 200  # events at a time
LOOK: Final = 0.5  # seconds between looks where nothing is new
LONGEST_PAUSE: Final = 60.0  # seconds after failures that follow on each other
TIMEOUT: Final = 10.0  # seconds for one batch
_LOCK: Final = 0x51DECA3  # an advisory lock's number, the same in every version
_log: Final = logging.getLogger(__name__)


class NotTaken(Exception):
    """A batch was not taken; it is sent again."""


class Delivery:
    """`run` until cancelled. Attributes are for reading by whoever scrapes."""

    def __init__(
        self,
        store: SubjectStore,
        engine: AsyncEngine,
        sink: str,
        source: str,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """`sink` is an http(s) address or the path of a file; `source` says which control plane."""
        self.delivered = 0
        self.failures = 0
        self._store = store
        self._engine = engine
        self._sink = sink
        self._source = source
        self._clock = clock
        self._sleep = sleep
        self._oldest: float | None = None

    def lag(self) -> float:
        """Seconds since the oldest event happened that nobody took yet; 0: all are taken."""
        return 0.0 if self._oldest is None else max(0.0, self._clock() - self._oldest)

    async def run(self) -> None:
        pause = 0.0
        said = ""
        while True:
            try:
                async with self._alone() as alone:
                    while alone:
                        await self._sleep(0 if await self.step() else LOOK)
                        pause, said = 0.0, ""
            except (NotTaken, StoreFailed, SQLAlchemyError, OSError) as error:
                self.failures += 1
                if str(error) != said:
                    said = str(error)
                    _log.warning("events wait, for they are not taken: %s", said)
                pause = min(LONGEST_PAUSE, max(LOOK, 2 * pause))
            await self._sleep(max(pause, LOOK))

    async def step(self) -> int:
        """Deliver what is next: how many events that were. Raises NotTaken and StoreFailed."""
        after = await self._store.undelivered_after()
        events = await self._store.events(after, BATCH)
        self._oldest = events[0].time if events else None
        if not events:
            return 0
        if self._sink.startswith("/"):
            await asyncio.to_thread(self._append, events)
        else:
            await self._post(events)
        await self._store.delivered(events[-1].seq)
        self.delivered += len(events)
        return len(events)

    async def _post(self, events: Sequence[Event]) -> None:
        body = orjson.dumps([self._cloud(each) for each in events])
        headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.post(
                    self._sink, data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                if not 200 <= answer.status < 300:
                    raise NotTaken(f"the answer was {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotTaken(f"{type(error).__name__}") from None

    def _append(self, events: Sequence[Event]) -> None:
        lines = b"".join([orjson.dumps(self._cloud(each)) + b"\n" for each in events])
        path = Path(self._sink)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, lines) != len(lines):
                os.ftruncate(descriptor, before)  # whoever reads it meets no half of a line
                raise NotTaken("the file took a part only")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _cloud(self, event: Event) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": self._source,
            "type": event.type,
            "subject": event.customer,
            "time": datetime.fromtimestamp(event.time, UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "sequence": f"{event.seq:020d}",
            "data": dict(event.data),
        }

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        """Whether no other control plane delivers meanwhile. It ends with the connection."""
        if self._engine.dialect.name != "postgresql":
            yield True
            return
        async with self._engine.connect() as connection:
            got = await connection.scalar(select(func.pg_try_advisory_lock(_LOCK)))
            try:
                yield bool(got)
            finally:
                if got:
                    await connection.execute(select(func.pg_advisory_unlock(_LOCK)))
