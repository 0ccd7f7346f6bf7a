"""A control plane killed in the middle of applies: what it acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from sidecar.control.store import Store
from sidecar.decide.compile import compile_snapshot
from sidecar.errors import ControlPlaneUnreachable
from sidecar.facts.admin import AdminClient
from sidecar.wire import admin_pb2 as pb
from tests.publishing import WITHIN, policy, running, sidecar

ROOT = Path(__file__).parents[2]
SERVE = """
import asyncio, sys
from sidecar.control.server import ControlPlane

async def serve():
    plane = ControlPlane()  # held: a server that nobody holds is collected
    bound = await plane.start("127.0.0.1:0", None, sys.argv[1])
    print(bound.grpc, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


async def serve(url: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, url, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        address = (await process.stdout.readline()).decode().strip()
    return process, address


async def publish(address: str, publisher: int, acknowledged: dict[str, str], rounds: int) -> None:
    """Applies one document again and again until the control plane is gone."""
    async with AdminClient(address, timeout=WITHIN) as client:
        for number in range(rounds):
            document = policy(f"p{publisher}", path=f"/{number}")
            answer = await client.apply(pb.ApplyRequest(documents=[document.canonical]))
            assert answer.outcome == pb.OUTCOME_PUBLISHED
            acknowledged[document.ref] = document.digest


@pytest.mark.parametrize("kill_after", [1, 20])
async def test_sigkill_loses_no_acknowledged_release_and_no_sidecar(
    tmp_path: Path, kill_after: int
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    process, address = await serve(url)
    one = sidecar(address)
    acknowledged: dict[str, str] = {}
    async with running(one):
        publishing = [
            asyncio.create_task(publish(address, number, acknowledged, 10_000))
            for number in range(3)
        ]
        await one.enforces(kill_after)
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(WITHIN):
            await process.wait()
        ends = await asyncio.gather(*publishing, return_exceptions=True)
        assert all(isinstance(end, ControlPlaneUnreachable) for end in ends)
        compile_snapshot(one.adopted[-1].documents, namespace="default", labels={})

    store = await Store.open(url)
    newest = (await store.newest(["default"]))[0]
    await store.close()
    published = {document.ref: document.digest for document in newest.documents}
    assert newest.version >= one.adopted[-1].versions["default"]
    # Each publisher awaits every answer, so at most its very last apply is newer than acknowledged.
    for ref, digest in acknowledged.items():
        newer = policy(ref.rpartition("/")[2], path=f"/{_round(digest, ref) + 1}").digest
        assert published[ref] in (digest, newer)

    process, address = await serve(url)
    again = sidecar(address)
    async with running(again):
        await again.enforces(newest.version)
        assert {d.ref: d.digest for d in again.adopted[-1].documents} == published
    process.terminate()
    await process.wait()


def _round(digest: str, ref: str) -> int:
    """Which round's document it is."""
    name = ref.rpartition("/")[2]
    return next(n for n in range(10_000) if policy(name, path=f"/{n}").digest == digest)
