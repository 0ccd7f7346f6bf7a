"""sidecar/control/pages/languages.py and the catalogues"""

from __future__ import annotations

import re
from importlib.resources import files
from string import Formatter
from typing import get_args

import polib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.pages.answers import ERRORS
from sidecar.control.pages.journeys import ConsentState
from sidecar.control.pages.languages import accepted, catalogue, catalogues, lookup, words
from sidecar.control.pages.privacy import DONE
from sidecar.control.pages.site import REFUSALS

PAGES = files("sidecar.control.pages")
BASES = (
    "consent",
    "contract",
    "legal-obligation",
    "vital-interests",
    "public-task",
    "legitimate-interests",
)


def written(language: str) -> dict[str, polib.POEntry]:
    file = PAGES.joinpath("catalogues", f"{language}.po").read_text(encoding="utf-8")
    return {entry.msgid: entry for entry in polib.pofile(file)}


def used() -> set[str]:
    """Every key that a page may say."""
    sources = [each.read_text() for each in PAGES.joinpath("templates").iterdir()]
    sources += [each.read_text() for each in PAGES.iterdir() if each.name.endswith(".py")]
    found: set[str] = set()
    for source in sources:
        found |= set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', source))
    known = {key for key in found if key in written("en")}
    for source in sources:  # what is called by name has to be there
        known |= set(
            re.findall(r'\b(?:t|words|catalogue)(?:\.count|\.plain)?\("([^"]+)"(?! ~)', source)
        )
    known |= {*ERRORS, "error.undecided", "error.unknown", "date", "moment"}
    known |= {f"month.{each}" for each in range(1, 13)} | {f"done.{each}" for each in DONE}
    known |= {f"state.{each}" for each in get_args(ConsentState)} | {
        f"basis.{each}" for each in BASES
    }
    known |= {f"{a}.{b}" for a in ("completed", "declined") for b in ("title", "text")}
    known |= {f"consent.{each}" for each in ("grant", "refuse")}
    known |= {f"question.form.{each}" for each in ("phone", "number")}
    types = ("email", "phone", "device", "account", "visitor", "subject")
    known |= {f"identifier.{each}" for each in types}
    known |= {f"duration.{each}" for each in ("weeks", "days", "hours", "minutes", "seconds")}
    for each in REFUSALS:
        known |= {f"refused.{each}.title", f"refused.{each}.text"}
    return known


@pytest.mark.parametrize("language", ["de", "en"])
def test_no_string_lacks_a_translation_and_none_is_left_over(language: str) -> None:
    entries = written(language)
    assert set(entries) == used()
    for key, entry in entries.items():
        forms = list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]
        assert all(forms), key
        assert not entry.fuzzy, key
        assert len(forms) == (2 if entry.msgid_plural else 1), key


def test_every_language_is_there_and_says_the_same_values() -> None:
    assert set(catalogues()) == {"de", "en"}

    def values(entry: polib.POEntry) -> set[str | None]:
        text = "".join(entry.msgstr_plural.values()) if entry.msgid_plural else entry.msgstr
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}

    german = written("de")
    for key, entry in written("en").items():
        assert values(entry) == values(german[key]), key


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("", ()),
        ("de", ("de",)),
        ("en;q=0.5, de-CH, fr;q=0.8", ("de-CH", "fr", "en")),
        ("de;q=0, en", ("en",)),
        ("*, de", ("de",)),
        ("de;q=2, en;q=x, fr;level=1, it", ("it",)),
        ("de;q=0.1234, en", ("en",)),
        ("<script>, ../../x, de\x00, en", ("en",)),
        (",".join(["en"] * 300), ("en",) * 10),
    ],
)
def test_accept_language(header: str, languages: tuple[str, ...]) -> None:
    assert accepted(header) == languages


@given(st.text())
def test_any_accept_language_finds_a_catalogue(header: str) -> None:
    assert catalogue(accepted(header)).language in {"de", "en"}


@pytest.mark.parametrize(
    ("wanted", "available", "found"),
    [
        (["de-CH"], ["en", "de"], "de"),
        (["de-CH-1996"], ["de-CH", "de"], "de-CH"),
        (["zh-Hant-x-y"], ["zh-Hant"], "zh-Hant"),
        (["pt"], ["en", "pt-BR"], "pt-BR"),
        (["PT-br"], ["pt-BR"], "pt-BR"),
        (["fr", "de"], ["en", "de"], "de"),
        (["fr"], ["en", "de"], None),
        ([], ["en"], None),
    ],
)
def test_lookup(wanted: list[str], available: list[str], found: str | None) -> None:
    assert lookup(wanted, available) == found


def test_whose_language_is_not_there_reads_the_first() -> None:
    assert words({"nl": 1, "en": 2}, ["fr"]) == ("nl", 1)
    assert words({"nl": 1, "en": 2}, ["en-GB"]) == ("en", 2)


def test_durations_and_days() -> None:
    english, german = catalogues()["en"], catalogues()["de"]
    assert [english.duration(each) for each in (1, 60, 90, 600, 3600, 86400, 604800, 90 * 86400)] == [
        "1 second", "1 minute", "90 seconds", "10 minutes", "1 hour", "1 day", "1 week", "90 days",
    ]  # fmt: skip
    assert german.duration(86400 * 3) == "3 Tage"
    assert english.day(0) == "1 January 1970"
    assert german.moment(60) == "1. Januar 1970, 00:01 Uhr (UTC)"


def test_what_has_no_words_is_not_shown_in_their_place() -> None:
    for key in ("<script>", "state.{0}"):
        with pytest.raises(KeyError) as refused:
            catalogues()["de"](key)
        assert key not in str(refused.value)


def test_what_is_put_into_words_is_escaped() -> None:
    assert catalogues()["en"]("prompt.who", who="<b>{0}") == "Account: &lt;b&gt;{0}"
