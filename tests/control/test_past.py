"""What somebody is shown of differences and proposals: only kinds that are theirs to see."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.control.credentials import Authority
from sidecar.control.publisher_listener import PublisherListener
from sidecar.control.server import Bound, ControlPlane, Terms
from sidecar.decide.documents import Document
from sidecar.decide.parse import Source, parse
from sidecar.facts.admin import AdminClient
from sidecar.facts.server import Server
from sidecar.wire import admin_pb2 as pb
from tests.control.test_doors import IDP, PUBLISHERS, signed
from tests.publishing import WITHIN, policy

KINDS = PUBLISHERS + (
    f'- {{who: {{issuer: "{IDP}", subject: segments}}, role: viewer, kinds: [Segment]}}\n'
    f'- {{who: {{issuer: "{IDP}", subject: policies}}, role: viewer, kinds: [AccessPolicy]}}\n'
    f'- {{who: {{issuer: "{IDP}", subject: policies}}, role: viewer, namespaces: [shop]}}\n'
    f'- {{who: {{issuer: "{IDP}", subject: nothing}}, role: viewer, namespaces: [shop]}}\n'
)


def segment(when: str) -> Document:
    text = json.dumps(
        {"apiVersion": "authz.sidecar/v1", "kind": "Segment", "metadata": {"name": "gold"},
         "spec": {"when": when}}
    )  # fmt: skip
    [document], problems = parse([Source("test", text)])
    assert not problems
    return document


@asynccontextmanager
async def place(folder: Path, **terms: Any) -> AsyncIterator[Bound]:
    file = folder / "publishers.yaml"
    file.write_text(KINDS)
    control = ControlPlane()
    bound = await control.start(
        "127.0.0.1:0", None, f"sqlite:///{folder / 'store.db'}",
        publishers=PublisherListener(Authority(file)), terms=Terms(**terms),
    )  # fmt: skip
    try:
        yield bound
    finally:
        await control.stop()


def client(bound: Bound, folder: Path, subject: str) -> AdminClient:
    file = folder / f"{subject}.token"
    file.write_text(signed(subject))
    return AdminClient(Server(bound.grpc, token_file=file, timeout=WITHIN))


def applied(*documents: Document) -> pb.ApplyRequest:
    return pb.ApplyRequest(documents=[document.canonical for document in documents])


ALL = {"AccessPolicy/default/p", "Segment/default/gold"}


@pytest.mark.parametrize(
    ("subject", "seen"),
    [
        ("viewer", ALL), ("segments", {"Segment/default/gold"}),
        ("policies", {"AccessPolicy/default/p"}),
    ],
)  # fmt: skip
async def test_a_difference_is_of_kinds_that_one_may_see(
    tmp_path: Path, subject: str, seen: set[str]
) -> None:
    async with place(tmp_path) as bound:
        async with client(bound, tmp_path, "admin") as admin:
            for path, when in (("/a", "token.a == 'x1'"), ("/b", "token.a == 'x2'")):
                answer = await admin.apply(applied(policy(path=path), segment(when)))
                assert answer.outcome == pb.OUTCOME_PUBLISHED, answer
        async with client(bound, tmp_path, subject) as one:
            found = await one.diff(pb.DiffRequest(namespace="default", to=2, **{"from": 1}))
    assert {each.document for each in found.changes} == seen
    assert {each.document for each in found.documents} == seen
    assert {each.document for each in found.effects} == seen
    text = str(found)
    assert ("x2" in text) == ("Segment/default/gold" in seen)
    assert ("/b" in text) == ("AccessPolicy/default/p" in seen)
    assert all(each.before and each.after for each in found.documents)


@pytest.mark.parametrize(
    ("subject", "seen"), [("approver", 2), ("policies", 1), ("segments", 0), ("nothing", 0)]
)
async def test_a_proposal_is_shown_to_who_may_see_all_of_it(
    tmp_path: Path, subject: str, seen: int
) -> None:
    async with place(tmp_path, approvals=frozenset("*")) as bound:
        async with client(bound, tmp_path, "admin") as admin:
            for documents in ([policy()], [policy("q"), segment("token.a == 'x'")]):
                answer = await admin.apply(applied(*documents))
                assert answer.outcome == pb.OUTCOME_AWAITS_APPROVAL, answer
        async with client(bound, tmp_path, subject) as one:
            found = (await one.proposals(pb.ProposalsRequest())).proposals
    assert len(found) == seen
