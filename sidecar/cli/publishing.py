"""What the commands that publish have in common: what changed, what that means, who enforces it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from sidecar.cli import FINE, FOUND_PROBLEMS, plain
from sidecar.cli.printable import printable, printable_lines
from sidecar.cli.rollouts import described, ended, plain_rollout
from sidecar.cli.server import live, plain_reach
from sidecar.errors import ControlPlaneRefused, ControlPlaneUnreachable, Problem
from sidecar.facts.admin import AdminClient
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import convert

BRIEFLY: Final = 2.0  # seconds that one without --wait waits to see who enforces it
LOOK: Final = 0.5  # seconds between two looks at a rollout
MARKS: Final = {
    pb.Change.WHAT_ADDED: ("+", "added", "green"),
    pb.Change.WHAT_CHANGED: ("~", "changed", "yellow"),
    pb.Change.WHAT_REMOVED: ("-", "removed", "red"),
    pb.Change.WHAT_UNCHANGED: ("=", "unchanged", "dim"),
}
OUTCOMES: Final = {
    pb.OUTCOME_PUBLISHED: "published",
    pb.OUTCOME_UNCHANGED: "unchanged",
    pb.OUTCOME_WOULD_PUBLISH: "would_publish",
    pb.OUTCOME_REFUSED: "refused",
    pb.OUTCOME_CONFLICT: "conflict",
    pb.OUTCOME_AWAITS_APPROVAL: "awaits_approval",
}


def console(*, errors: bool = False) -> Console:
    """Colour on a terminal, and nothing else that was not written."""
    return Console(stderr=errors, highlight=False, markup=False, soft_wrap=True)


def print_problems(problems: Iterable[Problem]) -> None:
    """To standard error."""
    out = console(errors=True)
    for problem in problems:
        out.print(printable_lines(problem), style="yellow" if problem.warning else "red")


def problems_of(response: pb.ApplyResponse) -> list[Problem]:
    """What is wrong with all of it is said of the documents."""
    found = [convert.problem_from_wire(each) for each in response.problems]
    return [replace(each, document=each.document or "documents") for each in found]


def print_changes(changes: Iterable[pb.Change], effects: Iterable[pb.Effect]) -> None:
    """Which documents differ, and what that means."""
    out = console()
    for change in changes:
        mark, _, style = MARKS[change.what]
        if change.what != pb.Change.WHAT_UNCHANGED:
            out.print(f"{mark} {printable(change.document)}", style=style)
    for effect in effects:
        marked = effect.text.startswith("[")
        out.print(f"  {printable(effect.text)}", style="yellow" if marked else None)


def print_response(response: pb.ApplyResponse, name: str) -> None:
    """What came of it."""
    if response.outcome not in (pb.OUTCOME_REFUSED, pb.OUTCOME_CONFLICT):
        print_changes(response.changes, response.effects)
    counts = Counter(MARKS[change.what][1] for change in response.changes)
    summary = ", ".join(f"{count} {what}" for what, count in counts.items()) or "no documents"
    versions = printable(" ".join(f"{r.namespace}@{r.version}" for r in response.releases))
    match response.outcome:
        case pb.OUTCOME_PUBLISHED:
            print(f"published {versions}: {summary}")
            for rollout in response.rollouts:
                print(described(rollout))
        case pb.OUTCOME_UNCHANGED:
            print(f"nothing to publish: {summary}")
        case pb.OUTCOME_WOULD_PUBLISH:
            print(f"dry run, nothing published: {summary}")
        case pb.OUTCOME_AWAITS_APPROVAL:
            print(
                f"nothing published yet: {summary}; somebody else has to agree, with "
                f"`sidecar approve {printable(response.proposal)}`"
            )
        case pb.OUTCOME_CONFLICT:
            print(
                f"refused: somebody else published in between; newest now: {versions or 'none'}. "
                f"Look at it with `sidecar get`, then {name} again",
                file=sys.stderr,
            )
        case _:
            print("refused; nothing was published", file=sys.stderr)


def print_json(
    response: pb.ApplyResponse,
    problems: Sequence[Problem],
    reaches: Sequence[pb.Progress.Reach],
    rollouts: Sequence[pb.Rollout] = (),
) -> None:
    """The same for programs."""
    body: dict[str, Any] = {
        "outcome": OUTCOMES.get(response.outcome, "unknown"),
        "releases": [
            {"namespace": r.namespace, "version": r.version, "documents": r.documents}
            for r in response.releases
        ],
        **changes_json(response.changes, response.effects),
        "problems": [plain(problem) for problem in problems],
        "enforced": [plain_reach(reach) for reach in reaches],
        "rollouts": [plain_rollout(each) for each in rollouts or response.rollouts],
    }
    if response.proposal:
        body["proposal"] = response.proposal
    print(json.dumps(body, indent=2))


def changes_json(
    changes: Iterable[pb.Change], effects: Iterable[pb.Effect]
) -> dict[str, list[dict[str, str]]]:
    """Which documents differ, and what that means."""
    return {
        "changes": [{"what": MARKS[each.what][1], "document": each.document} for each in changes],
        "effects": [{"text": each.text, "document": each.document} for each in effects],
    }


async def told(
    client: AdminClient,
    response: pb.ApplyResponse,
    problems: Sequence[Problem],
    args: argparse.Namespace,
    again: str,
) -> int:
    """Says what came of it and who enforces it; the exit code. `again` is what to do, at a
    conflict, once more."""
    if args.output == "text":
        print_problems(problems)
        print_response(response, again)
    reaches: Sequence[pb.Progress.Reach] = ()
    rollouts: list[pb.Rollout] = []
    if response.outcome == pb.OUTCOME_PUBLISHED:
        reaches, rollouts = await follow(client, response, args)
    if args.output == "json":
        print_json(response, problems, reaches, rollouts)
    return exit_code(response, reaches, rollouts, args.wait)


async def follow(
    client: AdminClient,
    response: pb.ApplyResponse,
    args: argparse.Namespace,
    taken_back: Sequence[pb.Rollout] = (),
) -> tuple[Sequence[pb.Progress.Reach], list[pb.Rollout]]:
    """Who enforces it, once as many do as `--wait` asks for, or the time is up; of rollouts how
    they have ended. It is published whatever happens here. `taken_back` are releases that build on
    it: who still enforces one of them does not count."""
    if response.rollouts and args.wait is not None:
        return (), await _follow_rollouts(client, response.rollouts, args)
    reaches: Sequence[pb.Progress.Reach] = ()
    within = args.timeout if args.wait is not None else min(BRIEFLY, args.timeout)
    try:
        back = [pb.Release(namespace=r.namespace, version=r.version) for r in taken_back]
        async for found in client.watch([*response.releases, *back], within=within):
            reaches = found[: len(response.releases)]
            for each in found[len(reaches) :]:
                for reach in reaches:
                    reach.live -= min(reach.live, each.live)
            if response.rollouts:  # whom it reaches in the end is not for this moment
                done = all(each.live + each.refused >= each.assigned for each in reaches)
            else:
                done = all(_enough(each, args.wait) for each in reaches)
            if done or all(each.live + each.refused >= each.sidecars for each in reaches):
                break
    except ControlPlaneUnreachable as error:
        print(f"sidecar {args.command}: published, but who enforces it is unknown: "
              f"{printable_lines(error)}",
              file=sys.stderr)  # fmt: skip
    if args.output == "text":
        for reach in reaches:
            print(live(reach))
            for refusal in reach.errors:
                print(f"  refused by {printable_lines(refusal)}", file=sys.stderr)
    return reaches, []


async def _follow_rollouts(
    client: AdminClient, rollouts: Sequence[pb.Rollout], args: argparse.Namespace
) -> list[pb.Rollout]:
    """Until each has ended, or the time is up; a control plane that is gone meanwhile is asked
    again, since the rollout goes on where it was once it is back."""
    found = list(rollouts)
    said: dict[str, str] = {}
    unanswered: set[str] = set()
    try:
        async with asyncio.timeout(args.timeout):
            while not all(ended(each) for each in found):
                await asyncio.sleep(LOOK)
                try:
                    found = [await _latest(client, each) for each in found]
                except ControlPlaneRefused:
                    raise
                except ControlPlaneUnreachable as error:
                    if str(error) not in unanswered:
                        unanswered.add(str(error))
                        print(f"sidecar {args.command}: published; asked again: "
                              f"{printable_lines(error)}", file=sys.stderr)  # fmt: skip
                for each in found:
                    text = described(each)
                    if args.output == "text" and said.get(each.namespace) != text:
                        said[each.namespace] = text
                        print(text, flush=True)
    except TimeoutError:
        print(
            f"sidecar {args.command}: published, and still being rolled out after "
            f"{args.timeout:g}s; see `sidecar rollout status`",
            file=sys.stderr,
        )
    except ControlPlaneRefused as error:
        print(f"sidecar {args.command}: published, but what becomes of it is unknown: "
              f"{printable_lines(error)}", file=sys.stderr)  # fmt: skip
    return found


async def _latest(client: AdminClient, rollout: pb.Rollout) -> pb.Rollout:
    answer = await client.rollouts(pb.RolloutsRequest(namespace=rollout.namespace))
    return next((r for r in answer.rollouts if r.version == rollout.version), rollout)


def _enough(reach: pb.Progress.Reach, share: float | None) -> bool:
    wanted = 1.0 if share is None else share
    return reach.live >= wanted * reach.sidecars


def exit_code(
    response: pb.ApplyResponse,
    reaches: Sequence[pb.Progress.Reach],
    rollouts: Sequence[pb.Rollout],
    wait: float | None,
) -> int:
    """With `wait` only what is enforced is fine."""
    if response.outcome in (
        pb.OUTCOME_UNCHANGED,
        pb.OUTCOME_WOULD_PUBLISH,
        pb.OUTCOME_AWAITS_APPROVAL,
    ):
        return FINE
    if response.outcome != pb.OUTCOME_PUBLISHED:
        return FOUND_PROBLEMS
    if wait is None:
        return FINE
    if rollouts:
        completed = all(each.state == pb.Rollout.STATE_COMPLETED for each in rollouts)
        return FINE if completed else FOUND_PROBLEMS
    everywhere = bool(reaches) and all(_enough(reach, wait) for reach in reaches)
    return FINE if everywhere else FOUND_PROBLEMS


def wait_flag(parser: argparse.ArgumentParser) -> None:
    """`--wait [SHARE]`."""
    parser.add_argument(
        "--wait", nargs="?", const=1.0, default=None, type=share, metavar="SHARE",
        help="wait until every connected sidecar enforces it, or this share of them, as in 90%%; "
        "of a rollout until it has ended",
    )  # fmt: skip


def share(text: str) -> float:
    """`90%`, from 0 to 1."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not text.endswith("%") or not 0 < number <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, such as 90%")
    return number / 100
