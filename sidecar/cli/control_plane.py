"""`sidecar control-plane`: hold policies and push them."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar import config


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "control-plane",
        help="hold policies and push them to sidecars",
        description="Hold the policies, push every change to every sidecar over gRPC.",
        epilog="example: sidecar control-plane --store sqlite:////var/lib/sidecar/store.db",
    )
    config.add_flags(parser, config.CONTROL_PLANE)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    settings = config.control_plane_settings(args)
    from sidecar import app

    return app.run_control_plane(settings)
