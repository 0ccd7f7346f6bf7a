"""A control plane and a client of its JSON API: open on loopback, or behind tokens and TLS."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from sidecar.control.certificates import ServerCertificates
from sidecar.control.credentials import Authority
from sidecar.control.publisher_listener import PublisherListener
from sidecar.control.server import Bound, ControlPlane
from tests import certificates
from tests.control.test_doors import PUBLISHERS, signed
from tests.publishing import plane

DOCUMENT = {
    "apiVersion": "authz.sidecar/v1",
    "kind": "AccessPolicy",
    "metadata": {"name": "p"},
    "spec": {"rules": [{"name": "r", "match": {"paths": ["/"]}}]},
}


def document(name: str = "p", namespace: str = "default", path: str = "/") -> dict[str, Any]:
    """One with a rule; `path` makes versions that differ."""
    rules = [{"name": "r", "match": {"paths": [path]}}]
    return {
        **DOCUMENT,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rules": rules},
    }


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


@dataclass
class Caller:
    """Calls one API. `headers` go with every call."""

    session: ClientSession
    url: str
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, verb: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body`: bytes as they are, anything else as JSON; header names with `_` for `-`."""
        given = {**self.headers, **{name.replace("_", "-"): text for name, text in headers.items()}}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if data is not None:
            given.setdefault("content-type", "application/json")
        async with self.session.request(
            verb, f"{self.url}{path}", data=data, headers=given, allow_redirects=False
        ) as answer:
            found = {name.lower(): text for name, text in answer.headers.items()}
            return Answer(answer.status, found, await answer.text())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self("POST", path, {} if body is None else body, **headers)

    def as_(self, subject: str, **claims: Any) -> Caller:
        """The same with a token of somebody's."""
        return Caller(
            self.session, self.url, {"authorization": f"Bearer {signed(subject, **claims)}"}
        )


@asynccontextmanager
async def connected(call: Caller, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """What answers to bytes of ours."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(call.url.rpartition(":")[2]))
    try:
        writer.write(sent)
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


@dataclass(frozen=True)
class Place:
    control: ControlPlane
    bound: Bound
    call: Caller


@asynccontextmanager
async def open_api(folder: Path) -> AsyncIterator[Place]:
    """Nobody has to show anything; the API is at `--http`."""
    async with plane(folder) as (control, bound), ClientSession() as session:
        yield Place(control, bound, Caller(session, f"http://{bound.http}"))


@asynccontextmanager
async def guarded_api(
    folder: Path, publishers: str = PUBLISHERS, *, ahead: float = 0.0, **terms: Any
) -> AsyncIterator[Place]:
    """On loopback, in plain text, for tokens of those in `publishers`. It is `ahead` seconds later
    for the control plane than for who checks tokens."""
    file = folder / "publishers.yaml"
    file.write_text(publishers)
    control = ControlPlane(clock=lambda: time.time() + ahead)
    bound = await control.start(
        "127.0.0.1:0", "127.0.0.1:0", f"sqlite:///{folder / 'store.db'}",
        publishers=PublisherListener(Authority(file)), **terms,
    )  # fmt: skip
    try:
        async with ClientSession() as session:
            yield Place(control, bound, Caller(session, f"http://{bound.http}"))
    finally:
        await control.stop()


@dataclass(frozen=True)
class Shown:
    """Files of a server's certificate, and the authority that vouches for it and for clients."""

    authority: certificates.Authority
    ca: Path
    pair: tuple[Path, Path]


@asynccontextmanager
async def tls_api(
    folder: Path, *, asks: bool = False, api: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Place, Shown]]:
    """At an address of its own; `asks`: who has a certificate may show it."""
    authority = certificates.Authority()
    shown = Shown(authority, authority.write(folder), authority.issue().write(folder, "server"))
    file = folder / "publishers.yaml"
    file.write_text(PUBLISHERS)
    control = ControlPlane()
    listener = PublisherListener(
        Authority(file),
        ServerCertificates(*shown.pair, None),
        api=(api, ServerCertificates(*shown.pair, shown.ca if asks else None)),
    )
    bound = await control.start(
        "127.0.0.1:0", "127.0.0.1:0", f"sqlite:///{folder / 'store.db'}", publishers=listener
    )
    try:
        async with ClientSession() as session:
            url = f"https://localhost:{bound.api.rpartition(':')[2]}"
            yield Place(control, bound, Caller(session, url)), shown
    finally:
        await control.stop()
