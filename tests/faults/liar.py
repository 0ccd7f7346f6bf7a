"""A control plane that lies: real gRPC, and what it pushes is what a test makes up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from grpc import aio

from sidecar.decide.documents import Document
from sidecar.facts.releases import Assignment, SignedManifest, sign
from sidecar.facts.releases import Manifest as ManifestOf
from sidecar.facts.signing import Signature
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import FromControl, FromSidecar, Idle, Push, Resource
from sidecar.wire.discovery_pb2_grpc import DiscoveryServicer, add_DiscoveryServicer_to_server
from tests.publishing import OTHER_KEY, WITHIN


@dataclass(frozen=True)
class Recorded:
    """A release as some sidecar once received it: validly signed, whole."""

    manifests: Mapping[str, SignedManifest]
    documents: tuple[Document, ...]

    @classmethod
    def of(cls, assignment: Assignment) -> Recorded:
        return cls(assignment.manifests, assignment.documents)

    @property
    def manifest(self) -> ManifestOf:
        return ManifestOf.from_bytes(self.manifests["default"].manifest)

    def with_manifest(self, signed: SignedManifest) -> Recorded:
        return replace(self, manifests={**self.manifests, "default": signed})


def lies(old: Recorded, new: Recorded) -> dict[str, Recorded]:
    """What could be made of two recorded releases by who has no key; none of it is acceptable."""
    signed, manifest = old.manifests["default"], old.manifest
    (signature, *_) = signed.signatures
    flipped = bytes([signature.signature[0] ^ 1]) + signature.signature[1:]
    raised = replace(manifest, version=manifest.version + 1000)
    lowered = replace(new.manifest, floor=0, version=max(1, new.manifest.version))
    altered = [replace(d, canonical=d.canonical.replace(b"true", b"tru")) for d in new.documents]
    made = {
        "a flipped bit in the signature": old.with_manifest(
            replace(signed, signatures=(signature._replace(signature=flipped),))
        ),
        "a higher version under the old signature": old.with_manifest(
            replace(signed, manifest=raised.to_bytes())
        ),
        "signed by somebody else": old.with_manifest(sign(raised, OTHER_KEY)),
        "signed by somebody else in another's name": old.with_manifest(
            _in_the_name_of(signature.public_key, sign(raised, OTHER_KEY))
        ),
        "no signature": old.with_manifest(replace(signed, signatures=())),
        "no manifest of platform": replace(old, manifests={"default": signed}),
        "an altered document": replace(new, documents=tuple(altered)),
    }
    if lowered != new.manifest:
        made["a lower floor under the signature of another"] = new.with_manifest(
            replace(new.manifests["default"], manifest=lowered.to_bytes())
        )
    if {d.digest for d in old.documents} != {d.digest for d in new.documents}:
        made["the manifest of one with the documents of the other"] = replace(
            new, documents=old.documents
        )
    if new.documents:
        made["a document is missing"] = replace(new, documents=new.documents[1:])
    return made


def _in_the_name_of(public_key: bytes, signed: SignedManifest) -> SignedManifest:
    (signature,) = signed.signatures
    return replace(signed, signatures=(Signature(public_key, signature.signature),))


class Peer:
    """One sidecar's, in the hands of the test."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.said: asyncio.Queue[FromSidecar] = asyncio.Queue()
        self.held: set[str] = set()
        self.name = ""
        self.nonce = 0
        self.over = asyncio.Event()  # the stream ends when it is set

    async def hear(self, requests: Any) -> None:
        async for message in requests:
            self.said.put_nowait(message)

    async def next(self) -> FromSidecar:
        async with asyncio.timeout(WITHIN):
            return await self.said.get()

    async def push(self, release: Recorded) -> str:
        """Pushes all of it, in place of all that is held: "" for an ack, else why not."""
        resources = [
            Resource(
                name=convert.manifest_name(namespace),
                manifest=convert.signed_to_wire(signed.manifest, signed.signatures),
            )
            for namespace, signed in release.manifests.items()
        ] + [
            Resource(name=convert.document_name(d.ref), version=d.digest, document=d.canonical)
            for d in release.documents
        ]
        names = {resource.name for resource in resources}
        self.nonce += 1
        await self.context.write(
            FromControl(
                push=Push(
                    type=convert.RELEASE, nonce=str(self.nonce), resources=resources,
                    removed=sorted(self.held - names),
                )
            )
        )  # fmt: skip
        answer = await self.next()
        if answer.HasField("nack"):
            assert answer.nack.nonce == str(self.nonce)
            assert answer.nack.error
            return answer.nack.error
        assert answer.ack.nonce == str(self.nonce)
        self.held = names
        return ""

    async def idle(self) -> None:
        """Says that it holds all there is."""
        await self.context.write(FromControl(idle=Idle(type=convert.RELEASE)))


class Liar(DiscoveryServicer):
    """Streams wait for the test, by the name of their sidecar."""

    def __init__(self) -> None:
        self._streams: dict[str, asyncio.Queue[Peer]] = {}
        self.last = 0  # for tests that count: the newest version that was acknowledged
        self.acknowledged = asyncio.Event()

    def _queue(self, name: str) -> asyncio.Queue[Peer]:
        return self._streams.setdefault(name, asyncio.Queue())

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        stream = Peer(context)
        hearing = asyncio.create_task(stream.hear(request_iterator))
        over = asyncio.create_task(stream.over.wait())
        try:
            hello = (await stream.said.get()).hello
            stream.name = hello.sidecar_id
            stream.held = {held.name for each in hello.subscriptions for held in each.held}
            self._queue(stream.name).put_nowait(stream)
            await asyncio.wait((hearing, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            over.cancel()

    async def stream(self, name: str) -> Peer:
        """The next one of a sidecar."""
        async with asyncio.timeout(WITHIN):
            return await self._queue(name).get()

    async def streams(self, names: Iterable[str]) -> list[Peer]:
        return [await self.stream(name) for name in names]


@asynccontextmanager
async def lying() -> AsyncIterator[tuple[str, Liar]]:
    """One that listens: HOST:PORT."""
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    liar = Liar()
    add_DiscoveryServicer_to_server(liar, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", liar
    finally:
        await server.stop(None)
