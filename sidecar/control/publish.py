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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import expiries
from sidecar.control.applications import (
    LONGEST_MESSAGE,
    Application,
    Planned,
    Result,
    drafted,
    misshapen,
    parse,
    plan,
    taken_back,
    too_large,
)
from sidecar.control.authority import ANYBODY, Caller, Verb
from sidecar.control.catalogue import Catalogue
from sidecar.control.checking import Checking, Known, Validate, meanwhile, told_to, under_way
from sidecar.control.proposals import (
    LONGEST_OPEN,
    NotReviewed,
    close_proposal,
    insert_proposal,
    read_proposal,
)
from sidecar.control.releases import SYSTEM, By, Draft
from sidecar.control.signed import signed_drafts
from sidecar.control.spreading import spread
from sidecar.control.store import Also, Conflict, Store
from sidecar.control.turns import Turns
from sidecar.decide.documents import PLATFORM
from sidecar.decide.effects import effects
from sidecar.errors import Problem

_ATTEMPTS: Final = 5  # at a store that other replicas publish to as well
_TOLD: Final = 200  # changes that the audit trail names one by one
_log = logging.getLogger(__name__)

Sidecars = Callable[[str], Awaitable[Sequence[str]]]
"""The ids of those that a namespace's releases concern, on all replicas."""


@dataclass(frozen=True, slots=True)
class _Wish:
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


async def _no_sidecars(_namespace: str) -> Sequence[str]:
    return ()


