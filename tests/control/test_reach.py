"""How far a release has come: what is confirmed counts, and builds on it; nothing else does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.reach import MAX_ERRORS, Everyone, Reach, reach
from sidecar.control.releases import Release
from sidecar.control.rollouts.plan import Plan, Rollout, Stage
from sidecar.control.roster import Member
from sidecar.facts.releases import Manifest
from tests.publishing import policy
from tests.publishing import release as signed


def release(version: int, parent: int | None = None, namespace: str = "default") -> Release:
    made = signed([policy("p", namespace)], namespace=namespace, version=version)
    return Release(
        Manifest.from_bytes(made.manifest), made, (policy("p", namespace),),
        parent=version - 1 if parent is None else parent,
    )  # fmt: skip


def catalogue(*releases: Release, rollouts: Iterable[Rollout] = ()) -> Catalogue:
    made = Catalogue()
    made.take(releases, rollouts)
    return made


def member(name: str, confirmed: int | None = None, **more: Any) -> Member:
    versions: Mapping[str, int] = {} if confirmed is None else {"default": confirmed}
    return Member(name, "default", "replica", confirmed=versions, **more)


CANARY = Rollout("default", 3, 2, Plan((Stage(labels={"zone": "a"}), Stage(1.0))), "alice", 0.0)
# 1 <- 2 <- 3 and 2 <- 4 <- 5; 5 goes back to what 1 was, and builds on it alone.
HISTORY = catalogue(release(1), release(2), release(3), release(4, 2), release(5, 1))


@pytest.mark.parametrize(
    ("confirmed", "asked", "live"),
    [
        (None, 1, False),  # connected, and nothing confirmed yet
        (1, 1, True),
        (1, 2, False),
        (2, 1, True),
        (3, 2, True),
        (4, 3, False),  # newer, and it does not build on it
        (5, 4, False),  # after a rollback a change is not live where the number is higher
        (5, 1, True),
        (9, 1, False),  # nobody has made this one
        (1, 9, False),
    ],
)
def test_live_is_what_is_confirmed_or_builds_on_it(
    confirmed: int | None, asked: int, live: bool
) -> None:
    found = reach(HISTORY, [member("one", confirmed)], "default", asked)
    assert (found.sidecars, found.live) == (1, int(live))


def test_what_a_sidecar_says_without_having_been_sent_it_proves_nothing() -> None:
    boasting = member("one", 1, enforced={"default": 5})
    assert reach(HISTORY, [boasting], "default", 5).live == 0
    of_another = Member("two", "default", "r", confirmed={"other": 5})
    assert reach(HISTORY, [of_another], "default", 5).live == 0


def test_refusals_are_told_as_many_as_may_be() -> None:
    refusing = [
        member(f"s{n}", 4, refused={"default": 5}, last_error="no") for n in range(MAX_ERRORS + 5)
    ]
    found = reach(HISTORY, refusing, "default", 5)
    assert (found.live, found.refused) == (0, MAX_ERRORS + 5)
    assert found.errors == tuple(f"s{n}: no" for n in range(MAX_ERRORS))
    # Who enforces it by now, whatever it refused before, does not refuse it.
    assert reach(HISTORY, [member("s", 5, refused={"default": 5})], "default", 5).refused == 0
    # A refusal of what builds on it is one of it, too; of something else it is none.
    assert reach(HISTORY, [member("s", None, refused={"default": 3})], "default", 2).refused == 1
    assert reach(HISTORY, [member("s", None, refused={"default": 4})], "default", 5).refused == 0


def test_whom_it_is_assigned_to() -> None:
    under_way = catalogue(release(2), release(3), rollouts=[CANARY])
    sidecars = [member("a", 3, labels={"zone": "a"}), member("b", 2), member("c", 2)]
    assert reach(under_way, sidecars, "default", 3) == Reach(3, 1, 1, 0)
    assert reach(under_way, sidecars, "default", 2) == Reach(3, 3, 3, 0)


def test_of_what_there_is_not() -> None:
    assert reach(HISTORY, [member("one", 5)], "nowhere", 1) == Reach(1, 0, 0, 0)
    assert reach(HISTORY, [], "default", 5) == Reach()


class Elsewhere:
    """Sidecars of other replicas, heard of when they are asked for."""

    def __init__(self, *members: Member) -> None:
        self.members = members
        self.heard = False

    async def refresh(self) -> None:
        self.heard = True

    def others(self) -> Iterable[Member]:
        return self.members if self.heard else ()


async def test_everyone_is_also_who_is_connected_elsewhere() -> None:
    others = Elsewhere(member("one", 5), Member("two", "other", "r", confirmed={"other": 1}))
    everyone = Everyone(HISTORY, Fleet(10), others)  # type: ignore[arg-type]
    assert everyone.settled("default") is None, "nobody is known"
    assert await everyone.ids("default") == ["one"]
    assert await everyone.ids("platform") == ["one", "two"], "it is everybody's"
    assert await everyone.ids("") == ["one", "two"]
    assert everyone.reach("default", 5) == Reach(1, 1, 1, 0)


async def test_settled_is_where_each_enforces_what_it_is_assigned() -> None:
    under_way = catalogue(release(2), release(3), rollouts=[CANARY])
    for members, settled in (
        ([], None),
        ([member("a", 3, labels={"zone": "a"}), member("b", 2)], True),
        ([member("a", 2, labels={"zone": "a"}), member("b", 2)], False),
        ([member("b", 3)], False),  # more than it is assigned
        ([member("b")], False),
    ):
        everyone = Everyone(under_way, Fleet(10), Elsewhere(*members))  # type: ignore[arg-type]
        await everyone.refresh()
        assert everyone.settled("default") is settled, members
    assert everyone.settled("nowhere") is None
