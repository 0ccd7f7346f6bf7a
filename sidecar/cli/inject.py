"""`sidecar inject`: the admission webhook that puts a sidecar into pods."""

from __future__ import annotations

import argparse
from typing import Any

from sidecar import config


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "inject",
        help="the Kubernetes admission webhook that puts a sidecar into pods",
        description="Answer the API server's reviews of new pods: each gets a sidecar.",
        epilog="example: sidecar inject --config inject.yaml (the Helm chart runs it with flags)",
    )
    config.add_flags(parser, config.INJECT)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    settings = config.inject_settings(args)
    from sidecar import app

    return app.run_inject(settings)
