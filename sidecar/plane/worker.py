"""A worker: one process of several that serve traffic, led by a supervisor over a channel.

It decides with what it is sent: settings, documents, keys. It never reads policy, fetches keys or
holds a port of its own; what one decision needs beyond that it fetches itself. When the channel
ends, the supervisor has ended, and the worker drains as if told to. Signals from a terminal or a
container reach it too and mean nothing to it: the supervisor gets them as well and says what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson
import uvloop
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar import __version__
from sidecar.config import RunSettings
from sidecar.decide.documents import Document
from sidecar.decide.parse import from_canonical
from sidecar.decide.revocations import unpack
from sidecar.edge.rates import RateTable
from sidecar.edge.replays import ReplayTable, Turns
from sidecar.errors import ChannelBroken, Misuse
from sidecar.facts.beside import beside
from sidecar.facts.customers import Customers
from sidecar.facts.shared_keys import RemoteKeys
from sidecar.plane import messages
from sidecar.plane.channel import Channel
from sidecar.plane.garbage import settle
from sidecar.plane.serving import Serving
from sidecar.plane.shared import SharedTable, Turn
from sidecar.plane.shared_customers import WorkerLink, hear
from sidecar.plane.source import asks_about_customers
from sidecar.plane.tasks import Tasks
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.merged import families_of

_log: Final = logging.getLogger("sidecar")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Worker:
    """Everything between `Begin` and the end of the process."""

    def __init__(
        self,
        begin: messages.Begin,
        settings: RunSettings,
        channel: Channel[messages.ToWorker],
        rates: SharedTable,
        replays: ReplayTable,
        turn: Turn,
    ) -> None:
        self._number = begin.worker
        self._settings = settings
        self._channel = channel
        self._tasks = Tasks()
        self._compiled: dict[bytes, Document] = {}
        self._keys = RemoteKeys(lambda issuer: self._say(messages.NeedKeys(issuer)))
        self._customers = Customers() if asks_about_customers(settings) else None
        if self._customers is not None:
            self._customers.link = WorkerLink(self._say)
        self._serving = Serving(
            settings,
            self._keys,
            DecisionLog(settings.decision_log, turn=turn),
            RateTable(memoryview(rates.memory), rates.key),  # one count for all workers
            replays,
            rates.key,
            begin.nonce_key,
            self._customers,
        )
        self._serving.metrics.register(self._families)
        self._documents: list[bytes] = []
        self._ending = asyncio.Event()

    async def run(self) -> int:
        """Until told to drain, or alone; the exit code. Raises Misuse."""
        await self._serving.load_files()
        reading = self._tasks.spawn(self._obey())
        await self._ending.wait()
        await self._serving.drain()  # meanwhile keys may still come and numbers be asked for
        await self._serving.close()
        await self._send(self._counted())
        reading.cancel()
        await self._tasks.cancel()
        return 0

    async def _obey(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                self._receive(message)
        except ChannelBroken as error:
            _log.error("worker %d ends: %s", self._number, error)
        finally:
            self._ending.set()

    def _receive(self, message: messages.ToWorker) -> None:
        match message:
            case messages.Keys(keys):
                self._keys.take(keys)
            case messages.KeysAnswered(issuer):
                self._keys.answered(issuer)
            case messages.Withdrawn(packed):
                self._serving.authorizer.withdraw(unpack(packed))
            case (
                messages.Record()
                | messages.NoRecord()
                | messages.Spent()
                | messages.Taken()
                | messages.CustomerKeys()
                | messages.CustomersLost()
            ):
                if self._customers is not None:
                    hear(self._customers, message)
            case messages.Documents(canonical):
                self._documents += canonical
            case messages.Adopt():
                documents, self._documents = self._documents, []
                self._tasks.spawn(self._adopt(message, documents))
            case messages.Serve(port):
                self._tasks.spawn(self._serve(port))
            case messages.Ask(number, decisions):
                if decisions:
                    self._say(messages.Decided(orjson.dumps(self._serving.log.recent)))
                self._say(self._counted(number))
            case messages.Reload():
                self._tasks.spawn(self._serving.reload())
            case messages.Drain():
                self._ending.set()
            case messages.Begin():
                _log.error("worker %d was told twice who it is", self._number)

    async def _adopt(self, order: messages.Adopt, texts: list[bytes]) -> None:
        try:
            if len(texts) != order.documents:
                raise ChannelBroken(f"{len(texts)} documents came, not {order.documents}")
            documents = await beside.run(
                self._read_documents, texts, hurry=self._serving.authorizer.snapshot is None
            )
            await self._serving.adopt(documents, order.version)
        except Exception as error:  # noqa: BLE001  (whatever it is, the supervisor must know)
            await self._send(messages.Refused(order.release, f"{type(error).__name__}: {error}"))
        else:
            await self._send(messages.Adopted(order.release))

    def _read_documents(self, texts: list[bytes]) -> list[Document]:
        """The documents; those that did not change are the same objects, and so stay compiled."""
        known = self._compiled
        self._compiled = {text: known.get(text) or from_canonical(text) for text in texts}
        return [self._compiled[text] for text in texts]

    async def _serve(self, port: int) -> None:
        if self._ending.is_set():
            return
        try:
            await self._serving.listen(self._settings.listen.host, port, reuse_port=True)
        except Misuse as error:
            await self._send(messages.Failed(list(error.mistakes)))
            self._ending.set()
            return
        settle()
        await self._send(messages.Serving())

    def _say(self, message: messages.FromWorker) -> None:
        self._tasks.spawn(self._send(message))

    async def _send(self, message: messages.FromWorker) -> None:
        with contextlib.suppress(ChannelBroken):  # its reader ends the worker
            await self._channel.send(message)

    def _counted(self, number: int = 0) -> messages.Counted:
        return messages.Counted(number, families_of(self._serving.metrics))

    def _families(self) -> Iterable[Metric]:
        """What differs from worker to worker."""
        worker = [str(self._number)]
        requests = CounterMetricFamily(
            "sidecar_worker_requests", "Requests by worker.", labels=["worker"]
        )
        requests.add_metric(worker, self._serving.proxy.stats.requests)
        yield requests
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = CounterMetricFamily(
            "sidecar_worker_cpu_seconds", "CPU time by worker.", labels=["worker"]
        )
        seconds.add_metric(worker, usage.ru_utime + usage.ru_stime)
        yield seconds
        memory = GaugeMetricFamily(
            "sidecar_worker_resident_memory_bytes", "Memory by worker.", labels=["worker"]
        )
        memory.add_metric(worker, int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE)
        yield memory


async def _work(channel_end: int, rates: int, proofs: int, turn: int) -> int:
    end = socket.socket(fileno=channel_end)
    channel = await Channel.over(end, messages.TO_WORKER)
    begin = await channel.receive()
    if begin is None:
        return 0  # the supervisor has ended already
    if not isinstance(begin, messages.Begin) or begin.version != __version__:
        _log.error("this worker is sidecar %s, its supervisor is not; restart it", __version__)
        return 1
    settings = messages.settings_from_bytes(begin.settings)
    table = SharedTable.attach(rates, begin.key)
    used = SharedTable.attach(proofs, begin.key, keep=True)
    replays = ReplayTable(memoryview(used.memory), used.key, Turns(proofs))
    try:
        return await Worker(begin, settings, channel, table, replays, Turn(turn)).run()
    except Misuse as error:
        await channel.send(messages.Failed(list(error.mistakes)))
        return 2


def main() -> None:
    """`python -c ... NUMBER ROOT CHANNEL RATES PROOFS TURN`; from CHANNEL on file descriptors."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s worker {sys.argv[1]}: %(message)s",
    )
    sys.exit(uvloop.run(_work(*map(int, sys.argv[3:7]))))
