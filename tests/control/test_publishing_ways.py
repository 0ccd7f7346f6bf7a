"""Other ways to a release than applying it: a rollout, a second person, back, and time that is over;
and who may take which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.control import audit, past, proposals
from sidecar.control.applications import Application, Result
from sidecar.control.authority import Caller, Forbidden, Permission, Role
from sidecar.control.catalogue import Catalogue
from sidecar.control.proposals import NotReviewed, read_proposal, read_proposals
from sidecar.control.publish import Publisher
from sidecar.control.releases import By
from sidecar.control.rollouts.plan import Plan, Stage
from sidecar.control.store import Draft, Store
from sidecar.decide.documents import Document
from sidecar.decide.parse import Source, parse
from sidecar.errors import Problem
from sidecar.facts.releases import Manifest, SignedManifest
from sidecar.facts.signing import raw_public_key, sign_release
from tests.postgresql import new_database
from tests.publishing import policy

PLAN = Plan((Stage(0.5), Stage(1.0)))


class Clock:
    now = 10_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A publisher over a real store."""

    def __init__(self, store: Store, clock: Clock, approvals: frozenset[str]) -> None:
        self.store = store
        self.clock = clock
        self.catalogue = Catalogue()
        self.verdict: list[Problem] = []
        self.checked: list[list[str]] = []
        self.publisher = Publisher(
            store, self.catalogue, self._validate, lambda _: None,
            sidecars=self._ids, approvals=approvals,
        )  # fmt: skip

    def _validate(self, documents: Sequence[Document]) -> list[Problem]:
        self.checked.append([document.ref for document in documents])
        return self.verdict

    async def _ids(self, _namespace: str) -> Sequence[str]:
        return ["one", "two"]

    async def apply(
        self, *documents: Document, caller: Caller | None = None, **fields: Any
    ) -> Result:
        application = Application([document.canonical for document in documents], **fields)
        return await self.publisher.apply(application, caller or who("alice"))

    async def back(self, namespace: str = "default", to: int = 0, **fields: Any) -> Result:
        return await self.publisher.rollback(namespace, to, Application((), **fields), who("alice"))

    async def review(self, id_: str, by: str, *, approve: bool = True) -> Result:
        return await self.publisher.review(
            id_, approve=approve, reason="because", caller=who(by, "admin")
        )

    def names(self, namespace: str = "default") -> list[str]:
        return [document.name for document in self.catalogue.documents(namespace)]


def who(name: str, role: Role = "publisher", **limits: Any) -> Caller:
    return Caller(name, (Permission(role, **limits),))


@pytest.fixture
def approvals() -> frozenset[str]:
    return frozenset()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}" if request.param == "sqlite" else new_database()


@pytest.fixture
async def desk(url: str, approvals: frozenset[str]) -> AsyncIterator[Desk]:
    clock = Clock()
    store = await Store.open(url, clock=clock)
    made = Desk(store, clock, approvals)
    await made.publisher.refresh()
    yield made
    await store.close()


# A rollout.


async def test_a_rollout_is_not_everybodys_and_keeps_others_out(desk: Desk) -> None:
    await desk.apply(policy("a"))
    result = await desk.apply(policy("b"), rollout=PLAN)
    assert (result.outcome, [r.version for r in result.releases]) == ("published", [2])
    (rollout,) = result.rollouts
    assert (rollout.stable, rollout.version, rollout.author) == (1, 2, "alice")
    assert sum(rollout.includes(each, {}) for each in ("one", "two")) == 1
    assert desk.names() == ["a"]
    assert [document.name for document in desk.catalogue.known("default")] == ["a", "b"]
    other = await desk.apply(policy("c"))
    assert other.outcome == "refused"
    assert "default@2 is being rolled out" in other.problems[0].message
    assert "rollout abort" in other.problems[0].hint
    assert (await desk.apply(policy("c", "other"))).outcome == "published"


