"""Whether one `match` takes all that another one takes. May say no in doubt, never a wrong yes.

A pattern is a language of paths: segments, of which only the last may be empty (a trailing slash).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sidecar.decide.routes import ONE, REST

OTHER: Final = "\0other"
"""A segment that no pattern spells: decoded segments hold no NUL."""
_MOST: Final = 2_000  # states looked at; who writes more `**` than that gets no answer
Parts = tuple[str, ...]


def covers(wide: Parts, narrow: Parts) -> bool:
    """Whether every path that the parts `narrow` match is matched by `wide` too.

    Walks all paths of `narrow` at once, by the segments that make a difference, and beside them the
    places in `wide` that each could be at.
    """
    if wide in ((REST,), narrow):
        return True
    alphabet = {part for part in (*wide, *narrow) if part and part not in (ONE, REST)} | {OTHER}
    first = (_reach(narrow, (0,)), _reach(wide, (0,)))
    seen = {first}
    waiting = [first]
    while waiting:
        at, beside = waiting.pop()
        for segment in ("", *_relevant(narrow, at, alphabet)):
            following = _step(narrow, at, segment)
            if not following:
                continue
            there = _step(wide, beside, segment)
            if len(narrow) in following and len(wide) not in there:
                return False
            if not segment:
                continue  # an empty segment is the last
            state = (following, there)
            if state not in seen:
                if len(seen) >= _MOST:
                    return False
                seen.add(state)
                waiting.append(state)
    return True


def example(parts: Parts) -> list[str]:
    """Segments of a path that the parts match and, besides, as little else as possible does."""
    found: list[str] = []
    for place, part in enumerate(parts):
        if part == ONE:
            found.append(OTHER)
        elif part != REST:
            found.append(part)
        elif place == 0 or parts[place - 1] != REST:
            found += [OTHER, OTHER]
    return found


def all_covered(wide: Collection[Parts], narrow: Collection[Parts]) -> bool:
    """Whether each of `narrow` is covered by some one of `wide`."""
    return all(any(covers(each, parts) for each in wide) for parts in narrow)


def methods_cover(wide: frozenset[str], narrow: frozenset[str]) -> bool:
    """Empty is any."""
    return not wide or (bool(narrow) and narrow <= wide)


def hosts_cover(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    """Empty is any; `*.x` is any host below x."""
    if not wide:
        return True
    return bool(narrow) and all(any(_host_covers(each, host) for each in wide) for host in narrow)


def hosts_meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether some host is one of both."""
    if not one or not other:
        return True
    return any(_host_covers(a, b) or _host_covers(b, a) for a in one for b in other)


def _host_covers(wide: str, narrow: str) -> bool:
    return wide == narrow or (wide.startswith("*.") and narrow.endswith(wide[1:]))


def _reach(parts: Parts, places: Sequence[int] | Iterator[int]) -> frozenset[int]:
    """Those places, and what lies behind a `**` that takes nothing."""
    found: set[int] = set()
    for place in places:
        found.add(place)
        while place < len(parts) and parts[place] == REST:
            place += 1
            found.add(place)
    return frozenset(found)


def _step(parts: Parts, places: frozenset[int], segment: str) -> frozenset[int]:
    """Where those places are one segment later."""
    return _reach(
        parts,
        (
            place if parts[place] == REST else place + 1
            for place in places
            if place < len(parts)
            and (
                parts[place] == REST
                or (parts[place] == ONE and segment != "")
                or parts[place] == segment
            )
        ),
    )


def _relevant(parts: Parts, places: frozenset[int], alphabet: set[str]) -> set[str]:
    """The segments that can follow, those that make no difference as one."""
    ahead = [parts[place] for place in places if place < len(parts)]
    if any(part in (ONE, REST) for part in ahead):
        return alphabet
    return {part for part in ahead if part}
