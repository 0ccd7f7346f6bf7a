"""The keys that sign releases, as rows: the store's own, and those of delegated signers.

Each after the first is endorsed by the one before it, so that sidecars that pinned an older one go
on. A delegated key is endorsed by the store's newest; its private half is elsewhere, in CI say.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from sidecar.control.schema import delegated_keys, signing_keys
from sidecar.errors import StoreFailed
from sidecar.facts.signing import Endorsement, endorse, raw_public_key


@dataclass(frozen=True, slots=True)
class Delegated:
    """Somebody else's key. `created` is in seconds since the epoch."""

    name: str
    created: int
    endorsement: Endorsement

    @property
    def public_key(self) -> bytes:
        """Raw, 32 bytes."""
        return self.endorsement.public_key


@dataclass(frozen=True, slots=True)
class Keys:
    """All of them, oldest first."""

    private: tuple[Ed25519PrivateKey, ...] = ()
    created: tuple[int, ...] = ()
    endorsements: tuple[Endorsement, ...] = ()
    delegated: tuple[Delegated, ...] = ()

    @property
    def public(self) -> tuple[bytes, ...]:
        """The store's own, raw."""
        return tuple(raw_public_key(key) for key in self.private)

    @property
    def everybody(self) -> tuple[Endorsement, ...]:
        """What sidecars are told: who vouches for which key."""
        return (*self.endorsements, *(each.endorsement for each in self.delegated))


async def load(connection: AsyncConnection) -> Keys:
    """As they are now."""
    rows = (await connection.execute(select(signing_keys).order_by("place"))).all()
    others = (
        await connection.execute(
            select(delegated_keys).order_by(delegated_keys.c.created, delegated_keys.c.public_key)
        )
    ).all()
    return Keys(
        tuple(Ed25519PrivateKey.from_private_bytes(row.private_key) for row in rows),
        tuple(row.created for row in rows),
        tuple(
            Endorsement(row.public_key, row.endorsed_by, row.endorsement)
            for row in rows
            if row.endorsed_by is not None
        ),
        tuple(
            Delegated(
                row.name, row.created,
                Endorsement(row.public_key, row.endorsed_by, row.endorsement),
            )
            for row in others
        ),
    )  # fmt: skip


async def add(connection: AsyncConnection, keys: Keys, now: int) -> Ed25519PrivateKey:
    """Makes a new one, endorsed by the one before it."""
    key = Ed25519PrivateKey.generate()
    endorsement = endorse(raw_public_key(key), keys.private[-1]) if keys.private else None
    await connection.execute(
        insert(signing_keys).values(
            place=len(keys.private),
            public_key=raw_public_key(key),
            private_key=key.private_bytes_raw(),
            created=now,
            endorsed_by=endorsement.by if endorsement else None,
            endorsement=endorsement.signature if endorsement else None,
        )
    )
    return key


async def delegate(
    connection: AsyncConnection, keys: Keys, public_key: bytes, name: str, now: int
) -> None:
    """Vouches for somebody else's key. Raises StoreFailed if it is known already."""
    endorsement = endorse(public_key, keys.private[-1])
    try:
        await connection.execute(
            insert(delegated_keys).values(
                public_key=public_key, name=name, created=now, endorsed_by=endorsement.by,
                endorsement=endorsement.signature,
            )
        )  # fmt: skip
    except IntegrityError:
        raise StoreFailed("this key may sign releases already") from None
