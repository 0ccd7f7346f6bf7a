"""What tests of publishing share: small documents, signed releases, a plane and sidecars on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sidecar.control.server import Bound, ControlPlane
from sidecar.decide.documents import Document
from sidecar.decide.parse import Source, parse
from sidecar.facts.admin import AdminClient
from sidecar.facts.discovery import DiscoveryClient
from sidecar.facts.releases import Assignment, SignedManifest, manifest_of, sign
from sidecar.facts.signing import TrustedKeys
from sidecar.facts.state import StateDirectory
from sidecar.wire import admin_pb2 as pb

WITHIN = 10.0  # seconds that a test waits for what must happen
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def policy(
    name: str = "p",
    namespace: str = "default",
    *,
    selector: Mapping[str, str] | None = None,
    path: str = "/",
    when: str = "true",
) -> Document:
    """An AccessPolicy with one rule; `path` and `when` are for making versions that differ."""
    text = (
        f"apiVersion: authz.sidecar/v1\nkind: AccessPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec:\n  selector: {dict(selector or {})}\n"
        f"  rules: [{{name: r, match: {{paths: ['{path}']}}, when: \"{when}\"}}]\n"
    )
    documents, problems = parse([Source("test.yaml", text)])
    assert not problems, problems
    return documents[0]


def release(
    documents: Iterable[Document] = (),
    *,
    namespace: str = "default",
    version: int = 1,
    floor: int = 0,
    key: Ed25519PrivateKey = KEY,
) -> SignedManifest:
    """A signed manifest of `documents`."""
    return sign(
        manifest_of(documents, namespace=namespace, version=version, floor=floor, issued=1000), key
    )


async def soon(condition: Callable[[], bool], changed: Callable[[], Awaitable[Any]]) -> None:
    """Waits for a condition, looking again whenever `changed` returns."""
    async with asyncio.timeout(WITHIN):
        while not condition():
            await changed()


@dataclass
class Sidecar:
    """A DiscoveryClient and what it adopted. `verdict` decides about each assignment."""

    client: DiscoveryClient
    adopted: list[Assignment] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    verdict: Callable[[Assignment], Awaitable[None]] | None = None
    task: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the documents that it enforces."""
        return [document.name for document in self.adopted[-1].documents]

    async def adopt(self, assignment: Assignment) -> None:
        if self.verdict is not None:
            await self.verdict(assignment)
        self.adopted.append(assignment)
        async with self.news:
            self.news.notify_all()

    async def until(self, condition: Callable[[Sidecar], bool]) -> None:
        """Waits until a condition holds of what it adopted."""
        async with self.news, asyncio.timeout(WITHIN):
            await self.news.wait_for(lambda: condition(self))

    async def enforces(self, version: int, namespace: str = "default") -> None:
        await self.until(
            lambda s: bool(s.adopted) and s.adopted[-1].versions.get(namespace, -1) >= version
        )

    def start(self) -> None:
        self.task = asyncio.create_task(self.client.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None


def sidecar(
    address: str,
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    sidecar_id: str = "one",
    trust: TrustedKeys | None = None,
    state: StateDirectory | None = None,
    **settings: Any,
) -> Sidecar:
    """A sidecar, not started. It trusts on first use unless told otherwise."""

    async def adopt(assignment: Assignment) -> None:
        await made.adopt(assignment)

    made = Sidecar(
        DiscoveryClient(
            address,
            namespace=namespace,
            labels=labels or {},
            sidecar_id=sidecar_id,
            trust=trust or TrustedKeys(first_use=True),
            adopt=adopt,
            state=state,
            build="test",
            chance=lambda: 0.0,
            **settings,
        )
    )
    return made


@asynccontextmanager
async def plane(
    folder: Path, listen: str = "127.0.0.1:0", **settings: Any
) -> AsyncIterator[tuple[ControlPlane, Bound]]:
    """A control plane on free ports, its store in `folder`."""
    transmitters = settings.pop("transmitters", None)
    control = ControlPlane(**settings)
    url = f"sqlite:///{folder / 'store.db'}"
    bound = await control.start(listen, "127.0.0.1:0", url, transmitters=transmitters)
    try:
        yield control, bound
    finally:
        await control.stop()


@asynccontextmanager
async def running(*sidecars: Sidecar) -> AsyncIterator[None]:
    """Sidecars that run meanwhile."""
    for each in sidecars:
        each.start()
    try:
        yield
    finally:
        for each in sidecars:
            await each.stop()


async def apply(address: str, *documents: Document, **fields: Any) -> pb.ApplyResponse:
    """One apply over gRPC."""
    async with AdminClient(address, timeout=WITHIN) as client:
        return await client.apply(
            pb.ApplyRequest(documents=[document.canonical for document in documents], **fields)
        )


async def revoke(address: str, *withdrawals: pb.Withdrawal) -> int:
    """One revoke over gRPC; its number."""
    async with AdminClient(address, timeout=WITHIN) as client:
        answer = await client.revoke(pb.RevokeRequest(withdrawals=withdrawals))
        return answer.number


async def status(address: str, **fields: Any) -> pb.StatusResponse:
    """One status over gRPC."""
    async with AdminClient(address, timeout=WITHIN) as client:
        return await client.status(pb.StatusRequest(**fields))


async def reached(
    address: str,
    condition: Callable[[pb.Progress.Reach], bool],
    version: int = 1,
    namespace: str = "default",
) -> pb.Progress.Reach:
    """Waits until the watch of a release says what a test waits for."""
    async with AdminClient(address, timeout=WITHIN) as client:
        wanted = pb.Release(namespace=namespace, version=version)
        async for reaches in client.watch([wanted], within=WITHIN):
            if condition(reaches[0]):
                return reaches[0]
    raise AssertionError(f"{namespace}@{version} did not get there: {reaches[0]}")


def names(documents: Sequence[Document]) -> list[str]:
    return [document.name for document in documents]
