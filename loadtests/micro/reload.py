"""What 10,000 rules cost at start, and what a change of them costs those who ask meanwhile.

`python -m loadtests.micro.reload [--distinct] [--seconds 8]`: 200 policies of 50 rules each, over
2,000 paths with 50 expressions, or with as many paths and expressions as rules. The p99 of requests
is compared within one round: while nothing changes, while one policy does, and while all of them
do, again and again. The median of three rounds counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from loadtests.bench import wrk
from loadtests.bench.asked import answers
from loadtests.bench.mint import AUDIENCE, ISSUER, SCOPE, Mint
from loadtests.bench.processes import Running, cores, free_port, running
from loadtests.bench.upstream import upstream

POLICIES: Final = 200
RULES: Final = 50
TOKENS: Final = 100
BUDGET: Final = 8.0  # seconds from the start of the process until it is ready
EVERY: Final = 1.5  # seconds between two changes of one policy
EVERY_ALL: Final = 6.0  # of all, which take longer to read
ROUNDS: Final = 3
CHANGES: Final[tuple[tuple[str, Sequence[int], float], ...]] = (
    ("one policy changes", (7,), EVERY),
    ("all change", range(POLICIES), EVERY_ALL),
)
SLOWER: Final = 2.0  # times the p99 while nothing changes


def policy(number: int, distinct: bool, change: int) -> str:
    rules = []
    for place in range(RULES):
        at = number * RULES + place
        which = at if distinct else at % 50
        rules.append(
            {
                "name": f"r{at}-{change}",
                "match": {"methods": ["GET"], "paths": [f"/s{at if distinct else at // 5}/{{id}}"]},
                "when": f"request.params.id == token.sub && token.?level.orValue(0) >= {which}",
                "require": {"scopes": [SCOPE]},
            }
        )
    return document("AccessPolicy", f"p{number}", {"rules": rules})


def document(kind: str, name: str, spec: object) -> str:
    return json.dumps(
        {"apiVersion": "authz.sidecar/v1", "kind": kind, "metadata": {"name": name}, "spec": spec},
        indent=1,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """Files ready to take the place of those of the same names."""

    written: Path
    policies: Path

    def change(self) -> None:
        for file in self.written.iterdir():
            file.rename(self.policies / file.name)


@dataclass(frozen=True, slots=True)
class Measured:
    p50: float
    p99: float
    enforced: int  # changes


class Reload:
    """One run."""

    def __init__(self, folder: Path, distinct: bool, seconds: float) -> None:
        self.policies = folder / "policies"
        self.folder = folder
        self.distinct = distinct
        self.seconds = seconds
        self.mint = Mint()
        self.changes = 0

    def write(self) -> None:
        self.policies.mkdir()
        jwks = json.loads(self.mint.jwks)
        spec = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": jwks}}
        (self.policies / "issuer.json").write_text(document("TokenIssuer", "bench", spec))
        rule = {"name": "api", "match": {"paths": ["/api/**"]}, "require": {"scopes": [SCOPE]}}
        (self.policies / "api.json").write_text(document("AccessPolicy", "api", {"rules": [rule]}))
        self.prepare(range(POLICIES)).change()

    def prepare(self, numbers: Sequence[int]) -> Change:
        """Another version of these policies. To write them takes a core a fifth of a second, which
        requests that are measured would wait for."""
        self.changes += 1
        folder = self.folder / f"change{self.changes}"
        folder.mkdir()
        for number in numbers:
            text = policy(number, self.distinct, self.changes)
            (folder / f"p{number}.json").write_text(text)
        return Change(folder, self.policies)

    def p99(self, port: int, requests: Path, connections: int, core: int | None,
            numbers: Sequence[int], every: float) -> tuple[float, float]:  # fmt: skip
        """p50 and p99 at the caller, in microseconds, while these policies change over and over."""
        ended = threading.Event()
        changes = [self.prepare(numbers) for _ in range(int(self.seconds / every)) if numbers]

        def change() -> None:
            for each in changes:
                each.change()
                if ended.wait(every):
                    break

        thread = threading.Thread(target=change)
        thread.start()
        try:
            load = wrk.run(port, requests, connections, self.seconds, core)
        finally:
            ended.set()
            thread.join()
        return load.p50, load.p99

    def run(self) -> bool:
        self.write()
        own, other = cores()
        with upstream(self.folder, other) as service:
            port = free_port()
            health, admin = free_port(), free_port()
            arguments = [
                str(Path(sys.executable).with_name("sidecar")), "run",
                "--upstream", f"http://127.0.0.1:{service}", "--policies", str(self.policies),
                "--listen", f"127.0.0.1:{port}", "--health", f"127.0.0.1:{health}",
                "--admin", f"127.0.0.1:{admin}",
                "--decision-log", str(self.folder / "decisions.log"),
            ]  # fmt: skip
            started = time.monotonic()
            with running("sidecar", arguments, self.folder, own, {"HOME": str(self.folder)}) as it:
                it.ready(lambda: answers(health, "/readyz", 200))
                ready = time.monotonic() - started
                print(f"ready after {ready:.1f} s ({BUDGET:g} s may be)")
                return self.compare(port, other, it) and ready <= BUDGET

    @staticmethod
    def enforced(process: Running) -> int:
        return process.said.count(" INFO enforcing ")

    def compare(self, port: int, core: int | None, process: Running) -> bool:
        pairs = [(f"/api/small/{n}", self.mint.good(n)) for n in range(TOKENS)]
        requests = wrk.write_requests(self.folder / "requests", pairs)
        wrk.run(port, requests, 16, 2, core)  # warm
        fine = True
        for connections in (1, 16):
            rounds = [self.round(port, requests, connections, core, process) for _ in range(ROUNDS)]
            print(f"{connections} connections, p50 and p99 in us, of {ROUNDS} rounds:")
            quiet = [each[0] for each in rounds]
            print(f"  while nothing changes: {said(quiet)}")
            for place, (name, _, _) in enumerate(CHANGES, 1):
                changing = [each[place] for each in rounds]
                ratio = median(
                    one.p99 / other.p99 for one, other in zip(changing, quiet, strict=True)
                )
                enforced = min(each.enforced for each in changing)
                passed = ratio <= SLOWER and enforced > 0 and process.alive()
                fine = fine and passed
                print(
                    f"  while {name}: {said(changing)}; p99 {ratio:.2f} x in the median"
                    f" ({SLOWER:g} may be), at least {enforced} changes enforced:"
                    f" {'PASS' if passed else 'FAIL'}"
                )
        return fine

    def round(self, port: int, requests: Path, connections: int, core: int | None,
              process: Running) -> list[Measured]:  # fmt: skip
        """Figures while nothing changes, and during each of the CHANGES."""
        found = []
        for _, numbers, every in (("", (), EVERY), *CHANGES):
            before = self.enforced(process)
            p50, p99 = self.p99(port, requests, connections, core, numbers, every)
            found.append(Measured(p50, p99, self.enforced(process) - before))
        return found


def said(measured: Sequence[Measured]) -> str:
    return ", ".join(f"{each.p50:.0f} {each.p99:.0f}" for each in measured)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if Reload(Path(folder), args.distinct, args.seconds).run() else 1


if __name__ == "__main__":
    sys.exit(main())
