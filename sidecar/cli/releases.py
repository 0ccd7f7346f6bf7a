"""Releases and numbers as the command line names them."""

from __future__ import annotations

import argparse
from typing import Final

LARGEST: Final = 2**63 - 1  # version; that of a record is no larger
MOST: Final = 2**31 - 1


def version(text: str) -> int:
    """Of a release. Raises ArgumentTypeError."""
    return _number(text, LARGEST, "a version, as `sidecar history` shows them")


def most(text: str) -> int:
    """How many at most, 1 or more. Raises ArgumentTypeError."""
    found = _number(text, MOST, "a number, 1 or more")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return found


def named(text: str) -> tuple[str, int]:
    """Namespace and version of `payments@7`. Raises ArgumentTypeError."""
    namespace, at, number = text.partition("@")
    if not namespace or not at:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE@VERSION, such as payments@7")
    return namespace, version(number)


def _number(text: str, largest: int, what: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > largest:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return int(text)
