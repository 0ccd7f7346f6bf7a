"""The loop around the decision: needs are fetched, everything is counted and logged once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.keys import parse_jwks
from sidecar.decide.outcomes import Code, Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request
from sidecar.decide.routes import Candidates, RouteIndex
from sidecar.decide.snapshot import CompiledRule, Snapshot
from sidecar.decide.tokens import KeyState
from sidecar.edge.authorizer import ROUNDS, Authorizer
from sidecar.facts.jwks import KeyStore
from sidecar.telemetry.decision_log import DecisionLog
from sidecar.telemetry.metrics import Metrics
from tests.casebook import ISSUER, jwks, token

NOW = 1_800_000_000.0
DOCUMENTS = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp}
spec: {issuer: "https://idp.example", audiences: [bank]}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: bank}
spec: {mode: enforce}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec: {rules: [{name: any, match: {paths: [/x]}}, {name: home, match: {paths: [/]}, auth: none}]}
"""


class Keys(KeyStore):
    """Answers a fetch with what the test put in `next`, one after the other."""

    def __init__(self, *following: KeyState) -> None:
        super().__init__(lambda: NOW)
        self.following = list(following)
        self.asked = 0

    async def fetch(self, name: str) -> None:
        self.asked += 1
        if self.following:
            self.states[name] = self.following.pop(0)


def snapshot(text: str = DOCUMENTS) -> Snapshot:
    documents, problems = parse([Source("f", text)])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={}, version="v1")


def request(path: str = "/x", credential: str | None = None, **headers: str) -> Request:
    found = [(name.encode(), value.encode()) for name, value in headers.items()]
    if credential is not None:
        found.append((b"authorization", f"Bearer {credential}".encode()))
    return Request("GET", path, path.split("/")[1:], None, "h", "h", "http", found, "192.0.2.1")


