"""A crew of processes that behave as a test wants: what is done about those that do not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.errors import Misuse, SidecarError
from sidecar.facts.shared_keys import SharedKeys
from sidecar.plane import messages
from sidecar.plane.crew import Crew
from sidecar.plane.shared import Shared
from sidecar.plane.slot import BATCH, Release

WORKER = """
import os, pathlib, socket, sys, time
sys.path.insert(0, sys.argv[2])
import msgspec
from sidecar.plane.messages import *
from sidecar.telemetry.merged import Family, Sample
end = socket.socket(fileno=int(sys.argv[3]))
def send(message):
    data = msgspec.msgpack.encode(message)
    end.sendall(len(data).to_bytes(4, "big") + data)
def take(count):
    found = b""
    while len(found) < count:
        more = end.recv(count - len(found))
        if not more:
            sys.exit(0)
        found += more
    return found
held, adopted = [], 0
while True:
    message = TO_WORKER.decode(take(int.from_bytes(take(4), "big")))
    if isinstance(message, Begin):
        life = pathlib.Path(message.settings.decode()) / str(message.worker)
        first = not life.exists()
        life.touch()
    BEHAVIOUR
    if isinstance(message, Documents):
        held += message.canonical
    elif isinstance(message, Adopt):
        assert len(held) == message.documents
        held, adopted = [], message.release
        send(Adopted(adopted))
    elif isinstance(message, Serve):
        send(Serving())
    elif isinstance(message, Ask):
        send(Counted(message.number, [Family("n", "N.", "counter", [Sample("n_total", {}, 5.0)])]))
    elif isinstance(message, Drain):
        sys.exit(0)
"""
KEYS = SharedKeys("https://idp.example", "", b"{}", 1.0, 1.0, 2.0, "")


class Rig:
    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.needed: list[str] = []

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self.crew.next_move()

    @property
    def restarts(self) -> int:
        return sum(slot.restarts for slot in self.crew.slots)


@asynccontextmanager
async def crew_of(
    count: int, behaviour: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    monkeypatch.setattr("sidecar.plane.slot._MAIN", WORKER.replace("BEHAVIOUR", behaviour))
    shared = Shared()

    def begin(worker: int) -> messages.Begin:
        return messages.Begin(worker, "0", str(folder).encode(), shared.key)

    async def need(issuer: str) -> None:
        rig.needed.append(issuer)

    crew = Crew(
        count, begin, (shared.rates, shared.turn), lambda: [KEYS], need, lambda: b"withdrawn"
    )
    rig = Rig(crew)
    try:
        yield rig
    finally:
        pids = [slot.pid for slot in crew.slots]
        await crew.drain(5)
        shared.close()
        for pid in pids:
            if pid:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)


def release(number: int, seconds: float = 20.0, documents: int = 1) -> Release:
    return Release(number, f"v{number}", (b"x" * (BATCH // 3),) * documents, seconds)


async def test_all_get_the_release_before_they_serve_and_the_next_ones_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = "assert not isinstance(message, Serve) or (message.port, adopted) == (1, 1)"
    async with crew_of(2, behaviour, tmp_path, monkeypatch) as rig:
        await rig.crew.adopt(release(1, documents=10))
        assert rig.crew.not_ready() == "no worker serves"
        await rig.crew.start(1)
        assert rig.crew.not_ready() == ""
        assert [slot.adopted for slot in rig.crew.slots] == [1, 1]
        await rig.crew.adopt(release(2, documents=0))
        assert [slot.adopted for slot in rig.crew.slots] == [2, 2]
        assert rig.restarts == 0


@pytest.mark.parametrize(
    "mischief",
    [
        "os.kill(os.getpid(), 19)",  # SIGSTOP
        "send(Refused(2, 'no room'))\n        continue",
        "end.sendall(b'\\xff' * 8)",
        "end.close(); time.sleep(60)",
        "sys.exit(3)",
    ],
)
async def test_who_cannot_adopt_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mischief: str
) -> None:
    behaviour = f"if isinstance(message, Adopt) and message.release == 2 and first and message.documents:\n        {mischief}"
    async with crew_of(2, behaviour, tmp_path, monkeypatch) as rig:
        await rig.crew.adopt(release(1))
        await rig.crew.start(1)
        before = [slot.pid for slot in rig.crew.slots]
        await rig.crew.adopt(release(2, seconds=0.3))
        assert not any(slot.live and slot.adopted < 2 for slot in rig.crew.slots)
        for pid in before:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        await rig.until(lambda: all(slot.state == "serving" for slot in rig.crew.slots))
        assert [slot.adopted for slot in rig.crew.slots] == [2, 2]
        assert rig.restarts == 2


async def test_what_the_dead_counted_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crew_of(1, "", tmp_path, monkeypatch) as rig:
        await rig.crew.start(1)

        async def total() -> float:
            [metric] = (await rig.crew.count()).metrics()
            return float(metric.samples[0].value)

        assert await total() == 5
        rig.crew.slots[0].kill()
        await rig.until(lambda: rig.restarts == 1)
        assert await total() == 5
        await rig.until(lambda: rig.crew.slots[0].state == "serving")
        assert await total() == 10


async def test_who_does_not_answer_is_counted_as_last_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.plane.crew.SCRAPE", 0.1)
    behaviour = "if isinstance(message, Ask) and message.number == 2:\n        continue"
    async with crew_of(1, behaviour, tmp_path, monkeypatch) as rig:
        await rig.crew.start(1)
        for _ in range(3):
            [metric] = (await rig.crew.count()).metrics()
            assert metric.samples[0].value == 5


async def test_who_says_nothing_any_more_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("POLL", 0.05), ("SCRAPE", 0.05), ("HUNG", 0.3)):
        monkeypatch.setattr(f"sidecar.plane.crew.{name}", seconds)
    behaviour = "if isinstance(message, Ask) and first:\n        time.sleep(60)"
    async with crew_of(2, behaviour, tmp_path, monkeypatch) as rig:
        await rig.crew.start(1)
        await rig.until(lambda: rig.restarts == 2)
        await rig.until(lambda: not rig.crew.not_ready())


async def test_keys_come_unasked_and_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = (
        "if isinstance(message, Keys) and first:\n"
        "        send(NeedKeys(message.keys.issuer))\n"
        "        first = False\n"
        "    if isinstance(message, KeysAnswered):\n"
        "        send(Failed(['answered ' + message.issuer]))"
    )
    async with crew_of(1, behaviour, tmp_path, monkeypatch) as rig:
        starting = asyncio.create_task(rig.crew.start(1))
        await rig.until(lambda: bool(rig.crew.slots[0].mistakes))
        assert rig.crew.slots[0].mistakes == [f"answered {KEYS.issuer}"]
        assert rig.needed == [KEYS.issuer]
        await asyncio.gather(starting, return_exceptions=True)


async def test_a_start_that_cannot_be_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = "send(Failed(['--one: a', '--two: b'])); sys.exit(2)"
    async with crew_of(2, behaviour, tmp_path, monkeypatch) as rig:
        with pytest.raises(Misuse) as caught:
            await rig.crew.start(1)
        assert caught.value.mistakes == ("--one: a", "--two: b")


async def test_a_start_that_dies_is_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crew_of(2, "sys.exit(9)", tmp_path, monkeypatch) as rig:
        with pytest.raises(SidecarError, match="ended before it could serve"):
            await rig.crew.start(1)
