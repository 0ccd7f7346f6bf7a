"""How far a release has come: the one answer to "is my change live?", over all replicas.

It is live where the release that a sidecar has confirmed on its stream is that one, or builds on
it. What a sidecar says without having been sent it proves nothing, nor does a higher number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sidecar.control.catalogue import Catalogue
from sidecar.control.fleet import Fleet
from sidecar.control.roster import Roster
from sidecar.decide.documents import PLATFORM

MAX_ERRORS: Final = 10


class Connected(Protocol):
    """A sidecar here (`session.Session`) or at another replica (`roster.Member`)."""

    @property
    def sidecar_id(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def confirmed(self) -> Mapping[str, int]: ...
    @property
    def refused(self) -> Mapping[str, int]: ...
    @property
    def last_error(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Reach:
    """Of the connected sidecars that a release concerns: how many there are, how many are assigned
    it, enforce it, and refused it, each it or one that builds on it. At most MAX_ERRORS errors."""

    sidecars: int = 0
    assigned: int = 0
    live: int = 0
    refused: int = 0
    errors: tuple[str, ...] = ()


def _everything(_namespace: str) -> bool:
    return True


class Everyone:
    """All connected sidecars."""

    def __init__(self, catalogue: Catalogue, fleet: Fleet, roster: Roster | None) -> None:
        self._catalogue = catalogue
        self._fleet = fleet
        self.roster = roster

    async def refresh(self) -> None:
        """Hears of those at other replicas. Raises StoreFailed."""
        if self.roster is not None:
            await self.roster.refresh()

    def concerned(self, namespace: str) -> Iterator[Connected]:
        """Those that enforce releases of a namespace; `""`: all."""
        yield from self._fleet.concerned(namespace) if namespace else self._fleet
        for member in self.roster.others() if self.roster is not None else ():
            if namespace in (PLATFORM, "", member.namespace):
                yield member

    async def ids(self, namespace: str) -> list[str]:
        """Of those. Raises StoreFailed."""
        await self.refresh()
        return [each.sidecar_id for each in self.concerned(namespace)]

    def reach(
        self, namespace: str, version: int, sees: Callable[[str], bool] = _everything
    ) -> Reach:
        """How far one release has come. `sees` says of whom errors may be told, by namespace."""
        return reach(self._catalogue, self.concerned(namespace), namespace, version, sees)

    def settled(self, namespace: str) -> bool | None:
        """Whether each that a namespace concerns enforces what it is assigned of it; None: there
        are none."""
        line = self._catalogue.line(namespace)
        found = None
        for each in self.concerned(namespace):
            if line is None:
                return None
            wanted = line.assigned(each.sidecar_id, each.labels).version
            if each.confirmed.get(namespace) != wanted:
                return False
            found = True
        return found


def reach(
    catalogue: Catalogue,
    sidecars: Iterable[Connected],
    namespace: str,
    version: int,
    sees: Callable[[str], bool] = _everything,
) -> Reach:
    """Of the sidecars given; what those of namespaces say that nobody sees is only counted."""
    line = catalogue.line(namespace)
    builds: dict[int, bool] = {}

    def on(found: int | None) -> bool:
        if found is None or line is None:
            return False
        known = builds.get(found)
        if known is None:
            known = builds[found] = line.descends(found, version)
        return known

    count = assigned = live = refused = 0
    errors: list[str] = []
    for each in sidecars:
        count += 1
        wanted = None if line is None else line.assigned(each.sidecar_id, each.labels)
        assigned += on(wanted.version if wanted is not None else None)
        if on(each.confirmed.get(namespace)):
            live += 1
        elif on(each.refused.get(namespace)):
            refused += 1
            if len(errors) < MAX_ERRORS and sees(each.namespace):
                errors.append(f"{each.sidecar_id}: {each.last_error}")
    return Reach(count, assigned, live, refused, tuple(errors))
