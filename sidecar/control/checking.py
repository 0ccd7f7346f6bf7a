"""Checking documents as the sidecars of each namespace will see them: together with `platform`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sidecar.control.applications import Change, internal
from sidecar.control.authority import Caller
from sidecar.control.catalogue import Catalogue
from sidecar.control.releases import Draft
from sidecar.decide.documents import PLATFORM, Document
from sidecar.errors import Problem

Known = dict[bytes, Sequence[Problem]]
"""What was found in documents, by their digests."""
Validate = Callable[[Sequence[Document]], list[Problem]]
_log = logging.getLogger(__name__)


class Checking:
    """`validate` says what is wrong with documents that one sidecar has."""

    def __init__(self, catalogue: Catalogue, validate: Validate) -> None:
        self._catalogue = catalogue
        self._validate = validate

    async def problems(self, drafts: Sequence[Draft], known: Known) -> list[Problem]:
        """Of every namespace that would change, `platform` changing all of them. While something is
        rolled out, each with the one and with the other release. What is in `known` is not checked
        again; what was found is put there."""
        drafted = {draft.namespace: (draft.documents,) for draft in drafts}
        namespaces = set(drafted)
        if PLATFORM in drafted:
            namespaces |= {release.namespace for release in self._catalogue.releases()}
        platforms = drafted.get(PLATFORM) or self._variants(PLATFORM)
        problems: dict[tuple[str, str, str], Problem] = {}
        for namespace in sorted(namespaces):
            owns = drafted.get(namespace) or self._variants(namespace)
            together = [(*platform, *own) for platform in platforms for own in owns]
            for documents in platforms if namespace == PLATFORM else together:
                # Off the loop: compiling many expressions takes seconds, and streams must go on.
                if (whole := _key(documents)) not in known:
                    known[whole] = await asyncio.to_thread(self._problems, documents)
                for found in known[whole]:
                    problem = replace(found, file="", line=0, column=0)
                    key = problem.document, problem.pointer, problem.message
                    problems.setdefault(key, problem)
        return list(problems.values())

    def _variants(self, namespace: str) -> tuple[tuple[Document, ...], ...]:
        line = self._catalogue.line(namespace)
        if line is None:
            return ((),)
        if line.candidate is None:
            return (line.stable.documents,)
        return line.stable.documents, line.candidate.documents

    def _problems(self, documents: Sequence[Document]) -> list[Problem]:
        """What is wrong with documents; if reading them fails, which ones it fails for."""
        try:
            return self._validate(documents)
        except Exception as error:  # noqa: BLE001 - a bug of ours: refused, with its document
            _log.exception("validating documents failed")
            failed = error
        blamed = [document.ref for document in documents if self._fails(document)]
        return [internal(failed, ref) for ref in blamed] or [internal(failed, "")]

    def _fails(self, document: Document) -> bool:
        try:
            self._validate([document])
        except Exception:  # noqa: BLE001 - it has been logged, for all of them
            return True
        return False


def under_way(catalogue: Catalogue, drafts: Iterable[Draft]) -> list[Problem]:
    """Rollouts that are in the way."""
    return [
        Problem(
            f"{line.rollout.name} is being rolled out, and one at a time is possible",
            hint=f"wait for it, or `sidecar rollout abort {draft.namespace}`",
        )
        for draft in drafts
        if (line := catalogue.line(draft.namespace)) and line.rollout is not None
    ]


def meanwhile(catalogue: Catalogue, changes: Iterable[Change]) -> list[Problem]:
    """Whoever publishes what everybody has may mean to end what some have."""
    return [
        Problem(
            f"{line.rollout.name} is being rolled out, which this does not end",
            hint=f"`sidecar rollout abort {namespace}` does",
            warning=True,
        )
        for namespace in sorted({change.namespace for change in changes})
        if (line := catalogue.line(namespace)) and line.rollout is not None
    ]


def told_to(caller: Caller, problems: Iterable[Problem]) -> list[Problem]:
    """A change of `platform` is checked with everybody's documents, which are not everybody's to
    know of."""
    told: list[Problem] = []
    untold: list[Problem] = []
    for problem in problems:
        kind, _, rest = problem.document.partition("/")
        namespace = rest.partition("/")[0]
        hidden = bool(namespace) and not caller.may("view", namespace, kind)
        (untold if hidden else told).append(problem)
    for warning, word in ((False, "errors"), (True, "warnings")):
        count = sum(problem.warning is warning for problem in untold)
        if count:
            what = f"{count} {word} in documents that {caller.name} may not view"
            told.append(Problem(what, warning=warning))
    return told


def _key(documents: Sequence[Document]) -> bytes:
    return hashlib.sha256("\n".join(each.digest for each in documents).encode()).digest()
