"""`make bench`: each proxy in turn, one table, the budgets; exit 1 when a budget fails."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from loadtests.bench import plan, report
from loadtests.bench.agreement import Disagreement
from loadtests.bench.contest import Ground
from loadtests.bench.machine import machine
from loadtests.bench.mint import Mint
from loadtests.bench.peers import Peer, envoy, haproxy, naive, nginx, sidecar
from loadtests.bench.processes import DidNotStart, cores, program
from loadtests.bench.streaming import TransferFailed
from loadtests.bench.upstream import upstream
from loadtests.bench.wrk import LoadFailed

PEERS: Final = (sidecar.PEER, envoy.PEER, haproxy.PEER, nginx.PEER, naive.PEER)
RESULTS: Final = Path(__file__).parents[1] / "results"
TOKENS: Final = 1000


def say(text: str) -> None:
    print(text, flush=True)


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two judged cells only, shortly")
    parser.add_argument(
        "--only", metavar="NAME,...", help=f"some of {','.join(peer.name for peer in PEERS)}"
    )
    parser.add_argument("--rounds", type=int, help="of each judged cell [7; quick: 3]")
    parser.add_argument("--seconds", type=float, help="of each round [3; quick: 2]")
    found = parser.parse_args(given)
    found.rounds = found.rounds or (3 if found.quick else 7)
    found.seconds = found.seconds or (2 if found.quick else 3)
    names = {peer.name for peer in PEERS}
    found.only = set(found.only.split(",")) if found.only else names
    if found.only - names:
        parser.error(f"--only: unknown {', '.join(sorted(found.only - names))}")
    return found


def installed(wanted: set[str]) -> tuple[dict[str, Peer], dict[str, str]]:
    """Peers and versions by name; says which are left out."""
    peers: dict[str, Peer] = {}
    versions: dict[str, str] = {}
    for peer in PEERS:
        version = peer.version() if peer.name in wanted else None
        if version is not None:
            peers[peer.name], versions[peer.name] = peer, version
        elif peer.name in wanted:
            say(f"{peer.name} is not installed here and left out")
    return peers, versions


def run(options: argparse.Namespace, folder: Path, out: plan.Findings) -> dict[str, str]:
    """The versions of what was measured; the rest goes to `out`."""
    peers, versions = installed(options.only)
    proxy_core, load_core = cores()
    mint = Mint()
    tokens = [mint.good(number) for number in range(TOKENS)]
    effort = plan.Effort(options.rounds, options.seconds)
    with upstream(folder, load_core) as port:
        ground = Ground(folder, port, mint, tokens, proxy_core, load_core)
        plan.cells(ground, peers, effort, options.quick, say, out)
        if sidecar.PEER.name in peers and not options.quick:
            plan.memory(ground, peers, say, out)
            plan.rules(ground, peers, effort, say, out)
            plan.stream(ground, peers, effort, say, out)
    if sidecar.PEER.name in peers:
        plan.decisions(say, out)
    return versions


def main(given: list[str]) -> int:
    options = arguments(given)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    if program("wrk") is None:
        say("wrk is not installed; it drives the load")
        return 1
    began, out = time.time(), plan.Findings()
    try:
        with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder:
            versions = run(options, Path(folder), out)
    except (DidNotStart, Disagreement, LoadFailed, TransferFailed) as error:
        say(f"\nno result: {error}")
        return 1
    say("")
    for verdict in out.verdicts:
        say(verdict.line)
    content: dict[str, Any] = {
        "machine": machine(),
        "versions": versions,
        "arguments": given,
        "took_seconds": round(time.time() - began),
        "budgets": [report.verdict(verdict) for verdict in out.verdicts],
        **out.parts,
    }
    name = time.strftime("bench-%Y%m%d-%H%M%S", time.gmtime(began))
    say(f"\nwritten to {report.write(RESULTS, name, content)}")
    return 1 if any(verdict.met is False for verdict in out.verdicts) else 0


def ended(number: int, _: object) -> None:
    """As if interrupted, so that everything started is stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
