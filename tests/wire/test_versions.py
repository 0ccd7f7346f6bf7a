"""A sidecar and a control plane of which one is a version behind, by what that version really said.

`record` has written each exchange at the last commit of its version, with the schema by which it
reads messages. The other side here is this version, over real gRPC.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from grpc import aio

from sidecar.control.server import ControlPlane
from sidecar.decide.revocations import Revocation, Revocations
from sidecar.errors import DocumentsInvalid
from sidecar.facts.releases import Assignment
from sidecar.facts.revocations import RevocationList
from sidecar.wire import admin_pb2 as pb
from tests.publishing import WITHIN, apply, reached, revoke, running, sidecar, status
from tests.wire import record


@dataclass(frozen=True)
class Version:
    """One that was recorded: what each side said, in order, and how it reads a message."""

    name: str
    at: int
    said: list[tuple[str, bytes]]
    schema: bytes

    def of(self, who: str) -> list[bytes]:
        return [message for speaker, message in self.said if speaker == who]

    def read(self, kind: str, data: bytes) -> Any:
        """As that version reads it: what it does not know is left over."""
        files = FileDescriptorSet.FromString(self.schema)
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        found = pool.FindMessageTypeByName(f"sidecar.v1.{kind}")
        message: Message = message_factory.GetMessageClass(found)()
        message.ParseFromString(data)
        return message


def load(path: Path) -> Version:
    found = json.loads(path.read_text())
    said = [(who, base64.b64decode(text)) for who, text in found["said"]]
    return Version(found["version"], found["at"], said, base64.b64decode(found["schema"]))


VERSIONS = [load(path) for path in sorted(record.FOLDER.glob("*.json"))]
of_each = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def test_there_is_a_version_before_this_one() -> None:
    assert VERSIONS


@of_each
async def test_a_sidecar_of_that_version_is_served(version: Version, tmp_path: Path) -> None:
    """Its bytes go to this control plane, and it understands what comes back."""
    hello, ack_first, ack_second, ack_withdrawn, nack = version.of("sidecar")
    control = ControlPlane(clock=lambda: version.at)
    bound = await control.start("127.0.0.1:0", None, f"sqlite:///{tmp_path / 's.db'}")
    try:
        async with aio.insecure_channel(bound.grpc) as channel:
            stream = channel.stream_stream(record.STREAM)()  # type: ignore[call-arg]

            async def heard() -> Any:
                data: Any = await asyncio.wait_for(stream.read(), WITHIN)
                return version.read("FromControl", data)

            await stream.write(hello)
            details = {(await heard()).idle.detail for _ in range(2)}
            assert "namespace 'default' has no release yet" in details
            await apply(bound.grpc, record.FIRST)
            push = (await heard()).push
            assert {each.name for each in push.resources} == {"manifest/platform", *names("first")}
            assert record.FIRST.canonical in [each.document for each in push.resources]
            await stream.write(ack_first)
            await apply(bound.grpc, record.SECOND)
            push = (await heard()).push
            assert {each.name for each in push.resources} == names("second")
            await stream.write(ack_second)
            await reached(bound.grpc, lambda reach: reach.live == 1, version=2)
            await revoke(bound.grpc, withdrawal(version))
            push = (await heard()).push
            assert len(push.resources) == 1
            assert push.resources[0].revocation.target
            await stream.write(ack_withdrawn)
            await apply(bound.grpc, record.REFUSED)
            assert len((await heard()).push.resources) == 2
            await stream.write(nack)
            reach = await reached(bound.grpc, lambda reach: bool(reach.refused), version=3)
            assert reach.live == 0
            [shown] = (await status(bound.grpc)).sidecars
            assert shown.sidecar_id == "one"
    finally:
        await control.stop()


def names(document: str) -> set[str]:
    return {"manifest/default", f"document/AccessPolicy/default/{document}"}


def withdrawal(version: Version) -> pb.Withdrawal:
    found = pb.Withdrawal()
    found.CopyFrom(record.WITHDRAWN)
    found.expires = version.at + 3600
    return found


class Old(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # of bytes
    """A control plane that says what it said then, each message when it is its turn."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.heard: list[bytes] = []
        self.news = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == record.STREAM
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        for who, message in self.version.said:
            if who == "control":
                yield message
            else:
                self.heard.append(await asyncio.wait_for(anext(requests), WITHIN))
        self.news.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def old_control_plane(version: Version) -> AsyncIterator[tuple[Old, str]]:
    handler = Old(version)
    server = aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@of_each
async def test_a_control_plane_of_that_version_is_followed(version: Version) -> None:
    """Its bytes come to this sidecar, and it understands what it is told."""
    withdrawn: list[Revocation] = []

    async def take(revocations: Any) -> None:
        withdrawn.extend(revocations)

    async def verdict(assignment: Assignment) -> None:
        if any(each.name == "refused" for each in assignment.documents):
            raise DocumentsInvalid([])

    async with old_control_plane(version) as (old, address):
        one = sidecar(
            address, labels={"app": "web"}, clock=lambda: version.at,
            revocations=RevocationList(Revocations(), take, None),
        )  # fmt: skip
        one.verdict = verdict
        async with running(one):
            await asyncio.wait_for(old.news.wait(), WITHIN)
    assert [[each.name for each in got.documents] for got in one.adopted] == [
        ["first"], ["first", "second"],
    ]  # fmt: skip
    assert one.adopted[0].documents[0].canonical == record.FIRST.canonical
    assert len(withdrawn) == 1
    assert (one.client.acks, one.client.nacks) == (2, 1)
    # What it answered says the same to that version as its own sidecar's answers did.
    for ours, theirs in zip(old.heard, version.of("sidecar"), strict=True):
        said, then = (version.read("FromSidecar", each) for each in (ours, theirs))
        assert said.WhichOneof("message") == then.WhichOneof("message")
        kind = then.WhichOneof("message")
        if kind == "hello":
            assert said.hello.namespace == then.hello.namespace
            assert dict(said.hello.labels) == dict(then.hello.labels)
            assert [each.type for each in said.hello.subscriptions] == [
                each.type for each in then.hello.subscriptions
            ]
        else:
            assert getattr(said, kind).type == getattr(then, kind).type
            assert getattr(said, kind).nonce == getattr(then, kind).nonce
        if kind == "ack":
            assert str(said.ack) == str(then.ack)
