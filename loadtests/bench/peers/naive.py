"""The naive baseline: aiohttp's server and client in one process, on uvloop; see naive_proxy.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import aiohttp

from loadtests.bench.peers import Command, Peer, Task

_PROGRAM: Final = Path(__file__).with_name("naive_proxy.py")


def version() -> str | None:
    return f"{aiohttp.__version__} on uvloop"


def prepare(task: Task) -> Command:
    jwks = task.folder / "jwks.json"
    jwks.write_text(json.dumps(json.loads(task.mint.jwks)["keys"][0]))
    return Command([sys.executable, str(_PROGRAM), str(task.port), str(task.upstream), str(jwks)])


PEER: Final = Peer("aiohttp", True, version, prepare)
