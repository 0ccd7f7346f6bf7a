"""Which language a person reads (RFC 9110 section 12.5.4, RFC 4647 section 3.4), and the pages' own
words in it: the catalogues, one `.po` file a language, by key (`consent.agree`).

Words of documents are the analyst's; those in here are ours.
"""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, TypeVar

import polib
from markupsafe import Markup, escape

DEFAULT: Final = "en"
MOST: Final = 10  # languages of one browser that are looked at
_TAG: Final = re.compile(r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8}){0,8}")
_QUALITY: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_HEADER_LONGEST: Final = 1024
_RIGHT_TO_LEFT: Final = frozenset(("ar", "dv", "fa", "he", "ku", "ps", "sd", "ug", "ur", "yi"))
_UNITS: Final = (("weeks", 604800), ("days", 86400), ("hours", 3600), ("minutes", 60))
T = TypeVar("T")


def accepted(header: str) -> tuple[str, ...]:
    """The languages of an Accept-Language header, best first; what is malformed is left out."""
    found: list[tuple[float, str]] = []
    for member in header[:_HEADER_LONGEST].split(","):
        tag, _, parameter = (part.strip() for part in member.partition(";"))
        name, _, quality = parameter.replace(" ", "").partition("=")
        if parameter and (name.lower() != "q" or not _QUALITY.fullmatch(quality)):
            continue
        weight = float(quality) if parameter else 1.0
        if weight > 0 and _TAG.fullmatch(tag):
            found.append((-weight, tag))
    found.sort(key=lambda each: each[0])  # stable: of equals the first
    return tuple(tag for _, tag in found[:MOST])


def well_formed(tag: str) -> bool:
    return bool(_TAG.fullmatch(tag))


def lookup(wanted: Iterable[str], available: Iterable[str]) -> str | None:
    """The tag of `available` that fits best: each wanted one is shortened from its end until it is
    there (RFC 4647 section 3.4); then `pt` also finds `pt-BR`, better than a strange language."""
    by_tag: dict[str, str] = {}
    for each in available:
        by_tag.setdefault(each.lower(), each)
    for each in wanted:
        parts = each.lower().split("-")
        while parts:
            if (found := by_tag.get("-".join(parts))) is not None:
                return found
            parts.pop()
            if parts and len(parts[-1]) == 1:
                parts.pop()
        main = each.lower().partition("-")[0] + "-"
        for tag, found in by_tag.items():
            if tag.startswith(main):
                return found
    return None


def words(by_language: Mapping[str, T], wanted: Iterable[str]) -> tuple[str, T]:
    """Of a document's words (not empty) those that fit best, else the first; their language."""
    found = lookup(wanted, by_language) or next(iter(by_language))
    return found, by_language[found]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The pages' words in one language. Whatever is put into them is escaped."""

    language: str
    _translations: gettext.GNUTranslations

    @property
    def direction(self) -> str:
        return "rtl" if self.language.partition("-")[0] in _RIGHT_TO_LEFT else "ltr"

    def __call__(self, key: str, **values: Any) -> Markup:
        return Markup(escape(self._words(key))).format(**values)  # noqa: S704 - ours

    def plain(self, key: str, **values: Any) -> str:
        """As text, for what is no page."""
        return self._words(key).format(**values)

    def _words(self, key: str) -> str:
        found = self._translations.gettext(key)
        if found == key:  # then it may be anything: nothing of it gets into a page
            raise KeyError("no catalogue has these words")
        return found

    def count(self, key: str, n: int) -> Markup:
        """`key` in the plural form that the language has for `n`."""
        found = self._translations.ngettext(key, key, n)
        return Markup(escape(found)).format(n=n)  # noqa: S704 - ours

    def duration(self, seconds: float) -> Markup:
        """In the largest unit that is exact: 600 -> `10 minutes`."""
        for unit, size in _UNITS:
            if seconds >= size and seconds % size == 0:
                return self.count(f"duration.{unit}", int(seconds // size))
        return self.count("duration.seconds", int(seconds))

    def day(self, when: float) -> Markup:
        moment = datetime.fromtimestamp(when, UTC)
        month = self(f"month.{moment.month}")
        return self("date", day=moment.day, month=month, year=moment.year)

    def moment(self, when: float) -> Markup:
        """To the minute, in UTC: the server knows no better."""
        return self(
            "moment", date=self.day(when), time=f"{datetime.fromtimestamp(when, UTC):%H:%M}"
        )


@lru_cache(maxsize=1)
def catalogues() -> Mapping[str, Catalogue]:
    """Those of this package, by language."""
    found: dict[str, gettext.GNUTranslations] = {}
    for file in sorted(files(__package__).joinpath("catalogues").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".po"):
            compiled = polib.pofile(file.read_text(encoding="utf-8")).to_binary()
            language = file.name.removesuffix(".po")
            found[language] = gettext.GNUTranslations(io.BytesIO(compiled))
    for language, translations in found.items():
        if language != DEFAULT:
            translations.add_fallback(found[DEFAULT])
    return {language: Catalogue(language, each) for language, each in found.items()}


def catalogue(wanted: Iterable[str]) -> Catalogue:
    """The one that fits best, else the English one."""
    known = catalogues()
    return known[lookup(wanted, known) or DEFAULT]


OF_ISSUER: Final = "token of "
"""How the source of an attribute begins that a token has told; its issuer follows."""


def told_by(source: str, wanted: Iterable[str]) -> str:
    """Where something is known from, for whom it is about."""
    said = catalogue(wanted)
    if source == "customer":
        return said.plain("source.customer")
    if source.startswith(OF_ISSUER):
        return said.plain("source.token", issuer=source.removeprefix(OF_ISSUER))
    return said.plain("source.operator") if source == "operator" else source
