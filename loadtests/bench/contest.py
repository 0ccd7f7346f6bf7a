"""The proxies of one comparison: started side by side, asked in turn, measured round by round."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from loadtests.bench import wrk
from loadtests.bench.asked import answers
from loadtests.bench.mint import Mint
from loadtests.bench.peers import Peer, Task
from loadtests.bench.peers.sidecar import DECISIONS
from loadtests.bench.proc import Memory, memory, processor_seconds
from loadtests.bench.processes import Running, free_port, running

WARM_UP: Final = 2.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    tokens: int
    connections: int
    body: str  # small, large

    @property
    def name(self) -> str:
        return (
            f"{self.body} body, {self.tokens:,} token{'s' if self.tokens > 1 else ''}, "
            f"{self.connections} connection{'s' if self.connections > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy, one round of one cell; times in microseconds."""

    proxy: str
    round: int
    cpu: float  # of the proxy's process tree, per request
    rate: float  # requests per second
    p50: float
    p99: float
    requests: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that runs."""

    name: str
    port: int
    folder: Path
    process: Running

    def memory(self) -> Memory:
        return memory(self.process.pid)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all comparisons of a run share."""

    folder: Path
    upstream: int
    mint: Mint
    tokens: Sequence[str]
    proxy_core: int | None
    load_core: int | None

    def requests(self, cell: Cell) -> Path:
        """A path of its own for each token, as callers have them."""
        pairs = [
            (f"/api/{cell.body}/{n}", token) for n, token in enumerate(self.tokens[: cell.tokens])
        ]
        return wrk.write_requests(self.folder / f"requests-{cell.body}-{cell.tokens}", pairs)


@contextmanager
def started(
    ground: Ground, peers: Mapping[str, Peer], rules: Mapping[str, int] | None = None,
    path: str = "/api/small/7", upstream: int | None = None,
) -> Iterator[list[Proxy]]:  # fmt: skip
    """Every one ready. Raises DidNotStart. `rules` by name; left out: one for everything."""
    with ExitStack() as stack:
        proxies = []
        for name, peer in peers.items():
            folder = ground.folder / f"{name.replace(' ', '-')}-{len(os.listdir(ground.folder))}"
            folder.mkdir()
            port = free_port()
            count = (rules or {}).get(name, 0)
            task = Task(folder, port, upstream or ground.upstream, ground.mint, count)
            command = peer.prepare(task)
            process = stack.enter_context(
                running(name, command.arguments, folder, ground.proxy_core, command.environment)
            )
            process.ready(partial(answers, port, path, 200, ground.tokens[0]))
            proxies.append(Proxy(name, port, folder, process))
        yield proxies


def measure(
    ground: Ground, proxy: Proxy, requests: Path, connections: int, seconds: float, round_: int = 0
) -> Sample:
    """Raises LoadFailed."""
    before = processor_seconds(proxy.process.pid)
    try:
        load = wrk.run(proxy.port, requests, connections, seconds, ground.load_core)
    except wrk.LoadFailed as error:
        raise wrk.LoadFailed(f"{proxy.name}: {error}\n{proxy.process.said}") from None
    used = processor_seconds(proxy.process.pid) - before
    _forget_decisions(proxy)
    return Sample(
        proxy.name, round_, used * 1e6 / load.requests, load.rate, load.p50, load.p99, load.requests
    )


def rounds(
    ground: Ground, proxies: Sequence[Proxy], files: Mapping[str, Path], connections: int,
    count: int, seconds: float,
) -> list[Sample]:  # fmt: skip
    """`count` rounds, each with every proxy, which starts another one's turn each time: whatever
    else the machine does meets all of them. `files` are the requests by proxy."""
    samples = []
    for number in range(count):
        first = number % len(proxies)
        for proxy in [*proxies[first:], *proxies[:first]]:
            file = files[proxy.name]
            samples.append(measure(ground, proxy, file, connections, seconds, number))
            time.sleep(0.05)  # connections of the last turn end before the next begins
    return samples


def _forget_decisions(proxy: Proxy) -> None:
    """The log is appended to; a long run would fill the disk."""
    log = proxy.folder / DECISIONS
    if log.exists():
        os.truncate(log, 0)
