"""What an attribute takes from whomever tells it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.control.subjects import questions
from sidecar.decide.kinds.journey import ProfileAttribute


def spec(**fields: Any) -> ProfileAttribute:
    return msgspec.convert({"words": {"en": {"label": "a"}}, **fields}, ProfileAttribute)


@pytest.mark.parametrize(
    ("fields", "value", "kept"),
    [
        ({}, "Ulm", "Ulm"),
        ({}, 7, None),
        ({}, {"a": [1]}, None),
        ({}, None, None),
        ({}, " ", None),
        ({"validation": {"maxLength": 2}}, "Ulm", None),
        ({"validation": {"pattern": "[a-z]+"}}, "7", None),
        ({"type": "phone"}, "+49 170 1234567", "+491701234567"),
        ({"type": "phone"}, "not a phone", None),
        ({"type": "integer", "validation": {"minimum": 1}}, 7, 7),
        ({"type": "integer", "validation": {"minimum": 1}}, 0, None),
        ({"type": "integer"}, "7", None),
        ({"type": "boolean"}, True, True),
        ({"type": "boolean"}, "true", None),
        ({"type": "choice", "choices": ["a", "b"]}, "b", "b"),
        ({"type": "choice", "choices": ["a", "b"]}, "c", None),
    ],
)
def test_a_value_fits_as_an_answer_does(fields: dict[str, Any], value: Any, kept: Any) -> None:
    assert questions.fitting("shop/a", spec(**fields), value) == kept
