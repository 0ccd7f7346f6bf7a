"""What the two stages of weighing rules ask for, and of whom; `test_reference` weighs the rest."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.decide.authorize import authorize
from sidecar.decide.outcomes import Code, Need, NeedEnrichment, NeedSubject, Refuse
from tests.decide.test_reference import RECORDS, WHEN, Known, Rule, World, asked_for, compiled

CONSENTED_AND_ASKED: Final = next(n for n, (text, _) in enumerate(WHEN) if "consents &&" in text)
RISKY: Final = next(n for n, (text, _) in enumerate(WHEN) if "risk > 50" in text)
ASKED: Final = next(n for n, (text, _) in enumerate(WHEN) if text == "enriched.e.ok")
AMOUNT: Final = next(n for n, (text, _) in enumerate(WHEN) if "a >= 1000" in text)


def outcome(name: str, *rules: Rule) -> Any:
    world = World(name, None, None, (True, True, True), b'{"a":1}')
    snapshot = compiled(rules)
    known = Known(world, snapshot, everything=False)
    known._keys = True
    return authorize(asked_for(world), snapshot, known.evidence(), 1_800_000_000.0)


def test_all_that_one_expression_lacks_is_asked_for_together() -> None:
    found = outcome("plain", Rule("allow", "token", CONSENTED_AND_ASKED, 0, 0))
    assert isinstance(found, Need)
    assert {type(want) for want in found.wants} == {NeedSubject, NeedEnrichment}


@pytest.mark.parametrize("reads", [ASKED, AMOUNT])
def test_nobody_is_looked_up_for_who_is_refused_whatever_it_says(reads: int) -> None:
    rules = Rule("allow", "optional", RISKY, 0, 0), Rule("guard", "", reads, 0, 0)
    found = outcome("", *rules)
    assert isinstance(found, Refuse)
    assert found.code is Code.AUTHENTICATION_REQUIRED
    assert isinstance(outcome("plain", *rules), Need)


def test_what_the_token_lacks_is_told_only_where_no_deny_could_still_fire() -> None:
    claim = next(n for n, (text, _) in enumerate(WHEN) if "'s' in subject.segments" in text)
    scopes = 1
    lacking = Rule("allow", "token", 0, 0, 0), Rule("guard", "", claim, scopes, 0)
    world = World("plain", None, RECORDS[0], (True, True, True), b"")
    snapshot = compiled((*lacking, Rule("deny", "", ASKED, 0, 0)))
    evidence = Known(world, snapshot, everything=True).evidence()
    found = authorize(asked_for(world), snapshot, evidence, 1_800_000_000.0)
    assert isinstance(found, Need)
    assert {type(want) for want in found.wants} == {NeedEnrichment}
