"""The command line's door; no logic."""

import sys

from sidecar.cli import run


def main() -> None:
    """The `sidecar` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
