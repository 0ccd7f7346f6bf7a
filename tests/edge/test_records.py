"""Records hold what deciding again takes, and nothing that might be a credential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.outcomes import NeedBody
from sidecar.decide.parse import Source, parse
from sidecar.decide.replay import Replay
from sidecar.decide.request import TOO_LARGE, Unread
from sidecar.decide.scenario import JUNK, Scenario, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.edge.authorizer import Authorizer
from sidecar.edge.records import inputs
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics
from tests.casebook import Case, Known, cases, documents

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank], claims: {subject: who.id}}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {credentials: [{header: authorization}, {header: x-key}, {cookie: sid}]}
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: partner}
spec: {id: partner-7, hash: "sha256:d88487eabf94194abc5ff8ffc946c11c802b026f7c5ce162050f87e876d0ccfd", subject: partner}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: account}
spec: {url: "https://facts.example/{id}", parameters: {id: subject.id}, type: {limit: number, since: time}, optional: [since]}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {name: gold}
spec: {when: "token.?tier.orValue('') == 'gold'"}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - {name: open, match: {paths: [/open]}, auth: none}
  - {name: any, match: {paths: [/any]}}
  - {name: free, match: {paths: [/free]}, auth: none, when: "request.method == 'GET'"}
  - {name: not so free, match: {paths: [/free]}}
  - {name: inside, match: {paths: [/inside]}, auth: workload}
  - {name: claims, match: {paths: [/claims]}, when: "token.?group.orValue('') != 'x' && !has(token.api_key) && !has(token.long) && !has(token.deep)"}
  - {name: whole, match: {paths: [/whole]}, when: "token.exists(k, k == 'sub') || true"}
  - {name: heads, match: {paths: [/heads]}, when: "request.headers['x-a'] == '1' && !has(request.headers.x_b) && !('x-key' in request.headers)"}
  - {name: query, match: {paths: [/query]}, when: "request.query.?a.orValue('') != 'z' && request.size >= 0"}
  - {name: pay, match: {paths: [/pay]}, when: "request.body.amount < 10"}
  - {name: golden, match: {paths: [/golden]}, require: {segments: [gold], consent: [c], profile: [phone]}, when: subject.risk < 50}
  - {name: rich, match: {paths: [/rich]}, when: enriched.account.limit > 5}
"""


@pytest.fixture(scope="module")
def held() -> Snapshot:
    found, problems = parse([Source("f", DOCUMENTS)])
    assert not problems
    return compile_snapshot(found, namespace="default", labels={})


def recorded(held: Snapshot, path: str, **more: Any) -> dict[str, Any]:
    claims = more.pop("claims", {})
    if claims is not None:
        claims = {"who": {"id": "alice"}, **claims}
    decided = decide(Scenario(target=path, now=NOW, claims=claims, **more), held)
    found = inputs(decided.request, decided.outcome, held, decided.evidence, NOW)
    json.dumps(found)
    return found


def test_whose_credential_it_is(held: Snapshot) -> None:
    found = recorded(held, "/any", claims={"scope": "b a", "acr": "mfa"}, proof=("dpop",))
    assert found == {
        "credential": "valid",
        "request.scheme": "https",
        "scopes": ["a", "b"],
        "token": {"iss": "https://idp.example", "aud": "bank", "scope": "b a", "acr": "mfa", "cnf": {"jkt": True}},
    }  # fmt: skip
    assert recorded(held, "/open", claims=None) == {"credential": "none", "request.scheme": "https"}
    assert recorded(held, "/any", claims=None, bad=JUNK)["credential"] == "bad"
    assert recorded(held, "/any", claims=None, api_key="partner-7")["apiKey"] == "partner-7"
    assert recorded(held, "/any", method="POST", cross_origin=True)["crossOrigin"] is True
    # Nobody looks for a log at what no rule asks for.
    assert recorded(held, "/open") == {"credential": "unread", "request.scheme": "https"}
    # Who stands beside whom the outcome names.
    inside = recorded(held, "/inside", workload="spiffe://prod/a")
    assert inside["identity"] == {"issuer": "https://idp.example", "subject": "alice"}


