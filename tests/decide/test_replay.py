"""Records decided again: what is a change, what is lacking, and that memory is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.decide import replay as module
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.parse import Source, parse
from sidecar.decide.replay import Replay
from sidecar.decide.snapshot import Snapshot

NOW = 1_800_000_000.0
HEAD = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: partner}
spec: {id: partner-7, hash: "sha256:d88487eabf94194abc5ff8ffc946c11c802b026f7c5ce162050f87e876d0ccfd", subject: partner}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: account}
spec: {url: "https://facts.example/{id}", parameters: {id: token.sub}, type: {limit: number}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
"""


def policies(*rules: str, more: str = "") -> Snapshot:
    text = HEAD + "".join(f"  - {{{rule}}}\n" for rule in rules) + more
    found, problems = parse([Source("f", text)])
    assert not problems, problems
    return compile_snapshot(found, namespace="default", labels={})


def record(**more: Any) -> dict[str, Any]:
    given = {"credential": "valid", "request.scheme": "https", "scopes": [],
             "token": {"iss": "https://idp.example", "sub": "alice", "aud": "bank"}}  # fmt: skip
    given.update(more.pop("input", {}))
    return {
        "time": NOW, "decision_id": "d1", "method": "GET", "host": "bank.example", "path": "/x/7",
        "address": "192.0.2.1", "version": "v1", "outcome": "permit", "rule": "default/p/x",
        "issuer": "https://idp.example", "subject": "alice", "duration_ms": 0, "input": given, **more,
    }  # fmt: skip


ANONYMOUS = {"credential": "none", "token": {}, "request.scheme": "https"}
X = "name: x, match: {paths: ['/x/{id}']}"


def replayed(snapshot: Snapshot, *records: dict[str, Any], **more: Any) -> Replay:
    found = Replay(snapshot, **more)
    for each in records:
        found.take(json.dumps(each).encode())
    assert not found.foreign
    return found


def changes(found: Replay) -> dict[str, int]:
    return {name: count for name, count in found.changes.items() if count}


def refused(code: str, reason: str, rule: str = "", **more: Any) -> dict[str, Any]:
    return record(outcome="refuse", code=code, reason=reason, rule=rule, **more)


def test_each_kind_of_change() -> None:
    same = policies(X)
    assert changes(replayed(same, record())) == {}
    stricter = policies(X + ", require: {scopes: [x]}")
    found = replayed(stricter, record(), record(input={"scopes": ["x"]}))
    assert (changes(found), found.unchanged, found.changed) == ({"newly refused": 1}, 1, 1)
    [row] = found.plain()["byRule"]
    assert row["before"] == "permitted by default/p/x"
    assert row["after"] == "scope_missing by default/p/x"
    assert row["samples"][0]["decision_id"] == "d1"
    [row] = found.plain()["byPath"]
    assert row == {
        "change": "newly refused", "path": "GET /x/{id}", "decisions": 1,
        "subjects": {"count": 1, "exact": True},
    }  # fmt: skip
    was = refused("insufficient_scope", "scope_missing", "default/p/x")
    assert changes(replayed(same, was)) == {"newly permitted": 1}
    assert changes(replayed(stricter, was)) == {}
    other = policies(X + ", require: {stepUp: {acr: [mfa]}}")
    assert changes(replayed(other, was)) == {"refused otherwise": 1}
    assert changes(replayed(policies(X.replace("name: x", "name: y")), record())) == {
        "by another rule": 1
    }


def test_what_observe_let_pass_was_refused() -> None:
    was = record(outcome="observe", code="denied", reason="no_rule", rule="")
    assert changes(replayed(policies("name: z, match: {paths: [/z]}"), was)) == {}
    assert changes(replayed(policies(X), was)) == {"newly permitted": 1}


def test_shadow_policies_are_not_enforced_unless_asked() -> None:
    shadow = """---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: s}
spec: {mode: shadow, rules: [{name: none, effect: deny, when: "token.?tier.orValue('') != 'gold'"}]}
"""
    held = policies(X, more=shadow)
    gold = record(input={"token": {"iss": "https://idp.example", "aud": "bank", "tier": "gold"}})
    plain = record(input={"token": {"iss": "https://idp.example", "aud": "bank", "tier": None}})
    assert changes(replayed(held, plain, record())) == {}
    found = replayed(held, gold, plain, record(), shadows=True)
    assert (changes(found), found.lacking) == ({"newly refused": 1}, {"token.tier": 1})


