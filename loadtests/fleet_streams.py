"""Many sidecars' streams in one process, for `loadtests.fleet`: real gRPC, a connection each.

They do what a stream has to (Hello, Ack) and nothing else: what a sidecar does with a release it
does on its own machine. Orders come as JSON lines on standard input, answers go to standard output;
times are by CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any, Final

from grpc import aio

from sidecar.facts.discovery import FIRST_PAUSE, LONGEST_PAUSE
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Ack, FromControl, FromSidecar, Held, Hello, Subscription
from sidecar.wire.discovery_pb2_grpc import DiscoveryStub

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class Streams:
    """All of them. `version` is that of each: the newest release of `default` that it has."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.versions: dict[str, int] = {}
        self.arrived: dict[int, list[float]] = {}
        self.pushes = 0
        self.connected: set[str] = set()
        self.attempts = 0
        self.refused: dict[str, int] = {}
        self.changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, first: int, count: int, spread: float) -> None:
        for number in range(first, first + count):
            wait = spread * (number - first) / count
            self._tasks.append(asyncio.create_task(self._live(f"s{number}", wait)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self, name: str, wait: float) -> None:
        """Connects again and again, after the pauses that a sidecar makes."""
        await asyncio.sleep(wait)
        failures = 0
        held: dict[str, str] = {}
        while True:
            self.attempts += 1
            try:
                await self._stream(name, held)
            except aio.AioRpcError as error:
                code = error.code().name
                self.refused[code] = self.refused.get(code, 0) + 1
            except (aio.BaseError, asyncio.InvalidStateError):
                self.refused["ended"] = self.refused.get("ended", 0) + 1
            failures = 0 if name in self.connected else failures + 1
            self.connected.discard(name)
            self.changed.set()
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 16))
            await asyncio.sleep(longest * (0.1 + 0.9 * random.random()))

    async def _stream(self, name: str, held: dict[str, str]) -> None:
        async with aio.insecure_channel(self._server, options=_OPTIONS) as channel:
            stream: Any = DiscoveryStub(channel).Stream()  # type: ignore[call-arg]  # optional, which the stubs forgot
            subscriptions = [
                Subscription(
                    type=convert.RELEASE,
                    held=[Held(name=n, version=v) for n, v in held.items()],
                ),
                Subscription(type=convert.REVOCATION),
            ]
            await stream.write(
                FromSidecar(
                    hello=Hello(
                        sidecar_id=name, namespace="default", build="load",
                        subscriptions=subscriptions, started=int(time.time()),
                    )
                )
            )  # fmt: skip
            while isinstance(message := await stream.read(), FromControl):
                if name not in self.connected:
                    self.connected.add(name)
                    self.changed.set()
                if message.HasField("push"):
                    await self._take(name, held, stream, message)

    async def _take(
        self, name: str, held: dict[str, str], stream: Any, message: FromControl
    ) -> None:
        push = message.push
        version = 0
        for resource in push.resources:
            held[resource.name] = resource.version
            if resource.name == "manifest/default":
                version = json.loads(resource.manifest.manifest)["version"]
        for gone in push.removed:
            held.pop(gone, None)
        await stream.write(FromSidecar(ack=Ack(type=push.type, nonce=push.nonce)))
        if version:
            self.pushes += 1
            self.versions[name] = version
            self.arrived.setdefault(version, []).append(time.monotonic())
            self.changed.set()


async def main(server: str) -> None:
    streams = Streams(server)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        answer: dict[str, Any] = {}
        match order["do"]:
            case "open":
                streams.open(order["first"], order["count"], order["spread"])
            case "state":
                answer = {
                    "connected": len(streams.connected),
                    "pushes": streams.pushes,
                    "attempts": streams.attempts,
                    "refused": streams.refused,
                    "at": sum(v >= order["version"] for v in streams.versions.values()),
                }
            case "arrived":
                answer = {"times": streams.arrived.pop(order["version"], [])}
        print(json.dumps(answer), flush=True)
    await streams.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
