"""Records what a sidecar and a control plane of this version say to each other, as bytes.

`python -m tests.wire.record VERSION` at the last commit of a minor version writes
recorded/VERSION.json: the messages both ways, and the schema by which that version reads them.
test_versions.py holds every later version against it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import aio

from sidecar.decide.revocations import Revocations
from sidecar.errors import DocumentsInvalid
from sidecar.facts.releases import Assignment
from sidecar.facts.revocations import RevocationList
from sidecar.wire import admin_pb2 as pb
from sidecar.wire import discovery_pb2
from tests.publishing import apply, plane, policy, revoke, running, sidecar, soon

FOLDER: Final = Path(__file__).with_name("recorded")
STREAM: Final = "/sidecar.v1.Discovery/Stream"
FIRST: Final = policy("first", selector={"app": "web"}, path="/a")
SECOND: Final = policy("second", path="/b/{id}/**", when="request.params.id == 'x'")
REFUSED: Final = policy("refused", path="/c")
WITHDRAWN: Final = pb.Withdrawal(
    kind=pb.Withdrawal.KIND_TOKEN,
    issuer="https://idp.example",
    value="t",
    expires=int(time.time()) + 86400,
)


class Between(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # of bytes
    """Hands bytes on between a sidecar and its control plane, and keeps them in their order."""

    def __init__(self, channel: aio.Channel) -> None:
        self.said: list[tuple[str, bytes]] = []
        self._stream = channel.stream_stream(STREAM)  # type: ignore[call-arg]  # bytes as they are

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        assert details.method == STREAM
        return grpc.stream_stream_rpc_method_handler(self._hand_on)

    async def _hand_on(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async def up() -> AsyncIterator[bytes]:
            async for message in requests:
                self.said.append(("sidecar", message))
                yield message

        async for message in self._stream(up()):
            self.said.append(("control", message))
            yield message


async def record() -> dict[str, Any]:
    """One stream: a release, another, one that is refused, and a withdrawal."""
    with tempfile.TemporaryDirectory() as folder:
        async with plane(Path(folder)) as (_, bound), aio.insecure_channel(bound.grpc) as channel:
            between = Between(channel)
            server = aio.server()
            server.add_generic_rpc_handlers((between,))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            withdrawn: list[Any] = []

            async def take(revocations: Any) -> None:
                withdrawn.extend(revocations)

            one = sidecar(
                f"127.0.0.1:{port}", labels={"app": "web"},
                revocations=RevocationList(Revocations(), take, None),
            )  # fmt: skip

            async def verdict(assignment: Assignment) -> None:
                if any(each.name == "refused" for each in assignment.documents):
                    raise DocumentsInvalid([])

            one.verdict = verdict
            async with running(one):
                await apply(bound.grpc, FIRST)
                await one.enforces(1)
                await apply(bound.grpc, SECOND)
                await one.enforces(2)
                await revoke(bound.grpc, WITHDRAWN)
                await soon(lambda: bool(withdrawn), lambda: asyncio.sleep(0))
                await apply(bound.grpc, REFUSED)
                await soon(lambda: one.client.nacks == 1, lambda: asyncio.sleep(0))
            await server.stop(None)
            return {"said": [[who, base64.b64encode(m).decode()] for who, m in between.said]}


def schema() -> str:
    """The files that describe the messages of this version."""
    found = FileDescriptorSet()
    discovery_pb2.DESCRIPTOR.CopyToProto(found.file.add())
    return base64.b64encode(found.SerializeToString()).decode()


def main(version: str) -> None:
    found = {
        "version": version,
        "at": int(time.time()),
        "schema": schema(),
        **asyncio.run(record()),
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{version}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
