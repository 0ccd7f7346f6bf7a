"""From what is wanted to releases: checked, compared, stored and announced, in this order.

Nothing is stored unless all of it may be, and nothing that was checked against something else than
what is published at that moment. Where a second person is needed it is stored as a proposal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import expiries
from sidecar.control.applications import Application, Planned, Result, too_large
from sidecar.control.authority import ANYBODY, Caller
from sidecar.control.catalogue import Catalogue
from sidecar.control.checking import Checking, Known, Validate, meanwhile, told_to, under_way
from sidecar.control.proposals import insert_proposal
from sidecar.control.releases import By, Draft
from sidecar.control.signed import signed_drafts
from sidecar.control.spreading import spread
from sidecar.control.store import Also, Conflict, Store
from sidecar.control.turns import Turns
from sidecar.decide.documents import PLATFORM
from sidecar.decide.effects import effects
from sidecar.errors import Problem

_ATTEMPTS: Final = 5  # at a store that other replicas publish to as well
_TOLD: Final = 200  # changes that the audit trail names one by one

Sidecars = Callable[[str], Awaitable[Sequence[str]]]
"""The ids of those that a namespace's releases concern, on all replicas."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be published, and on whose word. `also` is done in the same transaction; `asked`
    and `restores`: no second person is waited for, since one has come (to what was proposed then),
    or has seen these contents before."""

    planned: Planned
    application: Application
    by: By
    also: Also | None = None
    asked: float = 0.0
    restores: bool = False
    ends: bool = False
    """A rollout under way is no hindrance."""
    first: bool = False
    """Though a dry run it is the beginning of something real."""


async def no_sidecars(_namespace: str) -> Sequence[str]:
    return ()


class Publication:
    """The shared part of every way to a release (`publish`)."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        validate: Validate,
        announce: Callable[[Iterable[str]], None],
        *,
        sidecars: Sidecars = no_sidecars,
        approvals: frozenset[str] = frozenset(),
    ) -> None:
        """`approvals` are the namespaces in which a second person is needed; `*` is all."""
        self._store = store
        self._catalogue = catalogue
        self._checking = Checking(catalogue, validate)
        self._announce = announce
        self._sidecars = sidecars
        self._approvals = approvals
        self._turns = Turns()

    async def take_over(self) -> None:
        """What other replicas have published and steered. Raises StoreFailed."""
        stored = await self._store.revisions()
        # Before any release that a new key has signed.
        self._catalogue.endorsements = self._store.endorsements
        known = self._catalogue.revisions()
        moved = [name for name, revision in stored.items() if known.get(name) != revision]
        if moved:
            await self.refresh(moved)

    async def refresh(self, namespaces: Iterable[str] | None = None) -> None:
        """Looks at what is stored, whoever did it. Raises StoreFailed."""
        found = await self._store.published(namespaces)
        self._catalogue.endorsements = self._store.endorsements
        self._announce(self._catalogue.take_over(found))

    # How it goes.

    async def attempts(
        self,
        attempt: Callable[[], Awaitable[Wish | Result]],
        namespaces: set[str],
        application: Application,
        caller: Caller = ANYBODY,
        *,
        first: bool = False,
    ) -> Result:
        """What comes of a wish, which `attempt` makes of what is published. Checks without keeping
        anybody from publishing elsewhere; if what was checked is not what is published any more,
        anew. Raises StoreFailed, and what `attempt` raises."""
        known: Known = {}
        if application.dry_run:
            with self._turns.trying("" if caller is ANYBODY else caller.name) as free:
                if not free and not first:
                    return refused("too many dry runs are under way", "try again in a moment")
                wish = await attempt()
                if isinstance(wish, Result):
                    return wish
                return await self._shown(wish, await self._checked(wish, known, caller), caller)
        async with self._turns.of(namespaces):
            for _ in range(_ATTEMPTS):
                seen = self._catalogue.revisions()
                try:
                    wish = await attempt()
                    if isinstance(wish, Result):
                        return wish
                    result = await self._checked(wish, known, caller)
                    if result.outcome == "unchanged" or _errors(result.problems):
                        return result
                    async with self._turns.storing:
                        if not self._moved(seen, wish):
                            return await self._store_it(wish, result)
                except Conflict as conflict:
                    await self.refresh(conflict.newest)
            return self.conflict(namespaces)

    def _moved(self, seen: Mapping[str, tuple[int, int]], wish: Wish) -> bool:
        """Whether anything has come about that the wish was not checked with."""
        now = self._catalogue.revisions()
        about = {draft.namespace for draft in wish.planned.drafts}
        if PLATFORM in about:
            return now != seen
        about |= {PLATFORM, *wish.application.base_versions}
        return any(now.get(name) != seen.get(name) for name in about)

    async def _checked(self, wish: Wish, known: Known, caller: Caller) -> Result:
        """What the wish comes to, and what is wrong with it: `unchanged`, or `refused` so far."""
        planned = wish.planned
        if not planned.drafts:
            return Result(
                "unchanged",
                changes=planned.changes,
                problems=meanwhile(self._catalogue, planned.changes),
            )
        problems = too_large(planned.drafts)
        if not wish.ends:
            problems += under_way(self._catalogue, planned.drafts)
        async with self._turns.checking(dry=wish.application.dry_run and not wish.first):
            problems = problems or await self._checking.problems(planned.drafts, known)
            after = [document for draft in planned.drafts for document in draft.documents]
            before = [each for documents in planned.before.values() for each in documents]
            meant = await asyncio.to_thread(effects, before, after)
        return Result("refused", (), planned.changes, told_to(caller, problems), meant)

    async def _shown(self, wish: Wish, result: Result, caller: Caller) -> Result:
        """The answer to a dry run. Manifests name every document of a namespace."""
        if result.outcome == "unchanged" or _errors(result.problems):
            return result
        seen = [
            draft
            for draft in wish.planned.drafts
            if all(caller.may("view", draft.namespace, each.kind) for each in draft.documents)
        ]
        manifests = await self._store.manifests(seen)
        return replace(result, outcome="would_publish", manifests=manifests)

    async def _store_it(self, wish: Wish, result: Result) -> Result:
        """From what was checked to releases, or to a proposal."""
        planned, application, by = wish.planned, wish.application, wish.by
        problems = result.problems
        # What was signed elsewhere is compared with what would be signed here.
        expected = await self._store.manifests(planned.drafts) if application.manifests else ()
        drafts, found = signed_drafts(
            planned.drafts, application.manifests, expected, self._store, wish.asked
        )
        if found:
            return replace(result, problems=[*problems, *found])
        if not wish.asked and not wish.restores and self._needs_approval(drafts):
            return await self._propose(application, by, drafts, result)
        ids = {
            draft.namespace: await self._sidecars(draft.namespace)
            for draft in (drafts if application.rollout is not None else ())
        }
        drafts, refused = spread(drafts, application, by.who, self._store.clock(), ids)
        if refused:
            return replace(result, problems=[*problems, *refused])
        told = {change.document: change.what for change in planned.differing[:_TOLD]}
        raised = {"raiseFloor": True} if application.raise_floor else {}
        by = replace(by, about={"changes": told, **raised, **by.about})
        releases = await self._store.publish(drafts, by, self._with_expiries(drafts, wish.also))
        rollouts = [draft.rollout for draft in drafts if draft.rollout is not None]
        self._announce(self._catalogue.take(releases, rollouts))
        return replace(result, outcome="published", releases=releases, rollouts=rollouts)

    def in_force(self, namespace: str) -> int | None:
        """The version that everybody enforces, or did until a rollout that is under way."""
        release = self._catalogue.newest(namespace)
        return release.version if release else None

    def conflict(self, namespaces: Iterable[str]) -> Result:
        """Somebody else published in between."""
        newest = [self._catalogue.newest(namespace) for namespace in sorted(namespaces)]
        return Result("conflict", releases=[release for release in newest if release])

    def _needs_approval(self, drafts: Iterable[Draft]) -> bool:
        return any({draft.namespace, "*"} & self._approvals for draft in drafts)

    async def _propose(
        self, application: Application, by: By, drafts: Sequence[Draft], result: Result
    ) -> Result:
        """Durable, and not published. It is for what is published now, and nothing else."""
        bases = {draft.namespace: self.in_force(draft.namespace) or 0 for draft in drafts}
        kept = replace(application, base_versions=bases)
        told = {change.document: change.what for change in result.changes[:_TOLD]}
        about = {
            "changes": told, "message": by.message, "ttl": kept.ttl, "prune": kept.prune,
            "raiseFloor": kept.raise_floor, "baseVersions": bases,
            "rollout": orjson.loads(kept.rollout.to_json()) if kept.rollout is not None else None,
        }  # fmt: skip

        async def insert(connection: AsyncConnection) -> None:
            now = self._store.clock()
            # In the transaction before its record is.
            about["proposal"] = await insert_proposal(connection, kept, by.who, now, result)

        await self._store.record(replace(by, action="propose", about=about), insert)
        return replace(result, outcome="awaits_approval", proposal=str(about["proposal"]))

    @staticmethod
    def _with_expiries(drafts: Sequence[Draft], also: Also | None) -> Also:
        async def after(connection: AsyncConnection) -> None:
            if also is not None:
                await also(connection)
            for draft in drafts:
                if draft.expires is not None:
                    await expiries.insert_expiry(
                        connection, draft.namespace, draft.version, draft.expires
                    )

        return after


def _errors(problems: Iterable[Problem]) -> bool:
    return any(not problem.warning for problem in problems)


def refused(message: str, hint: str = "") -> Result:
    """For one reason."""
    return Result("refused", problems=[Problem(message, hint=hint)])
