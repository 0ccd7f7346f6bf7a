"""A whole submission -> the answers, or what is wrong with each; of a form and of JSON.

Pure. Who refuses a purpose is asked nothing more: what else they typed is dropped unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.control.pages.answers import NotAnAnswer, parsed, taken
from sidecar.control.pages.journeys import Answers, Interaction, Question

_CHOICES = {"grant": True, "refuse": False}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A key of the catalogues, and the bound that was missed."""

    key: str
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """`mistakes` by ref of the purpose or name of the attribute; without any, `answers` count."""

    answers: Answers
    mistakes: Mapping[str, Mistake]


def of_form(interaction: Interaction, fields: Mapping[str, str]) -> Submission:
    """`consent.REF` (`grant` or `refuse`), `answer.NAME`, `decline.NAME`. Others are not looked at:
    a form may be older than the documents."""
    consents: dict[str, bool] = {}
    mistakes: dict[str, Mistake] = {}
    for purpose in interaction.purposes:
        choice = _CHOICES.get(fields.get(f"consent.{purpose.ref}", ""))
        if choice is None:
            mistakes[purpose.ref] = Mistake("error.undecided")
        else:
            consents[purpose.ref] = choice
    declined = {each.name for each in interaction.asked() if f"decline.{each.name}" in fields}
    return _whole(
        interaction, consents, declined, mistakes,
        lambda question: parsed(question, fields.get(f"answer.{question.name}", "")),
    )  # fmt: skip


def of_json(
    interaction: Interaction,
    consents: Mapping[str, bool],
    values: Mapping[str, Any],
    declined: frozenset[str],
) -> Submission:
    """What is not asked is a mistake here: a program that sends it believes something wrong."""
    refs = {purpose.ref for purpose in interaction.purposes}
    names = {question.name for question in interaction.asked()}
    mistakes = {ref: Mistake("error.undecided") for ref in refs - consents.keys()}
    for stray in (consents.keys() - refs) | (values.keys() - names) | (declined - names):
        mistakes[stray] = Mistake("error.unknown")
    return _whole(
        interaction, {ref: agreed for ref, agreed in consents.items() if ref in refs}, set(declined),
        mistakes, lambda question: taken(question, values.get(question.name)),
    )  # fmt: skip


def _whole(
    interaction: Interaction,
    consents: dict[str, bool],
    declined: set[str],
    mistakes: dict[str, Mistake],
    value: Callable[[Question], Any],
) -> Submission:
    optional = interaction.optional
    declined &= set() if optional is None else {optional.name}
    values: dict[str, Any] = {}
    refused = not all(consents.values())
    for question in () if refused else interaction.asked():
        if question.name in declined:
            continue
        try:
            found = value(question)
        except NotAnAnswer as error:
            mistakes[question.name] = Mistake(error.key, error.limit)
            continue
        if found is not None:
            values[question.name] = found
    return Submission(Answers(consents, values, frozenset(declined)), mistakes)
