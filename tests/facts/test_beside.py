"""Work beside the loop gives way while it goes on, and everything is as before once it is done."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time

import pytest

from sidecar.decide.pace import PAUSE, pause
from sidecar.facts import beside as module
from sidecar.facts.beside import Beside


async def test_the_loop_goes_on_and_the_collector_waits() -> None:
    beside = Beside()
    before = sys.getswitchinterval()
    going, end = threading.Event(), threading.Event()
    seen: list[object] = []

    def work(one: int, *, two: int) -> int:
        seen.extend((sys.getswitchinterval(), gc.isenabled(), threading.current_thread()))
        going.set()
        end.wait()
        return one + two

    task = asyncio.create_task(beside.run(work, 1, two=2))
    await asyncio.to_thread(going.wait)
    assert beside.working == 1
    end.set()
    assert await task == 3
    assert seen[0] == pytest.approx(module.INTERVAL)
    assert seen[1] is False
    assert seen[2] is not threading.main_thread()
    assert (sys.getswitchinterval(), gc.isenabled(), beside.working) == (before, True, 0)
    assert beside.frozen == 1
    gc.unfreeze()


async def test_what_is_raised_arrives_and_nothing_is_left() -> None:
    beside = Beside()

    def work() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await beside.run(work)
    assert (beside.working, gc.isenabled(), PAUSE.get()) == (0, True, None)
    gc.unfreeze()


async def test_two_at_a_time() -> None:
    beside = Beside()
    await asyncio.gather(beside.run(lambda: None), beside.run(lambda: None))
    assert (beside.working, gc.isenabled()) == (0, True)
    gc.unfreeze()


@pytest.mark.parametrize("hurry", [False, True])
async def test_offers_are_accepted_by_who_is_in_no_hurry(
    hurry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module, "WORK", 0.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    await Beside().run(pause, hurry=hurry)
    assert bool(slept) is not hurry
    pause()  # by itself it does nothing
    assert len(slept) == (0 if hurry else 1)
    gc.unfreeze()