def test_what_was_looked_for_and_not_there_is_null(held: Snapshot) -> None:
    found = recorded(held, "/claims", claims={"group": "y"})
    assert found["token"]["group"] == "y"
    assert found["token"]["deep"] is None
    found = recorded(held, "/heads", headers=(("x-a", "1"), ("x-c", "2")))
    assert found["request.headers"] == {"x-a": "1", "x_b": None, "x-key": None}
    found = recorded(held, "/query?a=1&b=2")
    assert (found["request.query"], found["request.size"]) == ({"a": "1"}, 0)


def test_what_may_not_be_written_is_not_taken_for_absent(held: Snapshot) -> None:
    claims = {"api_key": "HUSH", "long": "x" * 300, "deep": {"a": {"token": "HUSH", "b": 1}}}
    found = recorded(held, "/claims", claims=claims)
    assert "HUSH" not in json.dumps(found)
    assert "api_key" not in found["token"]
    assert "long" not in found["token"]
    assert found["token"]["deep"] == {"a": {"b": 1}}
    assert found["partial"] == ["token.deep"]
    assert "whole" not in recorded(held, "/whole", claims=claims)
    assert recorded(held, "/whole", claims={"a": 1})["whole"] == ["token"]
    assert "whole" not in recorded(held, "/whole", claims={"a": 1}, proof=("dpop",))
    found = recorded(held, "/heads", headers=(("x-a", "1"), ("x-key", "HUSH")), claims=None)
    assert "HUSH" not in json.dumps(found)


def test_one_member_that_cannot_be_read_takes_no_other_with_it(held: Snapshot) -> None:
    found = recorded(held, "/heads", headers=(("x-a", "1"), ("x-a", "2")))
    assert found["request.headers"] == {"x_b": None, "x-key": None}


def test_bodies_subjects_and_answers(held: Snapshot) -> None:
    found = recorded(held, "/pay", method="POST", body=b'{"amount": 5, "note": "n"}')
    assert found["request.body"] == {"amount": 5}
    assert found["request.contentType"] == "application/json"
    found = recorded(held, "/pay", method="POST", body=b"[1]")
    assert (found["request.body"], found["whole"]) == ([1], ["request.body"])
    known = Subject(frozenset(["c"]), {"phone": "1", "x": 2}, frozenset(["vip"]), 10)
    found = recorded(held, "/golden", claims={"tier": "gold"}, subject=known)
    assert found["subject.segments"] == ["vip"]  # gold follows from the token
    assert found["token"]["tier"] == "gold"
    assert (found["subject.consents"], found["subject.profile"], found["subject.risk"]) == (
        ["c"],
        {"phone": "1"},
        10,
    )
    found = recorded(
        held, "/rich", enriched={"account": {"limit": 9, "since": "2020-01-01T00:00:00Z"}}
    )
    assert found["enriched"] == {"account": {"limit": 9.0, "since": "2020-01-01T00:00:00Z"}}
    assert "enriched" not in recorded(held, "/rich")


SAME: list[tuple[str, dict[str, Any]]] = [
    ("/open", {}),
    ("/open", {"claims": None}),
    ("/any", {}),
    ("/any", {"claims": None}),
    ("/free", {}),
    ("/free", {"claims": None, "bad": JUNK}),
    ("/free", {"method": "POST"}),
    ("/inside", {"workload": "spiffe://prod/a"}),
    ("/inside", {"workload": "spiffe://prod/a", "claims": None}),
    ("/any", {"claims": {"exp": -60}}),
    ("/any", {"claims": None, "bad": JUNK}),
    ("/any", {"claims": None, "api_key": "partner-7"}),
    ("/any", {"claims": {}, "proof": ("dpop", "mtls")}),
    ("/any", {"cross_origin": True}),
    ("/any", {"cross_origin": True, "method": "POST"}),
    ("/claims", {"claims": {"group": "y"}}),
    ("/claims", {"claims": {"group": "x"}}),
    ("/claims", {"claims": {"group": "x"}, "workload": "spiffe://prod/a"}),
    ("/heads", {"headers": (("x-a", "1"),)}),
    ("/heads", {}),
    ("/query?a=z", {}),
    ("/query?a=%C3%A4+b&c=1", {}),
    ("/pay", {"method": "POST", "body": b'{"amount": 5}'}),
    ("/pay", {"method": "POST", "body": b'{"amount": 50}'}),
    ("/pay", {"method": "POST", "body": b'{"amount": "x"}'}),
    ("/pay", {"method": "POST"}),
    ("/pay", {"method": "POST", "body": b"amount=5", "headers": (("content-type", "application/x-www-form-urlencoded"),)}),
    ("/golden", {"claims": {"tier": "gold"}, "subject": Subject(frozenset(["c"]), {"phone": "1"})}),
    ("/golden", {"subject": Subject(frozenset(["c"]), {"phone": "1"}, frozenset(["gold"]))}),
    ("/golden", {"subject": Subject(frozenset(["c"]), {"phone": "1"})}),
    ("/golden", {"subject": Subject(frozenset(["c"]), {}, frozenset(["gold"]))}),
    ("/golden", {"claims": {"tier": "gold"}, "subject": Subject(risk=70)}),
    ("/rich", {"enriched": {"account": {"limit": 9, "since": "2020-01-01T00:00:00Z"}}}),
    ("/rich", {"enriched": {"account": {"limit": 1}}}),
    ("/nothing", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "more"), SAME)
