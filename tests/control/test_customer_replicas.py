"""Customers at several control planes on one PostgreSQL: what is decided at one, the sidecars of
all hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sidecar.decide.journey import Introduction
from sidecar.decide.outcomes import Identity, SpendConsent
from sidecar.decide.parse import Source, parse
from sidecar.decide.subjects import Subject
from sidecar.facts.customers import Customers, Spending
from sidecar.facts.subject_stream import SubjectStream
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import subject_pb2 as pb
from tests.control.test_replicas import replica
from tests.postgresql import new_database
from tests.publishing import WITHIN, Sidecar, apply, running, sidecar

ALICE = Identity("https://idp.example", "alice")
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: pay}
spec: {maxUses: 3, words: {en: {title: Pay, text: Pay}}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: a, match: {paths: [/a]}, require: {consent: [pay]}}]}
"""


@pytest.fixture
def url() -> str:
    return new_database()


class Met:
    """A sidecar's stream and what it knows of customers; `until` waits for news of them."""

    def __init__(self, address: str, name: str) -> None:
        self.customers = Customers()
        stream = SubjectStream(self.customers, "default")
        self.customers.link = stream
        self.news = asyncio.Event()
        self.customers.changed = self.news.set
        self.customers.lost_or_found = self.news.set
        self.sidecar: Sidecar = sidecar(address, sidecar_id=name, subjects=stream)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def knows(self) -> Subject:
        """Alice, fetched if need be."""
        await self.until(lambda: self.customers.lost() is None)
        await self.customers.fetch(ALICE, Introduction("default/", ALICE))
        return self.held()

    def held(self) -> Subject:
        found = self.customers.get(ALICE, 0.0)
        assert isinstance(found, Subject), found
        return found


def name(subject: Subject) -> pb.SubjectName:
    return pb.SubjectName(customer=subject.customer)


async def test_a_decision_at_one_replica_reaches_the_sidecars_of_the_other(url: str) -> None:
    documents, problems = parse([Source("t.yaml", DOCUMENTS)])
    assert not problems
    async with replica(url) as one, replica(url) as other:
        near, far = Met(one.grpc, "near"), Met(other.grpc, "far")
        async with running(near.sidecar, far.sidecar):
            await apply(one.grpc, *documents)
            await near.sidecar.enforces(1)
            await far.sidecar.enforces(1)
            # Who is met at both at once is one customer, and their secrets are the same.
            first, second = await asyncio.gather(near.knows(), far.knows())
            assert first.customer == second.customer
            assert near.customers.ticket_secret == far.customers.ticket_secret != b""
            async with SubjectsClient(one.grpc, timeout=WITHIN) as client:
                await client.decide(
                    pb.DecideRequest(name=name(first), purpose="default/pay", state="granted")
                )
                await near.until(lambda: bool(near.held().grants))
                await far.until(lambda: bool(far.held().grants))
                # Uses are counted exactly, wherever they are counted.
                effect = SpendConsent(first.customer, "default/pay", "")
                spent = await asyncio.gather(
                    *((near, far)[n % 2].customers.spend(effect) for n in range(8))
                )
                assert spent.count(Spending.SPENT) == 3
                assert spent.count(Spending.EXHAUSTED) == 5
                await far.until(lambda: far.held().grants[0].left == 0)
                erased = await client.erase(pb.EraseSubjectRequest(name=name(first)))
                assert (erased.sidecars, erased.let_go) == (1, 1)  # its own; the other's follow
            await far.until(lambda: far.customers.get(ALICE, 0.0) is None)