async def test_the_first_of_a_namespace_and_a_floor_are_everybodys(desk: Desk) -> None:
    first = await desk.apply(policy("a"), rollout=PLAN)
    assert first.outcome == "refused"
    assert "first of its namespace" in first.problems[0].message
    await desk.apply(policy("a"))
    floor = await desk.apply(policy("b"), rollout=PLAN, raise_floor=True)
    assert floor.outcome == "refused"
    assert "floor" in floor.problems[0].message
    assert desk.catalogue.newest_version("default") == 1


async def test_platform_and_others_spread_one_after_the_other(desk: Desk) -> None:
    await desk.apply(policy("a"), policy("p", "platform"))
    both = (policy("b"), policy("q", "platform"))
    refused = await desk.apply(*both, rollout=PLAN)
    assert refused.outcome == "refused"
    assert "cannot be rolled out together" in refused.problems[0].message
    assert (await desk.apply(*both)).outcome == "published"
    apart = await desk.apply(policy("c"), policy("c", "other2"), rollout=PLAN)
    assert apart.outcome == "refused"  # the first of its namespace


async def test_a_plan_that_makes_no_sense_publishes_nothing(desk: Desk) -> None:
    await desk.apply(policy("a"))
    result = await desk.apply(policy("b"), rollout=Plan((Stage(0.5),)))
    assert (result.outcome, desk.catalogue.newest_version("default")) == ("refused", 1)


async def test_after_one_that_was_ended_the_next_builds_on_what_is_enforced(desk: Desk) -> None:
    await desk.apply(policy("a"))
    result = await desk.apply(policy("bad"), rollout=PLAN)
    ended = replace(result.rollouts[0], state="aborted", ended=1.0)
    changed = await desk.store.steer(ended, By("bob"))
    assert changed is not None
    desk.catalogue.steer(changed)
    assert (await desk.apply(policy("c"), base_versions={"default": 1})).outcome == "published"
    assert desk.names() == ["a", "c"]
    assert desk.catalogue.newest_version("default") == 3
    assert not desk.catalogue.descends("default", 3, 2)
    assert desk.catalogue.descends("default", 3, 1)
    assert (await desk.apply(policy("d"), base_versions={"default": 2})).outcome == "conflict"


