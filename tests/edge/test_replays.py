"""Each proof once: in one process, in several, under a flood, with the clock set back."""

from __future__ import annotations

import os
import subprocess
import sys

from sidecar.decide.dpop import AHEAD
from sidecar.decide.outcomes import RememberProof
from sidecar.edge.replays import PLACES, SIZE, SLOTS, ReplayTable, Turns, Use
from sidecar.plane.shared import PROOFS

NOW = 1_800_000_000.0


def proof(jti: object, key: str = "me", created: float = NOW) -> RememberProof:
    return RememberProof(key, str(jti), created, 60.0)


def test_a_proof_is_used_once() -> None:
    table = ReplayTable()
    assert not table.used(proof(1))
    assert table.use(proof(1), NOW) is Use.FIRST
    assert table.used(proof(1))
    assert table.use(proof(1), NOW) is Use.REPLAYED
    assert table.use(proof(1, created=NOW + 5), NOW + 5) is Use.REPLAYED, "whenever it was made"
    assert table.use(proof(2), NOW) is Use.FIRST
    assert table.use(proof(1, "you"), NOW) is Use.FIRST, "the ids of two keys are two"
    assert table.counts == {Use.FIRST: 3, Use.REPLAYED: 2, Use.CROWDED: 0, Use.BUSY: 0}


def test_the_shared_memory_is_as_large() -> None:
    assert PROOFS == SIZE


def test_a_flood_never_lets_a_proof_in_twice_and_keeps_its_place() -> None:
    table = ReplayTable()
    honest = [proof(n, f"honest-{n}") for n in range(200)]
    assert all(table.use(each, NOW) is Use.FIRST for each in honest)
    flood = [proof(n, "flooder", NOW + n // 1000) for n in range(5000)]
    passed = [each for each in flood if table.use(each, each.created) is Use.FIRST]
    # Of each second's thousand as many as there are slots; the rest must be newer.
    assert SLOTS <= len(passed) <= 6 * (SLOTS + 1)
    assert all(table.use(each, NOW + 5) is not Use.FIRST for each in flood), "nothing twice"
    assert all(table.use(each, NOW + 5) is not Use.FIRST for each in honest), "nothing forgotten"
    newcomers = [proof(n, f"newcomer-{n}", NOW + 4) for n in range(500)]
    refused = [each for each in newcomers if table.use(each, NOW + 5) is not Use.FIRST]
    assert len(refused) <= 5, "but for those that share its place"
    assert table.use(proof("after", "flooder", NOW + 6), NOW + 6) is Use.FIRST, "it is over"


def test_many_keys_share_memory_that_does_not_grow() -> None:
    memory = bytearray(4 * (SIZE // PLACES))  # four places
    table = ReplayTable(memory)
    used = [proof(n, f"key-{n}", NOW + n / 100) for n in range(3000)]
    for each in used:
        table.use(each, each.created)
    assert len(memory) == 4 * (SIZE // PLACES)
    assert all(table.use(each, NOW + 30) is not Use.FIRST for each in used)


def test_a_busy_key_is_served_as_long_as_its_proofs_are_new() -> None:
    """100 a second, each used a second after it was made."""
    table = ReplayTable()
    for n in range(3000):
        made = NOW + n / 100
        assert table.use(proof(n, created=made), made + 1) is Use.FIRST


def test_the_clock_may_be_set_back() -> None:
    table = ReplayTable()
    tomorrow = NOW + 86400
    for n in range(2 * SLOTS):
        table.use(proof(n, created=tomorrow + n), tomorrow + n)
    assert table.use(proof("now"), NOW) is Use.CROWDED, "it could be one that was forgotten"
    soon = NOW + AHEAD + 1
    assert table.use(proof("soon", created=NOW + AHEAD), NOW) is Use.CROWDED
    assert table.use(proof("later", created=soon), soon) is Use.FIRST, "for seconds, not for a day"
    for n in range(SLOTS):  # what is too old today is not when the clock is set back
        table.use(proof(f"old-{n}", "old"), NOW)
    for n in range(SLOTS):
        table.use(proof(f"new-{n}", "old", NOW + 600), NOW + 600)
    assert table.use(proof("old-0", "old"), NOW) is not Use.FIRST


WORKER = """
import mmap, os, sys
from sidecar.decide.outcomes import RememberProof
from sidecar.edge.replays import SIZE, ReplayTable, Turns, Use
memory, go = int(sys.argv[1]), int(sys.argv[2])
table = ReplayTable(memoryview(mmap.mmap(memory, SIZE)), b"k" * 16, Turns(memory))
os.read(go, 1)
first = []
for n in range(2000):
    use = Use.BUSY
    while use is Use.BUSY:
        use = table.use(RememberProof("me", str(n), 1_800_000_000.0 + n, 60.0), 1_800_002_000.0)
    if use is Use.FIRST:
        first.append(n)
print(*first)
"""


def test_of_several_workers_one_uses_it() -> None:
    memory = os.memfd_create("proofs")
    os.ftruncate(memory, SIZE)
    ready, go = os.pipe()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(memory), str(ready)],
            stdout=subprocess.PIPE, pass_fds=(memory, ready),
        )
        for _ in range(3)
    ]  # fmt: skip
    os.write(go, b"xxx")
    first = [n for each in workers for n in map(int, each.communicate(timeout=60)[0].split())]
    assert len(first) == len(set(first)), "one was used twice"
    assert set(first) <= set(range(2000))
    for descriptor in (memory, ready, go):
        os.close(descriptor)


def test_who_holds_a_place_too_long_makes_the_others_refuse() -> None:
    memory = os.memfd_create("proofs")
    os.ftruncate(memory, SIZE // PLACES)
    code = (
        "import os, sys; from sidecar.edge.replays import Turns\n"
        "assert Turns(int(sys.argv[1])).take(0); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(memory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(memory,),
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    table = ReplayTable(bytearray(SIZE // PLACES), b"k" * 16, Turns(memory))
    assert table.use(proof(1), NOW) is Use.BUSY
    holder.kill()
    holder.wait(timeout=30)
    assert table.use(proof(1), NOW) is Use.FIRST, "a turn ends with its process"
    holder.stdout.close()
    assert holder.stdin is not None
    holder.stdin.close()
    os.close(memory)
