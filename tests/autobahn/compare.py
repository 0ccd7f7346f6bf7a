"""What the Autobahn test suite found with and without the sidecar, case by case. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

# The suite's two verdicts. Not the close code that the client read: a server that fails a connection
# with input unread resets it, and whether its close frame arrives before that is chance.
COMPARED: Final = ("behavior", "behaviorClose")

Cases = Mapping[str, Mapping[str, Any]]
Difference = tuple[str, str, Any, Any]


def order(case: str) -> list[int]:
    """A key that sorts 1.1.2 before 1.1.10."""
    return [int(part) for part in case.split(".")]


def differences(direct: Cases, through: Cases) -> list[Difference]:
    """(case, what, directly, through the sidecar) wherever that is not the same."""
    found: list[Difference] = []
    for case in sorted({*direct, *through}, key=order):
        one, other = direct.get(case, {}), through.get(case, {})
        found += [
            (case, what, one.get(what), other.get(what))
            for what in COMPARED
            if one.get(what) != other.get(what)
        ]
    return found


def summary(cases: Cases) -> str:
    """How many cases went how: `OK 290, UNIMPLEMENTED 2`."""
    counts = Counter(str(case["behavior"]) for case in cases.values())
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def table(found: Sequence[Difference]) -> str:
    """One line a difference."""
    rows = [("case", "what", "directly", "through the sidecar"), *found]
    widths = [max(len(str(row[place])) for row in rows) for place in range(4)]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
