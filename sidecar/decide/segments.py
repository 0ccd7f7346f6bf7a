"""Which segments a caller is in, as far as documents say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import final

import msgspec

from sidecar.decide.documents import selects
from sidecar.decide.expressions import FAILED, Program, Truth
from sidecar.decide.workloads import Workload, Workloads


@final
class CompiledSegment(msgspec.Struct, frozen=True, eq=False):
    """A Segment: those for whom all given parts hold. `of_workload`: it is told by who the workload
    is, so that rules read it in `source.segments`, else in `subject.segments`."""

    name: str
    labels: Mapping[str, str]
    workloads: Workloads | None
    namespaces: frozenset[str]
    when: Program | None
    of_workload: bool


@final
class Membership(msgspec.Struct, frozen=True):
    """The segments that a caller is in, and those of which nobody knows: their `when` failed."""

    source: frozenset[str]
    subject: frozenset[str]
    failed_source: frozenset[str]
    failed_subject: frozenset[str]


def membership(
    segments: Iterable[CompiledSegment],
    labels: Mapping[str, str] | None,
    workload: Workload | None,
    truth: Callable[[Program], Truth],
) -> Membership:
    """`labels` are those of the document that vouches for the caller's credential, if one does."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    failed: dict[bool, set[str]] = {True: set(), False: set()}
    for segment in segments:
        if segment.labels and (labels is None or not selects(segment.labels, labels)):
            continue
        if segment.of_workload and (
            workload is None
            or (segment.workloads is not None and not segment.workloads.admit(workload.spiffe))
            or (segment.namespaces and workload.namespace not in segment.namespaces)
        ):
            continue
        holds = True if segment.when is None else truth(segment.when)
        if holds is FAILED:
            failed[segment.of_workload].add(segment.name)
        elif holds is True:
            found[segment.of_workload].add(segment.name)
    return Membership(
        frozenset(found[True]), frozenset(found[False]),
        frozenset(failed[True]), frozenset(failed[False]),
    )  # fmt: skip
