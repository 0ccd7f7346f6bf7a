"""Customers' records from the command line to requests: control plane, sidecars and commands as
processes; with one process and with workers, several sidecars, and no control plane at all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from sidecar.facts.subjects_admin import SubjectsClient
from sidecar.wire import subject_pb2 as pb
from tests.casebook import ISSUER, token
from tests.e2e.processes import Sidecar, get, sidecar, until
from tests.e2e.test_control import ControlPlane, control, policies  # noqa: F401  (a fixture)
from tests.e2e.test_revocation import begun, endless, rest
from tests.e2e.test_websocket import echo

DOCUMENTS = """
  - {name: open, match: {paths: [/open]}, auth: optional, subject: {visitor: true}}
  - {name: me, match: {paths: [/me]}}
  - {name: terms, match: {paths: [/x, /feed]}, require: {consent: [terms]}}
  - {name: strict, match: {paths: [/strict]}, require: {consent: [terms]}, subject: {staleIfError: 0s}}
  - {name: lenient, match: {paths: [/lenient]}, require: {consent: [terms]}, subject: {staleIfError: 1h}}
  - {name: pay, match: {paths: [/pay]}, require: {consent: [pay]}}
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: retail}
spec:
  identifiers: [{type: email, claim: email}]
  anonymous: merge
  visitor: {cookie: v, insecureCookie: true}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: terms}
spec: {words: {en: {title: Terms, text: The terms}}}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: pay}
spec: {words: {en: {title: Pay, text: Pay}}, maxUses: 5}
"""


def bearer(sub: str = "alice", **claims: object) -> dict[str, str]:
    found = token(time.time(), {"exp": 600, "iat": -5, "sub": sub, **claims})
    return {"authorization": f"Bearer {found}"}


class _Headers(BaseHTTPRequestHandler):
    """Answers with the headers that came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def headers() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Headers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def started(
    folder: Path,
    upstream: str,
    plane: ControlPlane,
    workers: int = 1,
    sidecars: int = 1,
) -> Iterator[list[Sidecar]]:
    running = [
        Sidecar(
            folder, upstream, "--control-plane", plane.server, "--workers", str(workers),
            "--state", str(folder / f"state-{n}"), "--label", f"n={n}", name=f"run-{n}",
        )
        for n in range(sidecars)
    ]  # fmt: skip
    try:
        code, said = plane.apply(policies(folder, DOCUMENTS))
        assert code == 0, said
        for each in running:
            each.ready()
            until(partial(_connected, each), "customers")
        yield running
    finally:
        ends = [each.stop() for each in running]
    assert set(ends) == {0}, [each.said for each in running]


ALICE = pb.SubjectName(pool="default/retail", type="subject", issuer=ISSUER, value="alice")


def decide(plane: ControlPlane, state: str, purpose: str = "default/terms") -> None:
    """As an application would, over gRPC."""

    async def said() -> None:
        async with SubjectsClient(plane.server, timeout=10) as client:
            await client.decide(pb.DecideRequest(name=ALICE, purpose=purpose, state=state))

    asyncio.run(said())


