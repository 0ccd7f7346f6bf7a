"""Work beside the loop gives way while it goes on, and everything is as before once it is done."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

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
async def test_the_loop_comes_round_between_two_stretches_of_work(
    hurry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORK", 0.0)
    monkeypatch.setattr(module, "LONGEST", 0.0)
    monkeypatch.setattr(module, "AWAY", 60.0)
    loop = asyncio.get_running_loop()
    turns: list[int] = []

    def work() -> list[int]:
        assert (PAUSE.get() is None) is hurry
        seen = []
        for number in range(20):
            loop.call_soon_threadsafe(turns.append, number)
            pause()
            seen.append(len(turns))
        return seen

    seen = await Beside().run(work, hurry=hurry)
    if not hurry:  # to whoever is in a hurry nothing is promised
        assert seen == list(range(1, 21))
    pause()  # by itself it does nothing
    gc.unfreeze()


async def test_a_loop_that_does_not_come_round_ends_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WORK", 0.0)
    monkeypatch.setattr(module, "LONGEST", 0.0)
    done = threading.Event()

    def work() -> None:
        pause()
        pause()
        done.set()

    task = asyncio.create_task(Beside().run(work))
    await asyncio.sleep(0)  # it has begun
    assert done.wait(30)  # and all that time the loop stands still
    await task
    gc.unfreeze()


def test_a_loop_that_is_closed_ends_no_work() -> None:
    loop = asyncio.new_event_loop()
    turns = module._Turns(loop)
    loop.close()
    turns()
