"""`sidecar schema`: JSON Schema of the documents, for editors."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sidecar.cli import FINE


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "schema",
        help="JSON Schema of the documents, for editors",
        description="Print the JSON Schema (draft 2020-12) of a document of any kind, from which "
        "an editor completes, explains and checks while you write.",
        epilog="example: sidecar schema > sidecar.schema.json",
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    from sidecar.decide.schema import schema

    print(json.dumps(schema(), indent=2))
    return FINE
