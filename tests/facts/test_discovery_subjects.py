"""Customers on the sidecar's real stream, against a Discovery service that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, Unavailable
from sidecar.decide.subjects import Subject
from sidecar.facts.customers import Customers, key_of
from sidecar.facts.subject_stream import SubjectStream
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Idle, Push, Resource
from tests.facts.test_discovery import Peer, Stage, staged
from tests.publishing import WITHIN, Sidecar, running, sidecar

ALICE = Identity("https://idp.example", "alice")
KEY = key_of(ALICE)


@pytest.fixture
async def stage() -> AsyncIterator[tuple[str, Stage]]:
    async with staged() as started:
        yield started


class Edge:
    """A sidecar that meets customers; `until` waits for news of them."""

    def __init__(self, address: str) -> None:
        self.customers = Customers(answer=60.0)
        stream = SubjectStream(self.customers, "default")
        self.customers.link = stream
        self.news = asyncio.Event()
        self.customers.changed = self.customers.lost_or_found = self.news.set
        self.client: Sidecar = sidecar(address, subjects=stream)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def meets(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.customers.fetch(ALICE, Introduction("default/", ALICE)))

    def seen(self) -> Subject | Unavailable | None:
        return self.customers.get(ALICE, 0.0)


async def current(peer: Peer) -> FromSidecar:
    """Says that there is nothing new; the Hello before it."""
    hello = await peer.read()
    await peer.context.write(FromControl(idle=Idle(type=convert.SUBJECT)))
    return hello


async def push(peer: Peer, number: int, value: bytes = b'"Ulm"') -> FromSidecar:
    record = pb.SubjectRecord(
        customer="cus_1", version=number,
        attributes=[pb.AttributeValue(ref="default/city", value=value)],
    )  # fmt: skip
    resource = Resource(name=f"subject/{KEY}", version=f"cus_1:{number}", subject=record)
    pushed = Push(type=convert.SUBJECT, nonce=f"n{number}", resources=[resource])
    await peer.context.write(FromControl(push=pushed))
    return await peer.read()


async def test_who_is_met_is_said_and_what_comes_is_answered(stage: tuple[str, Stage]) -> None:
    edge = Edge(stage[0])
    async with running(edge.client):
        peer = await stage[1].next()
        await current(peer)
        await edge.until(lambda: edge.customers.lost() is None)
        meeting = edge.meets()
        assert (await peer.read()).introduction.key == KEY
        answer = await push(peer, 1)
        assert (answer.ack.type, answer.ack.nonce) == (convert.SUBJECT, "n1")
        await meeting
        found = edge.seen()
        assert isinstance(found, Subject)
        assert found.profile == {"city": "Ulm"}


async def test_a_push_that_makes_no_sense_is_refused_and_what_it_was_about_believed_no_more(
    stage: tuple[str, Stage],
) -> None:
    edge = Edge(stage[0])
    async with running(edge.client):
        peer = await stage[1].next()
        await current(peer)
        await edge.until(lambda: edge.customers.lost() is None)
        meeting = edge.meets()
        await peer.read()
        await push(peer, 1)
        await meeting
        answer = await push(peer, 2, b"{")
        assert (answer.nack.type, answer.nack.nonce) == (convert.SUBJECT, "n2")
        assert "default/city" in answer.nack.error
        assert edge.seen() == Unavailable("subject_refused")
        assert (await push(peer, 3)).ack.nonce == "n3"
        assert isinstance(edge.seen(), Subject)


async def test_a_stream_that_ends_is_a_loss_and_the_next_one_is_told_what_is_held(
    stage: tuple[str, Stage],
) -> None:
    edge = Edge(stage[0])
    async with running(edge.client):
        peer = await stage[1].next()
        await current(peer)
        await edge.until(lambda: edge.customers.lost() is None)
        meeting = edge.meets()
        await peer.read()
        await push(peer, 1)
        await meeting
        edge.customers.report("cus_1", "refused", {})
        assert (await peer.read()).journey_events.events[0].customer == "cus_1"
        peer.end.set()
        await edge.until(lambda: edge.customers.lost() is not None)
        assert isinstance(edge.seen(), Subject)  # how long it is good for, rules say
        peer = await stage[1].next()
        hello = (await current(peer)).hello
        held = {e.name: e.version for s in hello.subscriptions for e in s.held}
        assert held == {f"subject/{KEY}": "cus_1:1"}
        await edge.until(lambda: edge.customers.lost() is None)
        assert len((await peer.read()).journey_events.events) == 1  # it was not taken


async def test_where_nobody_answers_nobody_is_waited_for() -> None:
    edge = Edge("127.0.0.1:1")
    away = asyncio.Event()
    heard = edge.customers.away

    def said() -> None:
        heard()
        away.set()

    edge.customers.away = said  # type: ignore[method-assign]
    async with running(edge.client):
        await asyncio.wait_for(away.wait(), WITHIN)
        await asyncio.wait_for(edge.meets(), WITHIN)
        assert edge.seen() == Unavailable("subject_unavailable")