Make = Callable[..., Authorizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(*following: KeyState, adopt: Snapshot | None = None) -> Authorizer:
        found = Authorizer(
            Keys(*following), Metrics(), DecisionLog(str(tmp_path / "log")), clock=lambda: NOW
        )
        if adopt is not None:
            found.adopt(adopt)
        return found

    return build


def good() -> KeyState:
    return KeyState(parse_jwks(jwks()), NOW + 10)


async def test_missing_keys_are_fetched_once_and_then_known(make: Make) -> None:
    authorizer = make(good(), adopt=snapshot())
    asking = request(credential=token(NOW, {}))
    assert authorizer.decide(asking) is None
    decision = await authorizer.resolve(asking)
    assert isinstance(decision.outcome, Permit)
    again = authorizer.decide(asking)
    assert again is not None
    assert again.outcome == decision.outcome
    assert again.id != decision.id


async def test_keys_that_cannot_be_had_are_503(make: Make) -> None:
    authorizer = make(KeyState(None, NOW + 2, "down"), adopt=snapshot())
    decision = await authorizer.resolve(request(credential=token(NOW, {})))
    assert isinstance(decision.outcome, Refuse)
    assert decision.outcome.code is Code.UNAVAILABLE
    assert decision.outcome.reason == "keys_unavailable"


async def test_a_fetch_that_brings_nothing_ends(make: Make) -> None:
    authorizer = make(adopt=snapshot())
    decision = await authorizer.resolve(request(credential=token(NOW, {})))
    assert isinstance(decision.outcome, Refuse)
    assert decision.outcome.reason == "facts_incomplete"
    keys: Any = authorizer._keys
    assert keys.asked == ROUNDS


async def test_observe_forwards_also_what_cannot_be_decided(make: Make) -> None:
    authorizer = make(adopt=snapshot(DOCUMENTS.replace("mode: enforce", "mode: observe")))
    decision = await authorizer.resolve(request(credential=token(NOW, {})))
    assert isinstance(decision.outcome, Permit)
    assert decision.outcome.observed is not None
    assert decision.outcome.observed.reason == "facts_incomplete"


async def test_rotated_keys_unseat_the_tokens_they_verified(make: Make) -> None:
    authorizer = make(good(), adopt=snapshot())
    asking = request(credential=token(NOW, {}))
    await authorizer.resolve(asking)
    rsa_only = {"keys": jwks()["keys"][1:]}
    authorizer.evidence.keys[ISSUER] = KeyState(parse_jwks(rsa_only), NOW + 10)  # type: ignore[index]
    decision = authorizer.decide(asking)
    assert decision is not None
    assert isinstance(decision.outcome, Refuse)
    assert decision.outcome.reason == "key_unknown"


async def test_second_thoughts_are_the_same_decision_and_count_nowhere(make: Make) -> None:
    authorizer = make(good(), adopt=snapshot())
    asking = request(credential=token(NOW, {}))
    assert authorizer.review(asking) is None
    outcome = await authorizer.reconsider(asking)
    assert isinstance(outcome, Permit)
    assert authorizer.review(asking) == outcome
    changed: list[Snapshot | None] = []
    authorizer.watch(lambda: changed.append(authorizer.snapshot))
    stricter = snapshot(DOCUMENTS.replace("paths: [/x]", "paths: [/y]"))
    authorizer.adopt(stricter)
    assert changed == [stricter]
    refused = authorizer.review(asking)
    assert isinstance(refused, Refuse)
    assert refused.reason == "no_rule"
    assert authorizer._metrics.decisions.values == {}


def test_how_long_a_tunnel_stood_is_no_response_time(make: Make) -> None:
    authorizer = make(adopt=snapshot())
    asking = request("/")
    decision = authorizer.decide(asking)
    assert decision is not None
    authorizer.finished(asking, decision, 101, 0.25)
    metrics = authorizer._metrics
    assert metrics.requests.values == {("proxy", "permit", "1xx"): 1}
    assert sum(metrics.request_seconds.counts) == 0
    assert sum(metrics.upstream_seconds.counts) == 1


def test_without_a_snapshot_everything_is_503(make: Make) -> None:
    decision = make().decide(request("/"))
    assert decision is not None
    assert isinstance(decision.outcome, Refuse)
    assert decision.outcome.reason == "no_snapshot"


def test_a_defect_of_ours_refuses(make: Make) -> None:
    class Broken(RouteIndex[CompiledRule]):
        def candidates(self, *_: object) -> Candidates[CompiledRule]:
            raise KeyError("a defect")

    decision = make(adopt=replace(snapshot(), routes=Broken())).decide(request("/"))
    assert decision is not None
    assert isinstance(decision.outcome, Refuse)
    assert (decision.outcome.code, decision.outcome.reason) == (Code.UNAVAILABLE, "internal_error")


def test_observe_forwards_and_says_what_it_would_have_done(make: Make, tmp_path: Path) -> None:
    authorizer = make(adopt=snapshot(DOCUMENTS.replace("mode: enforce", "mode: observe")))
    asking = request("/x")
    decision = authorizer.decide(asking)
    assert decision is not None
    assert isinstance(decision.outcome, Permit)
    assert decision.outcome.identity is None
    assert decision.outcome.observed is not None
    authorizer.finished(asking, decision, 200, 0.001)
    authorizer._ledger._log.close()
    [record] = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (record["outcome"], record["reason"]) == ("observe", "no_credential")
    assert authorizer._metrics.decisions.values == {("observe", "no_credential"): 1}


def test_finished_counts_and_logs_once(make: Make, tmp_path: Path) -> None:
    authorizer = make(adopt=snapshot())
    asking = request("/", credential="SECRET")
    decision = authorizer.decide(asking)
    assert decision is not None
    authorizer.finished(asking, decision, 204, 0.25)
    gone = authorizer.decide(asking)
    assert gone is not None
    authorizer.finished(asking, gone, 0, 0.0)
    assert authorizer._metrics.requests.values == {
        ("proxy", "permit", "2xx"): 1, ("proxy", "permit", "none"): 1,
    }  # fmt: skip
    authorizer._ledger._log.close()
    text = (tmp_path / "log").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["decision_id"] == decision.id
    assert first["rule"] == "default/p/home"
    assert first["version"] == "v1"
    assert first["upstream_ms"] == 250.0
    assert second["status"] == 0
    assert "SECRET" not in text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("junk", False),
    ],
)
def test_traceparent(make: Make, given: str, kept: bool) -> None:
    decision = make(adopt=snapshot()).decide(request("/", traceparent=given))
    assert decision is not None
    found = decision.traceparent.decode()
    assert (found == given) is kept
    if not kept:
        assert found.split("-")[1] == decision.id
        assert len(found) == 55


def limited(limits: str) -> Snapshot:
    return snapshot(DOCUMENTS.replace("spec: {mode: enforce}", f"spec: {{limits: {limits}}}"))


def refused(authorizer: Authorizer, asked: Request) -> Refuse | None:
    decision = authorizer.decide(asked)
    assert decision is not None
    return decision.outcome if isinstance(decision.outcome, Refuse) else None


