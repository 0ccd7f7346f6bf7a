"""Several control planes on one PostgreSQL: what one makes durable, the sidecars of all get."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import make_url

from sidecar.control.announcements import Announcements
from sidecar.control.revocations import RevocationLog, Withdrawal
from sidecar.control.server import Bound, ControlPlane
from sidecar.control.store import Store
from sidecar.control.withdraw import Withdrawer
from sidecar.decide.revocations import Revocation, Revocations
from sidecar.facts.revocations import RevocationList
from sidecar.wire import admin_pb2 as pb
from tests.postgresql import new_database
from tests.publishing import WITHIN, apply, policy, reached, revoke, running, sidecar, soon


@pytest.fixture
def url() -> str:
    return new_database()


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[Bound]:
    control = ControlPlane()
    bound = await control.start("127.0.0.1:0", None, url)
    try:
        yield bound
    finally:
        await control.stop()


async def test_replicas_that_begin_together_on_an_empty_database_agree(url: str) -> None:
    stores = await asyncio.gather(*(Store.open(url) for _ in range(4)))
    assert len({store.public_keys for store in stores}) == 1
    assert len(stores[0].public_keys) == 1
    for store in stores:
        await store.close()


async def test_a_release_reaches_the_sidecars_of_every_replica(url: str) -> None:
    async with replica(url) as one, replica(url) as other:
        near, far = sidecar(one.grpc), sidecar(other.grpc, sidecar_id="two")
        async with running(near, far):
            await apply(one.grpc, policy("a"))
            await near.enforces(1)
            await far.enforces(1)
            # Whoever asks the other replica builds on what the first has published.
            await apply(other.grpc, policy("b"))
            await near.enforces(2)
            await far.enforces(2)
            assert near.names == far.names == ["a", "b"]
            await reached(one.grpc, lambda reach: reach.live == reach.sidecars == 1, version=2)


async def test_publishers_at_two_replicas_never_overwrite_each_other(url: str) -> None:
    async with replica(url) as one, replica(url) as other:

        async def published(number: int) -> int:
            """Its version; one who lost to others tries again, as people would."""
            while True:
                answer = await apply((one, other)[number % 2].grpc, policy(f"p{number}"))
                if answer.outcome == pb.OUTCOME_PUBLISHED:
                    return answer.releases[0].version
                assert answer.outcome == pb.OUTCOME_CONFLICT

        versions = await asyncio.gather(*(published(n) for n in range(10)))
        assert sorted(versions) == list(range(1, 11))
        last = sidecar(one.grpc)
        async with running(last):
            await last.enforces(10)
            assert last.names == [f"p{n}" for n in range(10)]


async def test_a_withdrawal_reaches_the_sidecars_of_every_replica(url: str) -> None:
    withdrawn: dict[str, list[Revocation]] = {"near": [], "far": []}

    def taking(name: str) -> RevocationList:
        async def take(revocations: Sequence[Revocation]) -> None:
            withdrawn[name].extend(revocations)

        return RevocationList(Revocations(), take, None)

    async with replica(url) as one, replica(url) as other:
        near = sidecar(one.grpc, revocations=taking("near"))
        far = sidecar(other.grpc, sidecar_id="two", revocations=taking("far"))
        async with running(near, far):
            await apply(one.grpc, policy("a"))
            numbers = [await revoke((one, other)[n % 2].grpc, token(n)) for n in range(6)]
            assert numbers == [1, 2, 3, 4, 5, 6]
            await soon(
                lambda: all(len(each) == 6 for each in withdrawn.values()),
                lambda: asyncio.sleep(0),
            )
            assert withdrawn["near"] == withdrawn["far"]


def token(number: int) -> pb.Withdrawal:
    return pb.Withdrawal(
        kind=pb.Withdrawal.KIND_TOKEN, issuer="i", value=f"t{number}",
        expires=int(time.time()) + 3600,
    )  # fmt: skip


async def test_numbers_follow_on_each_other_whoever_withdraws(url: str) -> None:
    stores = [await Store.open(url, clock=lambda: 1000.0) for _ in range(2)]
    made = await asyncio.gather(
        *(
            stores[n % 2].withdraw([Withdrawal("token", "i", f"t{n}", None, 2000, "test", "")])
            for n in range(20)
        )
    )
    assert sorted(each.number for one in made for each in one) == list(range(1, 21))
    assert [each.number for each in await stores[0].withdrawn(after=17)] == [18, 19, 20]
    for store in stores:
        await store.close()


async def test_what_another_withdrew_before_is_not_passed_over(url: str) -> None:
    """Not even if its announcement comes after our own withdrawal, or never."""
    stores = [await Store.open(url, clock=lambda: 1000.0) for _ in range(2)]
    log = RevocationLog()
    ours = Withdrawer(stores[0], log, lambda: None, lambda: 1000.0)
    await stores[1].withdraw([Withdrawal("token", "i", "theirs", None, 2000, "test", "")])
    assert await ours.withdraw([Withdrawal("token", "i", "ours", None, 2000, "test", "")]) == 2
    found, _ = ours.listed("", "", 10)
    assert [(each.number, each.withdrawal.value) for each in found] == [(2, "ours"), (1, "theirs")]
    for store in stores:
        await store.close()


async def test_a_rotated_key_is_every_replicas(url: str) -> None:
    stores = [await Store.open(url) for _ in range(2)]
    new = await stores[0].rotate_key()
    await stores[1].revisions()
    assert stores[1].public_keys == stores[0].public_keys
    assert stores[1].public_keys[-1] == new
    assert stores[1].endorsements == stores[0].endorsements
    newer = await stores[1].rotate_key()
    await stores[0].revisions()
    assert stores[0].public_keys[-2:] == (new, newer)
    for store in stores:
        await store.close()


async def test_what_was_said_while_the_connection_was_lost_is_not_missed(url: str) -> None:
    looked = asyncio.Semaphore(0)

    async def changed(about: frozenset[str]) -> None:
        looked.release()

    heard = Announcements(make_url(url), changed)
    listening = asyncio.create_task(heard.run())
    try:
        async with asyncio.timeout(WITHIN):
            await looked.acquire()  # it has just connected
            store = await Store.open(url)
            connection = await asyncpg.connect(url)
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
            )
            await looked.acquire()  # it has connected again, and looks at everything
            await connection.close()
            await store.close()
            await asyncio.wait_for(heard.listening.wait(), WITHIN)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
