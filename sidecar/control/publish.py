"""Publishing: documents in, one atomic set of releases out, or every reason why not.

What is applied is merged with what is published, compared, checked as the sidecars of each
namespace will see it (with `platform`), stored and announced; in this order, and nothing is stored
unless all of it may be. Where a second person is needed it is stored as a proposal first, which
publishes what was proposed or nothing: if anything was published in between, it has to be proposed
anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import expiries
from sidecar.control.applications import (
    LONGEST_MESSAGE,
    LONGEST_TTL,
    Application,
    Change,
    Planned,
    Result,
    drafted,
    parse,
    plan,
    taken_back,
    too_large,
)
from sidecar.control.authority import ANYBODY, Caller, Verb
from sidecar.control.catalogue import Catalogue
from sidecar.control.checking import Checking, Validate
from sidecar.control.proposals import (
    NotReviewed,
    close_proposal,
    insert_proposal,
    read_proposal,
)
from sidecar.control.releases import SYSTEM, By, Draft
from sidecar.control.rollouts.plan import PlanRefused
from sidecar.control.signed import signed_drafts
from sidecar.control.spreading import spread
from sidecar.control.store import Also, Conflict, Store
from sidecar.decide.effects import effects
from sidecar.errors import Problem

_ATTEMPTS: Final = 5  # at a store that other replicas publish to as well
_TOLD: Final = 200  # changes that the audit trail names one by one
_log = logging.getLogger(__name__)

Sidecars = Callable[[str], Awaitable[Sequence[str]]]
"""The ids of those that a namespace's releases concern, on all replicas."""


async def _no_sidecars(_namespace: str) -> Sequence[str]:
    return ()


