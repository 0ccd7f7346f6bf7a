"""What 10,000 rules cost at start, and what a change of them costs those who ask meanwhile.

`python -m loadtests.micro.reload [--distinct] [--seconds 8]`: 200 policies of 50 rules each, over
2,000 paths with 50 expressions, or with as many paths and expressions as rules. The p99 of requests
is compared within one run: while nothing changes, while one policy does, and while all of them do,
again and again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
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


def replace(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.rename(file)


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
        self.change_all()

    def change_all(self) -> None:
        self.changes += 1
        for number in range(POLICIES):
            text = policy(number, self.distinct, self.changes)
            replace(self.policies / f"p{number}.json", text)

    def change_one(self) -> None:
        self.changes += 1
        replace(self.policies / "p7.json", policy(7, self.distinct, self.changes))

    def p99(self, port: int, requests: Path, connections: int, core: int | None,
            meanwhile: Callable[[], None] | None) -> tuple[float, float]:  # fmt: skip
        """p50 and p99 at the caller, in microseconds, while `meanwhile` is done over and over."""
        ended = threading.Event()

        def change() -> None:
            while meanwhile is not None and not ended.is_set():
                meanwhile()
                ended.wait(1.5)

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

    def compare(self, port: int, core: int | None, process: Running) -> bool:
        pairs = [(f"/api/small/{n}", self.mint.good(n)) for n in range(TOKENS)]
        requests = wrk.write_requests(self.folder / "requests", pairs)
        wrk.run(port, requests, 16, 2, core)  # warm
        fine = True
        for connections in (1, 16):
            quiet = self.p99(port, requests, connections, core, None)
            print(f"{connections} connections: p50 {quiet[0]:.0f} us, p99 {quiet[1]:.0f} us")
            for name, change in (("one policy", self.change_one), ("all", self.change_all)):
                p50, p99 = self.p99(port, requests, connections, core, change)
                ratio = p99 / quiet[1]
                fine = fine and ratio <= SLOWER and process.alive()
                print(
                    f"  while {name} changes: p50 {p50:.0f} us, p99 {p99:.0f} us, {ratio:.2f} x"
                    f" ({SLOWER:g} may be): {'PASS' if ratio <= SLOWER else 'FAIL'}"
                )
        return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if Reload(Path(folder), args.distinct, args.seconds).run() else 1


if __name__ == "__main__":
    sys.exit(main())
