"""The ways to a release: applying, going back, a second person's word, the end of a time to live.

What is applied is merged with what is published, compared, checked as the sidecars of each
namespace will see it (with `platform`), stored and announced (`publication`). A proposal publishes
what was proposed or nothing: if anything was published in between, it has to be proposed anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control import expiries
from sidecar.control.applications import (
    LONGEST_MESSAGE,
    Application,
    Result,
    drafted,
    misshapen,
    parse,
    plan,
    taken_back,
)
from sidecar.control.authority import ANYBODY, Caller, Verb
from sidecar.control.catalogue import Catalogue
from sidecar.control.checking import Validate
from sidecar.control.proposals import LONGEST_OPEN, NotReviewed, close_proposal, read_proposal
from sidecar.control.publication import Publication, Sidecars, Wish, no_sidecars, refused
from sidecar.control.releases import SYSTEM, By
from sidecar.control.store import Store

_log = logging.getLogger(__name__)


class Publisher:
    """The one way by which releases come about."""

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
        self._publication = Publication(
            store, catalogue, validate, announce, sidecars=sidecars, approvals=approvals
        )

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

        async def attempt() -> Wish | Result:
            moved = {
                namespace
                for namespace, version in application.base_versions.items()
                if self._publication.in_force(namespace) != version
            }
            if moved:
                return self._publication.conflict(moved)
            planned = plan(application, documents, self._catalogue)
            touched = [(change.namespace, change.kind) for change in planned.differing]
            if application.raise_floor:
                touched += [(draft.namespace, "") for draft in planned.drafts]
            if touched:
                caller.require_each(verb, touched)
            return Wish(planned, application, By(caller.name, "apply", application.message))

        # Nobody waits for who may not publish there.
        named = {name for name in application.namespaces if caller.may("publish", name)}
        namespaces = {document.namespace for document in documents} | named
        return await self._publication.attempts(attempt, namespaces, application, caller)

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

        async def attempt() -> Wish | Result:
            line = self._catalogue.line(namespace)
            verb: Verb = "view" if application.dry_run else "publish"
            if line is None:
                caller.require(verb, [namespace])
                return refused(f"namespace {namespace!r} has no release")
            source = line.stable.restores
            wanted = to or line.parents.get(line.stable.version if source is None else source)
            found = None
            if wanted is not None and wanted >= 0:
                found = await self._store.release(namespace, wanted)
            if found is None:
                caller.require(verb, [namespace])
                what = f"{namespace}@{to}" if to else f"release before {line.stable.version}"
                return refused(f"there is no {what}", "see `sidecar history`")
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
            return Wish(
                replace(planned, drafts=drafts), application, by, restores=True,
                ends=ends and application.dry_run, first=first,
            )  # fmt: skip

        return await self._publication.attempts(
            attempt, {namespace}, application, caller, first=first
        )

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

        async def attempt() -> Wish | Result:
            moved = {
                namespace
                for namespace, version in application.base_versions.items()
                if (self._publication.in_force(namespace) or 0) != version
            }
            if moved:
                return self._publication.conflict(moved)
            by = By(
                proposal.author, "approve", application.message, caller.name, proposal.created,
                about={**about, "approver": caller.name},
            )  # fmt: skip
            planned = plan(application, documents, self._catalogue)
            return Wish(planned, application, by, closed, asked=proposal.created)

        return await self._publication.attempts(
            attempt, set(application.base_versions), application, caller
        )

    async def take_back(self, namespace: str, version: int) -> str:
        """What a release with a time to live changed, as far as it is still so; what came of it, or
        empty if it is to be tried again. Raises StoreFailed."""
        name, outcome = f"{namespace}@{version}", "taken back"
        by = By(SYSTEM, "expire", f"the time of {name} is over", about={"expired": name})
        nothing = ""  # why there is nothing to take back

        async def finished(connection: AsyncConnection) -> None:
            await expiries.finish(connection, namespace, version, outcome)

        async def attempt() -> Wish | Result:
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
            return Wish(planned, Application(()), by, finished, restores=True)

        result = await self._publication.attempts(attempt, {namespace}, Application(()))
        if result.outcome == "published":
            return outcome
        if result.outcome == "refused":
            _log.error(
                "%s cannot be taken back: %s", name,
                "; ".join(str(problem) for problem in result.problems),
            )  # fmt: skip
        return nothing if result.outcome == "unchanged" else ""

    # What others did.

    async def take_over(self) -> None:
        """What other replicas have published and steered. Raises StoreFailed."""
        await self._publication.take_over()

    async def refresh(self, namespaces: Iterable[str] | None = None) -> None:
        """Looks at what is stored, whoever did it. Raises StoreFailed."""
        await self._publication.refresh(namespaces)
