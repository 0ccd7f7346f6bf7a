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
from sidecar.decide.enrichment import Enriched
from sidecar.decide.keys import KeySet, parse_jwks
from sidecar.decide.outcomes import Need, NeedBody, Outcome, Permit, Refuse, Unavailable
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Headers, Request, canonical_target
from sidecar.decide.revocations import Revocation, Revocations, target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import NOT_KNOWN, Subject, Subjects
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
kind: Segment
metadata: {{name: s}}
spec: {{when: token.sub == 'alice'}}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {{name: w}}
spec: {{namespaces: [pay]}}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {{name: e}}
spec:
  url: https://e.example
  parameters: {{who: subject.id, path: request.path, try: "request.headers[?'x-try'].orValue('')"}}
  type: {{ok: boolean}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: p}}
spec:
  rules:
"""
SHADOW: Final = """---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: s}
spec:
  mode: shadow
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
    "{name: agreed, require: {consent: [c]}}",
    "{name: calm, effect: deny, when: subject.risk > 50}",
    "{name: recent, require: {stepUp: {maxAge: 10s}}}",
    "{name: recently, effect: guard, require: {stepUp: {acr: [mfa], maxAge: 14s}}}",
    "{name: looked up, auth: optional, when: enriched.e.ok}",
    '{name: looked down, effect: deny, when: "!enriched.e.ok"}',
    "{name: placed, require: {segments: [s, t]}}",
    "{name: seen, auth: either, when: \"'w' in source.segments || 't' in subject.segments\"}",
    "{name: cut, auth: optional, then: {redact: [{drop: [$.x], unless: \"'c' in subject.consents\"}]}}",
    '{name: rated, auth: optional, limit: {rate: 1/s, per: "request.path + subject.id"}}',
    '{name: said, auth: optional, when: "request.body.a == 1"}',
    "{name: told, auth: optional, then: {setResponseHeaders: {x-k: \"subject.profile.?k.orValue('-')\"}}}",
)
SHADOWS: Final = (15, 20, 21, 24, 30)
"""Rules that stand in a shadow policy, too."""
RECORDS: Final = (
    NOT_KNOWN,
    Subject(frozenset("c"), {"k": "1"}, frozenset("t"), 10),
    Subject(frozenset("c"), {"k": "2"}, frozenset(), 60),
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
def snapshot(chosen: frozenset[int], shadow: int = 0) -> Snapshot:
    text = ISSUERS + "".join(f"  - {RULES[number]}\n" for number in sorted(chosen))
    if shadow:
        text += f"{SHADOW}  - {RULES[shadow]}\n"
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
        "strong": {"sub": "alice", "scope": "read write", "acr": "mfa", "auth_time": 0},
        "older": {"sub": "b", "acr": "mfa", "auth_time": -4},
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
    body: bytes = b""
    record: int = 0
    """What is known of the subject from this step on."""

    def request(self) -> Request:
        path, segments, query = canonical_target(self.target.encode())
        headers: Headers = [(name.encode(), value.encode()) for name, value in self.headers]
        if self.body:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", b"%d" % len(self.body)))
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
        ("alice", "b", "", "short", "expired", "early", "junk", "held", "keyed", "strong", "older")
    ),
    "headers": st.lists(st.sampled_from(HEADERS), max_size=2).map(tuple),
    "after": st.sampled_from((0.0, 5.0, 12.0, 25.0)),
    "policy": st.integers(0, 1),
    "keys": st.integers(0, 1),
    "withdrawn": st.sampled_from(("", "", "alice", "b", "spiffe://prod/ns/pay/sa/billing")),
    "shown": st.sampled_from(tuple(SHOWN)),
    "body": st.sampled_from((b"", b'{"a":1}', b'{"a":2}', b'{"a":1,"a":2}')),
    "record": st.integers(0, len(RECORDS) - 1),
}


