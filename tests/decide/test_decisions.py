"""The memory of permits shows in nothing but time: remembered and decided anew never differ."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import LONGEST_VALUE, MOST_READS, ExpiringCache, Key
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.outcomes import Outcome, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Headers, Request, canonical_target
from sidecar.decide.revocations import Revocation, Revocations, target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.tokens import KeyState, Verified
from sidecar.decide.workloads import Certificate, workload
from tests.casebook import ISSUER, jwks, token
from tests.proofs import Prover

NOW: Final = 1_800_000_000.0
ISSUERS: Final = f"""
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {{name: corp}}
spec: {{issuer: "{ISSUER}", audiences: [bank], clockSkew: 0s}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: p}}
spec:
  rules:
"""
RULES: Final = (
    '{name: scoped, match: {paths: ["/a/**"]}, require: {scopes: [read]}}',
    '{name: own, match: {paths: ["/a/{id}"]}, when: request.params.id == token.sub}',
    '{name: second, match: {paths: ["/{x}/{id}"]}, when: "request.params.x == request.params.id"}',
    '{name: member, auth: optional, when: "has(token.tier)"}',
    "{name: tried, auth: optional, when: \"request.headers[?'x-try'].orValue('') == '1'\"}",
    "{name: asked, auth: optional, when: \"request.query.q == '1'\"}",
    '{name: whole, auth: optional, when: "size(request.headers) == 2"}',
    "{name: timed, auth: optional, when: \"request.time < timestamp('2027-01-15T08:00:10Z')\"}",
    "{name: shown, match: {methods: [GET]}, then: {setHeaders: {x-t: \"request.headers['x-try']\"}}}",
    '{name: mine, auth: optional, then: {setHeaders: {x-s: "subject.id", x-p: "request.path"}}}',
    "{name: bad, effect: deny, when: \"'x-bad' in request.headers && request.headers['x-bad'] != '0'\"}",
    '{name: gold, effect: guard, match: {paths: ["/a/b"]}, when: "request.method == \'POST\'", '
    "require: {scopes: [write]}}",
    '{name: far, effect: deny, match: {hosts: [far]}, when: "subject.anonymous"}',
    "{name: inside, auth: workload}",
    '{name: ours, auth: workload, require: {workloads: ["spiffe://prod/ns/pay/**"]}}',
    '{name: both, auth: either, then: {setHeaders: {x-from: "source.serviceAccount + subject.id"}}}',
    '{name: from pay, auth: none, when: source.namespace == "pay"}',
    "{name: proven, auth: either, require: {proof: [mtls]}}",
    "{name: keyed, require: {proof: [dpop, mtls]}}",
    "{name: not b, effect: deny, when: \"source.spiffe.endsWith('/b')\"}",
)
PROVER: Final = Prover()
SHOWN: Final[Mapping[str, Certificate | None]] = {
    "": None,
    "plain": Certificate("p" * 43),
    "billing": Certificate("c" * 43, workload("spiffe://prod/ns/pay/sa/billing", NOW + 1000)),
    "brief": Certificate("d" * 43, workload("spiffe://prod/ns/pay/sa/billing", NOW + 10)),
    "b": Certificate("b" * 43, workload("spiffe://prod/b", NOW + 1000)),
}


@functools.cache
def snapshot(chosen: frozenset[int]) -> Snapshot:
    text = ISSUERS + "".join(f"  - {RULES[number]}\n" for number in sorted(chosen))
    documents, problems = parse([Source("f", text)])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={})


@functools.cache
def credential(name: str) -> str:
    claims: dict[str, dict[str, Any]] = {
        "alice": {"sub": "alice", "scope": "read"},
        "b": {"sub": "b", "scope": "read write", "tier": "gold"},
        "short": {"sub": "b", "exp": 20},
        "expired": {"sub": "alice", "exp": -1},
        "early": {"sub": "alice", "nbf": 15},
        "held": {"sub": "alice", "cnf": {"x5t#S256": "c" * 43}},
        "keyed": {"sub": "alice", "cnf": {"jkt": PROVER.thumbprint}},
    }
    return token(NOW, claims[name]) if name in claims else name


@functools.cache
def keys(number: int) -> KeySet:
    """As good as one another, but not the same."""
    return parse_jwks(jwks())


@dataclass(frozen=True)
class Step:
    """One request, at one moment, under one policy and one set of keys."""

    method: str
    target: str
    host: str
    credential: str
    headers: tuple[tuple[str, str], ...]
    after: float
    policy: int
    keys: int
    withdrawn: str
    """A subject who is withdrawn from this step on."""
    shown: str = ""
    """The certificate that the caller shows."""

    def request(self) -> Request:
        path, segments, query = canonical_target(self.target.encode())
        headers: Headers = [(name.encode(), value.encode()) for name, value in self.headers]
        if self.credential:
            text = credential(self.credential)
            scheme = "DPoP" if self.credential == "keyed" else "Bearer"
            headers.append((b"authorization", f"{scheme} {text}".encode()))
            if self.credential == "keyed":
                target = f"http://{self.host}{self.target}"
                headers.append((b"dpop", PROVER.proof(self.method, target, text, NOW, jti="j")))
        return Request(
            self.method, path, segments, query, self.host, self.host, "http", headers, "192.0.2.1",
            certificate=SHOWN[self.shown],
        )  # fmt: skip


HEADERS: Final = (("x-try", "1"), ("x-try", "2"), ("x-bad", "0"), ("x-bad", "1"), ("x-other", "1"))
PARTS: Final[Mapping[str, st.SearchStrategy[Any]]] = {
    "method": st.sampled_from(("GET", "POST")),
    "target": st.sampled_from(
        ("/a/b", "/a/alice", "/b/b", "/a/b/c", "/a/b?q=1", "/a/b?q=2", "/a/b?q=1&q=2", "/")
    ),
    "host": st.sampled_from(("h", "far")),
    "credential": st.sampled_from(
        ("alice", "b", "", "short", "expired", "early", "junk", "held", "keyed")
    ),
    "headers": st.lists(st.sampled_from(HEADERS), max_size=2).map(tuple),
    "after": st.sampled_from((0.0, 5.0, 12.0, 25.0)),
    "policy": st.integers(0, 1),
    "keys": st.integers(0, 1),
    "withdrawn": st.sampled_from(("", "", "alice", "b", "spiffe://prod/ns/pay/sa/billing")),
    "shown": st.sampled_from(tuple(SHOWN)),
}


@st.composite
def series(draw: st.DrawFn) -> list[Step]:
    """Requests that differ in one part or two: those that a wrong key would take for one another."""
    base = Step(**{name: draw(part) for name, part in PARTS.items()})
    varied = st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=2)
    others = [
        replace(base, **{name: draw(PARTS[name]) for name in names})
        for names in draw(st.lists(varied, min_size=1, max_size=8))
    ]
    return sorted([base, *others], key=lambda step: step.after)


def states(step: Step) -> Mapping[str, KeyState]:
    return {ISSUER: KeyState(keys(step.keys), NOW + 1000)}


@settings(max_examples=1000, deadline=None)
@given(
    policies=st.tuples(
        *(st.frozensets(st.integers(0, len(RULES) - 1), min_size=1, max_size=2),) * 2
    ),
    asked=series(),
    bound=st.sampled_from((1, 2, 100)),
)
def test_remembered_and_decided_anew_never_differ(
    policies: Sequence[frozenset[int]], asked: list[Step], bound: int
) -> None:
    tokens, decisions = ExpiringCache[bytes, Verified](100), ExpiringCache[Key, Permit](bound)
    revocations, names = Revocations(), set[str]()
    for step in asked:
        held, now = snapshot(policies[step.policy]), NOW + step.after
        if step.withdrawn and step.withdrawn not in names:
            names.add(step.withdrawn)
            revocations.add(withdrawals({step.withdrawn}))
        kept = Evidence(states(step), tokens, decisions, revocations=revocations)
        fresh = Evidence(states(step), ExpiringCache(1), ExpiringCache(1))
        fresh.revocations.add(withdrawals(names))
        anew = authorize(step.request(), held, fresh, now)
        assert same(authorize(step.request(), held, kept, now), anew), step


def withdrawals(names: Iterable[str]) -> list[Revocation]:
    """Until five seconds before the last step: then they stand again."""
    return [
        Revocation(target("subject", issuer, name), None, NOW + 20)
        for name in names
        for issuer in (ISSUER, "spiffe://prod")
    ]


def same(one: Outcome, other: Outcome) -> bool:
    """But for the credential as an object: another check of the same token makes another one."""
    return _plain(one) == _plain(other)


def _plain(outcome: Outcome) -> Outcome:
    return (
        msgspec.structs.replace(outcome, verified=None, beside=None)
        if type(outcome) is Permit
        else outcome
    )


def known() -> Evidence:
    return Evidence({ISSUER: KeyState(keys(0), NOW + 10)}, ExpiringCache(9), ExpiringCache(9))


def step(target: str = "/a/x", name: str = "alice", *headers: tuple[str, str]) -> Request:
    return Step("GET", target, "h", name, headers, 0.0, 0, 0, "").request()


def test_another_request_that_asks_for_the_same_gets_the_same_permit() -> None:
    held, evidence = snapshot(frozenset((0, 10))), known()
    first = authorize(step("/a/x", "alice"), held, evidence, NOW)
    assert isinstance(first, Permit)
    assert authorize(step("/a/y?q=2", "alice", ("x-new", "7")), held, evidence, NOW) is first
    assert (evidence.decisions.hits, evidence.decisions.misses) == (1, 1)


@pytest.mark.parametrize(
    ("rule", "target", "header"),
    [
        (4, "/a/x", ("x-try", "1" * (LONGEST_VALUE + 1))),
        (6, "/a/x", ("x-try", "1")),
        (7, "/a/x", ("x-try", "1")),
    ],
    ids=["a long value", "a whole map", "the time"],
)
def test_what_a_key_cannot_hold_is_not_remembered(
    rule: int, target: str, header: tuple[str, str]
) -> None:
    held, evidence = snapshot(frozenset((0, rule))), known()
    for _ in range(2):
        assert isinstance(authorize(step(target, "alice", header), held, evidence, NOW), Permit)
    assert len(evidence.decisions) == 0


@pytest.mark.parametrize("in_one", [False, True])
def test_nor_is_a_decision_that_reads_very_much(in_one: bool) -> None:
    reads = [f"has(request.headers.h{n})" for n in range(MOST_READS + 1)]
    conditions = [" || ".join(reads)] if in_one else reads
    rules = "".join(
        f'  - {{name: r{n}, effect: deny, when: "{condition}"}}\n'
        for n, condition in enumerate(conditions)
    )
    documents, problems = parse([Source("f", f"{ISSUERS}  - {RULES[0]}\n{rules}")])
    assert not problems
    held, evidence = compile_snapshot(documents, namespace="default", labels={}), known()
    assert isinstance(authorize(step(), held, evidence, NOW), Permit)
    assert len(evidence.decisions) == 0


def test_refusals_are_not_remembered() -> None:
    held, evidence = snapshot(frozenset((0,))), known()
    for _ in range(2):
        assert isinstance(authorize(step(name="short"), held, evidence, NOW), Refuse)
    assert len(evidence.decisions) == 0


def test_a_permit_is_remembered_no_longer_than_its_token_lasts() -> None:
    held, evidence = snapshot(frozenset((3, 9))), known()
    assert isinstance(authorize(step(name="short"), held, evidence, NOW + 19), Permit)
    assert isinstance(authorize(step(name="short"), held, evidence, NOW + 20), Refuse)


def test_a_remembered_permit_weighs_what_it_keeps_alive() -> None:
    held, evidence = snapshot(frozenset((0, 4))), known()
    bare = authorize(step(), held, evidence, NOW)
    light = evidence.decisions.weight
    assert isinstance(bare, Permit)
    assert light > evidence.tokens.weight > 2 * len(credential("alice"))
    assert isinstance(
        authorize(step("/a/x", "alice", ("x-try", "x" * 500)), held, evidence, NOW), Permit
    )
    assert evidence.decisions.weight > 2 * light + 400
