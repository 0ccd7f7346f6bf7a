"""What a process tree used, read from /proc: processor time and memory. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """Of /proc/PID/stat: `ticks` are its own and those of children that ended (proc(5))."""

    pid: int
    parent: int
    ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, summed over a tree. PSS divides a shared page among those who map it."""

    rss: int
    pss: int
    processes: int

    @property
    def footprint(self) -> int:
        """RSS of a single process, which no other's sharing makes smaller; else PSS, since the
        sum of RSS counts what the tree's own processes share once for each."""
        return self.rss if self.processes == 1 else self.pss


def parse_stat(text: str) -> Stat:
    """The name may hold spaces and parentheses, so fields count from the last one."""
    pid, _, rest = text.partition(" ")
    fields = rest.rpartition(")")[2].split()
    # After the name: state, ppid, ...; utime, stime, cutime and cstime are fields 14 to 17.
    return Stat(int(pid), int(fields[1]), sum(int(field) for field in fields[11:15]))


def descendants(root: int, stats: Iterable[Stat]) -> set[int]:
    """`root` and everything below it."""
    children: dict[int, list[int]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting.extend(children.get(pid, ()))
    return found


def processor_seconds(root: int) -> float:
    """What the tree has used so far, in user and kernel mode."""
    stats = _stats()
    return sum(stats[pid].ticks for pid in descendants(root, stats.values()) & set(stats)) / _TICKS


def memory(root: int) -> Memory:
    rss = pss = processes = 0
    for pid in tree(root):
        sizes = parse_rollup((_PROC / str(pid) / "smaps_rollup").read_text())
        rss, pss, processes = rss + sizes["Rss"], pss + sizes["Pss"], processes + 1
    return Memory(rss, pss, processes)


def tree(root: int) -> set[int]:
    stats = _stats()
    return descendants(root, stats.values()) & set(stats)


def parse_rollup(text: str) -> Mapping[str, int]:
    """/proc/PID/smaps_rollup: names to bytes."""
    sizes: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return sizes


def _stats() -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                stat = parse_stat((folder / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            found[stat.pid] = stat
    return found
