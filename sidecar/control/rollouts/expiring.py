"""Takes back what releases with a time to live changed, once it is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.control import expiries
from sidecar.control.catalogue import Catalogue
from sidecar.control.publish import Publisher
from sidecar.control.releases import SYSTEM, By
from sidecar.control.rollouts.plan import Rollout
from sidecar.control.store import Store
from sidecar.errors import SidecarError

_log = logging.getLogger(__name__)
FIRST: Final = 10.0  # seconds until it is tried again, doubling
LONGEST: Final = 600.0
Steer = Callable[[str, str, str, int, By], Awaitable[Rollout]]
"""`Conductor.steer`."""


class Expiring:
    """`look` is one look at what is over. `overdue` is how many could not be taken back so far."""

    def __init__(
        self, store: Store, catalogue: Catalogue, publisher: Publisher, steer: Steer
    ) -> None:
        self.overdue = 0
        self._store = store
        self._catalogue = catalogue
        self._publisher = publisher
        self._steer = steer
        self._again: dict[tuple[str, int], tuple[float, float]] = {}  # when, and the pause then

    async def look(self) -> None:
        """Raises StoreFailed."""
        now = self._store.clock()
        async with self._store.reading() as connection:
            found = await expiries.due(connection, now)
        self._again = {key: again for key, again in self._again.items() if key in found}
        left = 0
        for key in found:
            try:
                waits = now < self._again.get(key, (0.0, 0.0))[0]
                left += waits or not await self._take_back(*key, now)
            except SidecarError as error:  # of one, which is not for the others to suffer
                _log.warning("%s@%d is not taken back yet: %s", *key, error)
                left += 1
        self.overdue = left

    async def _take_back(self, namespace: str, version: int, now: float) -> bool:
        line = self._catalogue.line(namespace)
        rollout = line.rollout if line is not None else None
        if rollout is not None and rollout.version == version:
            by = By(SYSTEM, about={"expired": rollout.name})
            await self._steer(namespace, "abort", "its time is over", version, by)
            outcome = "its rollout was ended"
        elif rollout is not None:
            return False  # one at a time; it is the next
        else:
            outcome = await self._publisher.take_back(namespace, version)
        if not outcome:
            key = namespace, version
            pause = min(LONGEST, max(FIRST, 2 * self._again.get(key, (0.0, 0.0))[1]))
            self._again[key] = now + pause, pause
            return False
        async with self._store.transaction() as connection:
            await expiries.finish(connection, namespace, version, outcome)
        return True
