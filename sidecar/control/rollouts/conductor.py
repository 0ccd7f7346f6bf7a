"""Leads rollouts: looks how sidecars fare, lets each go on, and takes back what fares badly.

Every replica looks; what one of them decides is stored by a compare-and-set, so that it happens
once. What was decided is announced as a release is: sidecars are assigned the one or the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, cast

from sidecar.control import expiries
from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.publish import Publisher
from sidecar.control.reach import Connected, Everyone, reach
from sidecar.control.releases import SYSTEM, By
from sidecar.control.rollouts.baselines import Baselines
from sidecar.control.rollouts.health import Tally
from sidecar.control.rollouts.history import History
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.rollouts.rows import keep_baseline
from sidecar.control.rollouts.steps import Seen, advance, end, onward
from sidecar.control.rollouts.tallies import Tallies, added, read, to_plain
from sidecar.control.rollouts.weights import Weights
from sidecar.control.roster import Member
from sidecar.control.session import Session
from sidecar.control.store import Store
from sidecar.decide.documents import PLATFORM
from sidecar.errors import SidecarError, StoreFailed
from sidecar.wire.discovery_pb2 import Report

LOOK: Final = 0.5  # seconds
GATHER: Final = 20.0  # seconds after the start in which sidecars come back, and nothing goes on
USUALLY: Final = 15_000  # milliseconds between reports of a sidecar that no rollout concerns
AT_LEAST: Final = 1_000
PER_SECOND: Final = 1_000  # reports, of all sidecars together
_PAST: Final = 4  # looks between two looks at what has settled
_EXPIRES: Final = 10  # looks between two looks at what has had its time
_log = logging.getLogger(__name__)


class NotSteered(SidecarError):
    """A rollout that cannot be led so; says why."""


class Conductor:
    """`look` is one look; it is to be done again and again, LOOK seconds apart."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        fleet: Fleet,
        everyone: Everyone,
        publisher: Publisher,
        announce: Callable[[Iterable[str]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tallies = Tallies()
        self.baselines = Baselines()
        self.history = History(store, everyone)
        self._store = store
        self._catalogue = catalogue
        self._fleet = fleet
        self._everyone = everyone
        self._publisher = publisher
        self._announce = announce
        self._weights = Weights()
        self._monotonic = monotonic
        self._began = store.clock()
        self._gathered = monotonic() + GATHER
        self._often, self._seldom = AT_LEAST, USUALLY
        self._about: set[str] = set()
        self._looks = 0
        self._turn = asyncio.Lock()

    def reported(self, session: Session, report: Report) -> None:
        """How a sidecar fares, as it says. It speaks for its own namespaces alone, of releases that
        it has confirmed, and for no more requests than its like. What makes no sense is left
        out."""
        tally = read(report)
        if tally is None:
            return
        if any(each.namespace not in (PLATFORM, session.namespace) for each in report.enforced):
            return
        enforced = {
            each.namespace: each.version
            for each in report.enforced
            if session.confirmed.get(each.namespace) == each.version
        }
        if not enforced:
            return
        often = not self._about.isdisjoint((PLATFORM, session.namespace))
        tally = self._weights.weigh(
            session.namespace, session.sidecar_id, tally,
            (self._often if often else self._seldom) / 1000, self._monotonic(),
        )  # fmt: skip
        self.tallies.take(tally, enforced, self._catalogue.rollouts())

    async def look(self) -> None:
        """Raises StoreFailed."""
        rollouts = self._catalogue.rollouts()
        self._ask_for_reports(rollouts)
        past = self._looks % _PAST == 0
        if rollouts or (past and self.history.waiting):
            await self._everyone.refresh()
        self._share(rollouts)
        for rollout in rollouts:
            await self._safely(rollout)
        await self._keep_baselines(rollouts)
        if past:
            await self.history.look(self._catalogue)
        self._looks += 1
        if self._looks % _EXPIRES == 1:
            self._weights.keep((each.namespace, each.sidecar_id) for each in self._fleet)
            await self._take_back()

    def seen(self, rollout: Rollout) -> Seen:
        """How the sidecars that a rollout concerns fare, as of the last refresh."""
        concerned = list(self._everyone.concerned(rollout.namespace))
        sidecars = [each for each in concerned if not self._enforces_nothing(each, rollout)]
        found = reach(self._catalogue, sidecars, rollout.namespace, rollout.version)
        new, old, usual = self._reported(rollout)
        return Seen(
            [each.sidecar_id for each in sidecars],
            assigned=found.assigned,
            live=found.live,
            refused=found.refused,
            errors=found.errors,
            new=new,
            old=self.baselines.of(rollout, old, usual),
            new_sidecars=found.live,
            old_sidecars=len(sidecars) - found.live,
            left_out=len(concerned) - len(sidecars),
        )

    def _enforces_nothing(self, sidecar: Connected, rollout: Rollout) -> bool:
        """Whether it refuses what it is sent and has nothing else of the namespace, neither as it
        has confirmed nor as it says: that is no fault of the new release."""
        line = self._catalogue.line(rollout.namespace)
        if line is None or rollout.namespace not in sidecar.refused:
            return False
        says = cast("Session | Member", sidecar).enforced.get(rollout.namespace)
        return not any(
            found is not None and line.descends(found, rollout.stable)
            for found in (sidecar.confirmed.get(rollout.namespace), says)
        )

    async def steer(
        self, namespace: str, action: str, reason: str, version: int, by: By
    ) -> Rollout:
        """`pause`, `resume` or `abort`; how it is then. Raises NotSteered and StoreFailed."""
        await self._everyone.refresh()
        async with self._turn:
            await self._publisher.take_over()
            line = self._catalogue.line(namespace)
            rollout = line.rollout if line is not None else None
            if rollout is None or version not in (0, rollout.version):
                what = f"{namespace}@{version}" if version else f"nothing in {namespace}"
                raise NotSteered(f"{what} is being rolled out; see `sidecar rollout status`")
            now = self._store.clock()
            match action:
                case "pause":
                    if rollout.state == "paused":
                        return rollout
                    after = replace(rollout, state="paused", reason=reason or "paused")
                case "resume" if rollout.state == "paused":
                    after = replace(
                        rollout, state="running", stage_since=now, reason=reason or "resumed"
                    )
                case "resume":
                    after = onward(rollout, self.seen(rollout).sidecar_ids, now)
                case "abort":
                    after = end(rollout, "aborted", reason or "aborted", now)
                case _:
                    raise NotSteered("pause, resume or abort is expected")
            changed = await self._change(after, replace(by, action=f"rollout-{action}"))
            if changed is None:
                raise NotSteered("somebody else led it on at the same time; look, and try again")
            return changed

    async def _safely(self, rollout: Rollout) -> None:
        """What goes wrong in one is not for the others to suffer."""
        try:
            await self._lead(rollout)
        except StoreFailed as error:
            _log.error("%s stands still: %s", rollout.name, error)
        except Exception:  # noqa: BLE001 - a mistake of ours: said, and tried again
            _log.exception("%s stands still", rollout.name)

    async def _lead(self, rollout: Rollout) -> None:
        async with self._turn:
            line = self._catalogue.line(rollout.namespace)
            if line is None or line.rollout is not rollout:
                return  # somebody steered it meanwhile
            now = self._store.clock()
            after = advance(rollout, self.seen(rollout), now)
            if after is rollout:
                return
            early = rollout.started < self._began and self._monotonic() < self._gathered
            if early and after.state != "rolled_back":
                return  # who has come back so far is not all of them
            changed = await self._change(after, By(SYSTEM, "rollout"))
            if changed is not None and changed.state == "rolled_back":
                _log.error("%s is rolled back: %s", rollout.name, after.reason)

    async def _change(self, after: Rollout, by: By) -> Rollout | None:
        if after.active:
            await self._keep_baseline(after)  # first: in the next stage nobody may have the old one
        changed = await self._store.steer(after, by)
        if changed is None:
            await self._publisher.take_over()
            return None
        self._catalogue.steer(changed)
        self.history.note(changed)
        self._announce([changed.namespace])
        return changed

    async def _keep_baselines(self, rollouts: list[Rollout]) -> None:
        for rollout in rollouts:
            await self._keep_baseline(rollout)
        self.baselines.keep(rollouts)

    async def _keep_baseline(self, rollout: Rollout) -> None:
        news = self.baselines.news(rollout)
        if not news:
            return
        try:
            async with self._store.transaction() as connection:
                await keep_baseline(connection, rollout, news)
        except StoreFailed as error:
            self.baselines.unkept(rollout)
            _log.warning("what %s is compared with is not kept: %s", rollout.name, error)

    async def _take_back(self) -> None:
        async with self._store.reading() as connection:
            found = await expiries.due(connection, self._store.clock())
        for namespace, version in found:
            outcome = await self._publisher.take_back(namespace, version)
            if outcome:
                async with self._store.transaction() as connection:
                    await expiries.finish(connection, namespace, version, outcome)

    def _reported(self, rollout: Rollout) -> tuple[Tally, Tally, Tally]:
        mine = self.tallies.of(rollout)
        roster = self._everyone.roster
        return mine if roster is None else added([mine, *roster.reported(_key(rollout))])

    def _share(self, rollouts: Iterable[Rollout]) -> None:
        """Tells other replicas what was reported here, and forgets what nobody needs."""
        roster = self._everyone.roster
        if roster is not None:
            roster.tallies = {_key(each): to_plain(self.tallies.of(each)) for each in rollouts}
        names = {each.name for each in rollouts}
        for release in self._catalogue.releases():
            names.add(f"{release.namespace}@{release.version}")
        self.tallies.keep(names)

    def _ask_for_reports(self, rollouts: list[Rollout]) -> None:
        """Of sidecars that a rollout concerns often, of the others now and then."""
        about = {rollout.namespace for rollout in rollouts}
        concerned = {
            session.sidecar_id for each in about for session in self._fleet.concerned(each)
        }
        self._about = about
        often = self._often = max(AT_LEAST, 1000 * len(concerned) // PER_SECOND)
        seldom = self._seldom = max(USUALLY, 1000 * len(self._fleet) // PER_SECOND)
        for session in self._fleet:
            session.report_every(often if session.sidecar_id in concerned else seldom)


def _key(rollout: Rollout) -> str:
    return f"{rollout.name}/{rollout.stage}"
