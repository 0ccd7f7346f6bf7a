"""What rules ask beyond the token, at a real sidecar: an Enricher, the file of subjects, bodies."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.casebook import jwks, token
from tests.e2e.processes import Sidecar, get, until
from tests.e2e.test_websocket import closing, echo

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: risk}
spec:
  url: $RISK/of/{id}
  parameters: {id: token.sub}
  headers: {authorization: {fromFile: $SECRETS/risk}}
  type: {score: number, since: time}
  timeout: 1s
  cache: 1s
  $MORE
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {audiences: [bank], limits: {body: 1KiB}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - name: risky
    match: {methods: [GET], paths: [/risk]}
    when: enriched.risk.score < 0.5 && enriched.risk.since < request.time
  - {name: marketing, match: {methods: [GET], paths: [/offers]}, require: {consent: [marketing]}}
  - name: transfer
    match: {methods: [POST], paths: [/transfers]}
    when: request.body.amount <= 1000
  - {name: upload, match: {methods: [POST], paths: [/upload]}}
"""
ALICE = '- {issuer: "https://idp.example", subject: alice, consents: [$CONSENTS]}\n'


class Handler(BaseHTTPRequestHandler):
    """Answers what the server holds; echoes what is posted."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("authorization", "")))
        self._answer(self.server.status, self.server.body)

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.asked.append((self.path, body.decode()))
        self._answer(200, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.body = b'{"score": 0, "since": "2024-01-01T00:00:00Z", "more": 1}'
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def score(self, value: float) -> None:
        self.body = json.dumps({"score": value, "since": "2024-01-01T00:00:00+02:00"}).encode()


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def risk() -> Iterator[Server]:
    with serving() as server:
        yield server


@contextmanager
def run(
    folder: Path, upstream: Server | str, risk: str, *arguments: str, more: str = ""
) -> Iterator[Sidecar]:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "risk").write_text("Bearer s3cret\n")
    (folder / "policies").mkdir()
    (folder / "policies" / "keys.jwks").write_text(json.dumps(jwks()))
    text = DOCUMENTS.replace("$RISK", risk).replace("$SECRETS", str(folder / "secrets"))
    (folder / "policies" / "bank.yaml").write_text(text.replace("$MORE", more))
    subjects = folder / "subjects.yaml"
    if not subjects.exists():
        subjects.write_text("[]")
    address = upstream if isinstance(upstream, str) else upstream.url
    started = Sidecar(
        folder, address, "--policies", str(folder / "policies"),
        "--secrets", str(folder / "secrets"), "--subjects", str(subjects), *arguments,
    ).ready()  # fmt: skip
    try:
        yield started
    finally:
        assert started.stop() == 0, started.said


def bearer(subject: str = "alice") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(time.time(), {'sub': subject})}"}


def ask(running: Sidecar, path: str, subject: str = "alice") -> tuple[int, str]:
    """The status, and the code of a refusal."""
    status, _, body = get(running.url + path, bearer(subject))
    return status, "" if status == 200 else json.loads(body)["code"]


def counted(running: Sidecar, result: str) -> float:
    return running.metric(f'sidecar_enrichments_total{{enricher="risk",result="{result}"}}')


def test_an_enricher_decides(tmp_path: Path, upstream: Server, risk: Server) -> None:
    with run(tmp_path, upstream, risk.url) as running:
        for _ in range(5):
            assert ask(running, "/risk", "a/b") == (200, "")
        assert set(risk.asked) == {("/of/a%2Fb", "Bearer s3cret")}
        risk.score(0.9)
        assert ask(running, "/risk", "bob") == (403, "denied")
        until(lambda: ask(running, "/risk", "a/b") == (403, "denied"), "its answer has expired", 5)
        assert get(f"{running.url}/risk")[0] == 401
        assert ask(running, "/risk", "..") == (503, "unavailable")
        assert ("/of/..", "Bearer s3cret") not in risk.asked
        assert counted(running, "answered") >= 3
        assert "s3cret" not in running.said + running.decisions.read_text()


def test_one_that_does_not_answer_admits_nobody(
    tmp_path: Path, upstream: Server, risk: Server
) -> None:
    with run(tmp_path, upstream, risk.url) as running:
        assert ask(running, "/risk") == (200, "")
        risk.status = 500
        until(lambda: ask(running, "/risk") == (503, "unavailable"), "its answer has expired", 5)
        risk.status, risk.body = 200, b'{"score": "low", "since": "2024-01-01T00:00:00Z"}'
        assert ask(running, "/risk", "bob") == (503, "unavailable")
        reason = '"reason":"enricher_unavailable"'
        until(lambda: reason in running.decisions.read_text(), "the record is written", 5)
        risk.score(0.1)
        until(lambda: ask(running, "/risk") == (200, ""), "it answers again", 10)


def test_an_old_answer_goes_on_for_a_while(tmp_path: Path, upstream: Server, risk: Server) -> None:
    with run(tmp_path, upstream, risk.url, more="staleIfError: 1h") as running:
        assert ask(running, "/risk") == (200, "")
        risk.status = 500
        until(lambda: ask(running, "/risk") == (200, "") and counted(running, "stale"), "stale", 5)
        assert ask(running, "/risk", "bob") == (503, "unavailable")
        assert counted(running, "failed") == 1


def test_a_consent_counts_within_two_seconds(tmp_path: Path, upstream: Server) -> None:
    file = tmp_path / "subjects.yaml"
    file.write_text(ALICE.replace("$CONSENTS", "payments"))
    with run(tmp_path, upstream, "http://127.0.0.1:1") as running:
        assert ask(running, "/offers") == (403, "consent_required")
        for consents, expected in (
            ("payments, marketing", (200, "")), ("", (403, "consent_required")),
        ):  # fmt: skip
            file.write_text(ALICE.replace("$CONSENTS", consents))
            until(lambda e=expected: ask(running, "/offers") == e, "taken up", 5)  # type: ignore[misc]
        file.write_text(ALICE + ALICE)
        until(lambda: "is already at line 1" in running.said, "the mistake is said", 5)
        assert ask(running, "/offers") == (403, "consent_required")
        assert running.metric("sidecar_subjects") == 1
        assert running.metric("sidecar_subject_rejects_total") == 1


def test_and_in_every_worker(tmp_path: Path, upstream: Server, risk: Server) -> None:
    file = tmp_path / "subjects.yaml"
    with run(tmp_path, upstream, risk.url, "--workers", "2") as running:
        file.write_text(ALICE.replace("$CONSENTS", "marketing"))

        def all_of(expected: tuple[int, str]) -> bool:
            return {ask(running, "/offers") for _ in range(20)} == {expected}

        until(lambda: all_of((200, "")), "both have taken it up", 10)
        file.write_text("[]")
        until(lambda: all_of((403, "consent_required")), "likewise", 10)
        assert {ask(running, "/risk") for _ in range(20)} == {(200, "")}
        assert running.metric("sidecar_subjects") == 0
        assert 1 <= counted(running, "answered") <= 4


def test_an_open_websocket_ends_with_its_consent(tmp_path: Path) -> None:
    file = tmp_path / "subjects.yaml"
    file.write_text(ALICE.replace("$CONSENTS", "marketing"))
    with (
        echo(tmp_path, "websockets") as upstream,
        run(tmp_path, upstream, "http://127.0.0.1:1") as running,
        connect(
            f"ws://127.0.0.1:{running.port}/offers", additional_headers=bearer(), proxy=None
        ) as client,
    ):
        client.send("hello")
        assert client.recv(timeout=20) == "hello"
        file.write_text(ALICE.replace("$CONSENTS", ""))
        assert closing(client)[0] == 1008
        with pytest.raises(InvalidStatus):
            connect(
                f"ws://127.0.0.1:{running.port}/offers", additional_headers=bearer(), proxy=None
            )


def test_a_file_with_mistakes_is_not_begun_with(tmp_path: Path, upstream: Server) -> None:
    (tmp_path / "subjects.yaml").write_text("- {subject: alice}\n- 7\n")
    (tmp_path / "bank.yaml").write_text(DOCUMENTS)
    for workers in ("1", "2"):
        failed = Sidecar(
            tmp_path, upstream.url, "--policies", str(tmp_path / "bank.yaml"),
            "--subjects", str(tmp_path / "subjects.yaml"), "--workers", workers,
        )  # fmt: skip
        assert failed.process.wait(timeout=30) == 2
        assert "subjects.yaml:1:3: error: issuer is missing" in failed.said
        assert "subjects.yaml:2:3: error: expected fields" in failed.said


# Bodies.


def send(
    running: Sidecar, head: str, *pieces: bytes, path: str = "/transfers", wait: bool = False
) -> tuple[int, bytes]:
    """POST `pieces`, after a 100 if that is to be waited for; the status and body of the answer."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nhost: bank\r\nauthorization: {bearer()['Authorization']}\r\n"
            f"content-type: application/json\r\nconnection: close\r\n{head}\r\n\r\n".encode()
        )
        answer = connection.makefile("rb")
        if wait:
            line = answer.readline()
            if not line.startswith(b"HTTP/1.1 100 "):
                return int(line.split()[1]), answer.read()
            assert answer.readline() == b"\r\n"
        for piece in pieces:
            connection.sendall(piece)
        status = int(answer.readline().split()[1])
        return status, answer.read().partition(b"\r\n\r\n")[2]


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


