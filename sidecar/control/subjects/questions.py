"""What a ProfileAttribute takes, whoever tells it: a person on a page, a program, an issuer."""

from __future__ import annotations

from typing import Any

from sidecar.control.pages.answers import NotAnAnswer, taken
from sidecar.control.pages.journeys import Question
from sidecar.decide.kinds.journey import ProfileAttribute


def of(ref: str, spec: ProfileAttribute) -> Question:
    """What may be answered; without words."""
    check = spec.validation
    return Question(
        name=ref,
        label="",
        type=spec.type,
        choices=tuple([(each, each) for each in spec.choices]),
        pattern=check.pattern,
        min_length=check.min_length,
        max_length=check.max_length,
        minimum=check.minimum,
        maximum=check.maximum,
    )


def fitting(ref: str, spec: ProfileAttribute, value: Any) -> Any:
    """The value as it is kept, None for one that nobody could have answered: an issuer's claim that
    is no phone number makes none known, and the customer is asked."""
    try:
        return taken(of(ref, spec), value)
    except NotAnAnswer:
        return None
