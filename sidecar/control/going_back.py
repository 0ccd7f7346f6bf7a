"""Back while something is being rolled out: that is ended, and everybody has the old release.

What is asked for is looked at before anything is done, so that nobody ends a rollout by a mistyped
version; and once it has been ended the answer says so, whatever becomes of the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from sidecar.control.applications import Application, Result, misshapen
from sidecar.control.authority import Caller
from sidecar.control.catalogue import Catalogue
from sidecar.control.past import compared
from sidecar.control.publish import Publisher
from sidecar.control.releases import By, Release
from sidecar.control.rollouts.conductor import Conductor
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.store import Store
from sidecar.errors import Problem, StoreFailed

_BY_HAND: Final = "rolled back by hand"


@dataclass(frozen=True, slots=True)
class GoingBack:
    """Of one control plane."""

    store: Store
    catalogue: Catalogue
    publisher: Publisher
    conductor: Conductor

    async def back(
        self, namespace: str, to: int, application: Application, caller: Caller
    ) -> Result:
        """As Publisher.rollback, and ends a rollout. Raises NotSteered, StoreFailed and Forbidden;
        then nothing was done."""
        line = self.catalogue.line(namespace)
        if line is None or line.rollout is None:
            return await self.publisher.rollback(namespace, to, application, caller)
        rollout, stable = line.rollout, line.stable
        caller.require("view" if application.dry_run else "publish", [namespace])
        if to == rollout.version:
            hint = f"to give it to everybody, `sidecar rollout resume {namespace}`"
            return _refused(f"{rollout.name} is being rolled out", hint)
        if problems := misshapen(application):
            return Result("refused", problems=problems)
        result = Result("unchanged")
        if to not in (0, stable.version):  # what comes of it is known before anything is done
            tried = replace(application, dry_run=True)
            result = await self.publisher.rollback(
                namespace, to, tried, caller, ends=True, first=not application.dry_run
            )
        if result.outcome not in ("would_publish", "unchanged"):
            return result
        if application.dry_run:
            if result.outcome == "unchanged":
                result = await self._ended(rollout, stable, caller)
            problems = [_would_end(rollout), *result.problems]
            return replace(result, outcome="would_publish", problems=problems)
        by = By(caller.name)
        reason = application.message or _BY_HAND
        ended = await self.conductor.steer(namespace, "abort", reason, rollout.version, by)
        if result.outcome == "unchanged":
            return replace(await self._ended(rollout, stable, caller), rollouts=[ended])
        try:
            result = await self.publisher.rollback(namespace, to, application, caller)
        except StoreFailed as error:
            result = _refused(f"{namespace}@{to} was not brought back: {error}")
        if result.outcome == "unchanged":
            ending = await self._ended(rollout, stable, caller)
            return replace(ending, rollouts=[ended])
        if result.outcome == "published":
            return replace(result, rollouts=[ended])
        done = Problem(
            f"{rollout.name} was being rolled out, and was ended: everybody has {stable.version}; "
            f"{namespace}@{to} was not brought back",
            hint=f"`sidecar rollback {namespace} --to {to}` again, once that is mended",
        )
        return replace(result, problems=[done, *result.problems], rollouts=[ended])

    async def _ended(self, rollout: Rollout, stable: Release, caller: Caller) -> Result:
        """What it is for those who had the new one. A store that fails now takes nothing back."""
        try:
            had = await self.store.release(rollout.namespace, rollout.version)
        except StoreFailed:
            had = None
        if had is None:
            return Result("published", releases=[stable])
        planned, meant = await asyncio.to_thread(
            compared, had, stable, lambda kind: caller.may("view", rollout.namespace, kind)
        )
        return Result("published", [stable], planned.changes, effects=meant)


def _would_end(rollout: Rollout) -> Problem:
    return Problem(
        f"{rollout.name} is being rolled out: this ends it, and everybody has what they had before",
        warning=True,
    )


def _refused(message: str, hint: str = "") -> Result:
    return Result("refused", problems=[Problem(message, hint=hint)])