class Publisher:
    """The one way by which releases come about. One application at a time."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        validate: Validate,
        announce: Callable[[Iterable[str]], None],
        *,
        sidecars: Sidecars = _no_sidecars,
        approvals: frozenset[str] = frozenset(),
    ) -> None:
        """`approvals` are the namespaces in which a second person is needed; `*` is all."""
        self._store = store
        self._catalogue = catalogue
        self._checking = Checking(catalogue, validate)
        self._announce = announce
        self._sidecars = sidecars
        self._approvals = approvals
        self._turn = asyncio.Lock()

    # What people ask for.

    async def apply(self, application: Application, caller: Caller = ANYBODY) -> Result:
        """Raises StoreFailed and Forbidden; then nothing was published. All else is in the
        result."""
        documents, problems = await asyncio.to_thread(parse, application.texts)
        problems += _misshapen(application)
        if problems:
            return Result("refused", problems=problems)
        verb: Verb = "view" if application.dry_run else "publish"
        if documents:
            caller.require_each(verb, [(d.namespace, d.kind) for d in documents])

        async def attempt() -> Result:
            moved = {
                namespace
                for namespace, version in application.base_versions.items()
                if self._in_force(namespace) != version
            }
            if moved:
                return self._conflict(moved)
            planned = plan(application, documents, self._catalogue)
            touched = [(change.namespace, change.kind) for change in planned.differing]
            if application.raise_floor:
                touched += [(draft.namespace, "") for draft in planned.drafts]
            if touched:
                caller.require_each(verb, touched)
            return await self._go(
                planned, application, By(caller.name, "apply", application.message)
            )

        return await self._attempts(attempt, {document.namespace for document in documents})

    async def rollback(
        self, namespace: str, to: int, application: Application, caller: Caller = ANYBODY
    ) -> Result:
        """A new release with the documents of an earlier one; `to` 0 is the one before what is in
        force. Of `application` only the message, `dry_run` and manifests count. A rollout has to be
        ended first. Raises StoreFailed and Forbidden."""
        problems = _misshapen(application)
        if problems:
            return Result("refused", problems=problems)

        async def attempt() -> Result:
            line = self._catalogue.line(namespace)
            verb: Verb = "view" if application.dry_run else "publish"
            if line is None:
                caller.require(verb, [namespace])
                return _refused(f"namespace {namespace!r} has no release")
            source = line.stable.restores
            wanted = to or line.parents.get(line.stable.version if source is None else source)
            found = None
            if wanted is not None and wanted >= 0:
                found = await self._store.release(namespace, wanted)
            if found is None:
                caller.require(verb, [namespace])
                what = f"{namespace}@{to}" if to else f"release before {line.stable.version}"
                return _refused(f"there is no {what}", "see `sidecar history`")
            documents = {document.ref: document for document in found.documents}
            planned = drafted({namespace: documents}, self._catalogue)
            caller.require_each(verb, [(c.namespace, c.kind) for c in planned.differing]
                                or [(namespace, "")])  # fmt: skip
            drafts = [
                replace(draft, parent=found.version, restores=found.version)
                for draft in planned.drafts
            ]
            by = By(
                caller.name, "rollback", application.message,
                about={"restores": f"{namespace}@{found.version}"},
            )  # fmt: skip
            return await self._go(replace(planned, drafts=drafts), application, by, restores=True)

        return await self._attempts(attempt, {namespace})

    async def review(self, id_: str, *, approve: bool, reason: str, caller: Caller) -> Result:
        """The second person's word on a proposal. Raises NotReviewed, StoreFailed, Forbidden."""
        async with self._store.reading() as connection:
            proposal = await read_proposal(connection, id_)
        if proposal is None:
            raise NotReviewed(f"there is no proposal {id_}; see `sidecar approve`")
        caller.require_each("approve", [(c.namespace, c.kind) for c in proposal.changes])
        if proposal.state != "open":
            raise NotReviewed(f"proposal {id_} is {proposal.state} already")
        if len(reason) > LONGEST_MESSAGE:
            raise NotReviewed(f"reason: at most {LONGEST_MESSAGE} characters")
        now = self._store.clock()
        about = {"proposal": id_, "author": proposal.author, "reason": reason}
        if not approve:  # also one's own
            await self._store.record(
                By(caller.name, "reject", about=about),
                lambda connection: close_proposal(
                    connection, id_, "rejected", caller.name, reason, now
                ),
            )
            return Result("unchanged", changes=proposal.changes)
        if caller.name == proposal.author:
            raise NotReviewed(f"{caller.name} has proposed it, and somebody else has to approve it")
        documents, problems = await asyncio.to_thread(parse, proposal.application.texts)
        if problems:
            return Result("refused", problems=problems)
        application = proposal.application

        async def closed(connection: AsyncConnection) -> None:
            await close_proposal(connection, id_, "approved", caller.name, reason, now)

        async def attempt() -> Result:
            moved = {
                namespace
                for namespace, version in application.base_versions.items()
                if (self._in_force(namespace) or 0) != version
            }
            if moved:
                return self._conflict(moved)
            by = By(
                proposal.author, "approve", application.message, caller.name, proposal.created,
                about={**about, "approver": caller.name},
            )  # fmt: skip
            planned = plan(application, documents, self._catalogue)
            return await self._go(planned, application, by, also=closed, asked=proposal.created)

        return await self._attempts(attempt, set(application.base_versions))

    async def take_back(self, namespace: str, version: int) -> str:
        """What a release with a time to live changed, as far as it is still so; what came of it, or
        empty if it is to be tried again. Raises StoreFailed."""
        async with self._turn:
            line = self._catalogue.line(namespace)
            made = await self._store.release(namespace, version)
            if line is None or made is None:
                return "it is gone"
            if line.rollout is not None:
                return ""
            if not line.descends(line.stable.version, version):
                return "it was not in force any more"
            before = (
                await self._store.release(namespace, made.parent)
                if made.parent is not None and made.parent >= 0
                else None
            )
            planned = taken_back(made, before.documents if before else (), self._catalogue)
            if not planned.drafts:
                return "everything in it had been changed since"
            name, outcome = f"{namespace}@{version}", "taken back"
            by = By(SYSTEM, "expire", f"the time of {name} is over", about={"expired": name})
            if line.stable.version == version:  # then nothing builds on it any more
                back = [replace(each, parent=made.parent) for each in planned.drafts]
                planned = replace(planned, drafts=back)

            async def finished(connection: AsyncConnection) -> None:
                await expiries.finish(connection, namespace, version, outcome)

            result = await self._go(planned, Application(()), by, also=finished, restores=True)
            if result.outcome == "published":
                return outcome
            _log.error(
                "%s@%d cannot be taken back: %s", namespace, version,
                "; ".join(str(problem) for problem in result.problems) or result.outcome,
            )  # fmt: skip
            return ""

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

    async def _attempts(
        self, attempt: Callable[[], Awaitable[Result]], namespaces: set[str]
    ) -> Result:
        async with self._turn:
            for _ in range(_ATTEMPTS):
                try:
                    return await attempt()
                except Conflict as conflict:
                    await self.refresh(conflict.newest)
            return self._conflict(namespaces)

    async def _go(
        self,
        planned: Planned,
        application: Application,
        by: By,
        *,
        also: Also | None = None,
        asked: float = 0.0,
        restores: bool = False,
    ) -> Result:
        """From what is wanted to releases. `asked` and `restores`: no second person is waited for,
        since one has come, or has seen these contents before."""
        if not planned.drafts:
            return Result(
                "unchanged", changes=planned.changes, problems=self._meanwhile(planned.changes)
            )
        problems = self._under_way(planned.drafts) + too_large(planned.drafts)
        problems = problems or await self._checking.problems(planned.drafts)
        after = [document for draft in planned.drafts for document in draft.documents]
        before = [each for documents in planned.before.values() for each in documents]
        meant = await asyncio.to_thread(effects, before, after)
        result = Result("refused", (), planned.changes, problems, meant)
        if any(not problem.warning for problem in problems):
            return result
        if application.dry_run:
            manifests = await self._store.manifests(planned.drafts)
            return replace(result, outcome="would_publish", manifests=manifests)
        # What was signed elsewhere is compared with what would be signed here.
        expected = await self._store.manifests(planned.drafts) if application.manifests else ()
        drafts, found = signed_drafts(
            planned.drafts, application.manifests, expected, self._store, asked
        )
        if found:
            return replace(result, problems=[*problems, *found])
        if not asked and not restores and self._needs_approval(drafts):
            return await self._propose(application, by, drafts, result)
        ids = {
            draft.namespace: await self._sidecars(draft.namespace)
            for draft in (drafts if application.rollout is not None else ())
        }
        drafts, refused = spread(drafts, application, by.who, self._store.clock(), ids)
        if refused:
            return replace(result, problems=[*problems, *refused])
        told = {change.document: change.what for change in planned.differing[:_TOLD]}
        by = replace(by, about={"changes": told, **by.about})
        releases = await self._store.publish(drafts, by, self._with_expiries(drafts, also))
        rollouts = [draft.rollout for draft in drafts if draft.rollout is not None]
        self._announce(self._catalogue.take(releases, rollouts))
        return replace(result, outcome="published", releases=releases, rollouts=rollouts)

    def _in_force(self, namespace: str) -> int | None:
        release = self._catalogue.newest(namespace)
        return release.version if release else None

    def _conflict(self, namespaces: Iterable[str]) -> Result:
        newest = [self._catalogue.newest(namespace) for namespace in sorted(namespaces)]
        return Result("conflict", releases=[release for release in newest if release])

    def _under_way(self, drafts: Iterable[Draft]) -> list[Problem]:
        return [
            Problem(
                f"{line.rollout.name} is being rolled out, and one at a time is possible",
                hint=f"wait for it, or `sidecar rollout abort {draft.namespace}`",
            )
            for draft in drafts
            if (line := self._catalogue.line(draft.namespace)) and line.rollout is not None
        ]

    def _meanwhile(self, changes: Iterable[Change]) -> list[Problem]:
        """Whoever publishes what everybody has may mean to end what some have."""
        return [
            Problem(
                f"{line.rollout.name} is being rolled out, which this does not end",
                hint=f"`sidecar rollout abort {namespace}` does",
                warning=True,
            )
            for namespace in sorted({change.namespace for change in changes})
            if (line := self._catalogue.line(namespace)) and line.rollout is not None
        ]

    def _needs_approval(self, drafts: Iterable[Draft]) -> bool:
        return any({draft.namespace, "*"} & self._approvals for draft in drafts)

    async def _propose(
        self, application: Application, by: By, drafts: Sequence[Draft], result: Result
    ) -> Result:
        """Durable, and not published. It is for what is published now, and nothing else."""
        bases = {draft.namespace: self._in_force(draft.namespace) or 0 for draft in drafts}
        kept = replace(application, base_versions=bases)
        made: list[str] = []

        async def insert(connection: AsyncConnection) -> None:
            now = self._store.clock()
            made.append(await insert_proposal(connection, kept, by.who, now, result))

        told = {change.document: change.what for change in result.changes[:_TOLD]}
        about = {"changes": told, "message": by.message}
        await self._store.record(replace(by, action="propose", about=about), insert)
        return replace(result, outcome="awaits_approval", proposal=made[0])

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


def _misshapen(application: Application) -> list[Problem]:
    found = []
    if len(application.message) > LONGEST_MESSAGE or "\0" in application.message:
        found.append(Problem(f"message: at most {LONGEST_MESSAGE} characters, and no NUL"))
    if not 0 <= application.ttl <= LONGEST_TTL:
        found.append(Problem("ttl: at most 400 days are possible"))
    if application.rollout is not None:
        try:
            application.rollout.check()
        except PlanRefused as error:
            found.append(Problem(f"rollout: {error}"))
    return found


def _refused(message: str, hint: str = "") -> Result:
    return Result("refused", problems=[Problem(message, hint=hint)])