def test_a_decision_is_as_of_its_time() -> None:
    held = policies(X + ", require: {stepUp: {maxAge: 5m}}")
    claims = {"iss": "https://idp.example", "aud": "bank", "auth_time": NOW - 299}
    assert changes(replayed(held, record(input={"token": claims}))) == {}
    late = record(time=NOW + 10, duration_ms=10_000, input={"token": claims})
    assert changes(replayed(held, late)) == {}
    late = record(time=NOW + 10, duration_ms=1_000, input={"token": claims})
    assert changes(replayed(held, late)) == {"newly refused": 1}


def test_limits_and_what_could_not_be_had_are_not_up_to_rules() -> None:
    found = replayed(
        policies(X),
        refused("too_many_requests", "rule_limit", "default/p/x"),
        refused("unavailable", "keys_unavailable"),
    )
    assert (found.not_by_rules, found.decided) == (2, 0)


@pytest.mark.parametrize(
    ("rule", "given", "lacking"),
    [
        ("when: \"token.tier == 'gold'\"", {}, ["token.tier"]),
        ("when: \"token.tier == 'gold'\"", {"token": {"iss": "https://idp.example", "aud": "bank", "tier": None}}, []),
        ("when: \"token.tier == 'gold'\"", {"partial": ["token.tier"], "token": {"iss": "https://idp.example", "tier": {}}}, ["token.tier"]),
        ("when: \"token.tier == 'gold'\"", ANONYMOUS, []),
        ("when: \"token.exists(k, k == 'a')\"", {}, ["token"]),
        ("when: \"token.exists(k, k == 'a')\"", {"whole": ["token"]}, []),
        ("when: has(token.sub) && has(token.acr)", {}, []),
        ("when: has(token.cnf)", {}, []),
        ("when: has(token.cnf)", {"token": {"iss": "https://idp.example", "aud": "bank", "cnf": {"jkt": True}}}, ["token.cnf"]),
        ("when: \"request.headers['x-a'] == ''\"", {}, ["request.headers.x-a"]),
        ("when: \"request.headers['x-a'] == ''\"", {"request.headers": {"x-a": None}}, []),
        ("when: has(request.query.a)", {"request.query": {"b": "1"}}, ["request.query.a"]),
        ("when: request.size > 5", {}, ["request.size"]),
        ("when: request.size > 5", {"request.size": 0}, []),
        ("when: request.scheme == 'https'", {}, []),
        ("when: request.contentType == ''", {}, ["request.contentType"]),
        ("when: request.method == 'GET' && request.params.id == '7'", {}, []),
        ("when: request.body.a == 1", {}, ["request.body"]),
        ("when: request.body.a == 1", {"request.body": {"b": 2}, "request.contentType": "application/json"}, ["request.body.a"]),
        ("when: request.body.a == 1", {"request.body": {"a": 1}, "request.contentType": "application/json"}, []),
        ("when: subject.risk > 5", {}, ["subject.risk"]),
        ("when: subject.risk > 5", {"subject.risk": 7}, []),
        ("when: subject.risk > 5", ANONYMOUS, []),
        ("require: {consent: [a]}", {"subject.risk": 7}, ["subject.consents"]),
        ("require: {consent: [a]}", {"subject.consents": []}, []),
        ("require: {profile: [a]}", {"subject.profile": {"b": 1}}, ["subject.profile.a"]),
        ("require: {profile: [a]}", {"subject.profile": {"a": None}}, []),
        ("require: {scopes: [s], consent: [a]}", {}, []),  # refused before consents count
        ("when: enriched.account.limit > 5", {}, ["enriched.account"]),
        ("when: enriched.account.limit > 5", {"enriched": {"account": {"limit": 9}}}, []),
        ("when: enriched.account.limit > 5", {"enriched": {"account": {}}}, ["enriched.account"]),
        ("auth: none", {"credential": "unread"}, []),
        ("auth: optional", {"credential": "unread"}, ["credential"]),
    ],
)  # fmt: skip
def test_what_a_record_lacks(rule: str, given: dict[str, Any], lacking: list[str]) -> None:
    if "sub" not in given.get("token", {"sub": 1}):
        given = {**given, "token": {"sub": "alice", **given["token"]}}
    found = replayed(policies(f"{X}, {rule}"), record(input=given))
    assert list(found.lacking) == lacking
    assert (found.lacked, found.decided) == (bool(lacking), not lacking)


