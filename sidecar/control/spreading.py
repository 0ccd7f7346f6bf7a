"""How drafts are to spread, and for how long: with rollouts as they were asked for, begun. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar.control.applications import Application
from sidecar.control.releases import Draft
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.steps import begin
from sidecar.decide.documents import PLATFORM
from sidecar.errors import Problem


def spread(
    drafts: Sequence[Draft],
    application: Application,
    author: str,
    now: float,
    sidecars: Mapping[str, Sequence[str]],
) -> tuple[list[Draft], list[Problem]]:
    """Drafts with their rollouts and times to live, and why that cannot be. `sidecars` are the ids
    of those that each namespace concerns; `now` is in seconds since the epoch."""
    expires = now + application.ttl if application.ttl else None
    if application.rollout is None:
        return [replace(draft, expires=expires) for draft in drafts], []
    if len(drafts) > 1 and any(draft.namespace == PLATFORM for draft in drafts):
        # Each spreads by itself, and some sidecars would have the one without the other.
        return [], [
            Problem(
                "documents of platform and of another namespace cannot be rolled out together",
                hint="apply those of platform first, and the others once they are everybody's",
            )
        ]
    made, problems = [], []
    for draft in drafts:
        stable = draft.builds_on
        if draft.base is None or stable is None or draft.raise_floor:
            why = "raises its floor" if draft.raise_floor else "is the first of its namespace"
            problems.append(
                Problem(
                    f"{draft.namespace}@{draft.version} {why}, and has to be everybody's: "
                    "there would be no way back",
                    hint="apply it without --canary",
                )
            )
            continue
        rollout = Rollout(draft.namespace, draft.version, stable, application.rollout, author, now)
        begun = begin(rollout, sidecars.get(draft.namespace, ()), now)
        made.append(replace(draft, expires=expires, rollout=begun))
    return made, problems
