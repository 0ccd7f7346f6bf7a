"""`sidecar why` and `sidecar replay` on what a real sidecar decided and logged."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.casebook import jwks, token
from tests.e2e.processes import Sidecar, get, nginx, sidecar, until

DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], jwks: {file: keys.jwks}}
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: partner}
spec: {id: partner-7, hash: "sha256:d88487eabf94194abc5ff8ffc946c11c802b026f7c5ce162050f87e876d0ccfd", subject: partner, scopes: [read]}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p, namespace: payments}
spec:
  selector: {app: bank}
  rules:
  - {name: home, match: {methods: [GET], paths: [/, /index.html]}, auth: none}
  - {name: own, match: {paths: ["/own/{id}/**"]}, when: request.params.id == token.sub}
  - {name: read, match: {paths: ["/read/**"]}, require: {scopes: [read]}, then: {setHeaders: {x-tier: "token.?tier.orValue('none')"}}}
  - {name: strong, effect: guard, match: {paths: ["/read/**"]}, when: "request.headers[?'x-amount'].orValue('') == '5000'", require: {stepUp: {maxAge: 5m}}}
  - {name: frozen, effect: deny, when: "token.?status.orValue('') == 'frozen'"}
"""
KEY = "partner-7.5pCnG2lPp0uC0bVQ9cW7xw3nJk8aH1dZ"
FLAGS = ("--namespace", "payments", "--label", "app=bank")


def write(folder: Path, name: str, text: str) -> str:
    policies = folder / name
    policies.mkdir(exist_ok=True)
    (policies / "keys.jwks").write_text(json.dumps(jwks()))
    text = text.replace("metadata: {name: corp}", "metadata: {name: corp, namespace: payments}")
    text = text.replace(
        "metadata: {name: partner}", "metadata: {name: partner, namespace: payments}"
    )
    (policies / "bank.yaml").write_text(text)
    return str(policies)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "workers"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("why")
    with nginx(folder) as upstream:
        policies = write(folder, "policies", DOCUMENTS)
        started = Sidecar(
            folder, upstream, "--policies", policies, *FLAGS, "--workers", str(request.param)
        ).ready()
        yield started
        assert started.stop() == 0, started.said


def ask(running: Sidecar, path: str, claims: dict[str, Any] | None = None, **headers: str) -> str:
    """The id of the decision."""
    if claims is not None:
        headers["Authorization"] = f"Bearer {token(time.time(), claims)}"
    _, answered, _ = get(running.url + path, headers)
    found = answered.get("x-sidecar-decision")
    if found is None:  # permitted: only the log says
        found = until(lambda: latest(running, path), f"a record of {path}")
    return str(found)


def latest(running: Sidecar, path: str) -> str:
    records = json.loads(get(f"{running.admin}/decisions")[2])["decisions"]
    return next((each["decision_id"] for each in reversed(records) if each["path"] == path), "")


def why(running: Sidecar, id_: str, *flags: str) -> dict[str, Any]:
    address = running.admin.removeprefix("http://")
    done = sidecar("why", id_, "--admin", address, "--output", "json", *flags)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_decision_is_explained_as_it_was(running: Sidecar) -> None:
    asked = [
        (ask(running, "/own/bob/x", {"sub": "alice"}), "no_rule", "would need that request.params.id == token.sub"),
        (ask(running, "/read/x", {"scope": "write"}), "scope_missing", "a token with the scope read"),
        (ask(running, "/read/x"), "no_credential", "log in"),
        (ask(running, "/read/x", {"scope": "read"}, **{"X-Amount": "5000"}), "step_up_required", "no more than 300 s ago"),
        (ask(running, "/read/x", {"exp": -100}), "expired", "a credential that stands"),
        (ask(running, "/read/y", {"status": "frozen"}), "denied_by_rule", "payments/p/frozen denies"),
        (ask(running, "/index.html"), "", ""),
    ]  # fmt: skip
    for id_, reason, said in asked:
        until(lambda id_=id_: id_.encode() in get(f"{running.admin}/decisions")[2], "the record")  # type: ignore[misc]
        found = why(running, id_)
        assert found["same"], found
        assert found["notes"] == []
        assert found["explanation"]["reason"] == reason
        assert said in " ".join(found["advice"]), found["advice"]


def test_documents_hold_no_secret_and_are_those_enforced(running: Sidecar) -> None:
    page = get(f"{running.admin}/documents")[2].decode()
    found = json.loads(page)
    assert [each["kind"] for each in found["documents"]] == [
        "TokenIssuer",
        "ApiKey",
        "AccessPolicy",
    ]
    assert (found["namespace"], found["labels"]) == ("payments", {"app": "bank"})
    snapshot = json.loads(get(f"{running.admin}/snapshot")[2])["snapshot"]
    assert found["version"] == snapshot["version"]
    assert KEY.partition(".")[2] not in page


def test_an_unknown_decision(running: Sidecar) -> None:
    address = running.admin.removeprefix("http://")
    done = sidecar("why", "0" * 32, "--admin", address)
    assert done.returncode == 1
    assert "name its decision log with --log FILE" in done.stderr


def test_its_log_replayed(running: Sidecar, tmp_path: Path) -> None:
    """Under the same policies nothing changes; under stricter ones exactly what they are about."""
    marks = [
        ask(
            running,
            "/read/z",
            {"sub": f"c{n}", "scope": "read", "tier": "gold" if n % 2 else "none"},
        )
        for n in range(6)
    ]
    ask(running, "/read/z", None, **{"Authorization": f"Bearer {KEY}"})
    ask(running, "/own/alice/x", {"sub": "alice"})
    ask(
        running,
        "/read/z",
        {"scope": "read", "tier": "gold", "auth_time": int(time.time())},
        **{"X-Amount": "5000"},
    )
    until(lambda: marks[-1] in running.decisions.read_text(), "the log")
    log = str(running.decisions)
    same = write(tmp_path, "same", DOCUMENTS)
    done = sidecar("replay", log, "--policies", same, *FLAGS, "--output", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["changed"], report["lacked"]) == (0, 0, 0), report
    assert report["decided"] == report["records"] == report["unchanged"]
    records = [json.loads(line) for line in running.decisions.read_text().splitlines()]
    gold = [each for each in records if each["rule"] == "payments/p/read" and each["outcome"] == "permit" and each["input"]["token"].get("tier") != "gold"]  # fmt: skip
    stricter = write(
        tmp_path, "stricter",
        DOCUMENTS.replace("require: {scopes: [read]}", "require: {scopes: [read]}, when: token.?tier.orValue('') == 'gold'"),
    )  # fmt: skip
    done = sidecar("replay", log, "--policies", stricter, *FLAGS, "--output", "json")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["newlyRefused"] == len(gold) > 0
    assert report["newlyPermitted"] == report["lacked"] == 0
    [row] = [row for row in report["byRule"] if row["change"] == "newly refused"]
    assert (row["before"], row["after"]) == ("permitted by payments/p/read", "no_rule")
    done = sidecar("why", marks[0], "--log", log, "--policies", stricter, *FLAGS)
    assert "Now it would be refused by no rule (no_rule): the policies have changed" in done.stdout
