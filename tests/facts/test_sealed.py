"""What is sealed opens for the same use alone, unchanged, and in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SealBroken
from sidecar.facts.sealed import LONGEST, seal, unseal

SECRET = b"s" * 32


def test_it_comes_back() -> None:
    text = seal(SECRET, "ticket a", {"customer": "cus_1"}, now=100.0, seconds=60)
    assert unseal(SECRET, "ticket a", text, now=159.9)["customer"] == "cus_1"
    assert "cus_1" not in text


@pytest.mark.parametrize(("secret", "use"), [(SECRET, "ticket b"), (b"t" * 32, "ticket a")])
def test_not_for_another_use_or_secret(secret: bytes, use: str) -> None:
    text = seal(SECRET, "ticket a", {}, now=100.0, seconds=60)
    with pytest.raises(SealBroken) as raised:
        unseal(secret, use, text, now=101.0)
    assert not raised.value.expired


def test_not_after_its_time() -> None:
    text = seal(SECRET, "u", {"exp": 1e12}, now=100.0, seconds=60)
    with pytest.raises(SealBroken) as raised:
        unseal(SECRET, "u", text, now=160.0)
    assert raised.value.expired


@given(st.integers(0, 200), st.characters(min_codepoint=0, max_codepoint=300))
def test_one_character_more_or_other_breaks_it(place: int, character: str) -> None:
    text = seal(SECRET, "u", {"a": "b"}, now=100.0, seconds=60)
    place %= len(text) - 2  # the last two hold bits that no byte of the seal is made of
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(SealBroken):
            unseal(SECRET, "u", changed, now=101.0)


@pytest.mark.parametrize("text", ["", "x", "ä" * 20, "A" * (LONGEST + 1), "\0", "gAAAAA" * 40])
def test_what_is_none_at_all(text: str) -> None:
    with pytest.raises(SealBroken):
        unseal(SECRET, "u", text, now=1.0)


def test_too_much_is_said() -> None:
    with pytest.raises(ValueError, match="more than"):
        seal(SECRET, "u", {"a": "b" * LONGEST}, now=1.0, seconds=1)
