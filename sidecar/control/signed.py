"""Manifests that a delegated signer has signed: are they of what is about to be published? Pure.

The signer asks for a dry run, signs the manifests that it answers with, and sends them along. They
count where they say what the control plane would say, but for the second in which they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from sidecar.control.keys import Keys
from sidecar.control.releases import Draft
from sidecar.errors import Problem, ReleaseRefused
from sidecar.facts.releases import Manifest, SignedManifest
from sidecar.facts.signing import TrustedKeys

FRESH: Final = 900  # seconds between making a manifest and publishing or proposing it


class Signer(Protocol):
    """Who signs, and with which keys; `clock` is in seconds since the epoch."""

    keys: Keys
    signs: bool

    def clock(self) -> float: ...


def signed_drafts(
    drafts: Sequence[Draft],
    given: Sequence[SignedManifest],
    expected: Sequence[bytes],
    signer: Signer,
    asked: float = 0.0,
) -> tuple[list[Draft], list[Problem]]:
    """Drafts with their signatures, and what is wrong with these. `expected` are the manifests as
    the control plane would make them now, in the order of the drafts; `asked` is when a proposal
    that came with them was made."""
    if not given and signer.signs:
        return list(drafts), []
    if not given:
        return list(drafts), [
            Problem(
                "releases are signed elsewhere, and nobody has signed this one",
                hint="apply all documents of the namespace with --signing-key and --prune, from "
                "where the key is; that is also the way back to earlier ones",
            )
        ]
    problems: list[Problem] = []
    found: dict[str, SignedManifest] = {}
    keys = signer.keys
    trusted = TrustedKeys(frozenset((*keys.public, *(each.public_key for each in keys.delegated))))
    for each in given:
        try:
            trusted.verify_release(each.manifest, each.signatures)
            found[Manifest.from_bytes(each.manifest).namespace] = each
        except ReleaseRefused as error:
            problems.append(Problem(f"manifests: {error}"))
    made = []
    for draft, text in zip(drafts, expected, strict=True):
        one = found.pop(draft.namespace, None)
        if one is None:
            problems.append(Problem(f"manifests: that of {draft.namespace} is missing"))
            continue
        mine, theirs = Manifest.from_bytes(text), Manifest.from_bytes(one.manifest)
        if replace(mine, issued=theirs.issued) != theirs:
            problems.append(
                Problem(
                    f"manifests: that of {draft.namespace} is not of what would be published",
                    hint="something was published in between; sign anew",
                )
            )
        elif abs((asked or signer.clock()) - theirs.issued) > FRESH:
            problems.append(
                Problem(f"manifests: that of {draft.namespace} was made too long ago; sign anew")
            )
        made.append(replace(draft, signed=one))
    problems += [Problem(f"manifests: nothing changes in {name}") for name in sorted(found)]
    return made, problems
