"""What waits for a second person, as rows: the application as it came, and what it would change."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import desc, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.applications import Application, Change, Result
from sidecar.control.rollouts.plan import Plan
from sidecar.control.schema import proposals
from sidecar.decide.effects import Effect
from sidecar.errors import SidecarError
from sidecar.facts.releases import SignedManifest
from sidecar.facts.signing import Signature

MOST_OPEN: Final = 1000
LISTED: Final = 200


class NotReviewed(SidecarError):
    """A proposal cannot be decided so; says why."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One. Times are seconds since the epoch; `state` is `open`, `approved` or `rejected`."""

    id: str
    author: str
    created: float
    message: str
    namespaces: tuple[str, ...]
    application: Application
    changes: tuple[Change, ...]
    effects: tuple[Effect, ...]
    state: str = "open"
    reviewer: str = ""
    reason: str = ""


async def insert_proposal(
    connection: AsyncConnection, application: Application, author: str, now: float, found: Result
) -> str:
    """Its id. Raises NotReviewed where too many are open."""
    count = select(func.count()).select_from(proposals).where(proposals.c.state == "open")
    if (await connection.execute(count)).scalar_one() >= MOST_OPEN:
        raise NotReviewed(f"{MOST_OPEN} proposals are open, the most there may be")
    id_ = secrets.token_hex(8)
    summary = {
        "changes": [[change.what, change.document] for change in found.changes],
        "effects": [[effect.text, effect.document] for effect in found.effects],
    }
    await connection.execute(
        insert(proposals).values(
            id=id_, author=author, created=now, message=application.message,
            namespaces=orjson.dumps(sorted({c.namespace for c in found.changes})).decode(),
            application=_to_bytes(application), summary=orjson.dumps(summary).decode(),
            state="open", reviewer="", reviewed=None, reason="",
        )
    )  # fmt: skip
    return id_


async def read_proposal(connection: AsyncConnection, id_: str) -> Proposal | None:
    """One of them."""
    row = (await connection.execute(select(proposals).where(proposals.c.id == id_))).one_or_none()
    return None if row is None else _of_row(row)


async def read_proposals(connection: AsyncConnection, *, all_: bool = False) -> list[Proposal]:
    """Newest first; only open ones, or `all_`."""
    query = select(proposals).order_by(desc(proposals.c.created)).limit(LISTED)
    if not all_:
        query = query.where(proposals.c.state == "open")
    return [_of_row(row) for row in await connection.execute(query)]


async def close_proposal(
    connection: AsyncConnection, id_: str, state: str, reviewer: str, reason: str, now: float
) -> None:
    """Decided. Raises NotReviewed if it is already."""
    result = await connection.execute(
        update(proposals)
        .where((proposals.c.id == id_) & (proposals.c.state == "open"))
        .values(state=state, reviewer=reviewer, reviewed=now, reason=reason)
    )
    if result.rowcount != 1:
        raise NotReviewed(f"proposal {id_} has been decided already")


def _of_row(row: Any) -> Proposal:
    summary = orjson.loads(row.summary)
    return Proposal(
        row.id, row.author, row.created, row.message, tuple(orjson.loads(row.namespaces)),
        _from_bytes(row.application),
        tuple(Change(what, document) for what, document in summary["changes"]),
        tuple(Effect(text, document) for text, document in summary["effects"]),
        row.state, row.reviewer, row.reason,
    )  # fmt: skip


def _to_bytes(application: Application) -> bytes:
    return orjson.dumps(
        {
            "texts": [text.decode() for text in application.texts],
            "namespaces": list(application.namespaces),
            "prune": application.prune,
            "baseVersions": dict(application.base_versions),
            "raiseFloor": application.raise_floor,
            "rollout": application.rollout.to_json() if application.rollout else None,
            "ttl": application.ttl,
            "message": application.message,
            "manifests": [
                [each.manifest.decode(), [[_text(s.public_key), _text(s.signature)]
                                          for s in each.signatures]]
                for each in application.manifests
            ],
        }
    )  # fmt: skip


def _from_bytes(data: bytes) -> Application:
    body = orjson.loads(data)
    return Application(
        texts=[text.encode() for text in body["texts"]],
        namespaces=body["namespaces"],
        prune=body["prune"],
        base_versions=body["baseVersions"],
        raise_floor=body["raiseFloor"],
        rollout=Plan.from_json(body["rollout"]) if body["rollout"] else None,
        ttl=body["ttl"],
        message=body["message"],
        manifests=[
            SignedManifest(manifest.encode(), _signatures(signatures))
            for manifest, signatures in body["manifests"]
        ],
    )


def _signatures(pairs: Sequence[Sequence[str]]) -> tuple[Signature, ...]:
    return tuple(Signature(b64decode(key), b64decode(value)) for key, value in pairs)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
