"""Secrets that are made once for the whole store, and tickets that are good once.

The secrets are rows of the database, as the signing keys are: whoever reads it has them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from sidecar.control import database
from sidecar.control.subjects import receipts
from sidecar.control.subjects.records import words
from sidecar.control.subjects.schema import secrets, tickets
from sidecar.control.subjects.transactions import Transactions

RECEIPTS: Final = "receipts"  # the secret that signs receipts and certificates
TOMBSTONES: Final = "tombstones"


class Keeping(Transactions):
    """What is made once, and what is used once."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        super().__init__(engine, clock)
        self._secrets: dict[str, bytes] = {}

    async def secret(self, name: str) -> bytes:
        """32 random bytes, the same for all who ask, from the first time on. Raises StoreFailed."""
        if name not in self._secrets:
            words("secret", name, 64)
            wanted = select(secrets.c.secret).where(secrets.c.name == name)
            async with self._reading() as connection:
                found = (await connection.execute(wanted)).scalar_one_or_none()
            if found is None:
                async with self._changing() as change:
                    await database.alone(change.connection)
                    found = (await change.connection.execute(wanted)).scalar_one_or_none()
                    if found is None:
                        found = os.urandom(32)
                        await change.connection.execute(
                            insert(secrets).values(name=name, secret=found)
                        )
            self._secrets[name] = found
        return self._secrets[name]

    async def jwks(self) -> dict[str, Any]:
        """The JWK Set that verifies receipts and certificates."""
        return receipts.published(await self.secret(RECEIPTS))

    async def redeem(self, jti: str, expires: float) -> bool:
        """True exactly once for each ticket that has not expired, whoever else asks."""
        if expires <= self._clock():
            return False  # its row may be forgotten already
        row = {"jti": hashlib.sha256(jti.encode("utf-8", "surrogatepass")).digest(),
               "expires": expires}  # fmt: skip
        async with self._changing() as change:
            known = select(tickets.c.jti).where(tickets.c.jti == row["jti"])
            if (await change.connection.execute(known)).first() is not None:
                return False
            try:
                async with change.connection.begin_nested():
                    await change.connection.execute(insert(tickets).values(**row))
            except IntegrityError:
                return False
            return True
