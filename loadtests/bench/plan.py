"""The parts of a run, in order, and the budgets that each one judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.bench import report, streaming, wrk
from loadtests.bench.agreement import agrees
from loadtests.bench.budgets import Verdict, cpu, p50, p99, rate, ratio
from loadtests.bench.contest import WARM_UP, Cell, Ground, measure, rounds, started
from loadtests.bench.peers import Peer
from loadtests.micro import decide

MAIN: Final = Cell(1000, 32, "small")
ALONE: Final = Cell(1000, 1, "small")
CELLS: Final = (
    MAIN, ALONE,
    *(
        cell
        for body in ("small", "large")
        for tokens in (1, 1000)
        for connections in (1, 32, 256)
        if (cell := Cell(tokens, connections, body)) not in (MAIN, ALONE)
    ),
)  # fmt: skip
OURS: Final = report.OURS
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look: `rounds` of `seconds` where a budget is judged, less elsewhere."""

    rounds: int
    seconds: float

    @property
    def longer(self) -> Effort:
        """For tails of latency, which one pause of a noisy machine decides: more rounds help."""
        return Effort(self.rounds * 2, max(1.0, self.seconds * 2 / 3))

    @property
    def lighter(self) -> Effort:
        return Effort(max(1, self.rounds // 3), max(1.0, self.seconds * 2 / 3))


@dataclass(slots=True)
class Findings:
    """What the parts found so far."""

    verdicts: list[Verdict] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)


def cells(
    ground: Ground, peers: Mapping[str, Peer], effort: Effort, quick: bool, say: Say, out: Findings
) -> None:
    """Every cell against every proxy; the first two are judged."""
    found: list[dict[str, Any]] = []
    with started(ground, peers) as proxies:
        for proxy in proxies:
            agrees(proxy.name, proxy.port, ground.mint, peers[proxy.name].authorises)
        say(f"checks agree: {', '.join(proxy.name for proxy in proxies)}")
        for proxy in proxies:
            for cell in (MAIN, Cell(1000, 32, "large")):
                measure(ground, proxy, ground.requests(cell), cell.connections, WARM_UP)
        for cell in CELLS[:2] if quick else CELLS:
            how = {MAIN: effort, ALONE: effort.longer}.get(cell, effort.lighter)
            requests = ground.requests(cell)
            samples = rounds(
                ground, proxies, {proxy.name: requests for proxy in proxies},
                cell.connections, how.rounds, how.seconds,
            )  # fmt: skip
            rows = report.rows(samples, {proxy.name: proxy.memory() for proxy in proxies})
            say(f"\n{cell.name}\n\n{report.table(rows)}")
            found.append({"cell": cell, "rows": rows, "samples": samples})
            if cell == MAIN:
                out.verdicts += [
                    Verdict(f"CPU per request, sidecar/{peer}", ratio(samples, OURS, peer, cpu), to)
                    for peer, to in (("envoy", 0.45), ("haproxy", 0.85))
                ]
            elif cell == ALONE:
                out.verdicts += [
                    Verdict(
                        f"{name} at one connection, sidecar/envoy",
                        ratio(samples, OURS, "envoy", of), 1.0,
                    )
                    for name, of in (("p50", p50), ("p99", p99))
                ]  # fmt: skip
    out.parts["cells"] = found


def memory(ground: Ground, peers: Mapping[str, Peer], say: Say, out: Findings) -> None:
    """With 1,000 rules each and under load before."""
    chosen = {name: peer for name, peer in peers.items() if name in (OURS, "envoy")}
    with started(ground, chosen, dict.fromkeys(chosen, 1000), "/api/rule-0/7") as proxies:
        requests = _over_rules(ground, 1000)
        for proxy in proxies:
            measure(ground, proxy, requests, 32, WARM_UP)
        found = {proxy.name: proxy.memory() for proxy in proxies}
    say("\n" + report.sizes("after load, 1,000 rules", found))
    both = len(found) == 2
    value = found[OURS].footprint / found["envoy"].footprint if both else None
    out.verdicts.append(Verdict("memory with 1,000 rules, sidecar/envoy", value, 1.0))
    out.parts["memory"] = found


def rules(
    ground: Ground, peers: Mapping[str, Peer], effort: Effort, say: Say, out: Findings
) -> None:
    """The sidecar against itself: 10,000 rules and 10."""
    few, many = "10 rules", "10,000 rules"
    counts = {few: 10, many: 10_000}
    twins = dict.fromkeys(counts, peers[OURS])
    files = {name: _over_rules(ground, count) for name, count in counts.items()}
    with started(ground, twins, counts, "/api/rule-0/7") as proxies:
        for proxy in proxies:
            measure(ground, proxy, files[proxy.name], 32, WARM_UP)
        samples = rounds(ground, proxies, files, 32, effort.rounds, effort.seconds)
        sizes = {proxy.name: proxy.memory() for proxy in proxies}
    rows = report.rows(samples, sizes, many)
    say(f"\nthe sidecar against itself\n\n{report.table(rows, many)}")
    value = ratio(samples, many, few, cpu)
    out.verdicts.append(Verdict("CPU per request, 10,000 rules/10 rules", value, 1.3))
    out.parts["rules"] = {"rows": rows, "samples": samples}


def decisions(say: Say, out: Findings) -> None:
    """In process, by the raw check of an RS256 signature: 30 us on the machine that the budgets of
    DESIGN section 9 (50, 8 and 50 us) come from."""
    figures = decide.Bench().figures()
    raw = figures[decide.Bench.RAW]
    lines = [f"| {name} | {value:.1f} | {value / raw:.2f} |" for name, value in figures.items()]
    say("\none decision in process\n\n| what | us | of the raw check |\n|---|---|---|")
    say("\n".join(lines))
    beyond = figures[decide.Bench.FIRST] - raw
    p50, p99 = figures[decide.Bench.WARM_P50], figures[decide.Bench.WARM_P99]
    out.verdicts += [
        Verdict("first sight of a token beyond the raw check/raw check", beyond / raw, 50 / 30),
        Verdict("p50 of a warm decision/raw check", p50 / raw, 8 / 30),
        Verdict("p99 of a warm decision/raw check", p99 / raw, 50 / 30),
    ]
    out.parts["decisions"] = figures


def stream(
    ground: Ground, peers: Mapping[str, Peer], effort: Effort, say: Say, out: Findings
) -> None:
    chosen = {name: peer for name, peer in peers.items() if name in (OURS, "nginx")}
    found = streaming.compare(ground, chosen, effort.rounds)
    say("\n" + report.transfers(found))
    out.verdicts += [
        Verdict(
            f"1 GiB {direction}, throughput, sidecar/nginx",
            ratio(samples, OURS, "nginx", rate), 0.6, at_least=True,
        )
        for direction, samples in found.items()
    ]  # fmt: skip
    out.parts["streaming"] = found


def _over_rules(ground: Ground, count: int) -> Path:
    """Requests spread evenly over the rules, first to last."""
    total = len(ground.tokens)
    pairs = [
        (f"/api/rule-{n * count // total if count >= total else n % count}/{n}", token)
        for n, token in enumerate(ground.tokens)
    ]
    return wrk.write_requests(ground.folder / f"requests-over-{count}-rules", pairs)
