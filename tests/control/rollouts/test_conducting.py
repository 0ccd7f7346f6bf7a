"""Rollouts from apply to their end: real control planes, real streams, one database or the other.

The sidecars here are real but for what they decide: that is what a test says that it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.control.server import Bound, ControlPlane
from sidecar.errors import ControlPlaneUnreachable, ReleaseRefused
from sidecar.facts.admin import AdminClient
from sidecar.facts.releases import Assignment
from sidecar.facts.reporting import Reporter
from sidecar.facts.state import StateDirectory
from sidecar.telemetry.fared import Fared
from sidecar.wire import admin_pb2 as pb
from tests.postgresql import new_database
from tests.publishing import WITHIN, Sidecar, apply, policy, running, sidecar

OLD, NEW = policy("p", path="/old"), policy("p", path="/new")


@dataclass
class Fleet:
    """Sidecars that decide as `fares` says, by the path of the policy that they enforce."""

    fares: Callable[[str], Fared] = field(default=lambda _: Fared(requests=10))
    sidecars: list[Sidecar] = field(default_factory=list)

    def add(self, address: str, count: int = 1, **settings: Any) -> None:
        for _ in range(count):
            number = len(self.sidecars)
            totals = Fared()

            async def counted(number: int = number) -> Fared:
                return await self._count(number)

            async def soon(_seconds: float) -> None:
                await asyncio.sleep(0.01)

            self._totals.append(totals)
            made = sidecar(
                address, sidecar_id=f"s{number}", reporter=Reporter(counted, soon), **settings
            )
            made.news = self.news  # what one adopts, those who wait for all hear
            self.sidecars.append(made)

    def __post_init__(self) -> None:
        self._totals: list[Fared] = []
        self.news = asyncio.Condition()

    async def _count(self, number: int) -> Fared:
        """More than before, by what is enforced there now."""
        now, more = self._totals[number], self.fares(self.path(number))
        self._totals[number] = Fared(
            now.requests + more.requests, now.refused + more.refused, now.errors + more.errors,
            now.failed_expressions + more.failed_expressions,
        )  # fmt: skip
        return self._totals[number]

    def path(self, number: int) -> str:
        adopted = self.sidecars[number].adopted
        if not adopted or not adopted[-1].documents:
            return ""
        return str(adopted[-1].documents[0].spec.rules[0].match.paths[0])  # type: ignore[union-attr]

    @property
    def paths(self) -> list[str]:
        return [self.path(number) for number in range(len(self.sidecars))]

    async def all_at(self, *paths: str) -> None:
        await self.sidecars[0].until(lambda _: sorted(self.paths) == sorted(paths))


def plan(*percents: float, **more: object) -> pb.RolloutPlan:
    settings = {"bake": 0, "min_requests": 1, **more}
    return pb.RolloutPlan(stages=[pb.Stage(percent=p) for p in percents], **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def served(url: str) -> AsyncIterator[Bound]:
    control = ControlPlane()
    bound = await control.start("127.0.0.1:0", "127.0.0.1:0", url)
    try:
        yield bound
    finally:
        await control.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else new_database()


async def rollout(address: str, condition: Callable[[pb.Rollout], bool]) -> pb.Rollout:
    """The newest, once it is as a test waits for."""
    async with AdminClient(address, timeout=WITHIN) as client, asyncio.timeout(2 * WITHIN):
        while True:
            answer = await client.rollouts(pb.RolloutsRequest())
            if answer.rollouts and condition(answer.rollouts[0]):
                return answer.rollouts[0]


async def steer(
    address: str,
    action: pb.SteerRequest.Action.ValueType,
    reason: str = "",
    namespace: str = "default",
) -> pb.Rollout:
    request = pb.SteerRequest(namespace=namespace, action=action, reason=reason)
    async with AdminClient(address, timeout=WITHIN) as client:
        return await client.steer(request)


def is_at(stage: int) -> Callable[[pb.Rollout], bool]:
    return lambda found: found.stage == stage and found.live == found.assigned > 0


def has_ended(found: pb.Rollout) -> bool:
    return found.ended > 0


async def test_it_goes_through_its_stages_and_everybody_has_it(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 10)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 10)
            answer = await apply(bound.grpc, NEW, rollout=plan(10, 50, 100))
            assert answer.outcome == pb.OUTCOME_PUBLISHED
            done = await rollout(bound.grpc, has_ended)
            assert (done.state, done.stage) == (pb.Rollout.STATE_COMPLETED, 2)
            await fleet.all_at(*["/new"] * 10)
            # Each went from the old one to the new one, and none back.
            assert [len(each.adopted) for each in fleet.sidecars] == [2] * 10


async def test_a_stage_is_as_large_as_it_says_and_waits_for_requests(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet(fares=lambda path: Fared() if path == "/new" else Fared(requests=10))
        fleet.add(bound.grpc, 10)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 10)
            await apply(bound.grpc, NEW, rollout=plan(30, 100, min_requests=5))
            held = await rollout(bound.grpc, lambda r: r.live == 3 and r.control.requests > 0)
            assert (held.assigned, held.sidecars, held.candidate.requests) == (3, 10, 0)
            assert "0 of 5 requests" in held.waits
            assert sorted(fleet.paths) == ["/new"] * 3 + ["/old"] * 7
            onward = await steer(bound.grpc, pb.SteerRequest.ACTION_RESUME)
            assert onward.stage == 1
            await fleet.all_at(*["/new"] * 10)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Fared(requests=10, refused=10), "refuses 100%"),
        (Fared(requests=10, errors=10), "error 100%"),
        (Fared(requests=10, refused=3, failed_expressions=3), "expressions fail"),
    ],
)
async def test_what_fares_badly_is_taken_back_by_itself(url: str, bad: Fared, said: str) -> None:
    async with served(url) as bound:
        fleet = Fleet(fares=lambda path: bad if path == "/new" else Fared(requests=10))
        fleet.add(bound.grpc, 4)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 4)
            await rollout_begins(bound.grpc, plan(25, 100, bake=600))
            done = await rollout(bound.grpc, has_ended)
            assert done.state == pb.Rollout.STATE_ROLLED_BACK
            assert said in done.reason
            await fleet.all_at(*["/old"] * 4)
            assert sorted(len(each.adopted) for each in fleet.sidecars) == [1, 1, 1, 3]
            async with AdminClient(bound.grpc, timeout=WITHIN) as client:
                audit = await client.audit(pb.AuditRequest(newest=True, most=1))
            assert b'"state":"rolled_back"' in audit.records[0].content
            again = await apply(bound.grpc, policy("p", path="/third"))
            assert [r.version for r in again.releases] == [3]
            await fleet.all_at(*["/third"] * 4)


async def rollout_begins(address: str, how: pb.RolloutPlan) -> None:
    answer = await apply(address, NEW, rollout=how)
    assert answer.outcome == pb.OUTCOME_PUBLISHED


async def refuse(assignment: Assignment) -> None:
    if assignment.versions.get("default") == 2:
        raise ReleaseRefused("not with me")


async def test_a_nack_takes_it_back(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 4)
        for each in fleet.sidecars:
            each.verdict = refuse
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 4)
            await rollout_begins(bound.grpc, plan(25, 100, bake=600))
            done = await rollout(bound.grpc, has_ended)
            assert done.state == pb.Rollout.STATE_ROLLED_BACK
            assert "refused by a sidecar" in done.reason
            assert "not with me" in done.reason
            assert fleet.paths == ["/old"] * 4


async def test_paused_aborted_and_labels_first(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 2, labels={"zone": "a"})
        fleet.add(bound.grpc, 2, labels={"zone": "b"})
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 4)
            stages = [pb.Stage(labels={"zone": "a"}), pb.Stage(percent=100)]
            await rollout_begins(bound.grpc, pb.RolloutPlan(stages=stages, bake=600))
            await rollout(bound.grpc, lambda r: r.live == 2)
            assert fleet.paths == ["/new", "/new", "/old", "/old"]
            held = await steer(bound.grpc, pb.SteerRequest.ACTION_PAUSE, reason="lunch")
            assert (held.state, held.reason) == (pb.Rollout.STATE_PAUSED, "lunch")
            on = await steer(bound.grpc, pb.SteerRequest.ACTION_RESUME)
            assert (on.state, on.stage) == (pb.Rollout.STATE_RUNNING, 0)
            ended = await steer(bound.grpc, pb.SteerRequest.ACTION_ABORT)
            assert ended.state == pb.Rollout.STATE_ABORTED
            await fleet.all_at(*["/old"] * 4)
            with pytest.raises(ControlPlaneUnreachable, match="nothing in default"):
                await steer(bound.grpc, pb.SteerRequest.ACTION_ABORT)


async def test_one_of_platform_concerns_every_namespace(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet(fares=lambda _: Fared(requests=10))
        fleet.add(bound.grpc, 2)
        fleet.add(bound.grpc, 2, namespace="other")
        await apply(bound.grpc, OLD, policy("p", "other"), policy("q", "platform"))
        async with running(*fleet.sidecars):
            for each in fleet.sidecars:
                await each.enforces(1, "platform")
            changed = policy("q", "platform", path="/new")
            answer = await apply(bound.grpc, changed, rollout=plan(50, 100, bake=600))
            assert answer.outcome == pb.OUTCOME_PUBLISHED
            held = await rollout(bound.grpc, lambda r: r.live == 2 and r.control.requests > 0)
            assert (held.namespace, held.sidecars, held.assigned) == ("platform", 4, 2)
            versions = [each.adopted[-1].versions["platform"] for each in fleet.sidecars]
            assert sorted(versions) == [1, 1, 2, 2]
            # Its own namespace is nobody's business: others publish meanwhile.
            assert (await apply(bound.grpc, policy("p", "other", path="/x"))).outcome == (
                pb.OUTCOME_PUBLISHED
            )
            await steer(bound.grpc, pb.SteerRequest.ACTION_RESUME, namespace="platform")
            for each in fleet.sidecars:
                await each.enforces(2, "platform")


async def test_rollback_ends_it_in_one_step(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 2)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 2)
            await rollout_begins(bound.grpc, plan(50, 100, bake=600))
            await rollout(bound.grpc, lambda r: r.live == 1)
            async with AdminClient(bound.grpc, timeout=WITHIN) as client:
                answer = await client.rollback(pb.RollbackRequest(namespace="default"))
            assert answer.outcome == pb.OUTCOME_PUBLISHED
            assert [r.version for r in answer.releases] == [1]
            await fleet.all_at("/old", "/old")


async def test_it_goes_on_where_it_was_after_a_restart(url: str, tmp_path: Path) -> None:
    fleet = Fleet()
    async with served(url) as bound:
        address = bound.grpc
        fleet.add(address, 2, state=None)
        await apply(address, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at("/old", "/old")
            await rollout_begins(address, plan(50, 100, bake=600))
            await rollout(address, lambda r: r.live == 1)
    assert sorted(fleet.paths) == ["/new", "/old"]
    enforced = fleet.paths
    again = Fleet()
    async with served(url) as bound:
        again.add(bound.grpc, 2)
        async with running(*again.sidecars):
            await again.all_at("/new", "/old")
            assert again.paths == enforced  # the same ones
            found = await rollout(bound.grpc, lambda r: r.live == 1)
            assert (found.state, found.stage) == (pb.Rollout.STATE_RUNNING, 0)
            await steer(bound.grpc, pb.SteerRequest.ACTION_ABORT)
            await again.all_at("/old", "/old")


async def test_what_it_is_compared_with_outlives_the_control_plane(url: str) -> None:
    """In the last stage nobody has the old one any more; and a restart does not excuse the new."""
    fleet = Fleet()
    async with served(url) as bound:
        fleet.add(bound.grpc, 2)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at("/old", "/old")
            await rollout_begins(bound.grpc, plan(50, 100, bake=600))
            await rollout(bound.grpc, lambda r: r.control.requests > 400)
            await steer(bound.grpc, pb.SteerRequest.ACTION_RESUME)
            await rollout(bound.grpc, is_at(1))
    again = Fleet(fares=lambda _: Fared(requests=10, refused=10))
    async with served(url) as bound:
        again.add(bound.grpc, 2)
        async with running(*again.sidecars):
            done = await rollout(bound.grpc, has_ended)
            assert done.state == pb.Rollout.STATE_ROLLED_BACK
            assert "refuses 100%" in done.reason


async def refuse_all(_: Assignment) -> None:
    raise ReleaseRefused("signed by nobody that is trusted here")


async def test_one_that_enforces_nothing_is_no_reason_and_is_not_waited_for(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 3)
        fleet.sidecars[0].verdict = refuse_all
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.sidecars[0].until(lambda _: sorted(fleet.paths) == ["", "/old", "/old"])
            await rollout_begins(bound.grpc, plan(50, 100))
            done = await rollout(bound.grpc, has_ended)
            assert done.state == pb.Rollout.STATE_COMPLETED
            assert "1 sidecar enforces nothing and is left out" in done.reason
            await fleet.all_at("", "/new", "/new")


async def test_nobody_is_heard_about_more_requests_than_their_like(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet(fares=lambda path: Fared(1 << 30) if path == "/new" else Fared(10))
        fleet.add(bound.grpc, 2)
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at("/old", "/old")
            await rollout_begins(bound.grpc, plan(50, 100, bake=600))
            held = await rollout(bound.grpc, lambda r: r.candidate.requests > 0)
            assert held.candidate.requests < 1_000_000


async def test_a_sidecar_that_restarts_in_a_rollout_is_where_it_was(
    url: str, tmp_path: Path
) -> None:
    """Its last-known-good is the newer one; once that is taken back it goes back, too."""
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 1, state=StateDirectory.open(tmp_path / "state"))
        await apply(bound.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at("/old")
            await rollout_begins(bound.grpc, plan(50, 100, bake=600))
            await fleet.all_at("/new")
        await steer(bound.grpc, pb.SteerRequest.ACTION_ABORT)
        async with running(*fleet.sidecars):
            await fleet.all_at("/old")


@pytest.fixture
def shared() -> str:
    return new_database()


async def test_with_several_replicas_one_answer_and_one_rollback(shared: str) -> None:
    async with served(shared) as one, served(shared) as other:
        bad = Fared(requests=10, refused=10)
        fleet = Fleet(fares=lambda path: bad if path == "/new" else Fared(requests=10))
        fleet.add(one.grpc, 3)
        fleet.add(other.grpc, 3)
        await apply(one.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 6)
            for bound in (one, other):
                await enforced(bound.grpc, 1, 6)
            await rollout_begins(other.grpc, plan(34, 100, bake=600))
            for bound in (one, other):
                done = await rollout(bound.grpc, has_ended)
                assert done.state == pb.Rollout.STATE_ROLLED_BACK
            await fleet.all_at(*["/old"] * 6)
            async with AdminClient(one.grpc, timeout=WITHIN) as client:
                records = (await client.audit(pb.AuditRequest())).records
            ends = [each for each in records if b"rolled_back" in each.content]
            assert len(ends) == 1


async def test_with_several_replicas_stages_wait_for_all_sidecars(shared: str) -> None:
    async with served(shared) as one, served(shared) as other:
        fleet = Fleet()
        fleet.add(one.grpc, 2)
        fleet.add(other.grpc, 4)
        await apply(one.grpc, OLD)
        async with running(*fleet.sidecars):
            await fleet.all_at(*["/old"] * 6)
            await enforced(one.grpc, 1, 6)
            await rollout_begins(one.grpc, plan(50, 100))
            done = await rollout(other.grpc, has_ended)
            assert done.state == pb.Rollout.STATE_COMPLETED
            await fleet.all_at(*["/new"] * 6)
            await enforced(other.grpc, 2, 6)


async def enforced(address: str, version: int, count: int) -> None:
    """ "Is my change live?", asked at one replica, of all."""
    async with AdminClient(address, timeout=WITHIN) as client:
        wanted = pb.Release(namespace="default", version=version)
        async for (reach,) in client.watch([wanted], within=WITHIN):
            if reach.live == reach.sidecars == count:
                return
    raise AssertionError(f"{version}: {reach}")


async def test_live_is_what_builds_on_it(url: str) -> None:
    async with served(url) as bound:
        fleet = Fleet()
        fleet.add(bound.grpc, 2)
        async with running(*fleet.sidecars):
            for path in ("/old", "/new", "/third"):
                await apply(bound.grpc, policy("p", path=path))
            await fleet.all_at("/third", "/third")
            assert await live(bound.grpc, 1, 2, 3) == [2, 2, 2]
            async with AdminClient(bound.grpc, timeout=WITHIN) as client:
                await client.rollback(pb.RollbackRequest(namespace="default", to=1))
            await fleet.all_at("/old", "/old")
            # 4 restores 1: what 2 and 3 changed is nowhere any more.
            assert await live(bound.grpc, 1, 2, 3, 4) == [2, 0, 0, 2]


async def live(address: str, *versions: int) -> Sequence[int]:
    wanted = [pb.Release(namespace="default", version=version) for version in versions]
    async with AdminClient(address, timeout=WITHIN) as client:
        async for reaches in client.watch(wanted, within=WITHIN):
            if max(reach.live for reach in reaches) == 2:
                return [reach.live for reach in reaches]
    raise AssertionError
