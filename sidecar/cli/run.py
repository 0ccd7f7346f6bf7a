"""`sidecar run`: the data plane."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar import config


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="the data plane",
        description="Stand beside a service: validate tokens, decide, forward or challenge.",
        epilog="example: sidecar run --upstream http://127.0.0.1:8080 --policies policies/",
    )
    config.add_flags(parser, config.RUN)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    settings = config.run_settings(args)
    from sidecar import app  # the data plane loads CEL and gRPC, which --help does not need

    return app.run_data_plane(settings)
