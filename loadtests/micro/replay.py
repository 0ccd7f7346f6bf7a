"""What deciding a record again costs: `python -m loadtests.micro.replay [RECORDS]`.

Records of the demo's policies as a sidecar writes them, decided again by the same policies, which
must change nothing. Times are CPU time of this process.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

import sidecar
from sidecar.decide.compile import compile_snapshot
from sidecar.decide.parse import Source, parse
from sidecar.decide.replay import Replay
from sidecar.decide.scenario import Scenario, decide
from sidecar.decide.snapshot import Snapshot
from sidecar.edge.decision import Decision
from sidecar.edge.records import inputs, settled

NOW: Final = 1_800_000_000.0
CALLERS: Final = 5000
POLICIES: Final = Path(sidecar.__file__).parent / "demo" / "policies" / "bank.yaml"


def snapshot() -> Snapshot:
    documents, problems = parse([Source("bank.yaml", POLICIES.read_text())])
    assert not problems
    return compile_snapshot(documents, namespace="default", labels={"app": "bank"})


def scenario(dice: random.Random, **more: Any) -> Scenario:
    """Half own accounts, a fifth each catalogue and transfers, the rest health."""
    caller, kind = f"c{dice.randrange(CALLERS)}", dice.random()
    now = NOW + dice.randrange(86_400)
    if kind < 0.1:
        return Scenario(target="/health", now=now)
    if kind < 0.3:
        claims = {"sub": caller, "tier": "gold"} if kind < 0.2 else None
        return Scenario(target=f"/catalogue/{dice.randrange(1000)}", claims=claims, now=now)
    if kind < 0.8:
        claims = {"sub": caller, "scope": "accounts:read"}
        return Scenario(target=f"/accounts/{caller}/m", claims=claims, now=now, **more)
    claims = {"sub": caller, "scope": "transfers:write" if kind < 0.95 else "accounts:read"}
    return Scenario(method="POST", target="/transfers", claims=claims, now=now, **more)


def line(held: Snapshot, described: Scenario, number: int) -> bytes:
    """The record of a decision."""
    decided = decide(described, held)
    id_ = f"{number:032x}"
    record = settled("proxy", decided.request, Decision(decided.outcome, id_, b"", 0.0, "v1"))
    record["input"] = inputs(decided.request, decided.outcome, held, decided.evidence, decided.now)
    head = {"time": decided.now, "decision_id": id_, "status": 200, "duration_ms": 1.0}
    return json.dumps({**head, **record}).encode() + b"\n"


def measure(name: str, held: Snapshot, lines: list[bytes]) -> None:
    replay = Replay(held)
    began = time.process_time()
    for each in lines:
        replay.take(each)
    spent = time.process_time() - began
    assert replay.unchanged == len(lines), replay.plain()
    size = sum(map(len, lines)) / len(lines)
    print(f"{name:24} {len(lines) / spent:8.0f} records/s  {spent / len(lines) * 1e6:6.1f} us each"
          f"  {size:4.0f} bytes each")  # fmt: skip


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    held, dice = snapshot(), random.Random(1)
    measure("bearer tokens", held, [line(held, scenario(dice), n) for n in range(count)])
    few = [line(held, scenario(dice, proof=("dpop",)), n) for n in range(count // 10)]
    measure("bound by DPoP, 7 in 10", held, few)


if __name__ == "__main__":
    main()
