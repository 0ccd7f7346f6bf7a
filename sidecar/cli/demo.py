"""`sidecar demo`: the whole system on loopback, played through and printed."""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

from sidecar.cli import FINE, FOUND_PROBLEMS


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="the whole system on loopback, played through",
        description="Start a demo issuer, a sample bank, a control plane and a sidecar on free "
        "loopback ports, play a journey through them, and stay up.",
        epilog="example: sidecar demo --once",
    )
    parser.add_argument(
        "--once", action="store_true", help="play, then stop; exit 0 if all is well"
    )
    parser.set_defaults(handler=run)


async def run(args: argparse.Namespace) -> int:
    import aiohttp
    from rich.console import Console

    from sidecar.demo.journey import Journey
    from sidecar.demo.world import World

    console = Console(width=None if Console().is_terminal else 132, highlight=False)
    with tempfile.TemporaryDirectory(prefix="sidecar-demo-") as folder:
        world = World(Path(folder))
        failed = 0
        try:
            console.print("Starting a demo issuer, a sample bank, a control plane and a sidecar.\n")
            await world.start()
            console.print(f"[bold]    {'step':<52} {'outcome':<37} {'time':>11}  note[/]")
            async with aiohttp.ClientSession(trust_env=False) as session:
                async for step in Journey(world, session).steps():
                    mark = "[green]ok[/]" if step.ok else "[red]--[/]"
                    failed += not step.ok
                    console.print(
                        f"{mark}  {step.title:<52} {step.found:<37} {step.milliseconds:>8.1f} ms"
                        f"  [dim]{step.note[:72]}[/]",
                        soft_wrap=True,
                    )
            console.print(f"\n{'every step was as expected' if not failed else 'NOT as expected'}")
            if not args.once:
                _print_lines(console, world)
                await _interrupted()
        finally:
            await world.close()
    return FOUND_PROBLEMS if failed else FINE


def _print_lines(console: Any, world: Any) -> None:
    token = f"$(curl -s '{world.issuer.address}/token?sub=alice&scope=accounts:read')"
    console.print("\nIt stays up until Ctrl-C. Try:\n", soft_wrap=True)
    for line in (
        f"curl -i {world.address}/catalogue/all",
        f"curl -i {world.address}/accounts/alice/balance",
        f'curl -i -H "authorization: Bearer {token}" {world.address}/accounts/alice/balance',
        f"curl -s {world.health}/metrics | grep sidecar_",
        f"sidecar status --server {world.control_plane}",
        f"sidecar get --server {world.control_plane}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("\nOr be the customer yourself, in a browser:\n", soft_wrap=True)
    console.print(f"    {world.address}/", markup=False, soft_wrap=True)


async def _interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
