"""What may be written down: no credential, and no more than a line can bear."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.decide.disclosed import LARGEST, Shown


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_number_that_no_record_can_hold_is_left_out(number: int) -> None:
    for value in (number, {"a": number, "b": 1}, {"a": [number]}):
        shown = Shown(value)
        assert not shown.whole
        orjson.dumps(shown.value)
    assert Shown({"a": number, "b": 1}).value == {"b": 1}  # a null would say that there is none
    assert Shown({"a": 2**64 - 1, "b": -(2**63)}).whole


def test_no_value_makes_a_line_that_outgrows_what_it_is_about() -> None:
    value: Any = "x" * 256
    for _ in range(4):
        value = [value] * 60
    shown = Shown(value)
    assert not shown.whole
    assert len(orjson.dumps(shown.value)) < LARGEST * 300
