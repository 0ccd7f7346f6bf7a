"""What a run found: a table in Markdown for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.bench.budgets import Verdict, cpu, median, p50, p99, rate, ratio
from loadtests.bench.contest import Sample
from loadtests.bench.proc import Memory

OURS: Final = "sidecar"
_HEADER: Final = (
    "| proxy | CPU us/request | requests/s | p50 us | p99 us | memory MiB "
    "| {one}/it: CPU | p50 | p99 |\n|---|---|---|---|---|---|---|---|---|"
)


def rows(
    samples: Sequence[Sample], memory: Mapping[str, Memory], one: str = OURS
) -> list[dict[str, Any]]:
    """One for each proxy, in the order of the first round; `one` over it are its ratios."""
    found = []
    for proxy in dict.fromkeys(sample.proxy for sample in samples):
        size = memory.get(proxy)
        found.append(
            {
                "proxy": proxy,
                "cpu_us": median(samples, proxy, cpu),
                "rate": median(samples, proxy, rate),
                "p50_us": median(samples, proxy, p50),
                "p99_us": median(samples, proxy, p99),
                "memory": dataclasses.asdict(size) if size else None,
                "footprint": size.footprint if size else None,
                "ratio": {
                    "cpu": ratio(samples, one, proxy, cpu),
                    "p50": ratio(samples, one, proxy, p50),
                    "p99": ratio(samples, one, proxy, p99),
                },
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]], one: str = OURS) -> str:
    return "\n".join([_HEADER.format(one=one), *(_row(row) for row in found)])


def _row(row: Mapping[str, Any]) -> str:
    size = f"{row['footprint'] / 2**20:.0f}" if row["footprint"] else ""
    ratios = [f"{value:.2f}" if value is not None else "" for value in row["ratio"].values()]
    return (
        f"| {row['proxy']} | {row['cpu_us']:.0f} | {row['rate']:,.0f} | {row['p50_us']:,.0f} "
        f"| {row['p99_us']:,.0f} | {size} | {' | '.join(ratios)} |"
    )


def sizes(title: str, memory: Mapping[str, Memory]) -> str:
    lines = [f"| {title} | RSS MiB | PSS MiB | processes |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {size.rss / 2**20:.0f} | {size.pss / 2**20:.0f} | {size.processes} |"
        for name, size in memory.items()
    ]
    return "\n".join(lines)


def transfers(found: Mapping[str, Sequence[Sample]]) -> str:
    lines = ["| 1 GiB | proxy | MiB/s | CPU us/MiB | sidecar/it: MiB/s |", "|---|---|---|---|---|"]
    for direction, samples in found.items():
        for proxy in sorted({sample.proxy for sample in samples}):
            speed, used = median(samples, proxy, rate) or 0, median(samples, proxy, cpu) or 0
            share = ratio(samples, OURS, proxy, rate)
            lines.append(
                f"| {direction} | {proxy} | {speed / 2**20:,.0f} | {used:.0f} "
                f"| {'' if share is None else f'{share:.2f}'} |"
            )
    return "\n".join(lines)


def verdict(found: Verdict) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "met": found.met}


def write(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(content, indent=1, default=dataclasses.asdict) + "\n")
    return file
