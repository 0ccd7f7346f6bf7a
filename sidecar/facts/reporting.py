"""Telling the control plane how this sidecar fares, as often as that wants to know.

Each report is of what was decided under one release: what is enforced next begins with a new one.
Of a time in which nothing was decided nothing is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from sidecar.telemetry.fared import Fared
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import FromSidecar, Report

Totals = Callable[[], Awaitable[Fared]]
"""How it has fared since its start."""
Say = Callable[[FromSidecar], None]


class Reporter:
    """`run` while there is a stream; `flush` before another release is enforced."""

    def __init__(
        self, totals: Totals, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._totals = totals
        self._sleep = sleep
        self._said: Fared | None = None
        self._every = 0.0
        self._asked = asyncio.Event()

    def every(self, milliseconds: int) -> None:
        """How often the control plane wants to hear; 0: never."""
        self._every = milliseconds / 1000
        self._asked.set()

    async def run(self, versions: Callable[[], Mapping[str, int]], say: Say) -> None:
        """Until cancelled. What was counted while there was no stream is nobody's."""
        self._every = 0.0
        self._said = await self._totals()
        while True:
            self._asked.clear()
            if not self._every:
                await self._asked.wait()
                continue
            sleeping = asyncio.ensure_future(self._sleep(self._every))
            asking = asyncio.ensure_future(self._asked.wait())
            try:
                await asyncio.wait({sleeping, asking}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                asking.cancel()
            await self.flush(versions(), say)

    async def flush(self, versions: Mapping[str, int], say: Say) -> None:
        """What was decided since the last one, all of it under these versions."""
        before, now = self._said, await self._totals()
        self._said = now
        found = now.since(before) if before is not None else Fared()
        if not self._every or not found.requests or not versions:
            return
        report = Report(
            enforced=convert.enforced_to_wire(versions),
            requests=found.requests,
            refused=found.refused,
            errors=found.errors,
            failed_expressions=found.failed_expressions,
            decision_buckets=found.buckets,
        )
        say(FromSidecar(report=report))
