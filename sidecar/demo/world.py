"""The demo's processes: a control plane and a sidecar as anyone would start them, on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import grpc
from grpc import aio

from sidecar.decide.parse import Source, parse
from sidecar.demo.services import DemoBank, DemoIssuer, serve
from sidecar.errors import ControlPlaneUnreachable, DocumentsInvalid, SidecarError
from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminStub

START: Final = 20.0  # seconds that a process may take until it is ready
_POLICIES: Final = Path(__file__).parent / "policies"
_MISTAKES: Final = Path(__file__).parent / "mistakes"
_ISSUER: Final = "https://issuer.demo.invalid"  # in those, for that which the demo starts
_PAGES: Final = "https://pages.demo.invalid"


class World:
    """Everything the demo starts; `close` stops it by pid. `folder` holds its state and logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.issuer = DemoIssuer()
        self.control_port, self.http_port, self.port, self.health_port, self.admin_port = (
            free_ports(5)
        )
        self._others: list[asyncio.subprocess.Process] = []
        self._control: asyncio.subprocess.Process | None = None
        self._sidecar: asyncio.subprocess.Process | None = None
        self._runners: list[aiohttp.web.AppRunner] = []
        self._bank = ""

    @property
    def address(self) -> str:
        """Where callers reach the bank: at the sidecar."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def pages(self) -> str:
        """Where the control plane serves customers' pages."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def control_plane(self) -> str:
        return f"127.0.0.1:{self.control_port}"

    async def start(self) -> None:
        runner, self.issuer.address = await serve(self.issuer.app())
        self._runners.append(runner)
        runner, self._bank = await serve(DemoBank().app())
        self._runners.append(runner)
        await self.start_control_plane()
        await self.apply("bank.yaml")
        await self.start_sidecar()

    async def close(self) -> None:
        await self.end_others()
        await self._end(self._sidecar, signal.SIGTERM)
        await self._end(self._control, signal.SIGTERM)
        for runner in self._runners:
            await runner.cleanup()

    async def start_control_plane(self) -> None:
        self._control = await self._spawn(
            "control-plane", "--store", f"sqlite:///{self.folder / 'store.db'}",
            "--listen", self.control_plane, "--http", f"127.0.0.1:{self.http_port}",
            "--insecure-page-cookies", "--events", str(self.folder / "events.jsonl"),
        )  # fmt: skip
        await self._ready(
            self._control, "control-plane", f"http://127.0.0.1:{self.http_port}/readyz"
        )

    async def kill_control_plane(self) -> None:
        """SIGKILL: it gets no chance to say goodbye."""
        await self._end(self._control, signal.SIGKILL)
        self._control = None

    async def start_sidecar(self) -> None:
        self._sidecar = await self._spawn(
            "run", "--upstream", self._bank, "--control-plane", self.control_plane,
            "--label", "app=bank", "--state", str(self.folder / "state"),
            "--listen", f"127.0.0.1:{self.port}", "--health", f"127.0.0.1:{self.health_port}",
            "--admin", f"127.0.0.1:{self.admin_port}",
            "--decision-log", str(self.folder / "decisions.log"),
        )  # fmt: skip
        await self._ready(self._sidecar, "run", f"{self.health}/readyz")

    async def start_another(self) -> str:
        """One more sidecar beside the bank; where callers reach it."""
        port, health, admin = free_ports(3)
        name = f"other-{len(self._others)}"
        process = await self._spawn(
            "run", "--upstream", self._bank, "--control-plane", self.control_plane,
            "--label", "app=bank", "--state", str(self.folder / name),
            "--listen", f"127.0.0.1:{port}", "--health", f"127.0.0.1:{health}",
            "--admin", f"127.0.0.1:{admin}", log=name,
        )  # fmt: skip
        self._others.append(process)
        await self._ready(process, name, f"http://127.0.0.1:{health}/readyz")
        return f"http://127.0.0.1:{port}"

    async def end_others(self) -> None:
        for process in self._others:
            await self._end(process, signal.SIGTERM)
        self._others = []

    async def restart_sidecar(self) -> None:
        await self._end(self._sidecar, signal.SIGTERM)
        await self.start_sidecar()

    async def apply(
        self, *names: str, remove: Sequence[str] = (), rollout: pb.RolloutPlan | None = None
    ) -> str:
        """Publish the demo's documents of these files; returns the release, `default@2`.

        `remove` names files whose documents go away. With `rollout` not everybody gets it at once.
        Raises SidecarError if it was refused.
        """
        texts = [
            Source(
                name,
                _found(name)
                .read_text()
                .replace(_ISSUER, self.issuer.address)
                .replace(_PAGES, self.pages),
            )
            for name in names
        ]
        documents, problems = parse(texts)
        if problems:
            raise DocumentsInvalid(problems)
        request = pb.ApplyRequest(
            documents=[document.canonical for document in documents],
            namespaces=["default"],
            prune=bool(remove),
            rollout=rollout,
        )
        async with aio.insecure_channel(self.control_plane) as channel:
            try:
                answer = await AdminStub(channel).Apply(request, timeout=10, wait_for_ready=True)
            except grpc.RpcError as error:
                raise ControlPlaneUnreachable(str(error)) from None
        if answer.outcome not in (pb.OUTCOME_PUBLISHED, pb.OUTCOME_UNCHANGED):
            raise SidecarError(f"not published: {answer.problems}")
        return " ".join(f"{r.namespace}@{r.version}" for r in answer.releases)

    async def rollout(self) -> pb.Rollout:
        """The newest one."""
        async with aio.insecure_channel(self.control_plane) as channel:
            try:
                answer = await AdminStub(channel).Rollouts(pb.RolloutsRequest(), timeout=10)
            except grpc.RpcError as error:
                raise ControlPlaneUnreachable(str(error)) from None
        return answer.rollouts[0]

    async def _spawn(self, *arguments: str, log: str = "") -> asyncio.subprocess.Process:
        with (self.folder / f"{log or arguments[0]}.log").open("ab") as said:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sidecar", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=said, stderr=said,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    async def _ready(self, process: asyncio.subprocess.Process, name: str, address: str) -> None:
        try:
            await self._answers(process, address)
        except TimeoutError:
            said = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
            raise SidecarError(f"`sidecar {name}` did not get ready; it said:\n{said}") from None

    async def _answers(self, process: asyncio.subprocess.Process, address: str) -> None:
        async with aiohttp.ClientSession(trust_env=False) as session, asyncio.timeout(START):
            while process.returncode is None:
                try:
                    async with session.get(address) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)
        raise TimeoutError

    async def _end(self, process: asyncio.subprocess.Process | None, number: int) -> None:
        if process is not None and process.returncode is None:
            process.send_signal(number)
            await process.wait()


def _found(name: str) -> Path:
    """A file of documents that are meant to be, or of those that are a mistake."""
    path = _POLICIES / name
    return path if path.exists() else _MISTAKES / name


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
