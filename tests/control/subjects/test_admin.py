"""The Subjects service over gRPC on loopback, on the real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import aio

from sidecar.control.catalogue import Catalogue
from sidecar.control.doors import Doorkeeper, Guard
from sidecar.control.releases import By
from sidecar.control.subjects import admin as module
from sidecar.control.subjects import receipts
from sidecar.control.subjects.admin import Admin
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.hub import Hub
from sidecar.control.subjects.published import Published
from sidecar.control.subjects.records import Record
from sidecar.control.subjects.store import SubjectStore
from sidecar.errors import ControlPlaneUnreachable, Misuse
from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.subject_pb2_grpc import add_SubjectsServicer_to_server
from tests.control.subjects.callers import caller, email, known
from tests.control.subjects.conftest import Clock
from tests.control.subjects.streams import IDP, Sidecar, published, settled
from tests.publishing import WITHIN

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: retail, namespace: shop}
spec:
  identifiers: [{type: email, claim: email}]
  risk: {halfLife: 1h, signals: {stolen-card: 40}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms, namespace: shop}
spec:
  version: 2
  expires: 1h
  reviewEvery: 30m
  maxUses: 3
  words: {en: {title: Terms, text: The terms}, de: {title: Regeln, text: Die Regeln}}
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: city, namespace: shop}
spec: {words: {en: {label: City}}, retention: 1d}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: shop}
spec: {rules: [{name: a, match: {paths: [/a]}, require: {consent: [terms]}}]}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def catalogue() -> Catalogue:
    filled = Catalogue()
    published(filled, "", namespace="platform", version=0)
    published(filled, DOCUMENTS, namespace="shop")
    return filled


@pytest.fixture
async def hub(subjects: SubjectStore, catalogue: Catalogue, clock: Clock) -> AsyncIterator[Hub]:
    made = Hub(subjects, catalogue, b"s" * 32, clock)
    subjects.changed = made.changed
    yield made
    await made.close()


@pytest.fixture
def trail() -> list[By]:
    return []


@pytest.fixture
async def client(
    subjects: SubjectStore, catalogue: Catalogue, hub: Hub, clock: Clock, trail: list[By]
) -> AsyncIterator[SubjectsClient]:
    async def noted(by: By) -> None:
        trail.append(by)

    admin = Admin(subjects, hub, Published(catalogue, clock), clock, noted)
    server = aio.server(interceptors=[Guard(Doorkeeper(None))])
    add_SubjectsServicer_to_server(admin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with SubjectsClient(f"127.0.0.1:{port}", timeout=WITHIN) as made:
        yield made
    await server.stop(None)


@pytest.fixture
async def alice(subjects: SubjectStore) -> Record:
    return await known(subjects, caller("alice", email("a@b.example"), pool="shop/retail"))


BY_MAIL = pb.SubjectName(pool="shop/retail", type="email", value="a@b.example")


def named(record: Record) -> pb.SubjectName:
    return pb.SubjectName(customer=record.customer)


async def test_one_is_shown_by_id_and_by_identifier_and_who_looked_is_written_down(
    client: SubjectsClient, subjects: SubjectStore, alice: Record
) -> None:
    for name in (named(alice), BY_MAIL):
        found = await client.show(pb.ShowSubjectRequest(name=name, reader="eve", reason="ticket 7"))
        assert json.loads(found.subject)["customer"] == alice.customer
        kinds = [(each.kind, each.identifier.type, each.by) for each in found.links]
        assert kinds == [("created", "subject", "sidecar"), ("attached", "email", "sidecar")]
    exported = await client.export(pb.ExportSubjectRequest(name=BY_MAIL, reader="eve"))
    everything = json.loads(exported.everything)
    looked = [(each["reader"], each["why"]) for each in everything["reads"]]
    assert looked.count(("eve", "ticket 7")) == 2
    assert ("eve", "export") in looked


async def test_what_is_done_is_in_the_audit_trail_and_says_of_whom_only_to_who_knows(
    client: SubjectsClient, alice: Record, trail: list[By]
) -> None:
    await client.show(pb.ShowSubjectRequest(name=BY_MAIL))
    assert not trail
    await client.set(pb.SetSubjectRequest(name=BY_MAIL, segments=["vip"], replace_segments=True))
    await client.export(pb.ExportSubjectRequest(name=BY_MAIL))
    await client.erase(pb.EraseSubjectRequest(name=BY_MAIL))
    assert [each.action for each in trail] == ["subject-set", "subject-export", "subject-erase"]
    assert {each.who for each in trail} == {"local"}
    assert len({each.about["customer"] for each in trail}) == 1
    assert alice.customer not in repr(trail)
    assert "a@b.example" not in repr(trail)


async def test_of_nobody_it_is_said_that_there_is_nobody(
    client: SubjectsClient, alice: Record
) -> None:
    for name in (
        pb.SubjectName(customer="cus_nobody"),
        pb.SubjectName(),
        pb.SubjectName(pool="bank/retail", type="email", value="a@b.example"),
        pb.SubjectName(pool="shop/retail", type="email", value="\0"),
    ):
        for call in (
            client.show(pb.ShowSubjectRequest(name=name)),
            client.erase(pb.EraseSubjectRequest(name=name)),
            client.set(pb.SetSubjectRequest(name=name)),
            client.decide(pb.DecideRequest(name=name, purpose="shop/terms", state="granted")),
        ):
            with pytest.raises((Misuse, ControlPlaneUnreachable)):
                await call


async def test_a_decision_is_kept_as_the_document_has_it_and_receipted(
    client: SubjectsClient, subjects: SubjectStore, alice: Record, clock: Clock
) -> None:
    answer = await client.decide(
        pb.DecideRequest(
            name=BY_MAIL, purpose="shop/terms", state="granted", language="de-AT", by="support"
        )
    )
    said = receipts.claims(answer.receipt)
    expected = {
        "sub": alice.customer, "purpose": "shop/terms", "version": 2, "state": "granted",
        "language": "de", "text": "Die Regeln", "by": "support", "via": "api", "max_uses": 3,
        "until": clock.now + 1800,
    }  # fmt: skip
    assert {name: said[name] for name in expected} == expected
    await client.decide(pb.DecideRequest(name=BY_MAIL, purpose="shop/terms", state="withdrawn"))
    found = await client.export(pb.ExportSubjectRequest(name=BY_MAIL))
    kept = [each["jws"] for each in json.loads(found.everything)["receipts"]]
    states = [each["state"] for each in receipts.verify_all(kept, json.loads(found.jwks))]
    assert states == ["granted", "withdrawn"]


async def test_who_withdraws_a_purpose_withdraws_its_transactions(
    client: SubjectsClient, subjects: SubjectStore, alice: Record
) -> None:
    for binding in ("", "ab12", "cd34"):
        given = Decision("shop/terms", 2, "granted", "en", "T", "T", binding=binding, max_uses=2)
        await subjects.decide_consent(alice.customer, given)
        await subjects.decide_consent(alice.customer, replace(given, purpose="shop/other"))
    said = pb.DecideRequest(name=named(alice), purpose="shop/terms", state="withdrawn")
    await client.decide(said)
    [record] = (await subjects.records([alice.customer], "")).values()
    held = {each.purpose for each in record.consents if each.state == "granted"}
    assert held == {"shop/other"}
    for binding in ("", "ab12", "cd34"):
        assert await subjects.spend(alice.customer, "shop/terms", binding, "u") == "missing"


async def test_what_was_granted_can_be_withdrawn_when_its_document_is_gone(
    client: SubjectsClient, subjects: SubjectStore, alice: Record
) -> None:
    gone = Decision("shop/gone", 2, "granted", "en", "T", "T")
    await subjects.decide_consent(alice.customer, gone)
    said = pb.DecideRequest(name=named(alice), purpose="shop/gone", state="withdrawn")
    receipt = receipts.claims((await client.decide(said)).receipt)
    assert (receipt["purpose"], receipt["version"], receipt["state"]) == (
        "shop/gone", 2, "withdrawn",
    )  # fmt: skip
    assert await subjects.spend(alice.customer, "shop/gone", "", "u") == "missing"


@pytest.mark.parametrize(
    ("purpose", "state"),
    [("shop/gone", "granted"), ("terms", "granted"), ("", "granted"), ("shop/terms", "maybe"),
     ("shop/terms", "")],
)  # fmt: skip
async def test_a_decision_that_makes_no_sense_is_refused(
    client: SubjectsClient, subjects: SubjectStore, alice: Record, purpose: str, state: str
) -> None:
    with pytest.raises(Misuse):
        await client.decide(pb.DecideRequest(name=BY_MAIL, purpose=purpose, state=state))
    assert await subjects.receipts(alice.customer) == []


async def test_attributes_segments_and_risk_are_set_and_deleted(
    client: SubjectsClient, subjects: SubjectStore, alice: Record, clock: Clock
) -> None:
    city = pb.AttributeValue(ref="shop/city", value=b'"Ulm"')
    await client.set(
        pb.SetSubjectRequest(
            name=BY_MAIL, attributes=[city], segments=["vip"], replace_segments=True,
            signal="stolen-card",
        )
    )  # fmt: skip
    record = (await subjects.records([alice.customer], ""))[alice.customer]
    (kept,) = record.attributes
    assert (kept.value, kept.source, kept.expires) == ("Ulm", "operator", clock.now + 86_400)
    assert record.segments == {"vip"}
    assert (record.risk.points, record.risk.half_life) == (40.0, 3600.0)
    await client.set(
        pb.SetSubjectRequest(
            name=BY_MAIL, deleted=["shop/city"], replace_segments=True, signal="mine", points=10
        )
    )
    record = (await subjects.records([alice.customer], ""))[alice.customer]
    assert [each for each in record.attributes if each.value is not None] == []
    assert record.segments == frozenset()
    assert record.risk.points == 50.0
    await client.set(pb.SetSubjectRequest(name=BY_MAIL, signal="made-up"))
    record = (await subjects.records([alice.customer], ""))[alice.customer]
    assert record.risk.points == 50.0


@pytest.mark.parametrize(
    "request_",
    [
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="shop/city", value=b"{")]),
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="shop/city", value=b"\xff")]),
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="shop/city", value=b"7")]),
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="shop/city", value=b"null")]),
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="shop/city", value=b'" "')]),
        pb.SetSubjectRequest(attributes=[pb.AttributeValue(ref="", value=b"1")]),
        pb.SetSubjectRequest(signal="mine", points=101),
        pb.SetSubjectRequest(signal="mine", points=-1),
        pb.SetSubjectRequest(signal="mine", points=float("nan")),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    client: SubjectsClient, subjects: SubjectStore, alice: Record, request_: pb.SetSubjectRequest
) -> None:
    request_ = pb.SetSubjectRequest.FromString(request_.SerializeToString())
    request_.name.CopyFrom(BY_MAIL)
    with pytest.raises(Misuse):
        await client.set(request_)
    record = (await subjects.records([alice.customer], ""))[alice.customer]
    assert record.version == alice.version


async def test_a_link_is_taken_back_once(
    client: SubjectsClient, subjects: SubjectStore, alice: Record
) -> None:
    links = (await client.show(pb.ShowSubjectRequest(name=named(alice)))).links
    undone = await client.undo(pb.UndoLinkRequest(link=links[1].id, by="eve"))
    assert undone.link.identifier.value == "a@b.example"
    with pytest.raises(Misuse):
        await client.show(pb.ShowSubjectRequest(name=BY_MAIL))
    for link in (links[1].id, "lnk_nothing", ""):
        with pytest.raises(Misuse):
            await client.undo(pb.UndoLinkRequest(link=link))


async def test_an_erasure_says_which_sidecars_have_let_go(
    client: SubjectsClient, hub: Hub, catalogue: Catalogue, alice: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sidecars = [Sidecar(hub, catalogue, name) for name in ("one", "two")]
    await settled(hub, *sidecars)
    for each in sidecars:
        each.introduce(
            "k", "alice", issuer="https://corp.example",
            identifiers=[pb.Identifier(type="email", value="a@b.example")],
        )  # fmt: skip
    await settled(hub, *sidecars)
    assert {each.held["k"].customer for each in sidecars} == {alice.customer}
    erasing = asyncio.create_task(client.erase(pb.EraseSubjectRequest(name=BY_MAIL, by="operator")))
    while not erasing.done():
        await settled(hub, *sidecars)
        await asyncio.sleep(0)
    answer = erasing.result()
    assert (answer.sidecars, answer.let_go) == (2, 2)
    assert receipts.claims(answer.certificate)
    assert [each.held for each in sidecars] == [{}, {}]
    with pytest.raises(Misuse):
        await client.show(pb.ShowSubjectRequest(name=named(alice)))
    # One that does not answer is not waited for longer than that.
    monkeypatch.setattr(module, "LET_GO", 0.0)
    sidecars[0].introduce("k", "bob", issuer=IDP)
    await settled(hub, *sidecars)
    bob = pb.SubjectName(customer=sidecars[0].held["k"].customer)
    answer = await client.erase(pb.EraseSubjectRequest(name=bob))
    assert (answer.sidecars, answer.let_go) == (1, 0)
