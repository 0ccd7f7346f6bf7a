"""What is decided against DESIGN section 3 once more, written down as plainly as it reads there.

The reference knows all facts from the start and weighs all rules. The engine is told of facts only
what it asks for, in at most four rounds, and must come to the same; what cannot be had it takes for
anything at all, so that it never permits what one value of it would refuse.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.enrichment import Enriched
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import (
    Code,
    Identity,
    Need,
    NeedBody,
    NeedEnrichment,
    NeedKeys,
    NeedSubject,
    Outcome,
    Permit,
    Refuse,
    Unavailable,
)
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Headers, Request
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.subjects import Subject
from sidecar.decide.tokens import KeyState
from sidecar.decide.workloads import Certificate, workload
from sidecar.edge.authorizer import ROUNDS
from tests.casebook import ISSUER, jwks, token

NOW: Final = 1_800_000_000.0
DOCUMENTS: Final = f"""
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {{name: corp}}
spec: {{issuer: "{ISSUER}", audiences: [bank]}}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {{name: s}}
spec: {{when: "token.tier == 'gold'"}}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {{name: w}}
spec: {{namespaces: [pay]}}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {{name: e}}
spec: {{url: https://e.example, type: {{ok: boolean}}}}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {{name: r}}
spec: {{url: https://e.example, parameters: {{of: string(subject.risk)}}, type: {{ok: boolean}}}}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {{name: b}}
spec: {{url: https://e.example, parameters: {{of: string(request.body.a)}}, type: {{ok: boolean}}}}
"""

# --- the world -----------------------------------------------------------------------------------

TOKENS: Final[Mapping[str, Mapping[str, Any]]] = {
    "plain": {},
    "reads": {"scope": "read", "tier": "gold"},
    "strong": {"scope": "read write", "acr": "mfa", "auth_time": -5},
    "old": {"scope": "read write", "tier": "free", "acr": "mfa", "auth_time": -500},
    "held": {"scope": "read", "cnf": {"x5t#S256": "c" * 43}},
}
BILLING: Final = Certificate("c" * 43, workload("spiffe://prod/ns/pay/sa/billing", NOW + 1000))
RECORDS: Final = (
    Subject(),
    Subject(frozenset("c"), {"k": "1"}, frozenset("t"), 10),
    Subject(frozenset("cd"), {"k": "2"}, frozenset(), 60),
)
BODIES: Final = (b"", b'{"a":1}', b'{"a":2000}', b'{"b":1}', b"[1]")
BAD: Final = b'{"a":1,"a":2}'
_FAILS: Final = object()


@dataclass(frozen=True)
class World:
    """One request and all that is so. `said` are the answers of enrichers by name; a fact that is
    None cannot be had."""

    name: str  # of the token; "": none
    certificate: Certificate | None
    record: Subject | None
    said: tuple[bool | None, bool | None, bool | None]
    body: bytes

    @property
    def anyhow(self) -> Iterator[World]:
        """All that may be so, for all that is to be had of it."""
        records = RECORDS if self.record is None else (self.record,)
        one, two, three = [(True, False) if each is None else (each,) for each in self.said]
        bodies = BODIES if self.body == BAD else (self.body,)
        for record, answers, body in itertools.product(
            records, itertools.product(one, two, three), bodies
        ):
            yield replace(self, record=record, said=answers, body=body)

    @property
    def bad(self) -> bool:
        return self.name == "junk" or (self.name == "held" and self.certificate is None)


@dataclass(frozen=True)
class Seen:
    """The world as a rule sees it: `claims` None is a caller without a token that stands."""

    world: World
    claims: Mapping[str, Any] | None
    bad: bool

    @property
    def subject(self) -> Subject:
        record = self.world.record
        return RECORDS[0] if self.claims is None or record is None else record

    def claim(self, name: str) -> Any:
        claims = {} if self.claims is None else self.claims
        return claims.get(name, _FAILS)

    @property
    def amount(self) -> Any:
        return {b'{"a":1}': 1, b'{"a":2000}': 2000}.get(self.world.body, _FAILS)

    @property
    def segments(self) -> Any:
        """Those of the subject, by its record and by documents; it fails where one is not known."""
        tier = self.claim("tier")
        if tier is _FAILS:
            return _FAILS
        return {*self.subject.segments, *(("s",) if tier == "gold" else ())}


# --- the rules -----------------------------------------------------------------------------------


def whether(read: Callable[[Seen], Any], true: Callable[[Any], bool]) -> Callable[[Seen], Any]:
    def found(seen: Seen) -> Any:
        value = read(seen)
        return _FAILS if value is _FAILS else true(value)

    return found


WHEN: Final[tuple[tuple[str, Callable[[Seen], Any]], ...]] = (
    ("true", lambda seen: True),
    ("false", lambda seen: False),
    ("token.tier == 'gold'", whether(lambda seen: seen.claim("tier"), lambda v: v == "gold")),
    ("has(token.tier)", lambda seen: seen.claim("tier") is not _FAILS),
    ("token.?tier.orValue('') != 'free'", lambda seen: seen.claim("tier") != "free"),
    ("subject.anonymous", lambda seen: seen.claims is None),
    ("source.namespace == 'pay'", lambda seen: seen.world.certificate is not None),
    ("'w' in source.segments", lambda seen: seen.world.certificate is not None),
    ("'s' in subject.segments", whether(lambda seen: seen.segments, lambda v: "s" in v)),
    ("!('t' in subject.segments)", whether(lambda seen: seen.segments, lambda v: "t" not in v)),
    ("subject.risk > 50", lambda seen: seen.subject.risk > 50),
    ("'c' in subject.consents", lambda seen: "c" in seen.subject.consents),
    (
        "subject.profile.k == '1'",
        whether(lambda seen: seen.subject.profile.get("k", _FAILS), lambda v: v == "1"),
    ),
    ("enriched.e.ok", lambda seen: seen.world.said[0]),
    ("!enriched.r.ok", lambda seen: not seen.world.said[1]),
    (
        "enriched.b.ok",
        lambda seen: _FAILS if seen.amount is _FAILS else seen.world.said[2],
    ),
    ("request.body.a >= 1000", whether(lambda seen: seen.amount, lambda v: v >= 1000)),
    (
        "'c' in subject.consents && enriched.e.ok",
        lambda seen: "c" in seen.subject.consents and seen.world.said[0],
    ),
    (
        "enriched.e.ok && request.body.a < 1000",
        # CEL: what is false beside it makes good for what fails.
        lambda seen: (
            False if not seen.world.said[0] else _FAILS if seen.amount is _FAILS
            else seen.amount < 1000
        ),
    ),
)  # fmt: skip
OF_FACTS: Final = [
    place
    for place, (text, _) in enumerate(WHEN)
    if any(
        name in text for name in ("enriched", "body", "risk", "consents", "profile", "subject.seg")
    )
]
WHOLE: Final = [place for place, (text, _) in enumerate(WHEN) if "consents && enriched" in text]
"""No part of an expression is weighed before all that it reads is there."""
SCOPES: Final = {name: set(str(claims.get("scope", "")).split()) for name, claims in TOKENS.items()}


def _logged_in(seen: Seen) -> bool:
    moment = seen.claim("auth_time")
    return seen.claim("acr") == "mfa" and moment is not _FAILS and moment >= -60


REQUIRE: Final[tuple[tuple[str, bool, Callable[[Seen], bool]], ...]] = (
    ("{}", False, lambda seen: True),
    ("{scopes: [read]}", False, lambda seen: "read" in SCOPES.get(_token(seen), ())),
    ("{scopes: [write]}", False, lambda seen: "write" in SCOPES.get(_token(seen), ())),
    ("{stepUp: {acr: [mfa], maxAge: 1m}}", False, _logged_in),
    ("{issuers: ['https://other.example']}", False, lambda seen: False),
    (
        "{proof: [mtls]}", False,
        lambda seen: seen.world.certificate is not None if seen.claims is None
        else _token(seen) == "held",
    ),
    (
        "{workloads: ['spiffe://prod/ns/pay/**']}", False,
        lambda seen: seen.world.certificate is not None,
    ),
    (
        "{consent: [c, d]}", True,
        lambda seen: seen.claims is not None and seen.subject.consents >= {"c", "d"},
    ),
    (
        "{profile: [k]}", True,
        lambda seen: seen.claims is not None and seen.subject.profile.get("k") is not None,
    ),
    (
        "{scopes: [read], segments: [t, s]}", True,
        lambda seen: "read" in SCOPES.get(_token(seen), ())
        and (seen.claim("tier") == "gold" or "t" in seen.subject.segments),
    ),
)  # fmt: skip
"""Whether the subject counts for it, and whether it is met."""

THEN: Final[tuple[tuple[str, Callable[[Seen], bool]], ...]] = (
    ("", lambda seen: True),
    ("then: {setHeaders: {x-a: token.tier}}", lambda seen: seen.claim("tier") is not _FAILS),
    ("then: {setHeaders: {x-b: subject.profile.k}}", lambda seen: "k" in seen.subject.profile),
    ("then: {setHeaders: {x-c: string(enriched.e.ok)}}", lambda seen: True),
    ("limit: {rate: 9/s, per: request.body.a}", lambda seen: seen.amount is not _FAILS),
    ("then: {redact: [{drop: [$.x], unless: subject.risk < 20}]}", lambda seen: True),
)
"""And whether all of its expressions have a value."""


def _token(seen: Seen) -> str:
    return "" if seen.claims is None else seen.world.name


@dataclass(frozen=True)
class Rule:
    effect: str
    auth: str
    when: int
    require: int
    then: int

    def text(self, place: int) -> str:
        parts = [f"name: r{place}", f"effect: {self.effect}", f'when: "{WHEN[self.when][0]}"']
        if self.effect != "deny":
            parts += [f"require: {REQUIRE[self.require][0]}", *filter(None, [THEN[self.then][0]])]
        if self.effect == "allow":
            parts.append(f"auth: {self.auth}")
        return "  - {" + ", ".join(parts) + "}\n"

    def selects(self, seen: Seen) -> Any:
        return WHEN[self.when][1](seen)

    def met(self, seen: Seen) -> bool:
        return REQUIRE[self.require][2](seen)

    def admits(self, seen: Seen) -> bool:
        """Whether its `auth` does."""
        if self.auth == "none":
            return True
        if seen.bad:
            return False
        token, certificate = seen.claims is not None, seen.world.certificate is not None
        return {
            "token": token, "workload": certificate, "either": token or certificate,
            "optional": True,
        }[self.auth]  # fmt: skip


# --- the reference ---------------------------------------------------------------------------------


def seen_by(rules: tuple[Rule, ...], world: World) -> Seen:
    auths = [rule.auth for rule in rules if rule.effect == "allow"]
    looked = not auths or any(auth != "none" for auth in auths)
    if not looked or world.bad or not world.name:
        return Seen(world, None, looked and world.bad)
    return Seen(world, TOKENS[world.name], False)


def reference(rules: tuple[Rule, ...], world: World) -> int | None:
    """The place of the rule that permits; None: refused."""
    seen = seen_by(rules, world)
    selected = [(rule, rule.selects(seen)) for rule in rules]
    if any(rule.effect == "deny" and value is not False for rule, value in selected):
        return None
    guards = [rule for rule, value in selected if rule.effect == "guard" and value is not False]
    if not all(guard.met(seen) for guard in guards):
        return None
    for place, (rule, value) in enumerate(selected):
        if rule.effect == "allow" and value is True and rule.admits(seen) and rule.met(seen):
            asked = (rule, *guards)
            return place if all(THEN[each.then][1](seen) for each in asked) else None
    return None


# --- the engine ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def compiled(rules: tuple[Rule, ...]) -> Snapshot:
    text = (
        DOCUMENTS + "---\napiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: p}\n"
    )
    text += "spec:\n  rules:\n" + "".join(rule.text(place) for place, rule in enumerate(rules))
    documents, problems = parse([Source("f", text)])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={})


KEYS: Final = KeyState(parse_jwks(jwks()), NOW + 1000)


@functools.cache
def credential(name: str) -> str:
    return token(NOW, TOKENS[name]) if name in TOKENS else name


class Known:
    """What was fetched so far; `everything` at once, or what is asked for."""

    def __init__(self, world: World, snapshot: Snapshot, *, everything: bool) -> None:
        self._world = world
        self._fetched: set[bytes] = set()
        self._names: dict[bytes, str] = {}
        self._everything = everything
        self._subject = everything
        self._keys = everything
        self.enrichers = {name: "erb".index(name) for name in snapshot.enrichers}
        self.asked: list[str] = []

    def evidence(self) -> Evidence:
        keys = {ISSUER: KEYS} if self._keys else {}
        return Evidence(
            keys, ExpiringCache(9), ExpiringCache(9), subjects=self.subject, enriched=self
        )

    def subject(self, identity: Identity, now: float) -> Subject | Unavailable | None:
        if not self._subject:
            return None
        record = self._world.record
        return Unavailable("subjects_unavailable") if record is None else record

    def get(self, key: bytes, now: float) -> Enriched | Unavailable | None:
        if key not in self._names:
            return None
        said = self._world.said[self.enrichers[self._names[key]]]
        return Unavailable("down") if said is None else Enriched({"ok": said}, NOW + 100)

    def fetch(self, want: object) -> None:
        self.asked.append(type(want).__name__)
        if isinstance(want, NeedKeys):
            self._keys = True
        elif isinstance(want, NeedSubject):
            self._subject = True
        elif isinstance(want, NeedEnrichment):
            self._names[want.key] = want.enricher.name


def asked_for(world: World) -> Request:
    headers: Headers = [(b"host", b"h")]
    if world.body:
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", b"%d" % len(world.body)))
    if world.name:
        headers.append((b"authorization", f"Bearer {credential(world.name)}".encode()))
    return Request(
        "POST", "/", [""], None, "h", "h", "http", headers, "192.0.2.1",
        certificate=world.certificate,
    )  # fmt: skip


def settle(snapshot: Snapshot, world: World, known: Known) -> tuple[Permit | Refuse, int]:
    """The outcome, and after how many rounds of fetching."""
    request, evidence = asked_for(world), known.evidence()
    for rounds in range(ROUNDS * 3):
        outcome = authorize(request, snapshot, evidence, NOW)
        if not isinstance(outcome, Need):
            return outcome, rounds
        for want in outcome.wants:
            known.fetch(want)
            if isinstance(want, NeedBody):
                request = request.with_body(world.body)
        evidence = known.evidence()
    raise AssertionError(f"it never ends: {outcome}")


# --- the comparison ------------------------------------------------------------------------------

AUTHS: Final = ("token", "workload", "either", "optional", "none")


R, B = (next(n for n, (text, _) in enumerate(WHEN) if f"enriched.{name}." in text) for name in "rb")
"""Asked with what is known of the subject, and with what the body says."""


def most(rules: tuple[Rule, ...]) -> int:
    """Rounds of fetching: keys, subject, what hangs on it, body. One more is who asks in a row for
    what hangs on the body, or only then for what a header or a limit reads: where nothing of all
    that is known yet, it is refused with 503."""
    whens = {rule.when for rule in rules}
    return ROUNDS + ({R, B} <= whens) + any(rule.then > 1 for rule in rules)


@st.composite
def policies(draw: st.DrawFn) -> tuple[Rule, ...]:
    rules = []
    for _ in range(draw(st.integers(1, 4))):
        effect = draw(st.sampled_from(("allow", "allow", "guard", "deny")))
        auth = draw(st.sampled_from(AUTHS))
        require = 0
        if effect != "deny" and not (effect == "allow" and auth == "none"):
            require = draw(st.sampled_from((0, *range(len(REQUIRE)))))
        when = draw(st.sampled_from((0, 0, *range(len(WHEN)))))
        then = 0 if effect == "deny" else draw(st.sampled_from((0, 0, 0, *range(len(THEN)))))
        rules.append(Rule(effect, auth, when, require, then))
    return tuple(rules)


def worlds(*, unavailable: bool) -> st.SearchStrategy[World]:
    nothing = (None,) if unavailable else ()
    said = st.sampled_from((True, False, *nothing))
    return st.builds(
        World,
        st.sampled_from(("", "junk", *TOKENS)),
        st.sampled_from((None, BILLING)),
        st.sampled_from((*RECORDS, *nothing)),
        st.tuples(said, said, said),
        st.sampled_from((*BODIES, *((BAD,) if unavailable else ()))),
    )


def guarding(*rules: tuple[str, int]) -> tuple[Rule, ...]:
    """An open allow rule behind guards: when, and what each requires."""
    whens = [text for text, _ in WHEN]
    found = [Rule("guard", "token", whens.index(text), require, 0) for text, require in rules]
    return (*found, Rule("allow", "token", 0, 0, 0))


PLAIN: Final = World("plain", None, RECORDS[2], (True, True, True), b"")


@example(rules=guarding(("subject.risk > 50", 1), ("enriched.e.ok", 2)), world=PLAIN)
@example(rules=guarding(("'s' in subject.segments", 1), ("enriched.e.ok", 2)), world=PLAIN)
@settings(max_examples=1500, deadline=None)
@given(rules=policies(), world=worlds(unavailable=False))
def test_permitted_if_and_only_if_the_reference_says_so(
    rules: tuple[Rule, ...], world: World
) -> None:
    snapshot = compiled(rules)
    outcome, rounds = settle(snapshot, world, Known(world, snapshot, everything=False))
    place = reference(rules, world)
    if place is None:
        assert isinstance(outcome, Refuse)
        assert outcome.code is not Code.UNAVAILABLE
    else:
        assert isinstance(outcome, Permit), outcome
        assert outcome.rule == f"default/p/r{place}"
    assert rounds <= most(rules), (rounds, outcome)
    again, _ = settle(snapshot, world, Known(world, snapshot, everything=True))
    assert _said(again) == _said(outcome)
    _anonymous_learns_nothing(rules, world, outcome)


@settings(max_examples=1500, deadline=None)
@given(rules=policies(), world=worlds(unavailable=True))
def test_what_cannot_be_had_never_permits_what_one_value_of_it_would_refuse(
    rules: tuple[Rule, ...], world: World
) -> None:
    places = {reference(rules, each) for each in world.anyhow}
    snapshot = compiled(rules)
    outcome, rounds = settle(snapshot, world, Known(world, snapshot, everything=False))
    if isinstance(outcome, Permit):
        assert places == {int(outcome.rule.removeprefix("default/p/r"))}
    elif outcome.code in (Code.UNAVAILABLE, Code.BAD_REQUEST):
        assert places != {None} or len(list(world.anyhow)) > 1
    else:
        assert None in places
    assert rounds <= most(rules)


@settings(max_examples=1500, deadline=None)
@given(rules=policies(), world=worlds(unavailable=False))
def test_nobody_whose_credential_would_not_do_makes_us_fetch_anything(
    rules: tuple[Rule, ...], world: World
) -> None:
    seen = seen_by(rules, world)
    assume(not _would_do(rules, seen))
    snapshot = compiled(rules)
    known = Known(world, snapshot, everything=False)
    outcome, _ = settle(snapshot, world, known)
    assert isinstance(outcome, Refuse)
    assert set(known.asked) <= {"NeedKeys"}


def _all_facts(world: World) -> Iterator[World]:
    yes_no = (True, False)
    for record, said, body in itertools.product(
        RECORDS, itertools.product(yes_no, yes_no, yes_no), BODIES
    ):
        yield replace(world, record=record, said=said, body=body)


def _would_do(rules: tuple[Rule, ...], seen: Seen) -> bool:
    """Whether what the token must show is shown, for some facts, as each rule by itself sees them.

    What a caller reads of itself beside them may fail for good; which refusal that is, facts decide.
    """
    somebody = seen.claims is not None or seen.world.certificate is not None
    anyhow = [replace(seen, world=each) for each in _all_facts(seen.world)]
    allowed = False
    for rule in rules:
        may = {rule.selects(each) for each in anyhow}
        if rule.when in (OF_FACTS if somebody else WHOLE):
            may = {True, False}
        shown = _shown(rule, seen)
        if rule.effect == "allow":
            allowed = allowed or (True in may and shown and rule.admits(seen))
        elif False not in may and (rule.effect == "deny" or not shown):
            return False
    return allowed


def _shown(rule: Rule, seen: Seen) -> bool:
    _, of_subject, met = REQUIRE[rule.require]
    if not of_subject:
        return met(seen)
    return seen.claims is not None and (
        "scopes" not in REQUIRE[rule.require][0] or "read" in SCOPES[_token(seen)]
    )


def _said(outcome: Outcome) -> tuple[Any, ...]:
    if isinstance(outcome, Permit):
        obligations = outcome.obligations
        return (outcome.rule, outcome.identity, obligations, outcome.effects, outcome.expires)
    assert isinstance(outcome, Refuse)
    return (outcome.code, outcome.plan)  # which of several rules refused, facts may say earlier


def _anonymous_learns_nothing(rules: tuple[Rule, ...], world: World, outcome: Outcome) -> None:
    seen = seen_by(rules, world)
    if isinstance(outcome, Refuse) and seen.claims is None and world.certificate is None:
        assert outcome.code in (Code.AUTHENTICATION_REQUIRED, Code.INVALID_TOKEN)
