"""The published documents that are about customers, as whoever acts for them reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.control.catalogue import Catalogue
from sidecar.control.pages.languages import words
from sidecar.control.subjects import questions
from sidecar.control.subjects.consents import Decision
from sidecar.control.subjects.records import Consent, NotStored, Offered
from sidecar.decide.compile_journey import ref_of
from sidecar.decide.documents import (
    PLATFORM,
    ConsentPurpose,
    IdentityPolicy,
    ProfileAttribute,
    seconds,
)


@dataclass(frozen=True, slots=True)
class Published:
    """Of all namespaces. A `ref` is `namespace/name`; `clock` is in seconds since the epoch."""

    catalogue: Catalogue
    clock: Callable[[], float]

    def purposes(self, namespace: str) -> dict[str, ConsentPurpose]:
        """By `ref`: those of a namespace and platform's."""
        return {
            ref_of(document): document.spec
            for each in dict.fromkeys((PLATFORM, namespace))
            for document in self.catalogue.known(each)
            if isinstance(document.spec, ConsentPurpose)
        }

    def attributes(self, namespace: str) -> dict[str, ProfileAttribute]:
        """By `ref`: those of a namespace and platform's."""
        return {
            ref_of(document): document.spec
            for each in dict.fromkeys((PLATFORM, namespace))
            for document in self.catalogue.known(each)
            if isinstance(document.spec, ProfileAttribute)
        }

    def purpose(self, ref: str) -> ConsentPurpose | None:
        """The document that is published by this name."""
        return self.purposes(of(ref)).get(ref)

    def identity(self, pool: str) -> IdentityPolicy | None:
        """The document whose pool it is."""
        for document in self.catalogue.known(of(pool)):
            spec = document.spec
            if isinstance(spec, IdentityPolicy) and f"{document.namespace}/{document.name}" == pool:
                return spec
        return None

    def keep(self, ref: str) -> float | None:
        """Until when a value that is told now may be kept; None: for ever."""
        spec = self.attributes(of(ref)).get(ref)
        if spec is None or spec.retention is None:
            return None
        return self.clock() + seconds(spec.retention)

    def offered(self, ref: str, value: Any, source: str) -> Offered:
        """A value that somebody sets. Raises NotStored where its document takes no such value; an
        attribute without a document takes any."""
        spec = self.attributes(of(ref)).get(ref)
        if spec is not None:
            fits = questions.fitting(ref, spec, value)
            if fits is None:
                raise NotStored(f"attributes: {ref} is {spec.type}, and takes no such value")
            value = fits
        return Offered(value, source, self.keep(ref))

    def withdrawal(
        self, held: Consent, languages: Sequence[str], *, via: str, by: str = "customer"
    ) -> Decision:
        """Of what was granted, whether or not its document is there still."""
        spec = self.purpose(held.purpose)
        language, title, text = held.language, held.purpose, ""
        if spec is not None:
            language, said = words(spec.words, tuple(languages))
            title, text = said.title, said.text
        return Decision(
            held.purpose, held.version, "withdrawn", language, title, text, held.binding,
            via=via, by=by,
        )  # fmt: skip


def of(ref: str) -> str:
    """The namespace of a name."""
    return ref.partition("/")[0]
