"""A sidecar's process killed while it takes releases in: what it acknowledged is on its disk."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

from sidecar.decide.documents import Document
from tests.faults.followers import Follower, Ledger, contents
from tests.faults.liar import Liar, Recorded, lying
from tests.faults.planes import ROOT
from tests.faults.test_replay import PLATFORM, TRUST
from tests.publishing import WITHIN, policy, release

FOLLOW = """
import asyncio, sys
from pathlib import Path
from sidecar.facts.state import StateDirectory
from tests.faults.test_replay import TRUST
from tests.publishing import sidecar

async def follow():
    state = StateDirectory.open(Path(sys.argv[2]))
    await sidecar(sys.argv[1], trust=TRUST, state=state).client.run()

asyncio.run(follow())
"""
KILLS = 6


def recorded(version: int) -> Recorded:
    documents: tuple[Document, ...] = (policy("p", path=f"/{version}"), policy("q"))
    signed = release(documents, version=version, floor=version // 2)
    return Recorded({"default": signed, "platform": PLATFORM}, documents)


async def test_what_a_sidecar_acknowledged_is_on_its_disk_after_sigkill(tmp_path: Path) -> None:
    chance = random.Random(1)
    ledger = Ledger()
    async with lying() as (address, liar):
        follower = Follower("one", address, tmp_path / "state", TRUST, ledger)
        acknowledged = 0
        for _ in range(KILLS):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", FOLLOW, address, str(follower.folder), cwd=ROOT
            )
            pushing = asyncio.create_task(push(liar, ledger, acknowledged))
            try:
                async with asyncio.timeout(3 * WITHIN):
                    await liar.acknowledged.wait()
                await asyncio.sleep(chance.random() * 0.05)  # the fault: any moment after that
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                pushing.cancel()
                await asyncio.gather(pushing, return_exceptions=True)
                liar.acknowledged.clear()
            acknowledged, pushed = liar.last, ledger.newest
            saved = follower.saved()
            assert acknowledged <= saved[0] <= pushed
            # A life of its own in this process, which looks at all that it adopts.
            follower.floor = acknowledged // 2
            follower.begin()
            assert await follower.restored() is not None
            assert follower.enforced == saved[0]
            assert follower.adopted[0].floors["default"] >= acknowledged // 2
            await follower.end()


async def push(liar: Liar, ledger: Ledger, after: int) -> None:
    """One release after the other, each once the one before is acknowledged."""
    peer = await liar.stream("one")
    liar.last = after
    version = max(after, ledger.newest)
    while True:
        version += 1
        each = recorded(version)
        ledger.published[version] = contents(each.documents)
        assert not await peer.push(each)
        liar.last = version
        liar.acknowledged.set()
