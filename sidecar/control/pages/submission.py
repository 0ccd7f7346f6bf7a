"""A whole submission -> the answers, or what is wrong with each; of a form and of JSON.

Pure. Who refuses a purpose is asked nothing more: what else they typed is dropped unread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.control.pages.answers import NotAnAnswer, parsed, taken
from sidecar.control.pages.journeys import Answers, Interaction, Question

_CHOICES: Final = {"grant": True, "refuse": False}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A key of the catalogues, and the bound that was missed."""

    key: str
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """`undecided` by ref of the purpose, `mistaken` by name of the attribute; without any, the
    answers count."""

    answers: Answers
    undecided: Mapping[str, Mistake]
    mistaken: Mapping[str, Mistake]

    @property
    def complete(self) -> bool:
        return not self.undecided and not self.mistaken


def of_form(interaction: Interaction, fields: Mapping[str, str]) -> Submission:
    """`consent.REF` (`grant` or `refuse`), `answer.NAME`, `decline.NAME`. Others are not looked at:
    a form may be older than the documents."""
    consents: dict[str, bool] = {}
    for purpose in interaction.purposes:
        choice = _CHOICES.get(fields.get(f"consent.{purpose.ref}", ""))
        if choice is not None:
            consents[purpose.ref] = choice
    declined = {each.name for each in interaction.asked() if f"decline.{each.name}" in fields}
    return _whole(
        interaction,
        consents,
        declined,
        lambda question: parsed(question, fields.get(f"answer.{question.name}", "")),
    )


def of_json(
    interaction: Interaction,
    consents: Mapping[str, bool],
    values: Mapping[str, Any],
    declined: frozenset[str],
) -> Submission:
    """What is not asked is a mistake here: a program that sends it believes something wrong."""
    whole = _whole(
        interaction,
        {each.ref: consents[each.ref] for each in interaction.purposes if each.ref in consents},
        set(declined),
        lambda question: taken(question, values.get(question.name)),
    )
    refs = {purpose.ref for purpose in interaction.purposes}
    names = {question.name for question in interaction.asked()}
    optional = set() if interaction.optional is None else {interaction.optional.name}
    unknown = Mistake("error.unknown")
    stray = (values.keys() - names) | (declined - optional)
    return Submission(
        whole.answers,
        {**whole.undecided, **dict.fromkeys(consents.keys() - refs, unknown)},
        {**whole.mistaken, **dict.fromkeys(stray, unknown)},
    )


def _whole(
    interaction: Interaction,
    consents: dict[str, bool],
    declined: set[str],
    value: Callable[[Question], Any],
) -> Submission:
    optional = interaction.optional
    declined &= set() if optional is None else {optional.name}
    values: dict[str, Any] = {}
    mistaken: dict[str, Mistake] = {}
    for question in interaction.asked() if all(consents.values()) else ():
        if question.name in declined:
            continue
        try:
            found = value(question)
        except NotAnAnswer as error:
            mistaken[question.name] = Mistake(error.key, error.limit)
            continue
        if found is not None:
            values[question.name] = found
    refs = (purpose.ref for purpose in interaction.purposes)
    undecided = {ref: Mistake("error.undecided") for ref in refs if ref not in consents}
    return Submission(Answers(consents, values, frozenset(declined)), undecided, mistaken)
