"""The sidecar's end of the stream, against a Discovery service that the test plays."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from sidecar.decide.documents import Document
from sidecar.errors import DocumentsInvalid, Problem
from sidecar.facts.releases import Assignment, Manifest, SignedManifest
from sidecar.facts.signing import TrustedKeys, raw_public_key
from sidecar.facts.state import StateDirectory
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Idle, Push, Resource
from sidecar.wire.discovery_pb2_grpc import DiscoveryServicer, add_DiscoveryServicer_to_server
from tests.publishing import KEY, OTHER_KEY, WITHIN, policy, release, running, sidecar

PLATFORM = release(namespace="platform", version=0)


class Stage(DiscoveryServicer):
    """Each stream is handed to the test, which reads and writes on it."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Peer] = asyncio.Queue()

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        stream = Peer(context)
        self.streams.put_nowait(stream)
        reader = asyncio.create_task(stream.fill(request_iterator))
        await stream.end.wait()
        reader.cancel()

    async def next(self) -> Peer:
        async with asyncio.timeout(WITHIN):
            return await self.streams.get()


class Peer:
    def __init__(self, context: Any) -> None:
        self.context = context
        self.received: asyncio.Queue[FromSidecar] = asyncio.Queue()
        self.nonces = 0
        self.end = asyncio.Event()

    async def fill(self, requests: Any) -> None:
        async for message in requests:
            self.received.put_nowait(message)

    async def read(self) -> FromSidecar:
        async with asyncio.timeout(WITHIN):
            return await self.received.get()

    async def push(
        self,
        *manifests: SignedManifest,
        documents: tuple[Document, ...] = (),
        removed: tuple[str, ...] = (),
    ) -> FromSidecar:
        """Sends a push and reads its answer."""
        self.nonces += 1
        resources = [
            Resource(
                name=convert.manifest_name(Manifest.from_bytes(m.manifest).namespace),
                manifest=convert.signed_to_wire(m.manifest, m.signatures),
            )
            for m in manifests
        ] + [
            Resource(name=convert.document_name(d.ref), version=d.digest, document=d.canonical)
            for d in documents
        ]
        await self.send(resources, removed)
        answer = await self.read()
        part = answer.ack if answer.HasField("ack") else answer.nack
        assert part.nonce == str(self.nonces)
        return answer

    async def send(self, resources: list[Resource], removed: tuple[str, ...] = ()) -> None:
        await self.context.write(
            FromControl(
                push=Push(
                    type=convert.RELEASE,
                    nonce=str(self.nonces),
                    resources=resources,
                    removed=removed,
                )
            )
        )


@asynccontextmanager
async def staged(port: int = 0) -> AsyncIterator[tuple[str, Stage]]:
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    stage = Stage()
    add_DiscoveryServicer_to_server(stage, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}", stage
    finally:
        await server.stop(None)


@pytest.fixture
async def stage() -> AsyncIterator[tuple[str, Stage]]:
    async with staged() as started:
        yield started


async def test_hello_says_who_it_is_and_a_release_is_adopted_and_acknowledged(
    stage: tuple[str, Stage],
) -> None:
    one = sidecar(stage[0], labels={"app": "a"})
    async with running(one):
        stream = await stage[1].next()
        hello = (await stream.read()).hello
        assert (hello.sidecar_id, hello.namespace, dict(hello.labels)) == (
            "one", "default", {"app": "a"},
        )  # fmt: skip
        assert hello.build == "test"
        assert [s.type for s in hello.subscriptions] == [convert.RELEASE]
        assert not hello.enforced
        answer = await stream.push(PLATFORM, release([policy()]), documents=(policy(),))
        assert convert.enforced_from_wire(answer.ack.enforced) == {"default": 1, "platform": 0}
        assert not answer.ack.warning
    assert one.adopted[0].documents == (policy(),)
    assert one.client.acks == 1
    assert one.client.nacks == 0
    assert not one.client.connected


