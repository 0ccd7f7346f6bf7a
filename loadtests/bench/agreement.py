"""What every proxy must answer before it is timed: the same checks, or no comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loadtests.bench.asked import response, status
from loadtests.bench.mint import Mint
from loadtests.bench.upstream import LARGE, SMALL

_PATH: Final = "/api/small/7"


class Disagreement(Exception):
    """A proxy that does not do what the others do."""


@dataclass(frozen=True, slots=True)
class Expectation:
    what: str
    token: str | None
    statuses: frozenset[int]


def expectations(mint: Mint) -> list[Expectation]:
    return [
        Expectation("a good token", mint.good(), frozenset([200])),
        Expectation("a missing token", None, frozenset([401])),
        Expectation("a bad signature", mint.badly_signed(), frozenset([401])),
        Expectation("an expired token", mint.expired(), frozenset([401])),
        Expectation("a token without the scope", mint.without_scope(), frozenset([403])),
        # Envoy answers 403 where the others take the token for an invalid one.
        Expectation("a token for another audience", mint.for_another(), frozenset([401, 403])),
    ]


def agrees(name: str, port: int, mint: Mint, authorises: bool) -> None:
    """Raises Disagreement. Asks twice, so that what is remembered is asked, too."""
    for expectation in expectations(mint) if authorises else expectations(mint)[:1]:
        for _ in range(2):
            found = status(port, _PATH, expectation.token)
            if found not in expectation.statuses:
                wanted = " or ".join(map(str, sorted(expectation.statuses)))
                raise Disagreement(f"{name}: {expectation.what} got {found}, not {wanted}")
    good = mint.good()
    if response(port, _PATH, good) != (200, SMALL.encode()):
        raise Disagreement(f"{name}: the small body is not the upstream's")
    if response(port, "/api/large/7", good) != (200, b"x" * LARGE):
        raise Disagreement(f"{name}: the large body is not the upstream's")
