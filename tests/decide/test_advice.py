"""What would mend a refusal: each kind of them, in a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decide.advice import advice
from sidecar.decide.explain import explain
from sidecar.decide.outcomes import Unavailable
from sidecar.decide.scenario import JUNK, Scenario, decide
from sidecar.decide.subjects import Subject
from tests.decide.test_scenario import NOW, snapshot


@pytest.mark.parametrize(
    ("path", "more", "said"),
    [
        ("/open", {}, []),
        ("/any", {}, ["The caller: log in, and come with a token."]),
        ("/read", {}, ["The caller: log in, and come with a token.", "The caller: a token with the scope read."]),
        ("/any", {"bad": JUNK}, ["The caller: a credential that stands; this one does not (malformed: The token is not a well-formed JWT.)."]),
        ("/read", {"claims": {}}, ["The caller: a token with the scope read."]),
        ("/fresh", {"claims": {}}, ["The caller: a login no more than 300 s ago."]),
        ("/bound", {"claims": {}}, ["The caller: a token that is bound to them, by dpop."]),
        ("/consented", {"claims": {}}, ["The caller: consent to payments.", "The caller: tell phone."]),
        ("/golden", {"claims": {}}, ["default/p/golden would need segment gold, which no challenge can obtain."]),
        ("/risky", {"claims": {}, "subject": Subject(risk=99)}, ["default/p/risky would need that subject.risk < 50."]),
        ("/risky", {"claims": {}, "subject": Unavailable("down")}, ["Nobody did wrong: a fact could not be had; it may work the next time."]),
        ("/nothing", {"claims": {}}, ["The policy: no allow rule is about this path."]),
        ("/pay", {"claims": {}}, ["default/p/pay is about others: method GET is not POST."]),
        ("/pay", {"claims": {}, "method": "POST"}, ["The policy: the condition of default/p/pay failed: request.body.amount is absent. Ask for what may be absent with has(), in or .?"]),
        ("/pay", {"claims": {}, "method": "POST", "body": b"{"}, ["Whoever sends it: its body is not what rules can read."]),
    ],
)  # fmt: skip
def test_advice(path: str, more: dict[str, Any], said: list[str]) -> None:
    scenario = Scenario(**{"target": path, "now": NOW, **more})
    assert advice(explain(decide(scenario, snapshot()), snapshot())) == said
