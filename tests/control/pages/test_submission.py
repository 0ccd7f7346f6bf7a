"""sidecar/control/pages/submission.py"""

from __future__ import annotations

from sidecar.control.pages.journeys import Answers, Interaction
from sidecar.control.pages.submission import Mistake, of_form, of_json
from tests.control.pages.records import BORN, OFFERS, PAY, PHONE, TIER

ALL = Interaction("consent", (PAY, OFFERS), (PHONE, BORN), TIER)
GRANTED = {"consent.default/pay": "grant", "consent.default/offers": "grant"}
TOLD = {"answer.default/phone_number": "+49 30 901820", "answer.default/birthdate": "1990-01-31"}
UNDECIDED = Mistake("error.undecided")
REQUIRED = Mistake("error.required")
UNKNOWN = Mistake("error.unknown")


def test_a_form_that_answers_everything() -> None:
    found = of_form(ALL, {**GRANTED, **TOLD, "answer.default/tier": "plus", "ticket": "x"})
    assert found.complete
    assert found.answers == Answers(
        {"default/pay": True, "default/offers": True},
        {
            "default/phone_number": "+4930901820",
            "default/birthdate": "1990-01-31",
            "default/tier": "plus",
        },
    )


def test_an_empty_form_agrees_to_nothing() -> None:
    found = of_form(ALL, {})
    assert found.undecided == {"default/pay": UNDECIDED, "default/offers": UNDECIDED}
    assert found.mistaken == {"default/phone_number": REQUIRED, "default/birthdate": REQUIRED}
    assert found.answers == Answers()


def test_only_grant_grants() -> None:
    for value in ("on", "true", "1", "GRANT", "grant ", ""):
        found = of_form(ALL, {"consent.default/pay": value, "consent.default/offers": "refuse"})
        assert found.undecided == {"default/pay": UNDECIDED}
        assert found.answers.consents == {"default/offers": False}


def test_who_refuses_tells_nothing() -> None:
    for submission in (
        of_form(ALL, {**GRANTED, **TOLD, "consent.default/offers": "refuse"}),
        of_json(
            ALL, {"default/pay": True, "default/offers": False}, {"default/phone_number": "no"},
            frozenset(),
        ),
    ):  # fmt: skip
        assert submission.complete
        assert submission.answers == Answers({"default/pay": True, "default/offers": False})


def test_the_optional_question_is_left_or_declined() -> None:
    assert of_form(ALL, {**GRANTED, **TOLD}).answers.declined == frozenset()
    found = of_form(
        ALL,
        {
            **GRANTED, **TOLD, "decline.default/tier": "yes", "answer.default/tier": "nonsense",
            "decline.default/birthdate": "yes",
        },
    )  # fmt: skip
    assert found.complete
    assert found.answers.declined == {"default/tier"}
    assert "default/tier" not in found.answers.values
    assert "default/birthdate" in found.answers.values


def test_json_must_not_answer_what_is_not_asked() -> None:
    found = of_json(
        ALL,
        {"default/pay": True, "default/offers": True, "default/other": True},
        {
            "default/phone_number": "+4930901820",
            "default/birthdate": "1990-01-31",
            "default/risk": 0,
        },
        frozenset(("default/birthdate",)),
    )
    assert found.undecided == {"default/other": UNKNOWN}
    assert found.mistaken == {"default/risk": UNKNOWN, "default/birthdate": UNKNOWN}
    assert found.answers.consents.keys() == {"default/pay", "default/offers"}
    assert "default/risk" not in found.answers.values


def test_a_purpose_and_an_attribute_of_one_name_are_two_things() -> None:
    both = Interaction("consent", (PAY,), (PHONE,))
    same = Interaction(
        "consent", (PAY,), (type(PHONE)("default/pay", "Pay", type="integer"),), PHONE
    )
    assert of_form(both, {"consent.default/pay": "grant"}).mistaken.keys() == {
        "default/phone_number"
    }
    found = of_form(same, {"consent.default/pay": "grant", "answer.default/pay": "x"})
    assert found.undecided == {}
    assert found.mistaken == {
        "default/pay": Mistake("error.integer"),
        "default/phone_number": REQUIRED,
    }
