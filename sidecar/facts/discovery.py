"""The sidecar's end of the Discovery stream: receive, verify, adopt, save, acknowledge.

What is enforced only ever moves from one verified release to the next. Whatever the control plane
sends, an unusable push is answered with a Nack and the release before it stays; whatever happens to
the connection, it is made anew after a jittered, growing pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import grpc
from grpc import aio

from sidecar.errors import DocumentsInvalid, ReleaseRefused, SidecarError, StateUnusable
from sidecar.facts.pushes import verified
from sidecar.facts.releases import Assignment
from sidecar.facts.reporting import Reporter
from sidecar.facts.revocations import RevocationList
from sidecar.facts.signing import TrustedKeys
from sidecar.facts.state import GENERATIONS, Saved, StateDirectory
from sidecar.facts.subject_stream import SubjectStream
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import (
    Ack,
    FromControl,
    FromSidecar,
    Held,
    Hello,
    Nack,
    Push,
    Subscription,
)
from sidecar.wire.discovery_pb2_grpc import DiscoveryStub

MAX_ERROR: Final = 4096  # characters of a Nack
FIRST_PAUSE: Final = 0.1  # seconds; doubles with each attempt that fails
LONGEST_PAUSE: Final = 15.0
NOTICED: Final = 20.0  # seconds within which a silent peer is noticed: a ping and its answer
MOST_TO_SAY: Final = 20_000  # messages about customers that wait for the stream
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 15_000),  # a dead peer is noticed within 20 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # newer gRPC waits this long for an answer, else 60 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", convert.MAX_MESSAGE),
    ("grpc.max_send_message_length", convert.MAX_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the old one's pauses
    ("grpc.enable_http_proxy", 0),  # addresses come from the settings alone
    ("grpc.enable_retries", 0),
)
_ENDED: Final = (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError)
"""What a write to a stream raises that has ended; the first is none of the second."""
_NAMES: Final = {
    convert.RELEASE: "release",
    convert.REVOCATION: "revocations",
    convert.SUBJECT: "subjects",
}
_log = logging.getLogger(__name__)

Stream = aio.StreamStreamCall[FromSidecar, FromControl]


class DiscoveryClient:
    """Keeps one sidecar's release current. Attributes are for reading by health and metrics.

    `adopt` makes a verified assignment the enforced one; it raises DocumentsInvalid or
    ReleaseRefused to keep the one before. `state` may be None: then nothing outlives the process.

    `credentials` (none: without TLS) and `token` (that of the pod) are asked for at each
    connection, since their files change; they raise SidecarError. `registration` is what the
    webhook signed. `reporter` tells how decisions fare; `started` is when the process began, Unix
    time.
    """

    def __init__(
        self,
        control_plane: str,
        *,
        namespace: str,
        labels: Mapping[str, str],
        sidecar_id: str,
        trust: TrustedKeys,
        adopt: Callable[[Assignment], Awaitable[None]],
        state: StateDirectory | None,
        revocations: RevocationList | None = None,
        subjects: SubjectStream | None = None,
        reporter: Reporter | None = None,
        build: str = "",
        started: float = 0.0,
        credentials: Callable[[], grpc.ChannelCredentials] | None = None,
        token: Callable[[], str] | None = None,
        registration: str = "",
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.labels = dict(labels)
        self.sidecar_id = sidecar_id
        self.connected = False
        self.connects = 0  # streams on which the control plane answered
        self.reconnects = 0  # attempts after the first one
        self.acks = 0
        self.nacks = 0
        self.last_error = ""
        self.assignment: Assignment | None = None
        self.saved = True  # False while what is enforced is not the newest on disk
        self._trust = trust
        self._adopt = adopt
        self.revocations = revocations
        self.subjects = subjects
        self._reporter = reporter
        self._state = state
        self._build = build
        self._started = started
        self._credentials = credentials
        self._token = token
        self._registration = registration
        self._clock = clock
        self._chance = chance
        self._sleep = sleep
        self._floors: Mapping[str, int] = {}
        self._restored = False
        self._adopting: asyncio.Task[None] | None = None
        self._to_say: asyncio.Queue[FromSidecar] = asyncio.Queue(MOST_TO_SAY)
        self._writing = asyncio.Lock()
        self._current = False  # the control plane has nothing newer, as far as it told us
        self._confirmed = 0.0  # when that was last known, Unix time

    def age(self, now: float) -> float | None:
        """Seconds since what is enforced was last known to be the newest; None without any."""
        if self.assignment is None:
            return None
        return 0.0 if self.connected and self._current else max(0.0, now - self._confirmed)

    async def restore(self) -> Assignment | None:
        """Adopts the last-known-good release. Once, before `run`, which does it otherwise.

        Passes over one that is damaged or refused, in favour of the one before it, and says so in
        `last_error`. Raises StateUnusable if floors and pinned keys were there and are lost.
        """
        self._restored = True
        if self.revocations is not None:
            await self.revocations.restore(self._clock())
        if self._state is None:
            return None
        memory = await asyncio.to_thread(self._state.memory)
        self._floors = memory.floors
        if self._trust.first_use and not self._trust.pinned:
            self._trust = TrustedKeys(memory.pinned, first_use=True)
        for generation in GENERATIONS:
            try:
                saved = await asyncio.to_thread(self._load, self._state, generation)
                if saved is None:
                    continue
                await self._adopt(saved.assignment)
            except (StateUnusable, DocumentsInvalid, ReleaseRefused) as error:
                self.last_error = f"last-known-good passed over: {error}"
                _log.warning("%s", self.last_error)
                continue
            self._hold(saved.assignment)
            self._confirmed = saved.saved
            return saved.assignment
        return None

    async def run(self) -> None:
        """Stays connected until cancelled; whatever the control plane sends or fails to."""
        if not self._restored:
            await self.restore()
        failures = 0
        while True:
            connects = self.connects
            try:
                reason = await self._session()
            except aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (aio.BaseError, asyncio.InvalidStateError, SidecarError) as error:
                reason = str(error)  # the stream had ended while a push was being adopted
            finally:
                self._disconnected()
            self.last_error = f"{self.control_plane}: {reason}"
            _log.info("control plane away: %s", self.last_error)
            failures = 0 if self.connects > connects else failures + 1
            # Full jitter: after an outage of the control plane its sidecars come back spread out.
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 16))
            await self._sleep(longest * (0.1 + 0.9 * self._chance()))
            self.reconnects += 1

    def _disconnected(self) -> None:
        if self.connected and self._current:
            # A peer that hung had answered its last ping at most this long before it was noticed.
            self._confirmed = max(self._confirmed, self._clock() - NOTICED)
        if self.revocations is not None:
            self.revocations.lost(self._clock() - NOTICED)
        if self.subjects is not None:
            if self.connected:
                self.subjects.closed(self._clock())
            else:
                self.subjects.hearer.away()
        self.connected = False
        self._current = False

    def _load(self, state: StateDirectory, generation: str) -> Saved | None:
        return state.load(
            generation, namespace=self.namespace, labels=self.labels, trust=self._trust
        )

    def _hold(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._trust = assignment.trust
        self._floors = assignment.floors

    # The stream.

    def _channel(self) -> aio.Channel:
        if self._credentials is None:
            return aio.insecure_channel(self.control_plane, options=_OPTIONS)
        return aio.secure_channel(self.control_plane, self._credentials(), options=_OPTIONS)

    async def _metadata(self) -> aio.Metadata:
        if self._token is None:
            return aio.Metadata()
        token = await asyncio.to_thread(self._token)
        return aio.Metadata(("authorization", f"Bearer {token}"))

    async def _session(self) -> str:
        """One stream, until it ends; why it did, where gRPC does not raise."""
        async with self._channel() as channel:
            # Without an iterator of requests the stream has `write`; grpc-stubs do not know that.
            stream: Stream = DiscoveryStub(channel).Stream(  # type: ignore[call-arg]
                metadata=await self._metadata()
            )
            await stream.write(FromSidecar(hello=self._hello()))
            speaking = [asyncio.create_task(self._say(stream))]
            if self._reporter is not None:
                reporting = self._reporter.run(self._versions, self._to_be_said)
                speaking.append(asyncio.create_task(reporting))
            try:
                while True:
                    message = await stream.read()
                    if message is aio.EOF:  # type: ignore[attr-defined]  # unknown to grpc-stubs
                        return f"the stream ended with {(await stream.code()).name}"
                    if not isinstance(message, FromControl):
                        return "it sent a message that is not of this protocol"
                    if not self.connected:
                        self.connected = True
                        self.connects += 1
                        if self.subjects is not None:
                            self.subjects.opened(self._to_be_said)
                    await self._receive(stream, message)
                    if self._current:
                        self._confirmed = self._clock()
            except asyncio.CancelledError:
                if self._adopting is not None:
                    self._adopting.cancel()
                raise
            finally:
                for each in speaking:
                    each.cancel()
                await asyncio.gather(*speaking, return_exceptions=True)
                await self._adopted()

    def _versions(self) -> Mapping[str, int]:
        return self.assignment.versions if self.assignment is not None else {}

    def _to_be_said(self, message: FromSidecar) -> None:
        """Sent soon, in order. Beyond the bound it is lost, as if the stream had ended: who waits
        for an answer waits in vain."""
        with contextlib.suppress(asyncio.QueueFull):
            self._to_say.put_nowait(message)

    async def _say(self, stream: Stream) -> None:
        self._to_say = asyncio.Queue(MOST_TO_SAY)
        # Where the stream has ended meanwhile, its reader knows.
        with contextlib.suppress(*_ENDED):
            while True:
                await self._write(stream, await self._to_say.get())

    def _hello(self) -> Hello:
        held: list[Held] = []
        if self.assignment:
            held = [
                Held(name=convert.manifest_name(namespace), version=signed.digest)
                for namespace, signed in self.assignment.manifests.items()
            ]
            held += [
                Held(name=convert.document_name(document.ref), version=document.digest)
                for document in self.assignment.documents
            ]
        return Hello(
            sidecar_id=self.sidecar_id,
            namespace=self.namespace,
            labels=self.labels,
            build=self._build,
            subscriptions=[
                Subscription(type=convert.RELEASE, held=held),
                *([self.revocations.subscription()] if self.revocations is not None else []),
                *([self.subjects.subscription()] if self.subjects is not None else []),
            ],
            enforced=convert.enforced_to_wire(self._versions()),
            registration=self._registration,
            started=int(self._started),
        )

    async def _receive(self, stream: Stream, message: FromControl) -> None:
        if message.HasField("idle") and message.idle.type == convert.RELEASE:
            self._current = not message.idle.detail
            self.last_error = message.idle.detail
            if self.assignment is not None and not self.saved:
                await self._adopted()
                self._adopting = asyncio.create_task(self._save_again(self.assignment))
        elif message.HasField("push") and message.push.type == convert.RELEASE:
            self._current = False
            # Beside the stream: what is withdrawn must not wait for rules that compile. There is
            # never a second one, but from a control plane that breaks the rules.
            await self._adopted()
            self._adopting = asyncio.create_task(self._adopt_push(stream, message.push))
        elif message.HasField("reporting"):
            if self._reporter is not None:
                self._reporter.every(message.reporting.every_ms)
        elif self.subjects is not None and self._about_subjects(message):
            if message.HasField("push"):
                push = message.push
                ack = Ack(type=push.type, nonce=push.nonce)
                await self._write(stream, FromSidecar(ack=ack))
        elif self.revocations is not None:
            if message.HasField("idle") and message.idle.type == convert.REVOCATION:
                self.revocations.idle()
            elif message.HasField("push") and message.push.type == convert.REVOCATION:
                await self._write(stream, await self._withdraw(self.revocations, message.push))

    def _about_subjects(self, message: FromControl) -> bool:
        try:
            return self.subjects is not None and self.subjects.receive(message)
        except SidecarError as error:
            self._to_be_said(self._refused(message.push, str(error)))
            return False

    async def _adopt_push(self, stream: Stream, push: Push) -> None:
        answer = await self._answer(push)
        if self._current:
            self._confirmed = self._clock()
        # Where the stream has ended meanwhile, its reader knows.
        with contextlib.suppress(*_ENDED):
            await self._write(stream, answer)

    async def _adopted(self) -> None:
        """Wait for the release that is being adopted, if one is."""
        if self._adopting is not None:
            await asyncio.wait({self._adopting})
            self._adopting = None

    async def _write(self, stream: Stream, message: FromSidecar) -> None:
        async with self._writing:  # a stream takes one message at a time
            await stream.write(message)

    async def _withdraw(self, revocations: RevocationList, push: Push) -> FromSidecar:
        try:
            warning = await revocations.take(push, self._clock())
        except SidecarError as error:
            return self._refused(push, str(error))
        except Exception as error:  # noqa: BLE001 - no push may end the loop that receives the next
            _log.exception("taking revocations failed")
            return self._refused(push, f"internal error: {type(error).__name__}: {error}")
        return FromSidecar(ack=Ack(type=push.type, nonce=push.nonce, warning=warning[:MAX_ERROR]))

    async def _answer(self, push: Push) -> FromSidecar:
        try:
            assignment = await verified(
                push, self.assignment, namespace=self.namespace, labels=self.labels,
                trust=self._trust, floors=self._floors,
            )  # fmt: skip
            await self._adopt(assignment)
        except SidecarError as error:
            return self._refused(push, str(error))
        except Exception as error:  # noqa: BLE001 - no push may end the loop that receives the next
            _log.exception("adopting a release failed")
            return self._refused(push, f"internal error: {type(error).__name__}: {error}")
        if self._reporter is not None:
            await self._reporter.flush(self._versions(), self._to_be_said)
        self._hold(assignment)
        warning = await self._save(assignment)
        self.acks += 1
        self.last_error = warning
        self._current = True
        enforced = convert.enforced_to_wire(assignment.versions)
        return FromSidecar(
            ack=Ack(type=push.type, nonce=push.nonce, enforced=enforced, warning=warning)
        )

    def _refused(self, push: Push, error: str) -> FromSidecar:
        self.nacks += 1
        self.last_error = error[:MAX_ERROR]
        _log.warning("%s refused: %s", _NAMES.get(push.type, "push"), self.last_error)
        return FromSidecar(nack=Nack(type=push.type, nonce=push.nonce, error=self.last_error))

    async def _save_again(self, assignment: Assignment) -> None:
        """At each new stream, until the disk has room: there may be no other release for weeks."""
        warning = await self._save(assignment)
        self.last_error = self.last_error or warning

    async def _save(self, assignment: Assignment) -> str:
        """Why it could not be saved; it is enforced all the same, for the disk is not the judge."""
        if self._state is None:
            return ""
        saving = asyncio.ensure_future(
            asyncio.to_thread(self._state.save, assignment, self._clock())
        )
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            # A thread goes on whoever waits for it. Until it has ended the folder is not anybody
            # else's: what it writes late could be older than what the next process has saved.
            await asyncio.wait({saving})
            raise
        except StateUnusable as error:
            self.saved = False
            _log.warning("%s", error)
            return str(error)[:MAX_ERROR]
        self.saved = True
        return ""
