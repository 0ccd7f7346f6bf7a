"""Protobuf <-> our types. The only file that knows both spellings; it decides nothing.

Signatures and endorsements cross as plain tuples, because their types live above this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.errors import Problem
from sidecar.wire import admin_pb2, discovery_pb2

RELEASE: Final = discovery_pb2.RESOURCE_TYPE_RELEASE
REVOCATION: Final = discovery_pb2.RESOURCE_TYPE_REVOCATION
SUBJECT: Final = discovery_pb2.RESOURCE_TYPE_SUBJECT
MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of one gRPC message, both ways: some 50,000 documents."""


def manifest_name(namespace: str) -> str:
    """The resource name of a namespace's manifest."""
    return f"manifest/{namespace}"


def document_name(ref: str) -> str:
    """The resource name of a document, `ref` being `Kind/namespace/name`."""
    return f"document/{ref}"


def subject_name(key: str) -> str:
    """The resource name of a customer's record, by the sidecar's own key."""
    return f"subject/{key}"


def subject_key(name: str) -> str:
    """The key in it; empty where it is the name of something else."""
    return name.removeprefix("subject/") if name.startswith("subject/") else ""


def signed_to_wire(
    manifest: bytes, signatures: Iterable[tuple[bytes, bytes]]
) -> discovery_pb2.SignedManifest:
    """`signatures` are (public key, signature) pairs."""
    return discovery_pb2.SignedManifest(
        manifest=manifest,
        signatures=[
            discovery_pb2.Signature(public_key=key, signature=signature)
            for key, signature in signatures
        ],
    )


def signed_from_wire(
    signed: discovery_pb2.SignedManifest,
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The manifest's bytes and (public key, signature) pairs."""
    return signed.manifest, [(s.public_key, s.signature) for s in signed.signatures]


def endorsements_to_wire(
    endorsements: Iterable[tuple[bytes, bytes, bytes]],
) -> list[discovery_pb2.Endorsement]:
    """From (public key, by, signature) triples."""
    return [
        discovery_pb2.Endorsement(public_key=key, by=by, signature=signature)
        for key, by, signature in endorsements
    ]


def endorsements_from_wire(
    endorsements: Iterable[discovery_pb2.Endorsement],
) -> list[tuple[bytes, bytes, bytes]]:
    """As (public key, by, signature) triples."""
    return [(e.public_key, e.by, e.signature) for e in endorsements]


def enforced_to_wire(versions: Mapping[str, int]) -> list[discovery_pb2.Enforced]:
    """From versions by namespace, in order."""
    return [
        discovery_pb2.Enforced(namespace=namespace, version=version)
        for namespace, version in sorted(versions.items())
    ]


def enforced_from_wire(enforced: Iterable[discovery_pb2.Enforced]) -> dict[str, int]:
    """As versions by namespace."""
    return {item.namespace: item.version for item in enforced}


def versions_to_wire(versions: Mapping[str, int]) -> list[admin_pb2.NamespaceVersion]:
    """From versions by namespace, in order."""
    return [
        admin_pb2.NamespaceVersion(namespace=namespace, version=version)
        for namespace, version in sorted(versions.items())
    ]


def versions_from_wire(versions: Iterable[admin_pb2.NamespaceVersion]) -> dict[str, int]:
    """As versions by namespace."""
    return {item.namespace: item.version for item in versions}


def problem_to_wire(problem: Problem) -> admin_pb2.Problem:
    """A problem without its place in a file, which only the client knows."""
    return admin_pb2.Problem(
        message=problem.message,
        document=problem.document,
        pointer=problem.pointer,
        hint=problem.hint,
        warning=problem.warning,
    )


def problem_from_wire(problem: admin_pb2.Problem) -> Problem:
    """The same, still without a place in a file."""
    return Problem(
        message=problem.message,
        document=problem.document,
        pointer=problem.pointer,
        hint=problem.hint,
        warning=problem.warning,
    )
