"""What a permit hangs on: limits are taken together and first, a proof is spent last."""

from __future__ import annotations

import pytest

from sidecar.decide.outcomes import Code, Effect, Permit, RememberProof, TakeToken
from sidecar.edge.effects import Effects
from sidecar.edge.rates import RateTable
from sidecar.edge.replays import ReplayTable

NOW = 1_800_000_000.0


class Bench:
    def __init__(self) -> None:
        self.now = NOW
        self.rates = RateTable()
        self.effects = Effects(self.rates, ReplayTable(), lambda: self.now)

    def commit(self, *effects: Effect) -> tuple[str, dict[str, str]]:
        committed = self.effects.commit(Permit("default/p/r", effects=effects))
        said = {name.decode(): value.decode() for name, value in committed.said}
        return "" if committed.refuse is None else committed.refuse.reason, said


@pytest.fixture
def bench() -> Bench:
    return Bench()


def take(
    rule: str = "r", value: bytes = b'"alice"', interval: float = 6.0, burst: int = 5
) -> TakeToken:
    return TakeToken(rule, value, interval, burst)


def proof(jti: str = "j") -> RememberProof:
    return RememberProof("k" * 43, jti, NOW, 60.0)


def test_a_bucket_empties_and_fills(bench: Bench) -> None:
    left = []
    for _ in range(5):
        reason, said = bench.commit(take())
        assert reason == ""
        assert said["ratelimit-policy"] == '"default";q=5;w=30'
        left.append(said["ratelimit"])
    assert left == [f'"default";r={4 - n};t={6 * (n + 1)}' for n in range(5)]
    committed = bench.effects.commit(Permit("p", effects=(take(),)))
    assert committed.refuse is not None
    assert committed.refuse.code is Code.TOO_MANY_REQUESTS
    assert (committed.refuse.reason, committed.refuse.retry_after) == ("rule_limit", 6)
    assert dict(committed.said)[b"ratelimit"] == b'"default";r=0;t=30'
    bench.now += 6
    assert bench.commit(take())[0] == ""
    assert bench.commit(take())[0] == "rule_limit"
    bench.now += 3600
    assert bench.commit(take())[1]["ratelimit"] == '"default";r=4;t=6'


def test_each_value_and_each_rule_has_its_own(bench: Bench) -> None:
    for _ in range(5):
        bench.commit(take())
    assert bench.commit(take())[0] == "rule_limit"
    assert bench.commit(take(value=b'"bob"'))[0] == ""
    assert bench.commit(take(rule="other"))[0] == ""
    assert bench.commit(take(rule="r:", value=b'"alice"'))[0] == ""


def test_one_that_refuses_costs_nothing_of_the_others(bench: Bench) -> None:
    narrow, wide = take("narrow", burst=1), take("wide", burst=3)
    reason, said = bench.commit(wide, narrow)
    assert reason == ""
    assert said["ratelimit"] == '"default";r=2;t=6, "2";r=0;t=6'
    for _ in range(5):
        assert bench.commit(wide, narrow)[0] == "rule_limit"
    assert bench.commit(wide)[1]["ratelimit"].startswith('"default";r=1')


def test_a_request_that_is_limited_spends_no_proof(bench: Bench) -> None:
    bench.commit(take(burst=1))
    assert bench.commit(take(burst=1), proof())[0] == "rule_limit"
    assert bench.commit(proof())[0] == ""
    assert bench.commit(proof())[0] == "proof_replayed"


def test_nor_does_a_used_proof_take_a_token(bench: Bench) -> None:
    bench.commit(proof())
    assert bench.commit(take(burst=1), proof())[0] == "proof_replayed"
    assert bench.commit(take(burst=1))[0] == ""


def test_what_nobody_knows_is_no_permit(bench: Bench) -> None:
    assert bench.commit(Effect())[0] == "effect_unknown"


def test_memory_is_bounded_and_who_is_at_the_limit_is_forgotten_last(bench: Bench) -> None:
    for _ in range(6):
        bench.commit(take(burst=5, interval=600))
    size = len(bench.rates._keys)
    for n in range(5_000):
        bench.commit(take(value=b"%d" % n, interval=1))
    assert len(bench.rates._keys) == size
    assert bench.commit(take(burst=5, interval=600))[0] == "rule_limit"
