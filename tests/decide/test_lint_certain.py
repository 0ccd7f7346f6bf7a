"""What is warned of makes no difference: decisions are the same without the rule."""

from __future__ import annotations

import functools
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.lint import lint
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request, canonical_authority, canonical_target
from sidecar.decide.snapshot import Snapshot
from tests.casebook import jwks, token

NOW = 1_800_000_000.0
IDLE = {"shadowed", "narrowed-by-allow", "repeated", "never-matches", "protects-nothing"}


@functools.cache
def presented() -> list[bytes | None]:
    """No credential, a bad one, and what good ones say."""
    claims: list[dict[str, Any]] = [
        {}, {"scope": "x"}, {"scope": "x y", "a": "1"}, {"a": "1"}, {"scope": "y", "a": "2"},
    ]  # fmt: skip
    return [None, b"Bearer junk", *(f"Bearer {token(NOW, each)}".encode() for each in claims)]


@functools.cache
def requests() -> list[Request]:
    _, host = canonical_authority(b"h")
    return [
        Request(
            method, *canonical_target(path.encode()), "h", host, "http",
            [(b"host", b"h"), *([(b"authorization", each)] if each else [])], "127.0.0.1",
        )
        for method in ("GET", "HEAD", "POST")
        for path in ("/", "/a", "/a/", "/a/b", "/a/1", "/b")
        for each in presented()
    ]  # fmt: skip


subsets = st.sampled_from([[], ["x"], ["y"], ["x", "y"]])
conditions = st.sampled_from(
    [None, None, "token.?a.orValue('') == '1'", "token.a == '1'", "false",
     "token.a == '1' && token.a == '2'", "request.method == 'POST'"]
)  # fmt: skip
matches = st.fixed_dictionaries(
    {
        "methods": st.sampled_from([[], ["GET"], ["GET", "POST"], ["POST"]]),
        "paths": st.lists(
            st.sampled_from(["/**", "/a/**", "/a/*", "/a/{id}", "/a", "/a/", "/a/b", "/*", "/b"]),
            max_size=2,
            unique=True,
        ),
    }
)
allows = st.fixed_dictionaries(
    {"match": matches, "when": conditions, "offer": st.booleans()},
    optional={
        "auth": st.sampled_from(["token", "none", "optional", "either"]),
        "require": st.fixed_dictionaries({"scopes": subsets}),
        "then": st.just({"removeHeaders": ["x-a"]}),
    },
)
narrowing = st.one_of(
    st.fixed_dictionaries({"match": matches, "when": conditions, "effect": st.just("deny")}),
    st.fixed_dictionaries(
        {
            "match": matches, "when": conditions, "effect": st.just("guard"),
            "require": st.fixed_dictionaries({"scopes": subsets}),
        }
    ),
)  # fmt: skip


def policy(rules: list[dict[str, Any]]) -> str:
    head = {"apiVersion": "authz.sidecar/v1", "metadata": {"name": "p"}}
    issuer = {"issuer": "https://idp.example", "audiences": ["bank"], "jwks": {"inline": jwks()}}
    bodies = [
        {**head, "kind": "TokenIssuer", "spec": issuer},
        {**head, "kind": "ProtectedService", "spec": {"audiences": ["bank"]}},
        {**head, "kind": "AccessPolicy", "spec": {"rules": rules}},
    ]
    return "\n---\n".join(map(json.dumps, bodies))


def decided(held: Snapshot) -> list[str]:
    evidence = Evidence({}, ExpiringCache(1_000), ExpiringCache(1_000))
    found = []
    for request in requests():
        request.memo = None
        outcome = authorize(request, held, evidence, NOW)
        assert isinstance(outcome, Permit | Refuse)
        found.append(outcome.rule if isinstance(outcome, Permit) else str(outcome.code))
    return found


def results(found: list[str]) -> list[str]:
    return ["permit" if "/" in each else each for each in found]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(allows, allows, narrowing), min_size=2, max_size=4))
def test_without_the_rule_the_same_is_decided(rules: list[dict[str, Any]]) -> None:
    written = [
        {
            **{key: value for key, value in rule.items() if value is not None},
            "name": f"r{place}",
        }
        for place, rule in enumerate(rules)
    ]
    for rule in written:
        if rule.get("auth") == "none":
            rule.pop("require", None)
    documents, problems = parse([Source("f", policy(written))])
    assert not problems
    before = decided(compile_snapshot(documents, namespace="default", labels={}))
    for found in lint(documents):
        if found.code not in IDLE:
            continue
        place = int(found.pointer.partition("[")[2].partition("]")[0])
        if found.code in ("shadowed", "never-matches"):
            assert f"default/p/r{place}" not in before
        if any(rule.get("auth") == "none" for rule in written):
            continue  # whether there are others decides whether a credential is looked at
        less, _ = parse([Source("f", policy(written[:place] + written[place + 1 :]))])
        after = decided(compile_snapshot(less, namespace="default", labels={}))
        assert results(after) == results(before), (found, written)
