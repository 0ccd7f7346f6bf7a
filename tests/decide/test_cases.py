"""Every decision case, through the core: first sight, the same request again, an equal one."""

from __future__ import annotations

import functools

import orjson
import pytest

from sidecar.decide import challenge
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.outcomes import Need, Permit, Refuse
from sidecar.decide.snapshot import Snapshot
from tests.casebook import Case, cases, documents

NOW = 1_800_000_000.0


@functools.cache
def snapshot(text: str, labels: tuple[tuple[str, str], ...]) -> Snapshot:
    return compile_snapshot(documents(text), namespace="default", labels=dict(labels))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_case(case: Case) -> None:
    evidence = Evidence({}, ExpiringCache(100), ExpiringCache(100))
    request = case.request(NOW)
    held = snapshot(case.documents, tuple(case.labels.items()))
    outcome = authorize(request, held, evidence, NOW)
    for again in (request, case.request(NOW)):
        assert authorize(again, held, evidence, NOW) == outcome, "cached and uncached differ"
    assert not isinstance(outcome, Need)
    expect = dict(case.spec["expect"])
    if "permit" in expect:
        assert isinstance(outcome, Permit), outcome
        assert outcome.rule == f"default/{expect.pop('permit')}"
        subject = outcome.identity.subject if outcome.identity else None
        assert subject == expect.pop("subject", subject)
        assert dict(outcome.obligations.set_headers) == expect.pop("headers", {})
    else:
        assert isinstance(outcome, Refuse), outcome
        _check_refusal(outcome, case, expect)
    assert not expect, f"unknown expectations {expect}"


def _check_refusal(outcome: Refuse, case: Case, expect: dict[str, object]) -> None:
    answer = challenge.refusal(outcome, case.request(NOW), "d1")
    assert (answer.status, outcome.code.value) == (expect.pop("refuse"), expect.pop("code"))
    assert outcome.reason == expect.pop("reason", outcome.reason)
    if "rule" in expect:
        assert outcome.rule == f"default/{expect.pop('rule')}"
    found = [value.decode() for name, value in answer.headers if name == b"www-authenticate"]
    assert len(found) <= 1
    if "challenge" in expect:
        assert found == [expect.pop("challenge")]
    assert bool(found) == (answer.status == 401 or outcome.plan is not None)
    body = orjson.loads(answer.body)
    assert body["status"] == answer.status
    assert body["code"] == outcome.code.value
    if "needs" in expect:
        assert body["challenge"]["needs"] == expect.pop("needs")


def test_there_are_enough_cases() -> None:
    assert len(cases()) >= 100
