"""What the commands that talk to a control plane have in common: their flags, and who enforces."""

from __future__ import annotations

import argparse
from typing import Any, Final

from sidecar.config import address
from sidecar.decide.documents import seconds

DEFAULT_SERVER: Final = "127.0.0.1:7443"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--server`, `--timeout`."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_address,
        default=DEFAULT_SERVER,
        help=f"the control plane (default {DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_seconds,
        default=10.0,
        help="how long to wait for it, as in 500ms, 10s, 2m (default 10s)",
    )


def live(reach: Any) -> str:
    """`payments@7: live on 2 of 3 sidecars`, from anything with these four counts."""
    if not reach.sidecars:
        return f"{reach.namespace}@{reach.version}: no sidecar is connected"
    noun = "sidecar" if reach.sidecars == 1 else "sidecars"
    refused = f", refused by {reach.refused}" if reach.refused else ""
    return (
        f"{reach.namespace}@{reach.version}: live on {reach.live} of {reach.sidecars} {noun}"
        f"{refused}"
    )


def _address(text: str) -> str:
    try:
        return str(address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