@pytest.mark.parametrize(
    ("manifests", "documents", "error"),
    [
        ((PLATFORM, release([policy()])), (), "missing"),
        ((PLATFORM, release([policy()])), (policy(), policy("extra")), "not part"),
        ((PLATFORM, release([policy()])), (policy(path="/x"),), "altered"),
        ((PLATFORM, release(key=OTHER_KEY)), (), "trusted keys"),
        ((release(),), (), "expected manifests"),
    ],
)
async def test_a_release_that_does_not_verify_is_refused_and_the_one_before_stays(
    stage: tuple[str, Stage],
    manifests: tuple[SignedManifest, ...],
    documents: tuple[Document, ...],
    error: str,
) -> None:
    one = sidecar(stage[0], trust=TrustedKeys(frozenset([raw_public_key(KEY)])))
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        answer = await stream.push(*manifests, documents=documents)
        assert error in answer.nack.error
        assert not one.adopted
        assert one.client.last_error == answer.nack.error
        assert one.client.connected
        answer = await stream.push(PLATFORM, release([policy("good")]), documents=(policy("good"),))
        assert answer.HasField("ack")
        assert one.client.last_error == ""
        answer = await stream.push(*manifests, documents=documents)
        assert answer.HasField("nack")
    assert one.names == ["good"]
    assert one.client.nacks == 2


async def test_bytes_that_make_no_sense_are_refused_and_the_stream_goes_on(
    stage: tuple[str, Stage],
) -> None:
    one = sidecar(stage[0])
    nonsense = [
        Resource(name="document/AccessPolicy/default/p", document=b"\xff"),
        Resource(name="document/AccessPolicy/default/p", document=b"{}"),
        Resource(name="document/AccessPolicy/default/p", document=policy().canonical + b" "),
        Resource(name="document/AccessPolicy/default/q", document=policy().canonical),
        Resource(name="manifest/default"),
        Resource(name="manifest/default", manifest=convert.signed_to_wire(b"{}", [(b"", b"")])),
    ]
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        for resource in nonsense:
            stream.nonces += 1
            await stream.send([resource])
            assert (await stream.read()).nack.nonce == str(stream.nonces)
        await stream.context.write(FromControl())
        await stream.context.write(FromControl(push=Push(type=99, nonce="x")))  # type: ignore[arg-type]
        answer = await stream.push(PLATFORM, release())
        assert answer.HasField("ack")


async def test_nothing_is_read_that_no_trusted_key_vouches_for(stage: tuple[str, Stage]) -> None:
    one = sidecar(stage[0], trust=TrustedKeys(frozenset([raw_public_key(KEY)])))
    deep = replace(policy(), canonical=b"[" * 100_000)
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        answer = await stream.push(PLATFORM, release(key=OTHER_KEY), documents=(deep,))
        assert "trusted keys" in answer.nack.error
        answer = await stream.push(PLATFORM, release([policy()]), documents=(deep,))
        assert "altered" in answer.nack.error
        vouched = replace(deep, digest=hashlib.sha256(deep.canonical).hexdigest())
        answer = await stream.push(PLATFORM, release([vouched]), documents=(vouched,))
        assert "nested more than" in answer.nack.error


async def test_what_adopt_raises_is_the_nack_whatever_it_is(stage: tuple[str, Stage]) -> None:
    one = sidecar(stage[0])
    errors: list[Exception] = [
        DocumentsInvalid([Problem("no such function", document="AccessPolicy/default/p")]),
        RuntimeError("a bug of ours"),
    ]

    async def refuse(_assignment: Assignment) -> None:
        raise errors[0]

    one.verdict = refuse
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        assert "no such function" in (await stream.push(PLATFORM, release())).nack.error
        errors.pop(0)
        assert "a bug of ours" in (await stream.push(PLATFORM, release())).nack.error
        assert one.client.assignment is None
        one.verdict = None
        assert (await stream.push(PLATFORM, release())).HasField("ack")


async def test_a_lower_floor_than_seen_is_refused_also_after_a_restart(
    stage: tuple[str, Stage], tmp_path: Path
) -> None:
    state = StateDirectory.open(tmp_path)
    one = sidecar(stage[0], state=state)
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        assert (await stream.push(PLATFORM, release(version=5, floor=5))).HasField("ack")
        assert "below the floor" in (await stream.push(PLATFORM, release(version=4))).nack.error
    again = sidecar(stage[0], state=state)
    async with running(again):
        stream = await stage[1].next()
        await stream.read()
        assert "below the floor" in (await stream.push(PLATFORM, release(version=4))).nack.error
    state.close()