@pytest.fixture(scope="module")
def running(upstream: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("bodies")
    with run(folder, upstream, "http://127.0.0.1:1") as started:
        yield started


@pytest.mark.parametrize("framing", ["length", "chunked", "continue"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"amount": 1000}', 200),
        (b'{"amount": 1001}', 403),
        (b'{"amount": "1"}', 403),
        (b'{"amount": 1, "amount": 1001}', 400),
        (b'{"amount": 1', 400),
        (b'{"amount": 1, "pad": "' + b"x" * 1100 + b'"}', 413),
        (b'{"amount": 1, "pad": "' + b"x" * 900 + b'"}', 200),
    ],
)
def test_a_body_decides(
    running: Sidecar, upstream: Server, framing: str, body: bytes, status: int
) -> None:
    upstream.asked.clear()
    if framing == "chunked":
        half = len(body) // 2
        found = send(running, "transfer-encoding: chunked", chunked(body[:half], body[half:]))
    elif framing == "continue":
        head = f"content-length: {len(body)}\r\nexpect: 100-continue"
        found = send(running, head, body, wait=True)
    else:
        found = send(running, f"content-length: {len(body)}", body)
    assert found[0] == status, found
    if status == 200:
        assert upstream.asked == [("/transfers", body.decode())], "what was decided on, once"
        assert body in found[1]
    else:
        assert upstream.asked == []


def test_nobody_is_asked_for_a_body_that_is_too_large(running: Sidecar) -> None:
    head = "content-length: 1000000\r\nexpect: 100-continue"
    assert send(running, head, wait=True)[0] == 413


def test_nor_where_no_rule_reads_it_is_it_held(running: Sidecar, upstream: Server) -> None:
    upstream.asked.clear()
    body = b"not json " * 1000
    assert send(running, f"content-length: {len(body)}", body, path="/upload")[0] == 200
    assert upstream.asked == [("/upload", body.decode())]
    assert running.metric("sidecar_bodies_held_bytes") == 0