def test_deciding_again_by_the_same_rules_changes_nothing(
    held: Snapshot, path: str, more: dict[str, Any]
) -> None:
    claims = more.get("claims", {})
    if claims is not None:
        claims = {"who": {"id": "alice"}, **claims}
    decided = decide(Scenario(target=path, now=NOW, **{**more, "claims": claims}), held)
    line = written(decided, held)
    replay = Replay(held)
    replay.take(line)
    assert replay.plain()["byRule"] == []
    assert (replay.decided, replay.lacked, replay.foreign) == (1, 0, 0), replay.lacking


def written(decided: Any, held: Snapshot) -> bytes:
    from sidecar.edge.decision import Decision
    from sidecar.edge.records import settled

    decision = Decision(decided.outcome, "d" * 32, b"", 0.0, held.version)
    record = settled("proxy", decided.request, decision)
    record["input"] = inputs(decided.request, decided.outcome, held, decided.evidence, decided.now)
    return json.dumps(
        {"time": decided.now, "decision_id": decision.id, "duration_ms": 0.0, **record}
    ).encode()


class Asked:
    """Subjects and enrichments of a case, as an authorizer asks for them."""

    def __init__(self, known: Known) -> None:
        self.answers = known.answers
        self.get, self.use, self.fetch = known.get, known.use, known.fetch


async def test_so_do_all_cases_as_a_sidecar_logs_them(tmp_path: Path) -> None:
    """Every case of the casebook, logged by the authorizer of production, and decided again."""
    for number, case in enumerate(cases()):
        snapshot = compile_snapshot(
            documents(case.documents), namespace="default", labels=case.labels
        )
        log = tmp_path / str(number)
        asked = Asked(case.known())
        authorizer = Authorizer(
            KeyStore(), Metrics(), DecisionLog(str(log)), clock=lambda: NOW,
            subjects=asked, enrichments=asked,
        )  # fmt: skip

        async def body(want: NeedBody, case: Case = case) -> bytes | Unread:
            return TOO_LARGE if len(case.body()) > want.limit else case.body()

        authorizer.adopt(snapshot)
        request = case.request(NOW)
        decision = authorizer.decide(request) or await authorizer.resolve(request, body)
        authorizer.finished(request, decision, 200)
        authorizer._ledger._log.close()
        text = log.read_text()
        for secret in (v.decode("latin-1") for n, v in request.headers if n in (b"authorization", b"cookie", b"x-api-key", b"dpop")):  # fmt: skip
            assert secret.rpartition(" ")[2] not in text or len(secret) < 12
        replay = Replay(snapshot)
        replay.take(text.encode())
        assert replay.foreign == 0
        assert not replay.changes, (case.id, replay.plain()["byRule"])
        # What was written twice, or is too large, cannot be read, and so is not in a record.
        unreadable = {
            "credential",
            "token.level",
            "request.query.open",
            "request.headers.x-amount",
            "request.body",
        }
        assert replay.lacking.keys() <= unreadable, (case.id, replay.lacking)
