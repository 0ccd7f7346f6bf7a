"""Every decision case, through the core: first sight, the same request again, an equal one."""

from __future__ import annotations

import functools

import orjson
import pytest

from sidecar.decide import challenge
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.outcomes import Code, Need, Permit, Refuse, TakeToken
from sidecar.decide.snapshot import Snapshot
from tests.casebook import Case, cases, decided, documents, evidence_of

NOW = 1_800_000_000.0


@functools.cache
def snapshot(text: str, labels: tuple[tuple[str, str], ...]) -> Snapshot:
    return compile_snapshot(documents(text), namespace="default", labels=dict(labels))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_case(case: Case) -> None:
    evidence, known = evidence_of(case)
    request = case.request(NOW)
    held = snapshot(case.documents, tuple(case.labels.items()))
    outcome, _ = decided(case, request, held, evidence, known, NOW)
    for again in (request, case.request(NOW)):
        repeated, _ = decided(case, again, held, evidence, known, NOW)
        assert repeated == outcome, "cached and uncached differ"
    assert not isinstance(outcome, Need)
    expect = dict(case.spec["expect"])
    if "asked" in expect:
        assert known.asked == expect.pop("asked")
    if "shadow" in expect:
        shadow = outcome.shadow
        assert shadow is not None
        assert [shadow.outcome, shadow.reason] == expect.pop("shadow")
    if "permit" in expect:
        assert isinstance(outcome, Permit), outcome
        assert outcome.rule == f"default/{expect.pop('permit')}"
        subject = outcome.identity.subject if outcome.identity else None
        assert subject == expect.pop("subject", subject)
        obligations = outcome.obligations
        assert dict(obligations.set_headers) == expect.pop("headers", {})
        assert sorted(obligations.remove_headers) == expect.pop("removed", [])
        assert dict(obligations.set_response_headers) == expect.pop("responseHeaders", {})
        assert bool(obligations.redact) == expect.pop("redacted", False)
        limited = [each.rule for each in outcome.effects if isinstance(each, TakeToken)]
        assert limited == [f"default/{rule}" for rule in expect.pop("limited", [])]
        if "expires" in expect:
            assert outcome.expires == NOW + expect.pop("expires")
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
    assert bool(found) == (answer.status == 401 or outcome.code is Code.INSUFFICIENT_SCOPE)
    if answer.status == 302:
        [location] = [value.decode() for name, value in answer.headers if name == b"location"]
        assert location == str(expect.pop("location")).replace("$ID", "d1")
        return
    body = orjson.loads(answer.body)
    if "completeAt" in expect:
        assert body["challenge"]["completeAt"] == expect.pop("completeAt")
    assert body["status"] == answer.status
    assert body["code"] == outcome.code.value
    if "needs" in expect:
        assert body["challenge"]["needs"] == expect.pop("needs")
    if "kind" in expect:
        assert body["challenge"]["kind"] == expect.pop("kind")
    if "plan" in expect:
        assert (outcome.plan is not None) is expect.pop("plan")


def test_there_are_enough_cases() -> None:
    assert len(cases()) >= 300
