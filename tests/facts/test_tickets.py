"""Tickets: made by a sidecar, opened by whoever has its namespace's secret."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import SealBroken
from sidecar.facts import tickets
from sidecar.facts.sealed import seal
from sidecar.facts.tickets import Asked, Contents

NOW = 1_800_000_000.0
SECRETS = {"shop": b"a" * 32, "bank": b"b" * 32, "x.y": b"c" * 32}
FULL = Contents(
    id="t1",
    kind="consent",
    customer="cus_1",
    purposes=(Asked("shop/terms", 2), Asked("shop/pay", 1, "ff", {"amount": 5, "to": ["é"]})),
    attributes=("shop/phone", "platform/city"),
    back="https://app.example/x?y=z",
    decision="d1",
    service="app",
)


def opened(text: str, now: float = NOW) -> tickets.Opened:
    return tickets.open_(text, SECRETS.__getitem__, now)


@pytest.mark.parametrize("namespace", ["shop", "x.y"])
@pytest.mark.parametrize("contents", [FULL, Contents("t2", "privacy", "cus_2")])
def test_what_was_written_is_read(namespace: str, contents: Contents) -> None:
    made = tickets.make(SECRETS[namespace], namespace, contents, NOW)
    assert (made.id, made.expires) == (contents.id, NOW + tickets.SECONDS)
    found = opened(made.text)
    assert (found.namespace, found.expires) == (namespace, NOW + tickets.SECONDS)
    assert found.contents == contents


def test_its_text_says_nothing_but_its_namespace_and_no_two_are_alike() -> None:
    one, other = (tickets.make(SECRETS["shop"], "shop", FULL, NOW).text for _ in range(2))
    assert one != other
    assert one.startswith("shop.")
    assert "cus_1" not in one
    assert one.isascii()
    assert not set(one) & set(" \"'<>&?#%/")


def test_it_opens_for_minutes() -> None:
    text = tickets.make(SECRETS["shop"], "shop", FULL, NOW).text
    assert opened(text, NOW + tickets.SECONDS - 1).contents == FULL
    with pytest.raises(SealBroken) as broken:
        opened(text, NOW + tickets.SECONDS)
    assert broken.value.expired


def test_one_of_another_namespace_does_not_open_as_ours() -> None:
    text = tickets.make(SECRETS["bank"], "bank", FULL, NOW).text
    with pytest.raises(SealBroken) as broken:
        opened("shop." + text.removeprefix("bank."))
    assert not broken.value.expired


@pytest.mark.parametrize("text", ["", ".", "shop.", "shop", ".gAAA", "SHOP.x", "a/b.x", "é.x",
                                  "x" * 300 + ".y", "shop.é", "shop.\0"])  # fmt: skip
def test_what_is_none_is_told_without_asking_for_strange_secrets(text: str) -> None:
    asked: list[str] = []

    def secret(namespace: str) -> bytes:
        asked.append(namespace)
        return SECRETS["shop"]

    with pytest.raises(SealBroken):
        tickets.open_(text, secret, NOW)
    assert set(asked) <= {"shop"}


def test_any_changed_character_breaks_it() -> None:
    text = tickets.make(SECRETS["shop"], "shop", FULL, NOW).text
    for place in range(len("shop."), len(text) - 1, 7):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(SealBroken):
            opened(changed)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"i": "t", "k": "consent"},
        {"i": "t", "k": "c", "c": "x", "p": [["a"]], "a": [], "b": "", "d": "", "s": ""},
        {
            "i": "t",
            "k": "c",
            "c": "x",
            "p": [["a", "x", "", {}]],
            "a": [],
            "b": "",
            "d": "",
            "s": "",
        },
        {"i": "t", "k": "c", "c": "x", "p": [], "a": 5, "b": "", "d": "", "s": ""},
    ],
)
def test_sealed_by_us_and_of_another_shape_is_none(members: dict[str, Any]) -> None:
    sealed = seal(SECRETS["shop"], tickets.USE, members, now=NOW, seconds=60)
    with pytest.raises(SealBroken):
        opened(f"shop.{sealed}")


def test_what_was_sealed_for_another_use_is_none() -> None:
    sealed = seal(SECRETS["shop"], "visitor", {"v": "v1"}, now=NOW, seconds=60)
    with pytest.raises(SealBroken):
        opened(f"shop.{sealed}")


def test_more_than_an_address_can_bear_is_not_made() -> None:
    huge = Contents("t", "consent", "c", back="https://app.example/" + "x" * 9000)
    with pytest.raises(ValueError, match="characters"):
        tickets.make(SECRETS["shop"], "shop", huge, NOW)
