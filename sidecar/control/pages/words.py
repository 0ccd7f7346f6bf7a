"""Documents -> what people read of them, in their language. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sidecar.control.pages.journeys import Purpose, Question
from sidecar.control.pages.languages import words
from sidecar.decide.kinds.journey import ConsentPurpose, ProfileAttribute


def question(
    name: str, spec: ProfileAttribute, languages: Iterable[str], *, required: bool
) -> Question:
    """`name` is `namespace/name`. Choices without words are called what they are."""
    language, found = words(spec.words, languages)
    check = spec.validation
    return Question(
        name=name,
        label=found.label,
        help=found.help or "",
        type=spec.type,
        choices=tuple([(each, found.choices.get(each, each)) for each in spec.choices]),
        required=required,
        pattern=check.pattern,
        min_length=check.min_length,
        max_length=check.max_length,
        minimum=check.minimum,
        maximum=check.maximum,
        language=language,
    )


def purpose(
    ref: str,
    spec: ConsentPurpose,
    languages: Iterable[str],
    *,
    holds: float | None,
    attributes: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
    binding: str = "",
) -> Purpose:
    """`ref` is `namespace/name`, `attributes` are labels, `holds` is `expires` in seconds."""
    language, found = words(spec.words, languages)
    return Purpose(
        ref=ref,
        version=spec.version,
        title=found.title,
        text=found.text,
        recipients=tuple(spec.recipients),
        legal_basis=spec.legal_basis,
        values={} if values is None else values,
        binding=binding,
        holds=holds,
        max_uses=spec.max_uses,
        attributes=tuple(attributes),
        language=language,
    )
