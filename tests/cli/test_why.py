"""`sidecar why`: from a log and policies, and from the pages of an admin port."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import run
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.parse import Source, parse
from tests.decide.test_replay import HEAD, X, record, refused

ID = "d1"
STRICT = HEAD + f"  - {{{X}, require: {{scopes: [x]}}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "strict.yaml").write_text(STRICT)
    return tmp_path


def why(folder: Path, *records: dict[str, Any], policies: str = "strict.yaml", flags: tuple[str, ...] = (), id_: str = ID) -> int:  # fmt: skip
    (folder / "log").write_text("noise\n" + "".join(json.dumps(each) + "\n" for each in records))
    known = ["--log", str(folder / "log"), "--policies", str(folder / policies)]
    return run(["why", id_, *known, *flags])


def version(text: str) -> str:
    found, _ = parse([Source("f", text)])
    return compile_snapshot(found, namespace="default", labels={}).version


def lacking_scope(**more: Any) -> dict[str, Any]:
    return refused(
        "insufficient_scope", "scope_missing", "default/p/x", version=version(STRICT), **more
    )


def test_a_refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, lacking_scope(decision_id="other"), lacking_scope()) == 0
    out = capsys.readouterr().out
    for line in (
        f"d1, 2027-01-15T08:00:00Z, with {version(STRICT)}",
        "├─ refused by default/p/x: insufficient_scope, scope_missing",
        "├─ GET https://bank.example/x/7",
        "│  │     └─ no  scope x",
        '"decision_id": "d1"',
        "   └─ The caller: a token with the scope x.",
    ):
        assert line in out, out
    assert "The record lacks" not in out
    assert "looked at with" not in out


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, lacking_scope(), flags=("--output", "json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["notes"]) == (True, [])
    assert found["advice"] == ["The caller: a token with the scope x."]
    assert found["then"]["reason"] == found["explanation"]["reason"] == "scope_missing"


def test_policies_that_have_changed_since(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, record(version="default@7")) == 0
    out = capsys.readouterr().out
    assert f"It was decided with default@7; {version(STRICT)} is what it is looked at with" in out
    assert (
        "Now it would be refused by default/p/x (scope_missing): the policies have changed" in out
    )
    assert "what would mend it" not in out


def test_what_the_record_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD + f"  - {{{X}, when: token.tier == 'gold'}}\n"
    (folder / "reads.yaml").write_text(text)
    assert why(folder, record(version="default@7"), policies="reads.yaml") == 0
    assert (
        "The record lacks token.tier, since the policies have changed." in capsys.readouterr().out
    )
    assert why(folder, record(version=version(text)), policies="reads.yaml") == 0
    assert "since it could not be read, was too much" in capsys.readouterr().out
    bare = record(version=version(text))
    del bare["input"]
    assert why(folder, bare, policies="reads.yaml") == 0
    assert "The record holds no inputs" in capsys.readouterr().out


def test_what_was_not_up_to_rules(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limited = refused("too_many_requests", "rule_limit", "default/p/x", input={"scopes": ["x"]})
    assert why(folder, limited) == 0
    out = capsys.readouterr().out
    assert "It was not up to rules (too_many_requests, rule_limit)" in out
    assert "permitted by default/p/x" in out


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        ("bad_request", "bad_body", "Whoever sends it: its body"),
        ("content_too_large", "body_too_large", "a larger limits.body"),
        ("too_many_requests", "rule_limit", "not before Retry-After"),
        ("unavailable", "enricher_unavailable", "a fact could not be had"),
        ("unavailable", "no_snapshot", "had no policy yet"),
    ],
)
def test_what_cannot_be_decided_again_is_not_given_another_answer(
    folder: Path, capsys: pytest.CaptureFixture[str], code: str, reason: str, advice: str
) -> None:
    (folder / "body.yaml").write_text(HEAD + f"  - {{{X}, when: request.body.amount < 9}}\n")
    given = {"request.contentType": "application/json"}
    assert why(folder, refused(code, reason, input=given), policies="body.yaml") == 0
    out = capsys.readouterr().out
    assert f"refused by no rule: {code}, {reason}" in out
    assert "not decided again: the record does not say all that it takes" in out
    assert advice in out
    assert "answered with" not in out
    assert "not_recorded" not in out


def test_what_went_wrong_after_a_permit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, record(input={"scopes": ["x"]}, status=502)) == 0
    assert "It was permitted, and then answered with 502" in capsys.readouterr().out
    assert why(folder, record(input={"scopes": ["x"]}, status=200)) == 0
    assert "and then answered" not in capsys.readouterr().out


def test_a_credential_that_did_not_stand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = refused("invalid_token", "expired", "default/p/x", input={"credential": "bad"})
    assert why(folder, bad) == 0
    assert "a credential that does not stand (expired)" in capsys.readouterr().out


def test_mode_observe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, {**lacking_scope(), "outcome": "observe"}) == 0
    assert "forwarded all the same" in capsys.readouterr().out


def test_not_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(folder, record(), id_="d2") == 1
    assert "d2 is not in" in capsys.readouterr().err
    assert run(["why", ID, "--log", str(folder / "nowhere"), "--policies", str(folder)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert run(["why", ID, "--log", str(folder / "log")]) == 2
    assert "which policies?" in capsys.readouterr().err
    assert why(folder, {"decision_id": ID}) == 1
    assert "cannot be read: Object missing required field" in capsys.readouterr().err


def test_a_damaged_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = gzip.compress(b"".join(b"%d %s\n" % (n, os.urandom(40)) for n in range(1000)))
    torn = bytearray(packed)
    torn[2000:2100] = bytes(100)
    for data in (packed[: len(packed) // 2], bytes(torn)):
        (folder / "log.gz").write_bytes(data)
        flags = ["--log", str(folder / "log.gz"), "--policies", str(folder)]
        assert run(["why", ID, *flags]) == 1
        said = capsys.readouterr().err
        assert "is damaged, and was not read to its end" in said
        assert "is not in" in said


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\nhi",
    ],
)
def test_somebody_else_answers(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert run(["why", ID, "--admin", f"127.0.0.1:{server.getsockname()[1]}"]) == 1
        thread.join()
    assert "is not the page of a sidecar" in capsys.readouterr().err


class Admin:
    """The pages of a sidecar's admin port."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        admin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = admin.pages.get(self.path)
                self.send_response(404 if page is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(page).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()


@pytest.fixture
def admin() -> Iterator[Admin]:
    found = Admin()
    yield found
    found.server.shutdown()
    found.thread.join()
    found.server.server_close()


def documents(text: str) -> list[Any]:
    found: list[Document] = parse([Source("f", text)])[0]
    return [json.loads(each.canonical) for each in found]


def test_from_the_admin_port(
    admin: Admin, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.pages = {
        "/decisions": {"decisions": [record(decision_id="d0"), lacking_scope()]},
        "/documents": {"version": "default@3", "namespace": "default", "labels": {}, "documents": documents(STRICT)},
        "/snapshot": {"snapshot": {"namespace": "default", "labels": {}}},
    }  # fmt: skip
    assert run(["why", ID, "--admin", admin.address]) == 0
    out = capsys.readouterr().out
    assert "default@3 is what it is looked at with" in out
    assert "The caller: a token with the scope x." in out
    assert (
        run(["why", ID, "--admin", admin.address, "--policies", str(folder / "strict.yaml")]) == 0
    )
    assert "The caller: a token with the scope x." in capsys.readouterr().out
    assert run(["why", "d9", "--admin", admin.address]) == 1
    assert "name its decision log with --log FILE" in capsys.readouterr().err


def test_an_admin_port_that_is_none(admin: Admin, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["why", ID, "--admin", admin.address]) == 1
    assert "answered 404: not an admin port" in capsys.readouterr().err
    admin.pages = {
        "/decisions": {"decisions": [record()]},
        "/documents": {"version": None, "documents": []},
    }
    assert run(["why", ID, "--admin", admin.address]) == 1
    assert "enforces no policies yet" in capsys.readouterr().err
    admin.pages["/decisions"] = {"decisions": [refused("unavailable", "no_snapshot")]}
    assert run(["why", ID, "--admin", admin.address]) == 1
    assert "d1 was refused for want of a policy (503), and" in capsys.readouterr().err
    assert run(["why", ID, "--admin", "127.0.0.1:1"]) == 1
    assert "nobody answers at the admin port 127.0.0.1:1" in capsys.readouterr().err
