"""What it takes to know a customer among many: `python -m loadtests.micro.subjects [--quick]`.

Fills a store (SQLite) with 1,000,000 customers, or 50,000 with `--quick`, and resolves some of them
at random, one after the other, as sidecars do on first need. Prints the times and exits 1 if the
p99 is 10 ms or more. Wall-clock times, for a sidecar waits for them; the CPU time of the whole
process beside them tells a busy machine from a slow store.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sidecar.control.store import Store
from sidecar.control.subjects.records import Identifier, Introduction
from sidecar.control.subjects.store import SubjectStore

BUDGET: Final = 0.010  # seconds, p99
ISSUER: Final = "https://idp.example"
POOL: Final = "default/shop"
CHUNK: Final = 20_000


def introduction(number: int) -> Introduction:
    """Of a customer as the store holds it: nothing is new."""
    return Introduction(
        POOL,
        Identifier("subject", ISSUER, f"user-{number}"),
        (Identifier("email", "", f"user-{number}@mail.example"),),
        (Identifier("device", "", f"device-{number}"),),
        f"visitor-{number}",
        merge_visitor=True,
    )


def id_of(number: int) -> str:
    return f"cus_{number:026d}"


def rows(numbers: range, now: float) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Statements and their rows for so many customers."""
    subjects, held, devices, attributes, consents = [], [], [], [], []
    for number in numbers:
        who, said = id_of(number), introduction(number)
        subjects.append((who, POOL, who, None, 1, number + 1, now, now, 0, '["vip"]', 0, now, 3600))
        held += [(each.key(POOL), who, who, each.sole, *each, now) for each in said.joining]
        devices += [(who, each.key(POOL), *each, now) for each in said.remembered]
        attributes += [
            (who, f"shop/{name}", '"value"', "token", now, None, None, None)
            for name in ("name", "city", "language")
        ]
        consents += [
            (f"cns_{number}{purpose}", who, number + 1, f"shop/{purpose}", 1, "", "granted", 1,
             now, "en", None, None, 0, "page", "customer")
            for purpose in ("terms", "news")
        ]  # fmt: skip
    held.sort()
    for table, found in (
        ("subjects", subjects), ("subject_identifiers", held), ("subject_remembered", devices),
        ("subject_attributes", attributes), ("subject_consents", consents),
    ):  # fmt: skip
        yield f"INSERT INTO {table} VALUES ({','.join('?' * len(found[0]))})", found


def fill(path: Path, count: int) -> None:
    """In bulk, for the store's own way is durable one by one."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous=OFF", "cache_size=-600000", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    for start in range(0, count, CHUNK):
        connection.execute("BEGIN")
        for statement, found in rows(range(start, min(start + CHUNK, count)), time.time()):
            connection.executemany(statement, found)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("UPDATE subject_counters SET value = ? WHERE name = 'changes'", [count])
    connection.close()


async def measure(path: Path, count: int, resolves: int) -> float:
    """Prints the times; the p99 in seconds."""
    store = await Store.open(f"sqlite:///{path}")
    began = time.perf_counter()
    await asyncio.to_thread(fill, path, count)
    print(f"{count:,} customers, filled in {time.perf_counter() - began:.0f} s")
    subjects = SubjectStore(store.engine, time.time)
    chosen = random.Random(1)
    times = []
    cpu = time.process_time()
    for _ in range(resolves):
        number = chosen.randrange(count)
        asked = introduction(number)
        started = time.perf_counter()
        record = await subjects.resolve(asked, "edge")
        times.append(time.perf_counter() - started)
        assert record.customer == id_of(number)
        assert record.version == 1
        assert (len(record.identifiers), len(record.attributes)) == (3, 3)
        assert len(record.consents) == 2
    cpu = (time.process_time() - cpu) / resolves
    await store.close()
    cuts = statistics.quantiles(times, n=1000)
    p50, p99, p999 = cuts[499], cuts[989], cuts[998]
    print(
        f"resolve of a known one, {resolves:,} times: p50 {p50 * 1e3:.2f} ms, "
        f"p99 {p99 * 1e3:.2f} ms, p99.9 {p999 * 1e3:.2f} ms; CPU {cpu * 1e3:.2f} ms each"
    )
    return p99


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="50,000 customers")
    parser.add_argument("--customers", type=int, default=0, help="default: 1,000,000")
    parser.add_argument("--resolves", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the store is made")
    options = parser.parse_args()
    count = options.customers or (50_000 if options.quick else 1_000_000)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        p99 = asyncio.run(measure(Path(folder) / "store.db", count, options.resolves))
    if p99 >= BUDGET:
        print(f"over the budget of {BUDGET * 1e3:.0f} ms at p99")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
