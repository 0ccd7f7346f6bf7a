"""What waits for a second person, as rows: the application as it came, and what it would change."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, desc, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.applications import Application, Change, Result
from sidecar.control.rollouts.plan import Plan
from sidecar.control.schema import proposals
from sidecar.decide.effects import Effect
from sidecar.errors import SidecarError
from sidecar.facts.releases import SignedManifest
from sidecar.facts.signing import Signature

MOST_OPEN: Final = 1000
MOST_OF_ONE: Final = 50  # open ones of one author
LONGEST_OPEN: Final = 7 * 86_400  # seconds; who proposed it may be somebody else's by then
LISTED: Final = 200
_LOOKED_AT: Final = 10_000  # rows, where most are not for the caller to see


class NotReviewed(SidecarError):
    """A proposal cannot be decided so; says why."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One. Times are seconds since the epoch; `state` is `open`, `approved`, `rejected` or
    `expired`. Of those that are listed `application` has no documents and no manifests."""

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
    count = select(func.count()).select_from(proposals).where(_open(now))
    if (await connection.execute(count)).scalar_one() >= MOST_OPEN:
        raise NotReviewed(f"{MOST_OPEN} proposals are open, the most there may be")
    own = count.where(proposals.c.author == author)
    if (await connection.execute(own)).scalar_one() >= MOST_OF_ONE:
        raise NotReviewed(
            f"{MOST_OF_ONE} proposals of {author} are open, the most there may be: take some back "
            "with `sidecar approve ID --reject`"
        )
    id_ = secrets.token_hex(8)
    summary = {
        "changes": [[change.what, change.document] for change in found.changes],
        "effects": [[effect.text, effect.document] for effect in found.effects],
        "terms": _terms(application),
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


async def read_proposal(connection: AsyncConnection, id_: str, now: float) -> Proposal | None:
    """One of them, whole."""
    if not id_.isalnum():  # no store has such an id, and PostgreSQL takes no NUL
        return None
    row = (await connection.execute(select(proposals).where(proposals.c.id == id_))).one_or_none()
    return None if row is None else _of_row(row, _from_bytes(row.application), now)


async def read_proposals(
    connection: AsyncConnection,
    now: float,
    *,
    all_: bool = False,
    sees: Callable[[Proposal], bool] = lambda _: True,
) -> list[Proposal]:
    """Newest first, of those that somebody `sees`; only open ones, or `all_`."""
    columns = [each for each in proposals.c if each.name != "application"]
    query = select(*columns).order_by(desc(proposals.c.created), desc(proposals.c.id))
    if not all_:
        query = query.where(_open(now))
    found: list[Proposal] = []
    for start in range(0, _LOOKED_AT, LISTED):
        rows = (await connection.execute(query.limit(LISTED).offset(start))).all()
        listed = [_of_row(row, await _terms_of(connection, row), now) for row in rows]
        found += [each for each in listed if sees(each)]
        if len(rows) < LISTED or len(found) >= LISTED:
            break
    return found[:LISTED]


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


def _open(now: float) -> ColumnElement[bool]:
    return (proposals.c.state == "open") & (proposals.c.created > now - LONGEST_OPEN)


async def _terms_of(connection: AsyncConnection, row: Any) -> Application:
    terms = orjson.loads(row.summary).get("terms")
    if terms is not None:
        return _of_terms(terms)
    # Of before they were kept there.
    query = select(proposals.c.application).where(proposals.c.id == row.id)
    whole = _from_bytes((await connection.execute(query)).scalar_one())
    return replace(whole, texts=(), manifests=())


def _of_row(row: Any, application: Application, now: float) -> Proposal:
    summary = orjson.loads(row.summary)
    old = row.state == "open" and row.created <= now - LONGEST_OPEN
    return Proposal(
        row.id, row.author, row.created, row.message, tuple(orjson.loads(row.namespaces)),
        application,
        tuple(Change(what, document) for what, document in summary["changes"]),
        tuple(Effect(text, document) for text, document in summary["effects"]),
        "expired" if old else row.state, row.reviewer, row.reason,
    )  # fmt: skip


def _terms(application: Application) -> dict[str, Any]:
    """All but what can be large."""
    return {
        "namespaces": list(application.namespaces),
        "prune": application.prune,
        "baseVersions": dict(application.base_versions),
        "raiseFloor": application.raise_floor,
        "rollout": application.rollout.to_json() if application.rollout else None,
        "ttl": application.ttl,
        "message": application.message,
    }


def _of_terms(body: Mapping[str, Any]) -> Application:
    return Application(
        (),
        namespaces=body["namespaces"],
        prune=body["prune"],
        base_versions=body["baseVersions"],
        raise_floor=body["raiseFloor"],
        rollout=Plan.from_json(body["rollout"]) if body["rollout"] else None,
        ttl=body["ttl"],
        message=body["message"],
    )


def _to_bytes(application: Application) -> bytes:
    return orjson.dumps(
        {
            **_terms(application),
            "texts": [text.decode() for text in application.texts],
            "manifests": [
                [each.manifest.decode(), [[_text(s.public_key), _text(s.signature)]
                                          for s in each.signatures]]
                for each in application.manifests
            ],
        }
    )  # fmt: skip


def _from_bytes(data: bytes) -> Application:
    body = orjson.loads(data)
    return replace(
        _of_terms(body),
        texts=[text.encode() for text in body["texts"]],
        manifests=[
            SignedManifest(manifest.encode(), _signatures(signatures))
            for manifest, signatures in body["manifests"]
        ],
    )


def _signatures(pairs: Sequence[Sequence[str]]) -> tuple[Signature, ...]:
    return tuple(Signature(b64decode(key), b64decode(value)) for key, value in pairs)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