async def test_while_one_is_under_way_platform_is_checked_with_both(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"), rollout=PLAN)
    desk.checked.clear()
    await desk.apply(policy("p", "platform"))
    seen = [sorted(ref.rpartition("/")[2] for ref in refs) for refs in desk.checked]
    assert ["a", "p"] in seen
    assert ["a", "b", "p"] in seen


# Back.


async def test_back_is_a_new_release_with_the_documents_of_before(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"))
    await desk.apply(policy("c"))
    result = await desk.back(message="c was a mistake")
    assert [r.version for r in result.releases] == [4]
    assert desk.names() == ["a", "b"]
    assert [(c.what, c.document) for c in result.changes] == [("removed", "AccessPolicy/default/c")]
    made = result.releases[0]
    assert (made.restores, made.parent, made.author) == (2, 2, "alice")
    assert not desk.catalogue.descends("default", 4, 3)
    again = await desk.back()
    assert desk.names() == ["a"]
    assert again.releases[0].restores == 1
    forward = await desk.back(to=3)
    assert desk.names() == ["a", "b", "c"]
    assert forward.releases[0].version == 6


async def test_where_there_is_nothing_to_go_back_to_it_says_so(desk: Desk) -> None:
    assert "has no release" in (await desk.back("nowhere")).problems[0].message
    await desk.apply(policy("a"))
    assert "no release before" in (await desk.back()).problems[0].message
    assert "there is no default@9" in (await desk.back(to=9)).problems[0].message
    assert (await desk.back(to=1)).outcome == "unchanged"
    dry = await desk.apply(policy("b"), dry_run=True)
    assert dry.outcome == "would_publish"


async def test_what_is_invalid_by_now_is_not_restored(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"))
    desk.verdict = [Problem("not any more")]
    assert (await desk.back()).outcome == "refused"
    assert desk.names() == ["a", "b"]


# A second person.


@pytest.mark.parametrize("approvals", [frozenset(["default"])])
async def test_a_second_person_publishes_what_the_first_proposed(desk: Desk) -> None:
    result = await desk.apply(policy("a"), message="please")
    assert (result.outcome, list(result.releases)) == ("awaits_approval", [])
    assert desk.names() == []
    assert (await desk.apply(policy("x", "other"))).outcome == "published"
    async with desk.store.transaction() as connection:
        (proposal,) = await read_proposals(connection, desk.clock())
    assert (proposal.id, proposal.author, proposal.message) == (result.proposal, "alice", "please")
    assert proposal.effects
    with pytest.raises(NotReviewed, match="somebody else"):
        await desk.review(proposal.id, "alice")
    desk.clock.now += 3600
    approved = await desk.review(proposal.id, "bob")
    assert approved.outcome == "published"
    made = approved.releases[0]
    assert (made.author, made.approver, made.asked) == ("alice", "bob", 10_000.0)
    assert desk.names() == ["a"]
    with pytest.raises(NotReviewed, match="approved already"):
        await desk.review(proposal.id, "carol")


@pytest.mark.parametrize("approvals", [frozenset("*")])
async def test_what_was_published_in_between_makes_it_another_thing(desk: Desk) -> None:
    one = await desk.apply(policy("a"))
    two = await desk.apply(policy("b"))
    assert (await desk.review(one.proposal, "bob")).outcome == "published"
    late = await desk.review(two.proposal, "bob")
    assert late.outcome == "conflict"
    assert desk.names() == ["a"]
    async with desk.store.transaction() as connection:
        assert [each.id for each in await read_proposals(connection, desk.clock())] == [
            two.proposal
        ]


@pytest.mark.parametrize("approvals", [frozenset("*")])
async def test_no_is_no_and_anybody_with_the_role_may_say_it(desk: Desk) -> None:
    result = await desk.apply(policy("a"))
    with pytest.raises(Forbidden, match="approver"):
        await desk.publisher.review(result.proposal, approve=False, reason="", caller=who("bob"))
    limited = who("bob", "approver", namespaces=frozenset(["other"]))
    with pytest.raises(Forbidden):
        await desk.publisher.review(result.proposal, approve=True, reason="", caller=limited)
    await desk.review(result.proposal, "bob", approve=False)
    with pytest.raises(NotReviewed, match="rejected already"):
        await desk.review(result.proposal, "carol")
    with pytest.raises(NotReviewed, match="no proposal"):
        await desk.review("feedbeef", "carol")
    assert desk.names() == []


@pytest.mark.parametrize("approvals", [frozenset("*")])
async def test_a_proposed_rollout_is_one_once_it_is_approved(desk: Desk) -> None:
    first = await desk.apply(policy("a"))
    await desk.review(first.proposal, "bob")
    proposed = await desk.apply(policy("b"), rollout=PLAN, ttl=60.0)
    approved = await desk.review(proposed.proposal, "bob")
    assert approved.rollouts[0].plan == PLAN
    assert desk.names() == ["a"]


@pytest.mark.parametrize("approvals", [frozenset(["*"])])
async def test_what_is_approved_is_told_with_all_its_terms(desk: Desk) -> None:
    await approved(desk, policy("a"), policy("b"))
    rollout = Plan((Stage(0.5), Stage(1.0)), bake=5.0)
    asked = await desk.apply(
        policy("a", path="/new"), prune=True, raise_floor=True, ttl=60.0, rollout=rollout
    )
    async with desk.store.reading() as connection:
        [listed] = await read_proposals(connection, desk.clock())
        whole = await read_proposal(connection, asked.proposal, desk.clock())
    assert whole is not None
    assert (listed.application.texts, len(whole.application.texts)) == ((), 1)
    for each in (listed.application, whole.application):
        assert (each.raise_floor, each.ttl, each.prune, each.rollout) == (True, 60.0, True, rollout)
        assert each.base_versions == {"default": 1}
    pairs = {each.document: each for each in await past.proposed(desk.store, whole)}
    assert pairs["AccessPolicy/default/a"].before == policy("a").canonical
    assert pairs["AccessPolicy/default/a"].after == policy("a", path="/new").canonical
    assert pairs["AccessPolicy/default/b"].after == b""
    async with desk.store.reading() as connection:
        records = await audit.read(connection, 0, 100, newest=True)
    about = orjson.loads(records[0].content)["about"]
    assert (about["proposal"], about["raiseFloor"], about["ttl"]) == (asked.proposal, True, 60.0)
    assert about["rollout"]["stages"]


async def approved(desk: Desk, *documents: Document, **fields: Any) -> None:
    asked = await desk.apply(*documents, **fields)
    assert (await desk.review(asked.proposal, "bob")).outcome == "published"


@pytest.mark.parametrize("approvals", [frozenset(["*"])])
async def test_a_floor_that_was_raised_is_in_the_trail(desk: Desk) -> None:
    await approved(desk, policy("a"), raise_floor=True)
    async with desk.store.reading() as connection:
        [newest] = await audit.read(connection, 0, 1, newest=True)
    assert orjson.loads(newest.content)["about"]["raiseFloor"] is True


@pytest.mark.parametrize("approvals", [frozenset(["*"])])
async def test_after_a_week_it_has_to_be_proposed_again(desk: Desk) -> None:
    asked = await desk.apply(policy())
    desk.clock.now += 7 * 86_400
    with pytest.raises(NotReviewed, match="older than 7 days: propose it again"):
        await desk.review(asked.proposal, "bob")
    async with desk.store.reading() as connection:
        assert await read_proposals(connection, desk.clock()) == []
        [old] = await read_proposals(connection, desk.clock(), all_=True)
    assert old.state == "expired"
    assert desk.names() == []


@pytest.mark.parametrize("approvals", [frozenset(["*"])])
async def test_who_proposed_it_takes_it_back_without_being_an_approver(desk: Desk) -> None:
    asked = await desk.apply(policy(), caller=who("carol"))
    for name, approve in (("carol", True), ("dave", False), ("dave", True)):
        with pytest.raises(Forbidden):
            await desk.publisher.review(
                asked.proposal, approve=approve, reason="", caller=who(name)
            )
    taken = await desk.publisher.review(
        asked.proposal, approve=False, reason="", caller=who("carol")
    )
    assert taken.outcome == "unchanged"
    with pytest.raises(NotReviewed, match="is rejected already"):
        await desk.review(asked.proposal, "bob")


@pytest.mark.parametrize("approvals", [frozenset(["*"])])
async def test_one_author_cannot_fill_the_list(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "MOST_OF_ONE", 3)
    monkeypatch.setattr(proposals, "LISTED", 2)
    for n in range(3):
        await desk.apply(policy(f"p{n}"))
        desk.clock.now += 1
    with pytest.raises(NotReviewed, match="3 proposals of alice are open"):
        await desk.apply(policy("p3"))
    assert (await desk.apply(policy("p3"), caller=who("bob"))).outcome == "awaits_approval"
    async with desk.store.reading() as connection:
        found = await read_proposals(
            connection, desk.clock(), sees=lambda each: each.changes[0].document.endswith("/p0")
        )
    assert [each.changes[0].document for each in found] == ["AccessPolicy/default/p0"]
    desk.clock.now += 7 * 86_400  # what is too old keeps nobody out
    assert (await desk.apply(policy("p4"))).outcome == "awaits_approval"


@pytest.mark.parametrize("approvals", [frozenset("*")])
async def test_going_back_waits_for_nobody(desk: Desk) -> None:
    for name in ("a", "b"):
        proposed = await desk.apply(policy(name))
        await desk.review(proposed.proposal, "bob")
    assert (await desk.back()).outcome == "published"
    assert desk.names() == ["a"]


# Time that is over.


async def test_what_had_its_time_is_taken_back(desk: Desk) -> None:
    await desk.apply(policy("a"), policy("b"))
    await desk.apply(policy("a", path="/new"), policy("c"), ttl=60.0)
    assert await desk.publisher.take_back("default", 2) == "taken back"
    line = desk.catalogue.line("default")
    assert line is not None
    assert line.stable.documents == (policy("a"), policy("b"))
    assert (line.stable.author, line.stable.parent) == ("control-plane", 1)
    assert "default@2 is over" in line.stable.message


async def test_going_back_after_it_goes_to_what_was_before_that(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"))
    await desk.apply(policy("c"), ttl=60.0)
    await desk.publisher.take_back("default", 3)
    assert desk.names() == ["a", "b"]
    assert (await desk.back()).outcome == "published"
    assert desk.names() == ["a"]


async def test_but_not_what_somebody_has_changed_since(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("a", path="/trial"), policy("b"), policy("c"), ttl=60.0)
    await desk.apply(policy("b", path="/kept"), policy("d"))
    assert await desk.publisher.take_back("default", 2) == "taken back"
    line = desk.catalogue.line("default")
    assert line is not None
    assert line.stable.documents == (policy("a"), policy("b", path="/kept"), policy("d"))
    assert desk.catalogue.descends("default", 4, 3)


async def test_a_trial_of_a_namespace_leaves_it_empty(desk: Desk) -> None:
    await desk.apply(policy("a", "trial"), ttl=60.0)
    assert await desk.publisher.take_back("trial", 1) == "taken back"
    assert desk.names("trial") == []


async def test_what_is_not_in_force_is_left_alone(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"), ttl=60.0)
    await desk.back()
    assert await desk.publisher.take_back("default", 2) == "it was not in force any more"
    assert await desk.publisher.take_back("default", 9) == "it is gone"
    assert desk.names() == ["a"]


async def test_during_a_rollout_it_waits(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"), ttl=60.0)
    await desk.apply(policy("c"), rollout=PLAN)
    assert await desk.publisher.take_back("default", 2) == ""


# Who may.


async def test_who_may_not_publishes_nothing(desk: Desk) -> None:
    limited = who("eve", namespaces=frozenset(["other"]))
    with pytest.raises(Forbidden, match="publisher"):
        await desk.apply(policy("a"), caller=limited)
    with pytest.raises(Forbidden):
        await desk.apply(policy("a", "other"), policy("p", "platform"), caller=limited)
    with pytest.raises(Forbidden):
        await desk.apply(policy("a"), caller=who("eve", "viewer"))
    with pytest.raises(Forbidden):
        await desk.apply(policy("a"), caller=who("eve", "approver"))
    kinds = who("eve", kinds=frozenset(["Segment"]))
    with pytest.raises(Forbidden, match="AccessPolicy"):
        await desk.apply(policy("a"), caller=kinds)
    assert desk.names() == []
    assert (await desk.apply(policy("a", "other"), caller=limited)).outcome == "published"


async def test_pruning_takes_the_right_to_what_goes(desk: Desk) -> None:
    await desk.apply(policy("a"))
    kinds = who("eve", kinds=frozenset(["Segment"]))
    with pytest.raises(Forbidden, match="AccessPolicy"):
        await desk.apply(namespaces=["default"], prune=True, caller=kinds)
    other = who("eve", namespaces=frozenset(["other"]))
    with pytest.raises(Forbidden):
        await desk.apply(policy("x", "other"), namespaces=["default"], prune=True, caller=other)
    assert desk.names() == ["a"]


async def test_going_back_takes_the_right_to_what_it_changes(desk: Desk) -> None:
    await desk.apply(policy("a"))
    await desk.apply(policy("b"))
    for caller in (
        who("eve", "viewer"),
        who("eve", namespaces=frozenset(["other"])),
        who("eve", kinds=frozenset(["Segment"])),
    ):
        with pytest.raises(Forbidden):
            await desk.publisher.rollback("default", 0, Application(()), caller)
    assert desk.names() == ["a", "b"]


async def test_who_may_look_may_try_without_publishing(desk: Desk) -> None:
    await desk.apply(policy("a"))
    result = await desk.apply(policy("b"), caller=who("eve", "viewer"), dry_run=True)
    assert result.outcome == "would_publish"
    other = who("eve", "viewer", namespaces=frozenset(["other"]))
    with pytest.raises(Forbidden):
        await desk.apply(policy("b"), caller=other, dry_run=True)
    assert desk.names() == ["a"]


async def test_nothing_is_told_of_what_one_may_not_view(desk: Desk) -> None:
    await desk.apply(policy("secret", "shop"))
    await desk.apply(policy("a"))
    only = who("carol", namespaces=frozenset(["default"]))
    for dry in (True, False):
        with pytest.raises(Forbidden, match="namespace shop"):
            await desk.apply(policy("b"), caller=only, base_versions={"shop": 99}, dry_run=dry)
    services = who("carol", kinds=frozenset(["ProtectedService"]))
    shown = await desk.apply(service(), caller=services, dry_run=True)
    assert (shown.outcome, shown.manifests) == ("would_publish", [])
    assert len((await desk.apply(service(), dry_run=True)).manifests) == 1
    desk.verdict = [
        Problem("secret is wrong", document="AccessPolicy/shop/secret"),
        Problem("mine is wrong", document="AccessPolicy/platform/b"),
    ]
    platform = who("carol", namespaces=frozenset(["platform"]))
    for dry in (True, False):
        refused = await desk.apply(policy("b", "platform"), caller=platform, dry_run=dry)
        assert refused.outcome == "refused"
        assert [each.message for each in refused.problems] == [
            "mine is wrong", "1 errors in documents that carol may not view",
        ]  # fmt: skip


def service() -> Document:
    text = (
        "apiVersion: authz.sidecar/v1\nkind: ProtectedService\n"
        "metadata: {name: x}\nspec: {audiences: [a]}\n"
    )
    documents, problems = parse([Source("test.yaml", text)])
    assert not problems
    return documents[0]


# Delegated signers.

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(3, 35)))


def by(key: Ed25519PrivateKey, *manifests: bytes) -> list[SignedManifest]:
    return [SignedManifest(each, (sign_release(each, key),)) for each in manifests]


async def test_a_delegated_signer_signs_what_a_dry_run_showed(desk: Desk) -> None:
    desk.store.signs = False
    await desk.store.delegate(raw_public_key(KEY), "ci", By("admin", "delegate-signing"))
    unsigned = await desk.apply(policy("a"))
    assert unsigned.outcome == "refused"
    assert "signed elsewhere" in unsigned.problems[0].message
    dry = await desk.apply(policy("a"), dry_run=True)
    desk.clock.now += 60
    result = await desk.apply(policy("a"), manifests=by(KEY, *dry.manifests))
    assert result.outcome == "published"
    made = result.releases[0]
    assert [each.public_key for each in made.signed.signatures] == [raw_public_key(KEY)]
    assert made.manifest.issued == 10_000


async def test_what_another_signed_or_what_is_of_something_else_does_not_count(desk: Desk) -> None:
    await desk.store.delegate(raw_public_key(KEY), "ci", By("admin", "delegate-signing"))
    dry = await desk.apply(policy("a"), dry_run=True)
    altered = replace(Manifest.from_bytes(dry.manifests[0]), floor=1).to_bytes()
    manifest = dry.manifests[0]
    wrong = [SignedManifest(manifest, (sign_release(b"another", KEY),))]
    for manifests, said in (
        (by(STRANGER, manifest), "signed by"),
        (wrong, "signature is wrong"),
        (by(KEY, altered), "not of what would be published"),
        (by(KEY, b"{}"), "not of the form"),
    ):
        result = await desk.apply(policy("a"), manifests=manifests)
        assert result.outcome == "refused"
        assert said in " ".join(problem.message for problem in result.problems)
    assert (await desk.apply(policy("b"), manifests=by(KEY, manifest))).outcome == "refused"
    more = by(KEY, manifest, replace(Manifest.from_bytes(manifest), namespace="x").to_bytes())
    assert (await desk.apply(policy("a"), manifests=more)).outcome == "refused"
    desk.clock.now += 3600
    late = await desk.apply(policy("a"), manifests=by(KEY, manifest))
    assert "too long ago" in late.problems[0].message
    assert desk.names() == []


async def test_one_that_was_signed_before_another_release_is_of_no_use(desk: Desk) -> None:
    await desk.store.delegate(raw_public_key(KEY), "ci", By("admin", "delegate-signing"))
    dry = await desk.apply(policy("a"), dry_run=True)
    await desk.store.publish([Draft("default", None, (policy("theirs"),))])
    result = await desk.apply(policy("a"), manifests=by(KEY, *dry.manifests))
    assert result.outcome == "refused"
    assert "in between" in result.problems[0].hint
