"""What is said of a store that fails: enough for whoever is on call, and nothing of customers."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from sidecar.control.store import Store
from sidecar.control.subjects.store import SubjectStore
from sidecar.errors import StoreFailed
from tests.control.subjects.callers import caller, known
from tests.control.subjects.conftest import Clock


async def test_a_full_disk_is_called_so(tmp_path: Path, clock: Clock) -> None:
    store = await Store.open(f"sqlite:///{tmp_path / 'store.db'}", clock=clock)
    subjects = SubjectStore(store.engine, clock)
    async with store.engine.connect() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        # As a disk that has no room for one page more; all connections that come are of this pool.
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    async def fill() -> None:
        for number in range(500):
            await known(subjects, caller(f"alice-{number}@mail.example"))

    with pytest.raises(StoreFailed, match=r"failed: SQLITE_FULL$"):
        await fill()
    await store.close()