def test_an_address_that_comes_too_often_gets_429(make: Make) -> None:
    authorizer = make(adopt=limited("{perAddress: 2/m}"))
    assert [refused(authorizer, request("/")) for _ in range(2)] == [None, None]
    refuse = refused(authorizer, request("/"))
    assert refuse is not None
    assert (refuse.code, refuse.reason) == (Code.TOO_MANY_REQUESTS, "address_limit")
    assert refuse.retry_after == 30
    other = request("/")
    other.address = "192.0.2.2"
    assert refused(authorizer, other) is None


def test_without_a_limit_an_address_may_come_as_it_likes(make: Make) -> None:
    authorizer = make(adopt=snapshot())
    assert all(refused(authorizer, request("/")) is None for _ in range(5000))


async def test_many_bad_credentials_are_429_before_they_are_checked(make: Make) -> None:
    authorizer = make(good(), adopt=limited("{failedCredentials: 1/m}"))
    known = request(credential=token(NOW, {}))
    assert isinstance((await authorizer.resolve(known)).outcome, Permit)
    bad = [request(credential=token(NOW, {"jti": str(n)})[:-4] + "AAAA") for n in range(30)]
    answers = [refuse.code for each in bad if (refuse := refused(authorizer, each))]
    assert answers == [Code.INVALID_TOKEN] * 20 + [Code.TOO_MANY_REQUESTS] * 10
    # What was verified before still passes; a good one not seen before has to wait like the rest.
    again = request(credential=token(NOW, {}))
    assert refused(authorizer, again) is None
    fresh = refused(authorizer, request(credential=token(NOW, {"jti": "fresh"})))
    assert fresh is not None
    assert (fresh.reason, fresh.retry_after) == ("failed_credentials", 60)
    elsewhere = request(credential=token(NOW, {"jti": "elsewhere"}))
    elsewhere.address = "192.0.2.2"
    assert refused(authorizer, elsewhere) is None


def test_observe_only_logs_that_an_address_comes_too_often(make: Make) -> None:
    authorizer = make(adopt=limited("{perAddress: 1/m}, mode: observe"))
    decisions = [authorizer.decide(request("/")) for _ in range(2)]
    outcome = decisions[1].outcome if decisions[1] is not None else None
    assert isinstance(outcome, Permit)
    assert outcome.observed is not None
    assert outcome.observed.reason == "address_limit"


async def test_cors_is_answered_before_anything_is_decided(make: Make) -> None:
    cors = DOCUMENTS.replace("{mode: enforce}", "{cors: {origins: ['https://app.example']}}")
    authorizer = make(good(), adopt=snapshot(cors))
    origin = {"origin": "https://app.example"}
    asking = request("/x", **origin, **{"access-control-request-method": "GET"})
    asking.method = "OPTIONS"
    answer = authorizer.preflight(asking)
    assert answer is not None
    assert answer.status == 204
    for path in ("/", "/x"):  # permitted and refused alike
        decision = authorizer.decide(request(path, **origin))
        assert decision is not None
        assert (b"access-control-allow-origin", b"https://app.example") in decision.said
    plain = authorizer.decide(request("/"))
    assert plain is not None
    assert plain.said == [(b"vary", b"origin")]


def test_without_cors_an_options_request_is_decided(make: Make) -> None:
    asking = request("/", origin="https://a", **{"access-control-request-method": "GET"})
    asking.method = "OPTIONS"
    assert make(adopt=snapshot()).preflight(asking) is None


OBSERVED = """
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {{name: bank, namespace: {namespace}}}
spec: {{mode: observe, audiences: [bank]}}
---
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {{name: corp}}
spec: {{issuer: "https://idp.example", audiences: [bank]}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: p}}
spec:
  rules:
  - {{name: all, auth: none}}
  - {{name: ours, effect: deny, match: {{paths: [/ours]}}}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: all, namespace: platform}}
spec: {{rules: [{{name: never, effect: deny, match: {{paths: [/never]}}}}]}}
"""


@pytest.mark.parametrize(
    ("namespace", "path", "permitted"),
    [
        ("default", "/ours", True),
        ("default", "/never", False),  # no team lifts what platform refuses
        ("platform", "/ours", True),
        ("platform", "/never", True),
    ],
)
def test_who_observes_what(make: Make, namespace: str, path: str, permitted: bool) -> None:
    authorizer = make(adopt=snapshot(OBSERVED.format(namespace=namespace)))
    decision = authorizer.decide(request(path))
    assert decision is not None
    assert isinstance(decision.outcome, Permit if permitted else Refuse)