class Answers:
    """What the enricher says: for ten seconds at a time, by its question and by the hour."""

    def get(self, key: bytes, now: float) -> Enriched | Unavailable | None:
        tens = int((now - NOW) // 10)
        if (key[1] + tens) % 7 == 0:
            return Unavailable("enricher_unavailable")
        return Enriched({"ok": (key[0] + tens) % 4 > 0}, NOW + 10 * (tens + 1))


def decided(
    request: Request, step: Step, held: Snapshot, evidence: Evidence, now: float
) -> Outcome:
    """With the body, where it is asked for."""
    outcome = authorize(request, held, evidence, now)
    if isinstance(outcome, Need):
        assert [type(want) for want in outcome.wants] == [NeedBody]
        outcome = authorize(request.with_body(step.body), held, evidence, now)
    return outcome


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


FACTS: Final = tuple(range(20, len(RULES)))
"""The rules that facts beyond the request and its token count for, and how recent a login is."""


@st.composite
def series_of_facts(draw: st.DrawFn) -> list[Step]:
    """The same request again and again, of one of few, while what is known changes."""
    base = Step(
        method="GET", target="/a/b", host="h", credential=draw(st.sampled_from(("strong", "alice"))),
        headers=(), after=0.0, policy=0, keys=0, withdrawn="", record=1,
    )  # fmt: skip
    parts = ("after", "record", "headers", "target", "body", "credential")
    steps = [
        replace(base, **{name: draw(PARTS[name]) for name in names})
        for names in draw(
            st.lists(st.sets(st.sampled_from(parts), max_size=2), min_size=2, max_size=8)
        )
    ]
    return sorted([base, *steps], key=lambda step: step.after)


Policies = Sequence[frozenset[int]]


def two(numbers: Sequence[int], least: int = 1) -> st.SearchStrategy[Policies]:
    chosen = st.frozensets(st.sampled_from(numbers), min_size=least, max_size=2)
    return st.tuples(chosen, chosen)


@settings(max_examples=700, deadline=None)
@given(
    policies=two(range(len(RULES))),
    asked=series(),
    bound=st.sampled_from((1, 2, 100)),
    shadow=st.sampled_from((0, 0, 0, *SHADOWS)),
)
def test_remembered_and_decided_anew_never_differ(
    policies: Policies, asked: list[Step], bound: int, shadow: int
) -> None:
    never_differ(policies, asked, bound, shadow)


@settings(max_examples=700, deadline=None)
@given(policies=two(FACTS), asked=series_of_facts(), bound=st.sampled_from((2, 100)))
def test_nor_do_they_when_only_facts_change(
    policies: Policies, asked: list[Step], bound: int
) -> None:
    never_differ(policies, asked, bound, 0)


def never_differ(policies: Policies, asked: list[Step], bound: int, shadow: int) -> None:
    tokens, decisions = ExpiringCache[bytes, Verified](100), ExpiringCache[Key, Permit](bound)
    revocations, names = Revocations(), set[str]()
    requests: dict[Step, Request] = {}
    for step in asked:
        held, now = snapshot(policies[step.policy], shadow), NOW + step.after
        if step.withdrawn and step.withdrawn not in names:
            names.add(step.withdrawn)
            revocations.add(withdrawals({step.withdrawn}))
        kept = Evidence(
            states(step), tokens, decisions, revocations=revocations,
            subjects=record(step), enriched=Answers(),
        )  # fmt: skip
        fresh = Evidence(
            states(step), ExpiringCache(1), ExpiringCache(1),
            subjects=record(step), enriched=Answers(),
        )  # fmt: skip
        fresh.revocations.add(withdrawals(names))
        # A door presents the very same object for a request that came again.
        alike = replace(step, after=0.0, policy=0, keys=0, withdrawn="", record=0)
        request = requests.setdefault(alike, step.request())
        anew = decided(step.request(), step, held, fresh, now)
        assert same(decided(request, step, held, kept, now), anew), step


def record(step: Step) -> Subjects:
    return lambda identity, now: RECORDS[step.record]


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


def test_nor_longer_than_an_enrichers_answer_by_a_request_that_only_asks_for_the_same() -> None:
    rule = RULES.index("{name: looked up, auth: optional, when: enriched.e.ok}")
    held = snapshot(frozenset((rule,)))
    evidence = replace(known(), enriched=Once(NOW + 5))
    first, alike = step(name=""), step("/a/x", "", ("x-other", "1"))
    permit = authorize(first, held, evidence, NOW)
    assert isinstance(permit, Permit)
    assert authorize(alike, held, evidence, NOW + 1) is permit
    assert isinstance(authorize(alike, held, evidence, NOW + 6), Need)


class Once:
    """An enricher that says yes until then."""

    def __init__(self, until: float) -> None:
        self._until = until

    def get(self, key: bytes, now: float) -> Enriched | None:
        return Enriched({"ok": True}, self._until) if now < self._until else None


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
