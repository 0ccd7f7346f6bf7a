"""Reports: what was decided under one release, as often as is asked for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.facts.reporting import Reporter
from sidecar.telemetry.fared import Fared
from sidecar.wire.discovery_pb2 import FromSidecar
from tests.publishing import WITHIN


@dataclass
class Desk:
    """Time that passes when a test says so, and what was said."""

    totals: Fared = field(default_factory=Fared)
    versions: Mapping[str, int] = field(default_factory=lambda: {"default": 1, "platform": 0})
    said: list[FromSidecar] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    asleep: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reporter = Reporter(self._count, self._sleep)

    async def _count(self) -> Fared:
        self.looked.set()
        return self.totals

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wake = asyncio.Event()
        self.asleep.set()
        await self.wake.wait()

    async def next(self) -> None:
        """Time for a report; returns once the reporter waits again."""
        await self.sleeps()
        self.wake.set()
        await self.sleeps()
        self.asleep.set()

    async def sleeps(self) -> None:
        """Returns once it waits for the time of the next one."""
        async with asyncio.timeout(WITHIN):
            await self.asleep.wait()
        self.asleep.clear()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        self.looked.clear()
        self.asleep.clear()
        task = asyncio.create_task(self.reporter.run(lambda: self.versions, self.said.append))
        await self.looked.wait()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_report_is_of_what_came_since_the_last() -> None:
    desk = Desk(Fared(100, 10))
    async with desk.stream():
        desk.reporter.every(2_000)
        desk.totals = Fared(130, 15, 2, 1)
        await desk.next()
        desk.totals = Fared(131, 15, 2, 1)
        await desk.next()
    reports = [each.report for each in desk.said]
    # What was counted before there was a stream is nobody's.
    assert [(r.requests, r.refused, r.errors, r.failed_expressions) for r in reports] == [
        (30, 5, 2, 1), (1, 0, 0, 0),
    ]  # fmt: skip
    assert {e.namespace: e.version for e in reports[0].enforced} == {"default": 1, "platform": 0}
    assert desk.slept[:2] == [2.0, 2.0]


async def test_of_nothing_nothing_is_said() -> None:
    desk = Desk(Fared(5))
    async with desk.stream():
        desk.reporter.every(1)
        await desk.next()
        assert desk.said == []
        desk.versions = {}  # nothing is enforced yet
        desk.totals = Fared(9)
        await desk.next()
        assert desk.said == []


async def test_nobody_asked() -> None:
    desk = Desk()
    async with desk.stream():
        desk.totals = Fared(9)
        await desk.reporter.flush(desk.versions, desk.said.append)
        assert desk.said == []
        assert desk.slept == []
        desk.reporter.every(1_000)
        desk.totals = Fared(10)
        await desk.next()
        assert [each.report.requests for each in desk.said] == [1]
        desk.reporter.every(0)
        desk.totals = Fared(20)
        await desk.reporter.flush(desk.versions, desk.said.append)
        assert len(desk.said) == 1


async def test_what_the_old_release_decided_is_said_before_the_new_one_is_enforced() -> None:
    desk = Desk()
    async with desk.stream():
        desk.reporter.every(60_000)
        await desk.sleeps()
        desk.totals = Fared(7)
        await desk.reporter.flush(desk.versions, desk.said.append)
        desk.versions = {"default": 2}
        desk.totals = Fared(10)
        await desk.reporter.flush(desk.versions, desk.said.append)
    found = [(each.report.enforced[0].version, each.report.requests) for each in desk.said]
    assert found == [(1, 7), (2, 3)]


async def test_another_pace_counts_at_once() -> None:
    desk = Desk()
    async with desk.stream():
        desk.reporter.every(60_000)
        await desk.sleeps()
        desk.totals = Fared(3)
        desk.reporter.every(1_000)  # wakes what would have slept for a minute
        await desk.sleeps()
        assert desk.slept == [60.0, 1.0]
        assert [each.report.requests for each in desk.said] == [3]


async def test_a_new_stream_begins_anew() -> None:
    desk = Desk()
    async with desk.stream():
        desk.reporter.every(1_000)
        desk.totals = Fared(4)
        await desk.next()
    desk.totals = Fared(40)
    async with desk.stream():
        desk.totals = Fared(41)
        await desk.reporter.flush(desk.versions, desk.said.append)
        assert len(desk.said) == 1, "the new control plane has not asked yet"
        desk.reporter.every(1_000)
        desk.totals = Fared(43)
        await desk.next()
    assert [each.report.requests for each in desk.said] == [4, 2]
