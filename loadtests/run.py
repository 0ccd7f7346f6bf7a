"""Runs locustfile.py headless against a demo world of its own: `make load ARGS='-u 50 -t 30s'`."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from sidecar.demo.world import World

DEFAULT = ["-u", "20", "-r", "20", "-t", "15s"]


async def main(arguments: list[str]) -> int:
    """locust's exit code: 1 if any answer had another status than it should."""
    with tempfile.TemporaryDirectory(prefix="sidecar-load-") as folder:
        world = World(Path(folder))
        try:
            await world.start()
            locust = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "locust", "-f", str(Path(__file__).parent / "locustfile.py"),
                "--headless", "--only-summary", *(arguments or DEFAULT),
                env={
                    **os.environ,
                    "SIDECAR_URL": world.address,
                    "ISSUER_URL": world.issuer.address,
                },
            )  # fmt: skip
            return await locust.wait()
        finally:
            await world.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
