"""A whole control plane over loopback: apply, stream, ack, status; restarts; its HTTP side."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.control.server import ControlPlane
from sidecar.decide.compile import compile_snapshot
from sidecar.errors import ControlPlaneUnreachable, DocumentsInvalid, Misuse, Problem
from sidecar.facts.admin import AdminClient
from sidecar.facts.releases import Assignment
from sidecar.facts.signing import TrustedKeys, load_public_keys
from sidecar.facts.state import StateDirectory
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, FromSidecar, Hello, Subscription
from sidecar.wire.discovery_pb2_grpc import DiscoveryStub
from tests.publishing import (
    WITHIN,
    apply,
    names,
    plane,
    policy,
    reached,
    running,
    sidecar,
    status,
)


def current(reach: pb.Progress.Reach) -> bool:
    return reach.sidecars > 0 and reach.live == reach.sidecars


async def metrics(address: str) -> dict[str, float]:
    async with ClientSession() as session, session.get(f"http://{address}/metrics") as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


async def test_apply_reaches_the_sidecars_whom_it_concerns(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        ours = sidecar(bound.grpc, sidecar_id="ours", labels={"app": "a"})
        other = sidecar(bound.grpc, sidecar_id="other", namespace="other")
        async with running(ours, other):
            answer = await apply(bound.grpc, policy("a", selector={"app": "a"}), policy("b"))
            assert answer.outcome == pb.OUTCOME_PUBLISHED
            assert [(r.namespace, r.version, r.documents) for r in answer.releases] == [
                ("default", 1, 2)
            ]
            await ours.enforces(1)
            assert ours.names == ["a", "b"]
            reach = await reached(bound.grpc, current)
            assert (reach.live, reach.sidecars) == (1, 1)
            shown = await status(bound.grpc)
            mine, theirs = shown.sidecars
            assert (mine.sidecar_id, mine.namespace, dict(mine.labels)) == (
                "ours", "default", {"app": "a"},
            )  # fmt: skip
            assert mine.build == "test"
            assert mine.address.startswith("127.0.0.1:")
            assert mine.current
            assert convert.versions_from_wire(mine.enforced) == {"default": 1, "platform": 0}
            assert mine.enforced == mine.assigned
            assert not theirs.current
            assert not theirs.assigned
            assert len((await status(bound.grpc, namespace="other")).sidecars) == 1
            assert len((await status(bound.grpc, sidecar_id="ours")).sidecars) == 1
            await apply(bound.grpc, policy("every", "platform"), policy("o", "other"))
            await ours.enforces(1, "platform")
            await other.enforces(1, "platform")
            assert names(ours.adopted[-1].documents) == ["every", "a", "b"]
            assert names(other.adopted[-1].documents) == ["every", "o"]


async def test_a_nack_keeps_the_last_valid_release_and_is_shown(tmp_path: Path) -> None:
    async def refuse_second(assignment: Assignment) -> None:
        if assignment.versions["default"] == 2:
            raise DocumentsInvalid([Problem("not with me", document="AccessPolicy/default/p")])

    async with plane(tmp_path) as (_, bound):
        one = sidecar(bound.grpc)
        one.verdict = refuse_second
        async with running(one):
            await apply(bound.grpc, policy(path="/1"))
            await one.enforces(1)
            await apply(bound.grpc, policy(path="/2"))
            reach = await reached(bound.grpc, lambda reach: bool(reach.refused), version=2)
            assert (reach.live, reach.sidecars, reach.refused) == (0, 1, 1)
            assert "not with me" in reach.errors[0]
            shown = (await status(bound.grpc)).sidecars[0]
            assert not shown.current
            assert "not with me" in shown.last_error
            assert convert.versions_from_wire(shown.enforced)["default"] == 1
            assert convert.versions_from_wire(shown.assigned)["default"] == 2
            assert one.adopted[-1].documents == (policy(path="/1"),)
            assert (await metrics(bound.http))["sidecar_control_nacks_total"] == 1
            await apply(bound.grpc, policy(path="/3"))
            await reached(bound.grpc, current, version=3)
            assert (await status(bound.grpc)).sidecars[0].last_error == ""


async def test_many_applies_during_a_slow_ack_become_one_push(tmp_path: Path) -> None:
    slow, go_on = asyncio.Event(), asyncio.Event()

    async def linger(_assignment: Assignment) -> None:
        slow.set()
        await go_on.wait()

    async with plane(tmp_path) as (_, bound):
        one = sidecar(bound.grpc)
        one.verdict = linger
        async with running(one):
            await apply(bound.grpc, policy())
            async with asyncio.timeout(WITHIN):
                await slow.wait()
            for number in range(20):
                await apply(bound.grpc, policy(path=f"/{number}"))
            go_on.set()
            await one.enforces(21)
            await reached(bound.grpc, current, version=21)
            assert [a.versions["default"] for a in one.adopted] == [1, 21]
            assert (await metrics(bound.http))["sidecar_control_pushes_total"] == 2


async def test_a_reconnect_sends_only_what_changed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    state = StateDirectory.open(tmp_path / "state")
    async with plane(tmp_path) as (_, bound):
        one = sidecar(bound.grpc, state=state)
        async with running(one):
            await apply(bound.grpc, policy("a"), policy("b"))
            await reached(bound.grpc, current)
        await apply(bound.grpc, policy("b", path="/new"))
        again = sidecar(bound.grpc, state=state)
        await again.client.restore()
        received: list[list[str]] = []
        answer = again.client._answer

        async def spy(push: Any) -> FromSidecar:
            received.append(sorted(resource.name for resource in push.resources))
            return await answer(push)

        again.client._answer = spy  # type: ignore[method-assign]
        async with running(again):
            await reached(bound.grpc, current, version=2)
            assert received == [["document/AccessPolicy/default/b", "manifest/default"]]
            assert again.names == ["a", "b"]
        third = sidecar(bound.grpc, state=state)
        async with running(third):
            await reached(bound.grpc, current, version=2)  # from its Hello alone
            assert (await metrics(bound.http))["sidecar_control_pushes_total"] == 2
    state.close()


async def test_a_restart_keeps_releases_and_sidecars_come_back(tmp_path: Path) -> None:
    async with plane(tmp_path) as (first, bound):
        one = sidecar(bound.grpc, trust=TrustedKeys(load_public_keys(first.trust_pem)))
        one.start()
        await apply(bound.grpc, policy("a"), policy("b", "platform"))
        await reached(bound.grpc, current)
    assert one.names == ["b", "a"]
    async with plane(tmp_path, listen=bound.grpc) as (second, bound):
        assert second.trust_pem == first.trust_pem
        assert (tmp_path / "store.db.trust.pem").read_bytes() == first.trust_pem
        await reached(bound.grpc, current)
        await apply(bound.grpc, policy("c"))
        await one.enforces(2)
        assert one.names == ["b", "a", "c"]
        assert [a.versions["default"] for a in one.adopted] == [1, 2]
        await one.stop()


async def test_a_control_plane_with_another_key_is_not_believed(tmp_path: Path) -> None:
    async with plane(tmp_path / "one") as (_, bound):
        one = sidecar(bound.grpc)
        one.start()
        await apply(bound.grpc, policy("ours"))
        await reached(bound.grpc, current)
    async with plane(tmp_path / "two", listen=bound.grpc) as (_, bound):
        await apply(bound.grpc, policy("theirs"))
        reach = await reached(bound.grpc, lambda reach: reach.refused == 1)
        assert "trusted keys" in reach.errors[0]
        assert one.names == ["ours"]
        await one.stop()


async def test_what_does_not_compile_is_refused_with_its_place(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        answer = await apply(bound.grpc, policy("good"), policy("bad", when="nonsense == 1"))
        assert answer.outcome == pb.OUTCOME_REFUSED
        problem = answer.problems[0]
        assert (problem.document, problem.pointer) == (
            "AccessPolicy/default/bad", "spec.rules[0].when",
        )  # fmt: skip
        assert not (await status(bound.grpc, namespace="default")).releases
        counted = await metrics(bound.http)
        assert counted['sidecar_control_apply_total{outcome="refused"}'] == 1
        assert counted["sidecar_control_releases_total"] == 0


async def test_what_is_pushed_compiles(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        one = sidecar(bound.grpc)

        async def compiled(assignment: Assignment) -> None:
            compile_snapshot(
                assignment.documents, namespace="default", labels={}, version=assignment.version
            )

        one.verdict = compiled
        async with running(one):
            await apply(bound.grpc, policy("a"), policy("b", "platform"))
            await reached(bound.grpc, current)


async def test_a_second_stream_of_the_same_sidecar_replaces_the_first(tmp_path: Path) -> None:
    paused = asyncio.Event()

    async def sleep(_pause: float) -> None:
        paused.set()
        await asyncio.get_running_loop().create_future()

    async with plane(tmp_path) as (_, bound):
        await apply(bound.grpc, policy())
        one, two = sidecar(bound.grpc, sleep=sleep), sidecar(bound.grpc)
        async with running(one):
            await one.enforces(1)
            async with running(two):
                await two.enforces(1)
                async with asyncio.timeout(WITHIN):
                    await paused.wait()
                assert "same sidecar id" in one.client.last_error
                assert len((await status(bound.grpc)).sidecars) == 1
                await reached(bound.grpc, current)


async def test_a_sidecar_that_leaves_is_not_counted(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        await apply(bound.grpc, policy())
        one, two = sidecar(bound.grpc), sidecar(bound.grpc, sidecar_id="two")
        async with running(one):
            async with running(two):
                await reached(bound.grpc, lambda reach: reach.live == 2)
            await reached(bound.grpc, lambda reach: (reach.live, reach.sidecars) == (1, 1))


async def test_streams_are_bounded_and_a_bad_hello_is_refused(tmp_path: Path) -> None:
    async def refusal(address: str, *messages: FromSidecar) -> tuple[grpc.StatusCode, str]:
        async with aio.insecure_channel(address) as channel:
            stream = DiscoveryStub(channel).Stream(iter(messages))
            with pytest.raises(aio.AioRpcError) as error:
                async for _ in stream:
                    pass
        return error.value.code(), str(error.value.details())

    hello = Hello(
        sidecar_id="x", namespace="default", subscriptions=[Subscription(type=convert.RELEASE)]
    )
    async with plane(tmp_path, max_streams=1) as (_, bound):
        assert await refusal(bound.grpc, FromSidecar(ack=Ack())) == (
            grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a Hello",
        )  # fmt: skip
        assert (await refusal(bound.grpc))[0] is grpc.StatusCode.INVALID_ARGUMENT
        code, reason = await refusal(bound.grpc, FromSidecar(hello=Hello(sidecar_id="x")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "namespace" in reason
        twice = [FromSidecar(hello=hello)] * 2
        assert await refusal(bound.grpc, *twice) == (grpc.StatusCode.ABORTED, "a second Hello")
        await apply(bound.grpc, policy())
        one = sidecar(bound.grpc)
        async with running(one):
            await one.enforces(1)
            code, reason = await refusal(bound.grpc, FromSidecar(hello=hello))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await metrics(bound.http))["sidecar_control_streams_refused_total"] == 4


async def test_get_filters_and_answers_in_order(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        documents = [policy("b"), policy("a"), policy("c", "other"), policy("z", "platform")]
        await apply(bound.grpc, *documents)
        async with AdminClient(bound.grpc, timeout=WITHIN) as client:

            async def got(**fields: Any) -> list[bytes]:
                return list((await client.get(pb.GetRequest(**fields))).documents)

            b, a, c, z = (document.canonical for document in documents)
            assert await got() == [a, b, c, z]
            assert await got(namespace="default") == [a, b]
            assert await got(name="c") == [c]
            assert await got(kind="AccessPolicy", namespace="platform") == [z]
            assert await got(kind="TokenIssuer") == []
            releases = (await client.get(pb.GetRequest(namespace="other"))).releases
            assert [(r.namespace, r.version, r.documents) for r in releases] == [("other", 1, 1)]


async def test_http_says_alive_ready_and_how_much(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        await apply(bound.grpc, policy())
        one = sidecar(bound.grpc)
        async with running(one):
            await reached(bound.grpc, current)
            async with ClientSession() as session:
                for path in ("/healthz", "/readyz"):
                    async with session.get(f"http://{bound.http}{path}") as response:
                        assert response.status == 200
            counted = await metrics(bound.http)
            assert counted["sidecar_control_streams"] == 1
            assert counted["sidecar_control_streams_current"] == 1
            assert counted["sidecar_control_acks_total"] == 1
            assert counted["sidecar_control_releases_total"] == 1
            assert counted['sidecar_control_apply_total{outcome="published"}'] == 1
            assert counted['sidecar_control_release_version{namespace="default"}'] == 1


async def test_grpc_health_and_reflection(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound), aio.insecure_channel(bound.grpc) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="sidecar.v1.Discovery")
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for found in stub.ServerReflectionInfo(iter([request])):
            services = {service.name for service in found.list_services_response.service}
            assert {"sidecar.v1.Admin", "sidecar.v1.Discovery"} <= services


async def test_a_taken_port_says_what_to_change(tmp_path: Path) -> None:
    async with plane(tmp_path / "one") as (_, bound):
        store = f"sqlite:///{tmp_path / 'two.db'}"
        for listen, http, flag in (
            (bound.grpc, None, "--listen"),
            ("127.0.0.1:0", bound.http, "--http"),
        ):
            with pytest.raises(Misuse, match=f"already in use; choose another with {flag}"):
                await ControlPlane().start(listen, http, store)
        second = ControlPlane()  # what the failed starts had opened is closed again
        await second.start("127.0.0.1:0", None, store)
        await second.stop()


async def test_beyond_loopback_it_takes_an_insecure_setting(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    with pytest.raises(Misuse, match="insecure"):
        await ControlPlane().start("0.0.0.0:0", None, store)
    assert not (tmp_path / "store.db").exists()
    control = ControlPlane()
    bound = await control.start("0.0.0.0:0", None, store, insecure_unauthenticated=True)
    assert bound.grpc.startswith("0.0.0.0:")
    await control.stop()


async def test_an_apply_whose_caller_hangs_up_is_either_whole_or_not_there(tmp_path: Path) -> None:
    async with plane(tmp_path) as (_, bound):
        one = sidecar(bound.grpc)
        async with running(one):
            await apply(bound.grpc, policy("first"))
            hung_up = asyncio.create_task(apply(bound.grpc, policy("second")))
            await asyncio.sleep(0)
            hung_up.cancel()
            await asyncio.gather(hung_up, return_exceptions=True)
            await apply(bound.grpc, policy("third"))
            await one.until(lambda one: bool(one.adopted) and "third" in one.names)
            shown = await status(bound.grpc, namespace="default")
            assert shown.releases[0].documents == len(one.names)


async def test_a_version_that_cannot_be_is_refused_and_not_a_mistake_of_ours(
    tmp_path: Path,
) -> None:
    most = (1 << 64) - 1
    async with plane(tmp_path) as (_, bound), AdminClient(bound.grpc, timeout=WITHIN) as client:
        await apply(bound.grpc, policy())
        for asking in (
            client.history(pb.HistoryRequest(namespace="default", before=most)),
            client.get(pb.GetRequest(namespace="default", version=most)),
            client.rollback(pb.RollbackRequest(namespace="default", to=most)),
        ):
            with pytest.raises(ControlPlaneUnreachable, match="larger than any version"):
                await asking


async def test_a_watch_of_everything_there_could_be_is_refused(tmp_path: Path) -> None:
    wanted = [pb.Release(namespace=f"n{number}", version=1) for number in range(1001)]
    async with plane(tmp_path) as (_, bound), AdminClient(bound.grpc, timeout=WITHIN) as client:
        with pytest.raises(ControlPlaneUnreachable, match="at most 1000"):
            async for _reaches in client.watch(wanted, within=WITHIN):
                pass
        async for reaches in client.watch(wanted[:1000], within=WITHIN):
            assert len(reaches) == 1000
            break
