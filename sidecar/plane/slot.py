"""One worker's place: start its process, bring it what it needs, start it again when it dies.

A worker is live from the moment it is told to serve until its process has ended. A release counts
as adopted when every live worker has adopted it; one that is told to serve has been brought the
newest before. One that does not do what it must in time is killed, and the next takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

import sidecar
from sidecar.errors import ChannelBroken
from sidecar.facts.shared_keys import SharedKeys
from sidecar.plane import messages
from sidecar.plane.backoff import Backoff
from sidecar.plane.channel import Channel
from sidecar.plane.shared_customers import SharedCustomers
from sidecar.telemetry.merged import Family

START: Final = 30.0  # seconds from a process's start, or a release adopted, until it listens
LEAVE: Final = 2.0  # seconds from the end of the channel to the end of the process
BATCH: Final = 1024 * 1024  # bytes of documents in one message, or one document

_log: Final = logging.getLogger("sidecar")
# Not `-m`: that would look for our package in the folder the supervisor happens to run in.
_MAIN: Final = (
    "import sys; sys.argv[2] in sys.path or sys.path.insert(0, sys.argv[2]); "
    "from sidecar.plane.worker import main; main()"
)
_ROOT: Final = str(Path(sidecar.__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Release:
    """What workers are to enforce. A worker has `seconds` to adopt it."""

    number: int
    version: str
    documents: tuple[bytes, ...]
    seconds: float

    def batches(self) -> Iterator[list[bytes]]:
        """The documents, a few at a time."""
        batch: list[bytes] = []
        size = 0
        for document in self.documents:
            if batch and size + len(document) > BATCH:
                yield batch
                batch, size = [], 0
            batch.append(document)
            size += len(document)
        if batch:
            yield batch


@dataclass(slots=True)
class Orders:
    """What holds for all workers. `moved` is called when a worker has got further, or died."""

    begin: Callable[[int], messages.Begin]
    descriptors: tuple[int, ...]
    known_keys: Callable[[], list[SharedKeys]]
    need_keys: Callable[[str], Awaitable[None]]
    withdrawn: Callable[[], bytes]
    moved: Callable[[], None]
    customers: SharedCustomers | None = None
    port: int = 0
    release: Release | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class Slot:
    """Attributes are for reading by health, metrics and whoever waits for a release."""

    def __init__(self, number: int, orders: Orders) -> None:
        self.number = number
        self.state = "starting"  # serving, waiting (to be started again), ended
        self.live = False
        self.adopted = 0  # the number of the release
        self.pid = 0
        self.restarts = 0
        self.mistakes: list[str] = []  # of the settings, as the worker found
        self.heard = 0.0  # when a message came last, by the monotonic clock
        self.families: list[Family] = []  # counted in this life, as far as it was told
        self.decisions: list[dict[str, Any]] = []
        self._orders = orders
        self._channel: Channel[messages.FromWorker] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._wake = asyncio.Event()
        self._told = asyncio.Event()
        self._dirty: set[str] = set()  # issuers whose keys have changed
        self._asked: set[str] = set()  # issuers whose keys it waits for
        self._answers: set[str] = set()  # those of them that were fetched
        self._outcome = asyncio.Event()  # of a release
        self._refused = ""
        self._accepts = asyncio.Event()
        self._asks = 0
        self._unanswered: dict[int, asyncio.Event] = {}
        self._talk: set[asyncio.Task[None]] = set()

    async def run(self, buried: Callable[[list[Family]], None]) -> None:
        """One life after the other, until told to stop; `buried` gets what each has counted."""
        backoff = Backoff()
        stopping = self._orders.stopping
        while not stopping.is_set():
            began = time.monotonic()
            code = await self._live()
            families, self.families = self.families, []
            buried(families)
            self._orders.moved()
            if stopping.is_set():
                break
            pause = backoff.pause(time.monotonic() - began)
            self.restarts += 1
            self.state = "waiting"
            _log.error(
                "worker %d (pid %d) ended with %s; started again in %g s",
                self.number, self.pid, code, pause,
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)
        self.state = "ended"

    @property
    def serving(self) -> bool:
        """Whether it has said that it accepts connections."""
        return self.state == "serving"

    def wake(self) -> None:
        """The orders have changed."""
        self._wake.set()

    def keys_changed(self, issuer: str) -> None:
        self._dirty.add(issuer)
        self._told.set()

    def kill(self) -> None:
        """SIGKILL; its place is taken by the next, unless the orders are to stop."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def send(self, message: messages.ToWorker) -> None:
        """To the worker, if there is one that knows who it is."""
        if self._channel is not None:
            with contextlib.suppress(ChannelBroken):
                await self._channel.send(message)

    async def ask(self, seconds: float, *, decisions: bool) -> None:
        """Have `families`, and `decisions` if wanted, brought up to date; or leave them."""
        self._asks += 1
        number = self._asks
        answered = self._unanswered[number] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self.send(messages.Ask(number, decisions))
                await answered.wait()
        except TimeoutError:
            _log.debug("worker %d did not answer within %g s", self.number, seconds)
        finally:
            del self._unanswered[number]

    # One life.

    async def _live(self) -> int | str:
        """From the start of a process to its end; its exit code, or why there is none."""
        self.state = "starting"
        self.adopted = 0
        self.mistakes, self.decisions = [], []
        self._asked, self._answers, self._dirty = set(), set(), set()
        self._accepts.clear()
        ours, theirs = socket.socketpair()
        handed = (theirs.fileno(), *self._orders.descriptors)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-c", _MAIN, str(self.number), _ROOT,
                    *(str(each) for each in handed),
                    pass_fds=handed, stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
        except OSError as error:
            ours.close()
            return str(error)
        self._process, self.pid = process, process.pid
        if self._orders.stopping.is_set():
            self.kill()
        channel = await Channel.over(ours, messages.FROM_WORKER)
        reading = asyncio.create_task(self._read(channel))
        self._talk = {
            reading,
            asyncio.create_task(self._lead(channel)),
            asyncio.create_task(self._see_out(reading)),
        }
        try:
            code = await process.wait()
            # What it said last is still on its way.
            await asyncio.wait({reading}, timeout=LEAVE / 2)
            return code
        finally:
            self.kill()
            self.live = False
            self._channel = self._process = None
            if self._orders.customers is not None:
                self._orders.customers.gone(self.number)
            for task in self._talk:
                task.cancel()
            await asyncio.gather(*self._talk, return_exceptions=True)
            channel.close()

    async def _read(self, channel: Channel[messages.FromWorker]) -> None:
        try:
            while (message := await channel.receive()) is not None:
                self.heard = time.monotonic()
                self._receive(message)
        except ChannelBroken as error:
            _log.error("worker %d: %s", self.number, error)
            self.kill()

    async def _see_out(self, reading: asyncio.Task[None]) -> None:
        """A worker that has ended the channel is about to exit."""
        await asyncio.wait({reading})
        await asyncio.sleep(LEAVE)
        self.kill()

    def _receive(self, message: messages.FromWorker) -> None:
        match message:
            case messages.Adopted(release):
                self.adopted = max(self.adopted, release)
                self._outcome.set()
                self._orders.moved()
            case messages.Refused(_, error):
                self._refused = error
                self._outcome.set()
            case messages.Serving():
                self._accepts.set()
            case messages.Failed(mistakes):
                self.mistakes = mistakes
                _log.error("worker %d: %s", self.number, "; ".join(mistakes))
                self._orders.moved()
            case messages.NeedKeys(issuer):
                if issuer not in self._asked:
                    self._asked.add(issuer)
                    self._task(self._answer(issuer))
            case messages.Counted(number, families):
                self.families = families
                if number in self._unanswered:
                    self._unanswered[number].set()
            case messages.Decided(records):
                self.decisions = orjson.loads(records)
            case messages.Introduce() | messages.Release() | messages.Spend() | messages.Report():
                if self._orders.customers is not None:
                    self._orders.customers.receive(self.number, message)

    def _task(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._talk.add(task)
        task.add_done_callback(self._talk.discard)

    # Bringing it what it needs.

    async def _lead(self, channel: Channel[messages.FromWorker]) -> None:
        try:
            await channel.send(self._orders.begin(self.number))
            self._channel = channel
            # All of it, before anything is decided; what comes meanwhile is sent as well.
            await channel.send(messages.Withdrawn(self._orders.withdrawn()))
            if self._orders.customers is not None:
                self._orders.customers.welcome(self.number)
            self._task(self._tell_keys(channel))
            while True:
                release = self._orders.release
                if release is not None and release.number > self.adopted:
                    await self._bring(channel, release)
                elif not self.live:
                    await self._let_serve(channel)
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except ChannelBroken:
            return  # the reader knows
        except (TimeoutError, _Refusal) as error:
            why = str(error) or "it did not do so in time"
            _log.error("worker %d is replaced, as it could not go on: %s", self.number, why)
            self.kill()

    async def _bring(self, channel: Channel[messages.FromWorker], release: Release) -> None:
        """Have it adopt a release."""
        self._refused = ""
        self._outcome.clear()
        extra = 0.0 if self.live else START
        async with asyncio.timeout(release.seconds + extra):
            for batch in release.batches():
                await channel.send(messages.Documents(batch))
            await channel.send(
                messages.Adopt(release.number, release.version, len(release.documents))
            )
            await self._outcome.wait()
        if self._refused:
            raise _Refusal(f"release {release.version or release.number}: {self._refused}")

    async def _let_serve(self, channel: Channel[messages.FromWorker]) -> None:
        self.live = True  # before it can accept: no release is adopted any more without it
        async with asyncio.timeout(START):
            await channel.send(messages.Serve(self._orders.port))
            await self._accepts.wait()
        self.state = "serving"
        self._orders.moved()

    async def _tell_keys(self, channel: Channel[messages.FromWorker]) -> None:
        """Keys as they change, and the answer to who asked for them; always the newest."""
        self._dirty |= {keys.issuer for keys in self._orders.known_keys()}
        self._told.set()
        with contextlib.suppress(ChannelBroken):  # the reader knows
            while True:
                await self._told.wait()
                self._told.clear()
                dirty, self._dirty = self._dirty, set()
                answers, self._answers = self._answers, set()
                for keys in self._orders.known_keys():
                    if keys.issuer in dirty or keys.issuer in answers:
                        await channel.send(messages.Keys(keys))
                for issuer in answers:
                    self._asked.discard(issuer)
                    await channel.send(messages.KeysAnswered(issuer))

    async def _answer(self, issuer: str) -> None:
        await self._orders.need_keys(issuer)
        self._answers.add(issuer)
        self._told.set()


class _Refusal(Exception):
    """The worker said that it cannot."""