def test_without_inputs_only_what_needs_none_is_decided() -> None:
    bare = record(rule="default/p/x")
    del bare["input"]
    assert replayed(policies(X), bare).lacking == {"credential": 1}
    assert replayed(policies(X + ", auth: none"), bare).unchanged == 1


def test_a_credential_that_nobody_looked_at() -> None:
    free = X.replace("name: x", "name: free") + ", auth: none, when: request.method == 'GET'"
    unread = record(
        rule="default/p/free", issuer="", subject="", input={"credential": "unread", "token": {}}
    )
    assert replayed(policies(free, X), unread).unchanged == 1
    stricter = policies(free.replace("GET", "POST"), X)
    assert replayed(stricter, unread).lacking == {"credential": 1}
    # Whoever it is, no rule asks.
    assert changes(replayed(policies("name: y, match: {paths: [/x/7]}, auth: none"), unread)) == {
        "by another rule": 1
    }


def test_credentials_that_would_not_stand_any_more() -> None:
    text = HEAD.replace("audiences: [bank]", "audiences: [shop]").replace("partner-7", "partner-8")
    found, _ = parse([Source("f", text + f"  - {{{X}}}\n")])
    other = compile_snapshot(found, namespace="default", labels={})
    key = record(issuer="api-key", subject="partner", input={"apiKey": "partner-7"})
    was = replayed(other, record(), key)
    assert changes(was) == {"newly refused": 2}
    after = [row["after"] for row in was.plain()["byRule"]]
    assert after == ["api_key_unknown by default/p/x", "audience_mismatch by default/p/x"]
    assert changes(replayed(policies(X), key)) == {}


def test_bad_credentials_stay_bad() -> None:
    bad = refused(
        "invalid_dpop_proof",
        "proof_replayed",
        "default/p/x",
        input={"credential": "bad", "token": {}},
    )
    assert changes(replayed(policies(X), bad)) == {}
    assert changes(replayed(policies(X + ", auth: none"), bad)) == {"newly permitted": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"{}", b"[]", b"null", b'{"time": 1', b"\xff\xfe", b"[" * 100_000,
        json.dumps({**record(), "time": "x"}).encode(),
        json.dumps({**record(), "outcome": "maybe"}).encode(),
        json.dumps({**record(), "path": "/a/../../b"}).encode(),
        json.dumps({**record(), "path": "*"}).encode(),
        json.dumps({**record(), "path": "/\ud800"}).encode(),
        json.dumps({**record(), "host": "a b"}).encode(),
        json.dumps({**record(), "source": "https://no"}).encode(),
        json.dumps(record(input={"token": []})).encode(),
        json.dumps(record(input={"request.body": "!"})).replace('"!"', "[" * 100_000).encode(),
        json.dumps(record(input={"request.body": "!"})).replace('"!"', "[" * 9000 + "]" * 9000).replace("/x/7", "/..").encode(),
    ],
)  # fmt: skip
def test_whatever_a_line_is_nothing_breaks(line: bytes) -> None:
    found = Replay(policies(X))
    found.take(line)
    assert found.decided == 0
    assert found.foreign + found.lacked == 1


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 5)
    held = policies("name: z, match: {paths: [/z]}")
    records = [record(path=f"/{n}/a/b", version=f"v{n}", rule=f"default/p/{n}") for n in range(50)]
    found = replayed(held, *records, samples=2)
    assert found.changes["newly refused"] == 50
    assert len(found.by_path.rows) <= 6
    assert len(found.by_rule.rows) <= 6
    assert ("newly refused", "(others)") in found.by_path.rows
    assert all(len(row.samples) <= 2 for row in found.by_rule.rows.values())
