"""The command line's door; no logic."""

import os
import sys

from sidecar.cli import run


def main() -> None:
    """The `sidecar` command."""
    for descriptor in (0, 1, 2):
        _require_open(descriptor)
    sys.exit(run(sys.argv[1:]))


def _require_open(descriptor: int) -> None:
    """A closed standard stream becomes /dev/null; else the next socket would take its place."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


if __name__ == "__main__":
    main()