async def test_a_restart_in_the_dark_enforces_the_last_known_good(
    stage: tuple[str, Stage], tmp_path: Path
) -> None:
    state = StateDirectory.open(tmp_path)
    one = sidecar(stage[0], state=state, clock=lambda: 500.0)
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release([policy()]), documents=(policy(),))
        assert one.client.age(600.0) == 0.0
    assert one.client.age(600.0) == 100.0
    dark = sidecar("127.0.0.1:1", state=state)
    assert dark.client.age(600.0) is None
    assert await dark.client.restore() is not None
    assert dark.names == ["p"]
    assert dark.client.age(600.0) == 100.0
    assert dark.client.last_error == ""
    hello = dark.client._hello()
    assert {held.name for held in hello.subscriptions[0].held} == {
        "manifest/default", "manifest/platform", "document/AccessPolicy/default/p",
    }  # fmt: skip
    assert convert.enforced_from_wire(hello.enforced) == {"default": 1, "platform": 0}
    state.close()


async def test_a_damaged_or_refused_last_known_good_gives_way_to_the_one_before(
    stage: tuple[str, Stage], tmp_path: Path
) -> None:
    state = StateDirectory.open(tmp_path)
    one = sidecar(stage[0], state=state)
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release([policy("a")]), documents=(policy("a"),))
        both = (policy("b"),)
        gone = (convert.document_name(policy("a").ref),)
        await stream.push(PLATFORM, release(both, version=2), documents=both, removed=gone)

    async def refuse_b(assignment: Assignment) -> None:
        if assignment.versions["default"] == 2:
            raise DocumentsInvalid([Problem("not any more")])

    picky = sidecar("127.0.0.1:1", state=state)
    picky.verdict = refuse_b
    await picky.client.restore()
    assert picky.names == ["a"]
    assert "passed over" in picky.client.last_error
    (tmp_path / "release").write_bytes(b"torn")
    torn = sidecar("127.0.0.1:1", state=state)
    await torn.client.restore()
    assert torn.names == ["a"]
    (tmp_path / "release.1").write_bytes(b"torn")
    nothing = sidecar("127.0.0.1:1", state=state)
    assert await nothing.client.restore() is None
    assert not nothing.adopted
    state.close()


async def test_the_first_key_stays_pinned_over_restarts(
    stage: tuple[str, Stage], tmp_path: Path
) -> None:
    state = StateDirectory.open(tmp_path)
    first = sidecar(stage[0], state=state)
    async with running(first):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release())
        impostor = release(version=2, key=OTHER_KEY)
        assert "trusted keys" in (await stream.push(PLATFORM, impostor)).nack.error
    again = sidecar(stage[0], state=state)
    async with running(again):
        stream = await stage[1].next()
        await stream.read()
        assert "trusted keys" in (await stream.push(PLATFORM, impostor)).nack.error
    state.close()


async def test_what_cannot_be_saved_is_enforced_all_the_same_and_said(
    stage: tuple[str, Stage], tmp_path: Path
) -> None:
    state = StateDirectory.open(tmp_path / "state")
    (tmp_path / "state" / "release.tmp").mkdir()  # not even root can write a file there now
    one = sidecar(stage[0], state=state)
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        answer = await stream.push(PLATFORM, release())
        assert "cannot write" in answer.ack.warning
        assert one.client.last_error == answer.ack.warning
        assert not one.client.saved
        (tmp_path / "state" / "release.tmp").rmdir()
        answer = await stream.push(PLATFORM, release(version=2))
        assert not answer.ack.warning
        assert one.client.saved
    assert one.adopted
    state.close()


async def test_who_ends_it_waits_for_what_is_being_saved(
    stage: tuple[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory.open(tmp_path / "state")
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    save = state.save

    def slowly(assignment: Assignment, now: float) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(WITHIN)
        save(assignment, now)

    monkeypatch.setattr(state, "save", slowly)
    one = sidecar(stage[0], state=state)
    one.start()
    stream = await stage[1].next()
    await stream.read()
    pushing = asyncio.create_task(stream.push(PLATFORM, release()))
    async with asyncio.timeout(WITHIN):
        await begun.wait()
    ending = asyncio.create_task(one.stop())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ending.done()
    go_on.set()
    async with asyncio.timeout(WITHIN):
        await ending
    pushing.cancel()
    assert not list((tmp_path / "state").glob("*.tmp"))
    assert (tmp_path / "state" / "release").exists()
    state.close()


async def test_what_is_enforced_ages_from_the_last_word_and_not_from_when_silence_is_noticed(
    stage: tuple[str, Stage],
) -> None:
    now = [500.0]
    one = sidecar(stage[0], clock=lambda: now[0])
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release())
        assert one.client.age(now[0]) == 0.0
        now[0] += 19.0
    assert one.client.age(now[0]) == 19.0
    again = sidecar(stage[0], clock=lambda: now[0])
    async with running(again):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release())
        now[0] += 1000.0  # pings were answered meanwhile, the last of them 20 s ago or less
    assert again.client.age(now[0]) == 20.0


