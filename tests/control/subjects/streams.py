"""Sidecars on a hub without a wire: their sessions, what they are sent, what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from sidecar.control.catalogue import Catalogue
from sidecar.control.revocations import RevocationLog
from sidecar.control.session import Session
from sidecar.control.store import Release
from sidecar.control.subjects.hub import Hub
from sidecar.decide.documents import Document
from sidecar.decide.parse import Source, parse
from sidecar.facts.releases import Manifest
from sidecar.wire import convert
from sidecar.wire import subject_pb2 as pb
from sidecar.wire.discovery_pb2 import Ack, FromControl, FromSidecar, Held, Hello, Subscription
from tests.publishing import WITHIN, release

LOG = RevocationLog("log")
IDP = "https://idp.example"


def documents(text: str) -> list[Document]:
    found, problems = parse([Source("t.yaml", text)])
    assert not problems, problems
    return found


def published(catalogue: Catalogue, text: str, *, namespace: str, version: int = 1) -> None:
    """Makes documents the newest release of a namespace."""
    made = [each for each in documents(text) if each.namespace == namespace] if text else []
    signed = release(made, namespace=namespace, version=version)
    catalogue.take([Release(Manifest.from_bytes(signed.manifest), signed, tuple(made))])


class Sidecar:
    """One stream. `held` is what it was sent, by key; pushes are answered as they come."""

    def __init__(
        self,
        hub: Hub,
        catalogue: Catalogue,
        name: str = "one",
        namespace: str = "shop",
        held: Mapping[str, str] | None = None,
    ) -> None:
        subscription = Subscription(
            type=convert.SUBJECT,
            held=[Held(name=f"subject/{k}", version=v) for k, v in (held or {}).items()],
        )
        hello = Hello(
            sidecar_id=name,
            namespace=namespace,
            subscriptions=[Subscription(type=convert.RELEASE), subscription],
        )
        self.session = Session(hello, address="", since=0.0)
        self.held: dict[str, pb.SubjectRecord] = {}
        self.versions: dict[str, str] = {}
        self.said: list[FromControl] = []
        self.pushes = 0
        self._hub = hub
        self._catalogue = catalogue

    def say(self, **message: Any) -> None:
        self._hub.receive(self.session, FromSidecar(**message))

    def introduce(self, key: str, subject: str = "", **more: Any) -> None:
        more.setdefault("issuer", IDP)
        self.say(introduction=pb.Introduction(key=key, subject=subject or key, **more))

    def step(self) -> None:
        """Takes all that there is for it now."""
        self._hub.look(self.session)
        while (message := self.session.next(self._catalogue, LOG)) is not None:
            self.said.append(message)
            if message.HasField("push"):
                self._take(message)

    def _take(self, message: FromControl) -> None:
        push = message.push
        self.session.ack(Ack(type=push.type, nonce=push.nonce))
        if push.type != convert.SUBJECT:
            return
        self.pushes += 1
        for each in push.resources:
            self.held[convert.subject_key(each.name)] = each.subject
            self.versions[convert.subject_key(each.name)] = each.version
        for name in push.removed:
            self.held.pop(convert.subject_key(name), None)

    def answers(self, kind: str) -> list[Any]:
        return [getattr(each, kind) for each in self.said if each.WhichOneof("message") == kind]


async def settled(hub: Hub, *sidecars: Sidecar) -> None:
    """Until nothing is under way and everybody has taken all that there is."""
    async with asyncio.timeout(WITHIN):
        while True:
            for each in sidecars:
                each.step()
            tasks: Iterable[asyncio.Task[None]] = list(hub._tasks)
            if not tasks:
                return
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
