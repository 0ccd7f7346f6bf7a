"""Sidecars that live several lives on one state directory, and what must hold of each always."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf
from pathlib import Path

from sidecar.decide.documents import Document
from sidecar.errors import StateUnusable
from sidecar.facts.releases import Assignment, verify_assignment
from sidecar.facts.signing import TrustedKeys
from sidecar.facts.state import GENERATIONS, StateDirectory
from tests.publishing import WITHIN, Sidecar, sidecar, soon

Contents = Mapping[str, str]
"""SHA-256 by Kind/namespace/name: what a release consists of."""


def contents(documents: Iterable[Document]) -> Contents:
    return {document.ref: document.digest for document in documents}


@dataclass
class Ledger:
    """What was published, as its publisher knows: by version, and attempts without an answer."""

    published: dict[int, Contents] = field(default_factory=dict)
    unanswered: list[Contents] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return max(self.published, default=0)

    def holds(self, version: int, found: Contents) -> bool:
        """Whether a release may be what somebody holds for it. An attempt without an answer that
        is found to have been published is known from then on."""
        if version in self.published:
            return self.published[version] == found
        if found in self.unanswered:
            self.published[version] = found
            return True
        return version == 0 and not found


class Follower:
    """One sidecar. Each `begin` is a life; `adopted` is what it enforced in this one, in order."""

    def __init__(
        self, name: str, control_plane: str, folder: Path, trust: TrustedKeys, ledger: Ledger
    ) -> None:
        self.name = name
        self.folder = folder
        self.floor = 0  # the highest that it ever adopted and could not have forgotten
        self.trust = trust
        self.ledger = ledger
        self._control_plane = control_plane
        self._state: StateDirectory | None = None
        self._sidecar: Sidecar | None = None
        self._checked = 0
        self._durable = 0  # the highest floor that it said to have saved
        self._damaged: set[str] = set()

    @property
    def life(self) -> Sidecar:
        assert self._sidecar is not None, f"{self.name} does not run"
        return self._sidecar

    @property
    def adopted(self) -> list[Assignment]:
        return self.life.adopted

    @property
    def enforced(self) -> int:
        """The version that it enforces; -1: none."""
        return self.adopted[-1].versions["default"] if self.adopted else -1

    def begin(self) -> None:
        """A life. What its state directory holds is adopted first."""
        self._state = StateDirectory.open(self.folder)
        self._checked = 0
        self._sidecar = sidecar(
            self._control_plane, sidecar_id=self.name, trust=self.trust, state=self._state
        )

    async def restored(self) -> Assignment | None:
        """What it enforces before any control plane is heard. Raises StateUnusable."""
        return await self.life.client.restore()

    def run(self) -> None:
        self.life.start()

    async def end(self) -> None:
        """As a crash ends it: in the middle of whatever it does."""
        if self._sidecar is not None:
            await self._sidecar.stop()
            self.check()
            self._sidecar = None
        if self._state is not None:
            self._state.close()
            self._state = None

    def check(self) -> None:
        """What must hold of all that it adopted since the last look, in the order in which it did:
        it was published and signed as it is, whole, and was never below a floor seen before."""
        for assignment in self.adopted[self._checked :]:
            version = assignment.versions["default"]
            who = f"{self.name} enforces default@{version}"
            verify_assignment(
                assignment.manifests.values(), assignment.documents, namespace="default",
                labels={}, trust=self.trust, floors={},
            )  # fmt: skip
            for document in assignment.documents:
                assert sha256(document.canonical).hexdigest() == document.digest, who
            found = contents(assignment.documents)
            assert self.ledger.holds(version, found), f"{who}, which nobody published: {found}"
            assert version >= self.floor, f"{who}, below the floor {self.floor}"
            self.floor = max(self.floor, assignment.floors["default"])
        self._checked = len(self.adopted)
        client = self.life.client
        if self.adopted and client.saved and self._current:
            # It has acknowledged what it enforces, and so saved it.
            self._durable = max(self._durable, self.adopted[-1].floors["default"])
            assert self._state is not None
            assert self._state.memory().floors["default"] >= self._durable, "it was not saved"

    async def enforces(self, version: int) -> None:
        """Waits until it enforces exactly this one."""
        await self.life.until(lambda _: self.enforced == version)

    async def current(self) -> None:
        """Waits until it has been told that what it enforces is what is assigned to it."""
        await soon(lambda: self._current, lambda: asyncio.sleep(0.005))

    @property
    def _current(self) -> bool:
        return self.life.client.age(inf) == 0.0

    # What may be done to its state directory, while it does not run.

    def saved(self) -> list[int]:
        """Versions of the releases that can be read and would be enforced, the newest first."""
        state = StateDirectory.open(self.folder)
        found = []
        for generation in GENERATIONS:
            with contextlib.suppress(StateUnusable):
                saved = state.load(generation, namespace="default", labels={}, trust=self.trust)
                if saved is not None:
                    found.append(saved.assignment.versions["default"])
        state.close()
        return found

    def forget_what_was_not_saved(self) -> None:
        """Its floor becomes the one on its disk. Where at most one file was ever damaged, that is
        none below what it had saved. Raises StateUnusable."""
        state = StateDirectory.open(self.folder)
        try:
            remembered = state.memory().floors.get("default", 0)
        finally:
            state.close()
        if len(self._damaged) < 2:
            assert remembered >= self._durable, f"{self.name} forgot the floor {self._durable}"
        self.floor = self._durable = remembered

    def remove(self) -> None:
        """Its folder, and all that it remembers."""
        shutil.rmtree(self.folder)
        self._damaged.clear()
        self.floor = self._durable = 0

    def damage(self, name: str, how: str) -> None:
        """A file of it is cut, emptied, flipped in one bit or lost."""
        path = self.folder / name
        if not path.exists():
            return
        self._damaged.add(name)
        data = path.read_bytes()
        middle = len(data) // 2
        if how == "lost":
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[:middle])
        elif how == "empty":
            path.write_bytes(b"")
        else:
            flipped = bytes([data[middle] ^ 1]) if data else b""
            path.write_bytes(data[:middle] + flipped + data[middle + 1 :])


@asynccontextmanager
async def following(*followers: Follower) -> AsyncIterator[None]:
    """They live meanwhile, and are ended and looked at in the end."""
    for each in followers:
        each.begin()
        each.run()
    try:
        yield
    finally:
        for each in followers:
            await each.end()


async def converged(followers: Iterable[Follower], version: int) -> None:
    """Waits until all enforce this one and know it."""
    async with asyncio.timeout(3 * WITHIN):
        for each in followers:
            await each.enforces(version)
            each.check()