async def test_idle_says_that_it_is_current_or_why_there_is_nothing(
    stage: tuple[str, Stage],
) -> None:
    one = sidecar(stage[0])
    async with running(one):
        stream = await stage[1].next()
        await stream.read()
        await stream.context.write(FromControl(idle=Idle(type=convert.RELEASE, detail="none yet")))
        assert (await stream.push(release())).HasField("nack")  # so Idle has been read
        assert one.client.connected
    other = sidecar(stage[0])
    async with running(other):
        stream = await stage[1].next()
        await stream.read()
        await stream.push(PLATFORM, release())
        await stream.context.write(FromControl(idle=Idle(type=convert.RELEASE)))
        await stream.push(PLATFORM, release(version=2))
        assert other.client.last_error == ""


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.OK])
async def test_however_the_stream_ends_it_comes_back(
    stage: tuple[str, Stage], code: grpc.StatusCode
) -> None:
    one = sidecar(stage[0])
    async with running(one):
        for _ in range(3):
            stream = await stage[1].next()
            await stream.read()
            stream.context.set_code(code)
            stream.end.set()
        stream = await stage[1].next()
        await stream.read()
        assert (await stream.push(PLATFORM, release())).HasField("ack")
        assert one.client.reconnects == 3


async def test_a_stream_that_ends_while_a_push_is_adopted_is_made_anew(
    stage: tuple[str, Stage],
) -> None:
    one = sidecar(stage[0])
    ended = asyncio.Event()
    receive = one.client._receive

    async def notice(stream: Any, message: FromControl) -> None:
        stream.add_done_callback(lambda _: ended.set())
        await receive(stream, message)

    async def linger(_assignment: Assignment) -> None:
        peer.end.set()
        await ended.wait()

    one.client._receive = notice  # type: ignore[method-assign]
    one.verdict = linger
    async with running(one):
        peer = await stage[1].next()
        await peer.read()
        pushing = asyncio.create_task(peer.push(PLATFORM, release()))
        again = await stage[1].next()
        hello = (await again.read()).hello
        assert convert.enforced_from_wire(hello.enforced) == {"default": 1, "platform": 0}
        pushing.cancel()


async def test_a_server_that_speaks_another_protocol_is_tried_again() -> None:
    async def nonsense(_requests: Any, context: Any) -> None:
        await context.write(b"\xff\xff not protobuf")
        calls.put_nowait(None)

    calls: asyncio.Queue[None] = asyncio.Queue()
    handler = grpc.method_handlers_generic_handler(
        "sidecar.v1.Discovery", {"Stream": grpc.stream_stream_rpc_method_handler(nonsense)}
    )
    server = aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    one = sidecar(f"127.0.0.1:{port}")
    async with running(one), asyncio.timeout(WITHIN):
        for _ in range(3):
            await calls.get()
    assert not one.client.connects
    await server.stop(None)


async def test_it_comes_back_after_growing_jittered_pauses() -> None:
    pauses: asyncio.Queue[float] = asyncio.Queue()
    go_on = asyncio.Semaphore(0)

    async def sleep(pause: float) -> None:
        pauses.put_nowait(pause)
        await go_on.acquire()

    async with staged() as (address, stage):
        one = sidecar(address, sleep=sleep)
        one.start()
        stream = await stage.next()
        await stream.read()
        await stream.push(PLATFORM, release([policy()]), documents=(policy(),))
    port = int(address.rpartition(":")[2])
    async with asyncio.timeout(WITHIN):
        seen = [await pauses.get()]
        for _ in range(9):
            go_on.release()
            seen.append(await pauses.get())
    # The test's chance is 0: the least of each range, a tenth of its longest.
    assert seen == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 1.5, 1.5])
    assert one.client.reconnects == 9
    assert not one.client.connected
    assert one.client.last_error.startswith(f"{address}: UNAVAILABLE")
    assert one.names == ["p"]
    async with staged(port) as (_, stage):
        go_on.release()
        stream = await stage.next()
        hello = (await stream.read()).hello
        assert {held.version for held in hello.subscriptions[0].held} >= {policy().digest}
        gone = (convert.document_name(policy().ref),)
        assert (await stream.push(release(version=2), removed=gone)).HasField("ack")
    async with asyncio.timeout(WITHIN):
        assert await pauses.get() == pytest.approx(0.01)  # it was connected: from the start again
    await one.stop()
