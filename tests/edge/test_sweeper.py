from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from sidecar.edge.sweeper import Sweeper


def test_deadlines_are_never_early() -> None:
    time = 10.0
    sweeper = Sweeper(interval=0.5, clock=lambda: time)
    seen: list[float] = []
    sweeper.watch(seen.append)
    time = 10.4  # nobody has looked since
    assert sweeper.after(1) - time >= 1
    sweeper.tick()
    assert seen == [10.4]
    assert sweeper.now == 10.4


async def test_it_ticks_until_it_is_stopped() -> None:
    sweeper = Sweeper(interval=0.001)
    ticked = asyncio.Event()
    sweeper.watch(lambda now: ticked.set())
    sweeper.start()
    sweeper.start()
    async with asyncio.timeout(5):
        await ticked.wait()
    sweeper.stop()
    sweeper.stop()


async def test_the_date_is_there_from_the_start_and_goes_on() -> None:
    sweeper = Sweeper(interval=0.001)
    assert sweeper.date == b""
    before = datetime.now(UTC).replace(microsecond=0)
    sweeper.start()
    name, _, value = sweeper.date.partition(b": ")
    assert (name, value[-6:]) == (b"date", b" GMT\r\n")
    assert before <= parsedate_to_datetime(value.decode()) <= datetime.now(UTC)
    sweeper.date = b""
    ticked = asyncio.Event()
    sweeper.watch(lambda now: ticked.set())
    async with asyncio.timeout(5):
        await ticked.wait()
    sweeper.stop()
    assert sweeper.date.startswith(b"date: ")


def test_who_no_longer_watches_is_not_called() -> None:
    now = 0.0
    sweeper = Sweeper(clock=lambda: now)
    first: list[float] = []
    second: list[float] = []

    def leave(at: float) -> None:
        first.append(at)
        sweeper.unwatch(leave)  # in the middle of a sweep: the others are called all the same

    sweeper.watch(leave)
    sweeper.watch(second.append)
    now = 1.0
    sweeper.tick()
    now = 2.0
    sweeper.tick()
    assert (first, second) == ([1.0], [1.0, 2.0])
