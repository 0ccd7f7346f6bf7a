"""Withdrawing: check, make durable, tell every sidecar; the one way, whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sidecar.control.revocations import (
    MOST,
    RESERVED,
    Numbered,
    RevocationLog,
    TooManyWithdrawn,
    Withdrawal,
    check,
)
from sidecar.control.store import By, Event, Store


class Withdrawer:
    """One per control plane: one withdrawal at a time, so that the log grows in order."""

    def __init__(
        self,
        store: Store,
        log: RevocationLog,
        announce: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._log = log
        self._announce = announce
        self._clock = clock
        self._turn = asyncio.Lock()

    def now(self) -> float:
        """By the clock that withdrawals go by (seconds since the epoch)."""
        return self._clock()

    async def load(self) -> None:
        """Takes over what the store holds. Raises StoreFailed."""
        self._log.take(await self._store.withdrawn(), self._clock())

    async def take_over(self) -> None:
        """What other replicas have withdrawn. Raises StoreFailed."""
        async with self._turn:
            more = await self._store.withdrawn(self._log.newest)
            if more:
                self._log.take(more, self._clock())
                self._announce()

    def listed(self, issuer: str, value: str, most: int) -> tuple[list[Numbered], int]:
        """What is withdrawn, newest first, `most` at most; an empty issuer or value is any. And
        how many there are in all."""
        self._log.forget(self._clock())
        return self._log.found(issuer, value, most), len(self._log)

    async def withdraw(
        self,
        withdrawals: Sequence[Withdrawal],
        event: Event | None = None,
        by: By | None = None,
    ) -> int:
        """The number of the last one, once all are durable and on their way. All or nothing.

        Raises NotWithdrawn with what to change, StoreFailed, and Replayed for an event received
        before.
        """
        check(withdrawals, self._clock())
        async with self._turn:
            most = MOST if event is None else MOST - RESERVED
            if withdrawals and len(self._log) + len(withdrawals) > most:
                self._log.forget(self._clock())
                if len(self._log) + len(withdrawals) > most:
                    raise TooManyWithdrawn(
                        f"{len(self._log)} are withdrawn, and at most {most} can be. Withdraw "
                        "subjects rather than their tokens, and let them be forgotten sooner"
                    )
            numbered = await self._store.withdraw(withdrawals, event, by)
            if numbered and numbered[0].number != self._log.newest + 1:
                # Another replica's came before; with ours in the log nobody would ask for them.
                numbered = await self._store.withdrawn(self._log.newest)
            self._log.take(numbered, self._clock())
            if numbered:
                self._announce()
            return self._log.newest
