"""`make autobahn`: the Autobahn test suite against a WebSocket server, directly and through us.

Exit code 1 when the sidecar makes a difference in any case, 2 when the suite could not be run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from sidecar.demo.world import free_ports
from tests.autobahn.compare import differences, summary, table
from tests.autobahn.echo import SERVERS
from tests.e2e.processes import Running, Sidecar, until

SUITE: Final = Path("build/autobahn")
REPORTS: Final = Path("build/autobahn-reports")
POLICY: Final = """
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: echo}
spec: {rules: [{name: all, match: {methods: [GET], paths: [/]}, auth: none}]}
"""
# Not through PYTHONPATH: namespace packages need the folder's .pth files.
_WSTEST: Final = (
    "import site, sys; site.addsitedir(sys.argv.pop(1));"
    " from autobahntestsuite.wstest import run; run()"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make autobahn ARGS=...", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["*"], help="such as 1.* 7.1.1")
    parser.add_argument("--exclude", nargs="+", default=[], help="such as 9.* 12.* 13.*")
    parser.add_argument(
        "--server", choices=sorted(SERVERS), default="aiohttp",
        help="it passes the most cases, and always the same; websockets fails the connection, or"
        " answers first, as it happens to read (3.*, 4.*)",
    )  # fmt: skip
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        policies = folder / "policies"
        policies.mkdir()
        (policies / "echo.yaml").write_text(POLICY)
        # A server for each: what one of them has to bear must not slow the other.
        ports = free_ports(2)
        echoes = [
            Running(
                [sys.executable, "-m", "tests.autobahn.echo", chosen.server, str(port)],
                folder, f"echo-{port}",
            )
            for port in ports
        ]  # fmt: skip
        try:
            until(lambda: all(map(_listens, ports)), "the echo servers listen", 10)
            behind = f"http://127.0.0.1:{ports[1]}"
            sidecar = Sidecar(folder, behind, "--policies", str(policies)).ready()
            try:
                both = {"direct": ports[0], "sidecar": sidecar.port}
                found = _suite(folder, both, chosen.cases, chosen.exclude)
                tunnels = sidecar.metric("sidecar_tunnels_total")
            finally:
                sidecar.stop()
        finally:
            for echo in echoes:
                echo.stop()
    if found is None:
        return 2
    direct, through = found["direct"], found["sidecar"]
    differing = differences(direct, through)
    print(f"{len(direct)} cases; directly: {summary(direct)}; through the sidecar:", end=" ")
    print(f"{summary(through)}; {tunnels:g} tunnels; reports in {REPORTS}")
    if differing:
        print(table(differing))
        return 1
    print("no difference in any case")
    return 0


def _suite(
    folder: Path, ports: dict[str, int], cases: list[str], exclude: list[str]
) -> dict[str, Any] | None:
    """Results by agent and case; None, with the reason printed, where there are none."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    python = (SUITE / "python").read_text().strip()
    packages = str((SUITE / "packages").absolute())
    running: dict[str, Running] = {}
    for agent, port in ports.items():  # side by side: each keeps one core busy
        spec = folder / f"{agent}.json"
        spec.write_text(
            json.dumps(
                {
                    "outdir": str((REPORTS / agent).absolute()),
                    "servers": [{"agent": agent, "url": f"ws://127.0.0.1:{port}"}],
                    "cases": cases,
                    "exclude-cases": exclude,
                    "exclude-agent-cases": {},
                }
            )
        )
        arguments = [
            python, "-W", "ignore", "-c", _WSTEST, packages, "-m", "fuzzingclient", "-s", str(spec),
        ]  # fmt: skip
        running[agent] = Running(arguments, REPORTS, agent)
    found: dict[str, Any] = {}
    for agent, suite in running.items():
        code = suite.process.wait()
        index = REPORTS / agent / "index.json"
        if code or not index.exists():
            print(f"wstest ended with {code}; see {suite.log}", file=sys.stderr)
            return None
        found |= json.loads(index.read_text())
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
