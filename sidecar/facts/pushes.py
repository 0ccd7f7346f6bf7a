"""A push of releases against what is held: what is to be enforced once it is taken, verified as a
whole.

Documents are read only once a signed manifest vouches for their bytes; requests get their turn in
between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.decide.documents import Document
from sidecar.decide.parse import from_canonical
from sidecar.errors import ReleaseRefused
from sidecar.facts.releases import Assignment, SignedManifest, verify_manifests
from sidecar.facts.signing import Endorsement, Signature, TrustedKeys
from sidecar.wire import convert
from sidecar.wire.discovery_pb2 import Push

_SLICE: Final = 4  # documents parsed (a millisecond or two) before requests get their turn


async def verified(
    push: Push,
    held: Assignment | None,
    *,
    namespace: str,
    labels: Mapping[str, str],
    trust: TrustedKeys,
    floors: Mapping[str, int],
) -> Assignment:
    """What is held, changed by `push`. Raises SidecarError; then nothing has changed."""
    manifests: dict[str, SignedManifest] = {}
    documents: dict[str, Document] = {}
    if held is not None:
        manifests = {convert.manifest_name(n): s for n, s in held.manifests.items()}
        documents = {convert.document_name(d.ref): d for d in held.documents}
    _drop(push.removed, manifests, documents)
    texts = _take(push, manifests)
    found = await asyncio.to_thread(
        verify_manifests,
        manifests.values(),
        namespace=namespace,
        labels=labels,
        trust=trust,
        floors=floors,
        endorsements=[Endorsement(*e) for e in convert.endorsements_from_wire(push.endorsements)],
    )
    refs = {convert.document_name(ref): ref for ref in found.expected}
    for place, (name, data) in enumerate(texts.items()):
        if place % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        found.admit(refs.get(name, name), hashlib.sha256(data).hexdigest())
        documents[name] = _document(name, data)
    return await asyncio.to_thread(found.assignment, documents.values())


def _take(push: Push, manifests: dict[str, SignedManifest]) -> dict[str, bytes]:
    """Puts a push's manifests among `manifests`; the bytes of its documents by resource name."""
    texts: dict[str, bytes] = {}
    for resource in push.resources:
        if resource.HasField("manifest"):
            manifest, signatures = convert.signed_from_wire(resource.manifest)
            signed = SignedManifest(manifest, tuple(Signature(*s) for s in signatures))
            manifests[resource.name] = signed
        elif resource.HasField("document"):
            texts[resource.name] = resource.document
        else:
            raise ReleaseRefused(f"{resource.name}: of a kind that this version does not know")
    return texts


def _drop(
    names: Iterable[str], manifests: dict[str, SignedManifest], documents: dict[str, Document]
) -> None:
    for name in names:
        manifests.pop(name, None)
        documents.pop(name, None)


def _document(name: str, data: bytes) -> Document:
    document = from_canonical(data)
    if document.canonical != data:
        raise ReleaseRefused(f"{name} is not in canonical form")
    if convert.document_name(document.ref) != name:
        raise ReleaseRefused(f"{name} holds {document.ref}")
    return document