def subject(plane: ControlPlane, *argv: str) -> str:
    """The command, about alice."""
    done = sidecar(
        "subject", *argv, "--server", plane.server, "--pool", "default/retail",
        "--type", "subject", "--issuer", ISSUER,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _connected(running: Sidecar) -> bool:
    return running.metric("sidecar_customers_connected") >= 1


def _allowed(running: Sidecar, path: str) -> bool:
    return status(running, path) == 200


def status(running: Sidecar, path: str, sub: str = "alice") -> int:
    return get(f"{running.url}{path}", bearer(sub))[0]


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers"])
def test_a_withdrawal_ends_what_is_open_and_refuses_what_comes(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
    workers: int,
) -> None:
    with endless() as upstream, started(tmp_path, upstream, control, workers) as [running]:
        code, _, body = get(f"{running.url}/x", bearer())
        assert (code, json.loads(body)["code"]) == (403, "consent_required")
        subject(control, "grant", "alice", "terms")
        credential = bearer()["authorization"].removeprefix("Bearer ")

        def granted() -> bool:
            try:
                kept.append(begun(running, credential))
            except AssertionError:
                return False
            return True

        kept: list[Any] = []
        until(granted, "the grant")
        kept += [begun(running, credential) for _ in range(3)]  # at several workers, if there are
        subject(control, "withdraw", "alice", "terms")
        until(lambda: status(running, "/x") == 403, "the withdrawal", 5)
        for stream in kept:
            with pytest.raises(ConnectionResetError):  # nobody takes it for whole
                rest(stream)
            stream.close()
        assert status(running, "/x") == 403


def test_a_withdrawal_ends_a_websocket(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
) -> None:
    with (
        echo(tmp_path, "websockets") as upstream,
        started(tmp_path, upstream, control) as [running],
    ):
        assert status(running, "/feed") == 403
        decide(control, "granted")
        until(lambda: status(running, "/feed") != 403, "the grant", 5)
        with connect(
            f"ws://127.0.0.1:{running.port}/feed", additional_headers=bearer(), proxy=None
        ) as client:
            client.send("hello")
            assert client.recv(timeout=30) == "hello"
            decide(control, "withdrawn")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers"])
def test_uses_are_counted_exactly_across_sidecars(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
    workers: int,
) -> None:
    with (
        headers() as upstream,
        started(tmp_path, upstream, control, workers, sidecars=2) as running,
    ):
        for each in running:
            assert status(each, "/pay") == 403
        decide(control, "granted", "default/pay")
        with ThreadPoolExecutor(12) as pool:
            # Who is asked before the grant has come is refused; then more are asked than may.
            until(lambda: status(running[0], "/pay") == 200, "the grant", 5)
            found = list(pool.map(lambda n: status(running[n % 2], "/pay"), range(30)))
        assert Counter(found) == {200: 4, 403: 26}
        for each in running:
            assert status(each, "/pay") == 403
        assert sum(e.metric('sidecar_consent_uses_total{outcome="spent"}') for e in running) == 5
        decide(control, "granted", "default/pay")
        until(lambda: status(running[1], "/pay") == 200, "another grant", 5)


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "workers"])
def test_without_a_control_plane_what_is_known_is_believed_as_long_as_rules_say(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
    workers: int,
) -> None:
    with headers() as upstream, started(tmp_path, upstream, control, workers) as [running]:
        status(running, "/strict")
        decide(control, "granted")
        decide(control, "granted", "default/pay")
        for path in ("/strict", "/lenient", "/pay"):
            until(partial(_allowed, running, path), path, 5)
        control.kill()
        until(lambda: status(running, "/strict") == 503, "the loss is noticed", 5)
        # A worker that has not met alice before does not know her now.
        expected = {200} if workers == 1 else {200, 503}
        assert {status(running, "/lenient") for _ in range(5)} <= expected
        assert status(running, "/pay") == 503  # nobody counts
        code, _, body = get(f"{running.url}/lenient", bearer("bob"))
        assert (code, json.loads(body)["code"]) == (503, "unavailable")
        assert all(status(running, "/strict") == 503 for _ in range(5))
        control.start()
        until(lambda: status(running, "/strict") == 200, "it is back")
        decide(control, "withdrawn")
        until(lambda: status(running, "/lenient") == 403, "the withdrawal", 5)


def test_visitors_become_the_customer_and_an_erased_one_is_nobodys(
    tmp_path: Path,
    control: ControlPlane,  # noqa: F811
) -> None:
    with headers() as upstream, started(tmp_path, upstream, control, sidecars=2) as running:

        def seen(path: str, sent: dict[str, str], at: int = 0) -> str:
            code, _, body = get(f"{running[at].url}{path}", sent)
            assert code == 200, body
            return str(json.loads(body).get("x-sidecar-customer-id", ""))

        cookies = []
        for _ in range(2):
            code, answer, _ = get(f"{running[0].url}/open")
            assert code == 200
            cookies.append({"cookie": answer["set-cookie"].partition(";")[0]})
        visitors = [seen("/open", each) for each in cookies]
        assert all(visitors)
        assert visitors[0] != visitors[1]
        customer = seen("/me", {**bearer(email="a@b.c", email_verified=True), **cookies[0]})
        assert customer.startswith("cus_")
        # A second token with the same mail address, on a second device, at another sidecar.
        other = bearer("alice-2", iss=ISSUER, email="a@b.c", email_verified=True)
        assert seen("/me", {**bearer(), **cookies[1]}, 1) == customer
        until(lambda: seen("/open", cookies[0]) == customer, "the merge")
        until(lambda: seen("/open", cookies[1]) == customer, "the merge")
        assert seen("/me", other, 1) != customer  # one issuer told them apart
        why = subject(control, "show", "alice", "--why")
        assert "the visitor logged in" in why
        decide(control, "granted")
        until(lambda: status(running[1], "/strict") == 200, "the grant", 5)
        done = json.loads(subject(control, "erase", "alice", "--yes", "--output", "json"))
        assert done["sidecars"] == done["let_go"] == 2
        for at in range(2):
            assert get(f"{running[at].url}/strict", bearer())[0] == 403
        assert seen("/me", bearer()) not in ("", customer)
