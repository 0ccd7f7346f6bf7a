from __future__ import annotations

import asyncio

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