class Publisher:
    """The one way by which releases come about."""

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
        self._turns = Turns()

    # What people ask for.

    async def apply(self, application: Application, caller: Caller = ANYBODY) -> Result:
        """Raises StoreFailed and Forbidden; then nothing was published. All else is in the
        result."""
        documents, problems = await asyncio.to_thread(parse, application.texts)
        problems += misshapen(application)
        if problems:
            return Result("refused", problems=problems)
        verb: Verb = "view" if application.dry_run else "publish"
        if documents:
            caller.require_each(verb, [(d.namespace, d.kind) for d in documents])

        if application.base_versions:  # a conflict tells the newest ones
            caller.require("view", application.base_versions)

        async def attempt() -> _Wish | Result:
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
            return _Wish(planned, application, By(caller.name, "apply", application.message))

        # Nobody waits for who may not publish there.
        named = {name for name in application.namespaces if caller.may("publish", name)}
        namespaces = {document.namespace for document in documents} | named
        return await self._attempts(attempt, namespaces, application, caller)

    async def rollback(
        self,
        namespace: str,
        to: int,
        application: Application,
        caller: Caller = ANYBODY,
        *,
        ends: bool = False,
        first: bool = False,
    ) -> Result:
        """A new release with the documents of an earlier one; `to` 0 is the one before what is in
        force. Of `application` only the message, `dry_run` and manifests count. A rollout has to be
        ended first; a dry run with `ends` is of after that, and one
        that is `first` does not queue with the others. Raises StoreFailed and Forbidden."""
        problems = misshapen(application)
        if problems:
            return Result("refused", problems=problems)

        async def attempt() -> _Wish | Result:
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
            return _Wish(
                replace(planned, drafts=drafts), application, by, restores=True,
                ends=ends and application.dry_run, first=first,
            )  # fmt: skip

        return await self._attempts(attempt, {namespace}, application, caller, first=first)

    async def review(self, id_: str, *, approve: bool, reason: str, caller: Caller) -> Result:
        """The second person's word on a proposal. Raises NotReviewed, StoreFailed, Forbidden."""
        async with self._store.reading() as connection:
            proposal = await read_proposal(connection, id_, self._store.clock())
        if proposal is None:
            raise NotReviewed(f"there is no proposal {id_}; see `sidecar approve`")
        if approve or caller.name != proposal.author:  # one's own may always be taken back
            caller.require_each("approve", [(c.namespace, c.kind) for c in proposal.changes])
        if proposal.state == "expired" and approve:
            # What its author may do now is not known here, and what it is for is long past.
            days = LONGEST_OPEN // 86_400
            raise NotReviewed(f"proposal {id_} is older than {days} days: propose it again")
        if proposal.state not in ("open", "expired"):
            raise NotReviewed(f"proposal {id_} is {proposal.state} already")
        if len(reason) > LONGEST_MESSAGE:
            raise NotReviewed(f"reason: at most {LONGEST_MESSAGE} characters")
        now = self._store.clock()
        about = {"proposal": id_, "author": proposal.author, "reason": reason}
        if not approve:
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

        async def attempt() -> _Wish | Result:
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
            return _Wish(planned, application, by, closed, asked=proposal.created)

        return await self._attempts(attempt, set(application.base_versions), application, caller)

    async def take_back(self, namespace: str, version: int) -> str:
        """What a release with a time to live changed, as far as it is still so; what came of it, or
        empty if it is to be tried again. Raises StoreFailed."""
        name, outcome = f"{namespace}@{version}", "taken back"
        by = By(SYSTEM, "expire", f"the time of {name} is over", about={"expired": name})
        nothing = ""  # why there is nothing to take back

        async def finished(connection: AsyncConnection) -> None:
            await expiries.finish(connection, namespace, version, outcome)

        async def attempt() -> _Wish | Result:
            nonlocal nothing
            line = self._catalogue.line(namespace)
            made = await self._store.release(namespace, version)
            if line is None or made is None:
                nothing = "it is gone"
                return Result("unchanged")
            if line.rollout is not None:
                return Result("conflict")
            if not line.descends(line.stable.version, version):
                nothing = "it was not in force any more"
                return Result("unchanged")
            before = (
                await self._store.release(namespace, made.parent)
                if made.parent is not None and made.parent >= 0
                else None
            )
            planned = taken_back(made, before.documents if before else (), self._catalogue)
            if not planned.drafts:
                nothing = "everything in it had been changed since"
                return Result("unchanged")
            if line.stable.version == version:  # then nothing builds on it any more
                was = made.parent
                back = [replace(each, parent=was, restores=was) for each in planned.drafts]
                planned = replace(planned, drafts=back)
            return _Wish(planned, Application(()), by, finished, restores=True)

        result = await self._attempts(attempt, {namespace}, Application(()))
        if result.outcome == "published":
            return outcome
        if result.outcome == "refused":
            _log.error(
                "%s cannot be taken back: %s", name,
                "; ".join(str(problem) for problem in result.problems),
            )  # fmt: skip
        return nothing if result.outcome == "unchanged" else ""

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
        self,
        attempt: Callable[[], Awaitable[_Wish | Result]],
        namespaces: set[str],
        application: Application,
        caller: Caller = ANYBODY,
        *,
        first: bool = False,
    ) -> Result:
        """Checks without keeping anybody from publishing elsewhere; if what was checked is not what
        is published any more, anew."""
        known: Known = {}
        if application.dry_run:
            with self._turns.trying("" if caller is ANYBODY else caller.name) as free:
                if not free and not first:
                    return _refused("too many dry runs are under way", "try again in a moment")
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
            return self._conflict(namespaces)

    def _moved(self, seen: Mapping[str, tuple[int, int]], wish: _Wish) -> bool:
        """Whether anything has come about that the wish was not checked with."""
        now = self._catalogue.revisions()
        about = {draft.namespace for draft in wish.planned.drafts}
        if PLATFORM in about:
            return now != seen
        about |= {PLATFORM, *wish.application.base_versions}
        return any(now.get(name) != seen.get(name) for name in about)

    async def _checked(self, wish: _Wish, known: Known, caller: Caller) -> Result:
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

    async def _shown(self, wish: _Wish, result: Result, caller: Caller) -> Result:
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

    async def _store_it(self, wish: _Wish, result: Result) -> Result:
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

    def _in_force(self, namespace: str) -> int | None:
        release = self._catalogue.newest(namespace)
        return release.version if release else None

    def _conflict(self, namespaces: Iterable[str]) -> Result:
        newest = [self._catalogue.newest(namespace) for namespace in sorted(namespaces)]
        return Result("conflict", releases=[release for release in newest if release])

    def _needs_approval(self, drafts: Iterable[Draft]) -> bool:
        return any({draft.namespace, "*"} & self._approvals for draft in drafts)

    async def _propose(
        self, application: Application, by: By, drafts: Sequence[Draft], result: Result
    ) -> Result:
        """Durable, and not published. It is for what is published now, and nothing else."""
        bases = {draft.namespace: self._in_force(draft.namespace) or 0 for draft in drafts}
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


def _refused(message: str, hint: str = "") -> Result:
    return Result("refused", problems=[Problem(message, hint=hint)])
