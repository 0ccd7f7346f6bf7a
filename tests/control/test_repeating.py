"""What is done again and again, whatever happens in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from sidecar.control.repeating import Repeating
from sidecar.errors import StoreFailed
from tests.publishing import WITHIN


async def until(condition: Callable[[], bool], changed: asyncio.Event) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():
            changed.clear()
            await changed.wait()


async def test_it_goes_on_after_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    done, changed = 0, asyncio.Event()

    async def work() -> None:
        nonlocal done
        done += 1
        changed.set()
        if done == 1:
            raise StoreFailed("the disk is full")
        if done == 2:
            raise KeyError("a mistake of ours")

    with caplog.at_level(logging.WARNING):
        repeating = Repeating("rollouts", work, 0.0)
        repeating.start()
        await until(lambda: done >= 4, changed)
        await repeating.stop()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "rollouts stand still: the disk is full", "rollouts: a look failed; the next one follows",
    ]  # fmt: skip
    assert caplog.records[1].exc_info is not None


async def test_what_has_begun_is_not_cut_off() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        begun.set()
        await may_end.wait()
        ended = True

    repeating = Repeating("looks", work, 3600.0)
    repeating.start()
    await begun.wait()
    stopping = asyncio.create_task(repeating.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    may_end.set()
    async with asyncio.timeout(WITHIN):
        await stopping
    assert ended


async def test_a_pause_is_not_waited_for() -> None:
    begun, done = asyncio.Event(), 0

    async def work() -> None:
        nonlocal done
        done += 1
        begun.set()

    repeating = Repeating("looks", work, 3600.0)
    repeating.start()
    await begun.wait()
    async with asyncio.timeout(WITHIN):
        await repeating.stop()
    assert done == 1


async def test_one_that_never_began_may_be_stopped() -> None:
    async def work() -> None:
        raise AssertionError

    await Repeating("looks", work, 1.0).stop()
