"""`make soak`: steady load with churn; exit 1 on an unexpected answer or memory that grows."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from loadtests.bench import wrk
from loadtests.bench.__main__ import RESULTS, ended, say
from loadtests.bench.contest import Ground, Proxy, started
from loadtests.bench.machine import machine
from loadtests.bench.mint import Mint
from loadtests.bench.peers.sidecar import DECISIONS, PEER
from loadtests.bench.processes import DidNotStart, cores
from loadtests.bench.report import write
from loadtests.bench.upstream import sink, upstream
from loadtests.soak.callers import Callers
from loadtests.soak.watch import (
    DESCRIPTORS,
    FITTED,
    GROWTH,
    Flatness,
    Reading,
    descriptors,
    judge,
    read,
)

TOKENS: Final = 1000
KEPT: Final = 16  # wrk's connections, each with a request every PAUSE milliseconds
PAUSE: Final = 15
SEGMENT: Final = 20.0  # seconds until wrk's connections, too, are new
CALLS: Final = 100.0  # churning connections a second
EVERY: Final = 5.0  # seconds between readings


@dataclasses.dataclass(slots=True)
class Soak:
    """One run of it: what was read, and what went wrong beside the callers' own tally."""

    readings: list[Reading] = dataclasses.field(default_factory=list)
    loads: list[wrk.Load] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    failed: list[wrk.LoadFailed] = dataclasses.field(default_factory=list)

    def kept(self) -> tuple[int, int]:
        """Requests of the kept connections, and those answered otherwise than they should be."""
        requests = sum(load.requests for load in self.loads)
        requests += sum(failed.requests for failed in self.failed)
        return requests, sum(failed.unexpected for failed in self.failed)


async def churn(callers: Callers, end: float) -> None:
    """The kinds in turn, at a steady rate; a slow answer does not slow the next call."""
    kinds = list(callers.kinds)
    running: set[asyncio.Task[None]] = set()
    number, began = 0, time.monotonic()
    while time.monotonic() < end:
        task = asyncio.create_task(callers.call(kinds[number % len(kinds)]))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
        await asyncio.sleep(max(0.0, began + number / CALLS - time.monotonic()))
    await asyncio.gather(*running)


async def keep(ground: Ground, proxy: Proxy, end: float, soak: Soak) -> None:
    """wrk, a segment after the other."""
    requests = wrk.write_requests(
        ground.folder / "requests",
        [
            (f"/api/{'large' if n % 10 == 0 else 'small'}/{n}", token)
            for n, token in enumerate(ground.tokens)
        ],
    )
    while (left := end - time.monotonic()) > 1:
        try:
            soak.loads.append(
                await asyncio.to_thread(
                    wrk.run, proxy.port, requests, KEPT, min(SEGMENT, left), None, PAUSE
                )
            )
        except wrk.LoadFailed as error:
            soak.failed.append(error)
            soak.failures.append(f"wrk: {error}")


async def watch(proxy: Proxy, began: float, end: float, soak: Soak) -> None:
    while time.monotonic() < end and proxy.process.alive():
        soak.readings.append(read(proxy.process.pid, time.monotonic() - began))
        os.truncate(proxy.folder / DECISIONS, 0)  # appended to; it would fill the disk
        await asyncio.sleep(min(EVERY, max(0.0, end - time.monotonic())))


async def run(ground: Ground, proxy: Proxy, callers: Callers, seconds: float) -> Soak:
    soak = Soak()
    began = time.monotonic()
    end = began + seconds
    before = descriptors(proxy.process.pid)
    await asyncio.gather(
        churn(callers, end), keep(ground, proxy, end, soak), watch(proxy, began, end, soak)
    )
    if not proxy.process.alive():
        soak.failures.append(f"the sidecar ended:\n{proxy.process.said}")
        return soak
    await asyncio.sleep(6)  # unused upstream connections are kept for 4 s
    more = descriptors(proxy.process.pid) - before
    if more > DESCRIPTORS:
        soak.failures.append(f"{more} more descriptors are open than before the load")
    if "Traceback" in proxy.process.said:
        soak.failures.append(f"the sidecar logged an exception:\n{proxy.process.said}")
    return soak


def show(soak: Soak, callers: Callers, flatness: Flatness | None) -> None:
    tally = callers.tally
    say("| caller | calls | unexpected |\n|---|---|---|")
    requests, unexpected = soak.kept()
    say(f"| kept connections | {requests:,} | {unexpected:,} |")
    for kind, count in tally.calls.items():
        say(f"| {kind} | {count:,} | {tally.failures.get(kind, 0)} |")
    for failure in [*soak.failures, *(f"{k}: {why}" for k, why in tally.examples.items())]:
        say(f"\nunexpected: {failure}")
    if soak.loads:
        first, last = soak.loads[0], soak.loads[-1]
        say(f"\np99 of kept connections: {first.p99:,.0f} us at first, {last.p99:,.0f} at last")
    if flatness is not None:
        say(
            f"memory: {flatness.second / 2**20:.1f} MiB in the second third, "
            f"{flatness.last / 2**20:.1f} in the last: {flatness.growth:+.1%} "
            f"(at most {GROWTH:+.0%}); fitted over both {flatness.fitted:+.1%} "
            f"(at most {FITTED:+.0%})"
        )


def main(given: list[str]) -> int:
    parser = argparse.ArgumentParser("make soak ARGS=...", description=__doc__)
    parser.add_argument("-m", "--minutes", type=float, default=20.0)
    options = parser.parse_args(given)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    mint = Mint()
    tokens = [mint.good(number) for number in range(TOKENS)]
    proxy_core, load_core = cores()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="sidecar-soak-") as name,
            sink(Path(name), load_core) as uploads,
            upstream(Path(name), load_core, uploads) as port,
        ):
            ground = Ground(Path(name), port, mint, tokens, proxy_core, load_core)
            with started(ground, {PEER.name: PEER}) as [proxy]:
                callers = Callers(proxy.port, mint, tokens)
                soak = asyncio.run(run(ground, proxy, callers, options.minutes * 60))
    except DidNotStart as error:
        say(str(error))
        return 1
    return report(soak, callers, given)


def report(soak: Soak, callers: Callers, given: list[str]) -> int:
    try:
        flatness: Flatness | None = judge(soak.readings)
    except ValueError as error:
        flatness = None
        soak.failures.append(str(error))
    show(soak, callers, flatness)
    passed = (
        not soak.failures and not callers.tally.failures and flatness is not None and flatness.flat
    )
    content: dict[str, Any] = {
        "machine": machine(),
        "version": PEER.version(),
        "arguments": given,
        "passed": passed,
        "flatness": flatness,
        "calls": callers.tally.calls,
        "unexpected": callers.tally.examples,
        "failures": soak.failures,
        "readings": soak.readings,
        "kept": soak.loads,
    }
    file = write(RESULTS, time.strftime("soak-%Y%m%d-%H%M%S", time.gmtime()), content)
    say(f"{'PASS' if passed else 'FAIL'}; written to {file}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
