"""What every proxy under test is: one file for each, all with the same checks to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.mint import Mint


@dataclass(frozen=True, slots=True)
class Task:
    """What a proxy is started for. `rules` 0 is one rule for all of /api/; N is one for each of
    /api/rule-0/ to /api/rule-(N-1)/."""

    folder: Path
    port: int
    upstream: int
    mint: Mint
    rules: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """How it is started, once `prepare` has written what it reads."""

    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy. `version` is None where it is not installed."""

    name: str
    authorises: bool
    version: Callable[[], str | None]
    prepare: Callable[[Task], Command]
