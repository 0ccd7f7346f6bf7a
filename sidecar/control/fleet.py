"""The sidecars that are connected now: whom a release concerns, and who watches how far it came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from sidecar.control.session import Session
from sidecar.decide.documents import PLATFORM
from sidecar.errors import SidecarError

MAX_WATCHERS: Final = 256
MAX_OF_ONE: Final = 64  # of them, of one person or program
GATHER: Final = 0.1  # seconds between two times that streams are woken for releases
MAX_OF_ACCOUNT: Final = 256  # sidecars of one account that show no pod, and so could make up any


class FleetFull(SidecarError):
    """A bound on streams or watchers is reached."""


class Fleet:
    """Sessions by sidecar id."""

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._sessions: dict[str, Session] = {}
        self._watchers: set[asyncio.Event] = set()
        self._watching: Counter[str] = Counter()
        self._accounts: Counter[str] = Counter()
        self._touched: set[str] = set()  # namespaces with news that nobody was woken for yet
        self._waking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def most(self) -> int:
        """How many streams there may be."""
        return self._max_streams

    @property
    def watchers(self) -> int:
        """How many ask to be told of changes."""
        return len(self._watchers)

    def join(self, session: Session) -> None:
        """A stream begins; an older one of the same sidecar ends. Raises FleetFull."""
        old = self._sessions.get(session.sidecar_id)
        if old is not None:
            old.end("another stream came with the same sidecar id")
            self._accounts[old.account] -= 1
        elif len(self._sessions) >= self._max_streams:
            raise FleetFull(f"{self._max_streams} sidecars are connected, the most allowed")
        elif session.account and self._accounts[session.account] >= MAX_OF_ACCOUNT:
            raise FleetFull(
                f"{MAX_OF_ACCOUNT} sidecars of {session.account} are connected, the most of one "
                "account that show no pod"
            )
        self._sessions[session.sidecar_id] = session
        self._accounts[session.account] += 1
        self.changed()

    def leave(self, session: Session) -> None:
        """A stream has ended."""
        if self._sessions.get(session.sidecar_id) is session:
            del self._sessions[session.sidecar_id]
            self._accounts[session.account] -= 1
            if not self._accounts[session.account]:
                del self._accounts[session.account]
            self.changed()

    def announce(self, namespaces: Iterable[str]) -> None:
        """Releases of these namespaces were made: wakes the streams that they concern. Of a burst
        the first at once, the others together: to wake a thousand takes fifteen milliseconds."""
        self._touched.update(namespaces)
        if not self._sessions:  # whoever comes looks for themselves
            self._touched.clear()
            self.changed()
        elif self._waking is None:
            self._wake()
            self._waking = asyncio.get_running_loop().call_later(GATHER, self._woken)

    def _woken(self) -> None:
        self._waking = None
        if self._touched:
            self.announce(())

    def _wake(self) -> None:
        touched, self._touched = self._touched, set()
        for session in self._sessions.values():
            if PLATFORM in touched or session.namespace in touched:
                session.wake.set()
        self.changed()

    def announce_withdrawals(self) -> None:
        """Something was withdrawn: wakes every stream."""
        for session in self._sessions.values():
            session.wake.set()
        self.changed()

    def concerned(self, namespace: str) -> Iterator[Session]:
        """The sidecars that enforce releases of a namespace."""
        for session in self:
            if namespace in (PLATFORM, session.namespace):
                yield session

    def changed(self) -> None:
        """Something that `status` shows is different."""
        for watcher in self._watchers:
            watcher.set()

    @contextmanager
    def watching(self, who: str = "") -> Iterator[asyncio.Event]:
        """An event that is set at every change. `who` is somebody among others, for whom some
        places are kept. Raises FleetFull."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise FleetFull(f"{MAX_WATCHERS} watchers are connected, the most allowed")
        if who and self._watching[who] >= MAX_OF_ONE:
            raise FleetFull(f"{who} has {MAX_OF_ONE} watchers connected, the most of one")
        event = asyncio.Event()
        self._watchers.add(event)
        self._watching[who] += 1
        try:
            yield event
        finally:
            self._watchers.discard(event)
            self._watching[who] -= 1
            if not self._watching[who]:
                del self._watching[who]
