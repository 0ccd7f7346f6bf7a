"""Decision logs decided again under other policies: what would change, for whom, and what the log
does not tell. Pure, and bounded however long the log is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.decide.distinct import Distinct
from sidecar.decide.record import Record, Verdict, read_record
from sidecar.decide.recorded import Recorded
from sidecar.decide.snapshot import Snapshot
from sidecar.errors import BadRequest

ROWS: Final = 1000  # of a table; what else there is goes by REST
REST: Final = "(others)"
NEWLY_REFUSED: Final = "newly refused"
NEWLY_PERMITTED: Final = "newly permitted"
OTHER_REFUSAL: Final = "refused otherwise"
OTHER_RULE: Final = "by another rule"
CHANGES: Final = (NEWLY_REFUSED, NEWLY_PERMITTED, OTHER_REFUSAL, OTHER_RULE)


@dataclass(slots=True)
class Row:
    """One line of a table: so many decisions of so many subjects, with a few of them."""

    decisions: int = 0
    subjects: Distinct = field(default_factory=Distinct)
    samples: list[dict[str, Any]] = field(default_factory=list)


class Table:
    """Rows by what they are about, bounded."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], Row] = {}

    def row(self, key: tuple[str, ...]) -> Row:
        found = self.rows.get(key)
        if found is None:
            if len(self.rows) >= ROWS:
                key = (key[0], *([REST] * (len(key) - 1)))
            found = self.rows.setdefault(key, Row())
        return found

    def sorted(self) -> list[tuple[tuple[str, ...], Row]]:
        """Most decisions first, within each change."""
        return sorted(
            self.rows.items(),
            key=lambda item: (CHANGES.index(item[0][0]), -item[1].decisions, item[0]),
        )


class Replay:
    """`take` each line; then read what came of them."""

    def __init__(self, snapshot: Snapshot, *, samples: int = 5, shadows: bool = False) -> None:
        self.lines = 0
        self.foreign = 0  # not records of decisions
        self.not_by_rules = 0  # limits, and what could not be had
        self.lacked = 0
        self.lacking: Counter[str] = Counter()
        self.unchanged = 0
        self.changes: Counter[str] = Counter()
        self.subjects = {change: Distinct() for change in CHANGES}
        self.by_rule = Table()
        self.by_path = Table()
        self.versions: Counter[str] = Counter()
        self.first = 0.0
        self.last = 0.0
        self._samples = samples
        self._recorded = Recorded(snapshot, shadows=shadows)

    @property
    def decided(self) -> int:
        """How many records were decided again."""
        return self.unchanged + self.changes.total()

    @property
    def changed(self) -> int:
        """How many would be answered the other way."""
        return self.changes[NEWLY_REFUSED] + self.changes[NEWLY_PERMITTED]

    @property
    def records(self) -> int:
        return self.lines - self.foreign

    def take(self, line: bytes) -> None:
        """One line of a log, whatever it is."""
        self.lines += 1
        try:
            record = read_record(line)
            self._take(record)
        except (ValueError, RecursionError, BadRequest):
            self.foreign += 1

    def _take(self, record: Record) -> None:
        if not record.by_rules:
            self._note(record)
            self.not_by_rules += 1
            return
        again = self._recorded.again(record)
        self._note(record)
        after = again.verdict
        if after is None:
            self.lacked += 1
            self._lack(again.lacking)
            return
        before = record.verdict
        change = _change(before, after, record)
        if not change:
            self.unchanged += 1
            return
        self.changes[change] += 1
        known = f"{record.issuer}\0{record.subject}" if record.subject else ""
        if known:
            self.subjects[change].add(known)
        path = f"{record.method} {again.pattern}"
        for table, key in (
            (self.by_rule, (change, _label(before), _label(after))),
            (self.by_path, (change, path)),
        ):
            row = table.row(key)
            row.decisions += 1
            if known:
                row.subjects.add(known)
            if table is self.by_rule and len(row.samples) < self._samples:
                row.samples.append(_sample(record, before, after))

    def _note(self, record: Record) -> None:
        moment = record.decided
        self.first = min(self.first or moment, moment)
        self.last = max(self.last, moment)
        if record.version in self.versions or len(self.versions) < ROWS:
            self.versions[record.version] += 1

    def _lack(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self.lacking or len(self.lacking) < ROWS:
                self.lacking[name] += 1
            else:
                self.lacking[REST] += 1

    def plain(self) -> dict[str, Any]:
        """As JSON would have it."""
        return {
            "lines": self.lines,
            "foreign": self.foreign,
            "records": self.records,
            "notByRules": self.not_by_rules,
            "lacked": self.lacked,
            "lacking": dict(self.lacking.most_common()),
            "decided": self.decided,
            "unchanged": self.unchanged,
            "newlyRefused": self.changes[NEWLY_REFUSED],
            "newlyPermitted": self.changes[NEWLY_PERMITTED],
            "refusedOtherwise": self.changes[OTHER_REFUSAL],
            "byAnotherRule": self.changes[OTHER_RULE],
            "changed": self.changed,
            "share": self.changed / self.decided if self.decided else 0.0,
            "subjects": {name: _counted(each) for name, each in self.subjects.items()},
            "byRule": list(_plain(self.by_rule, ("change", "before", "after"))),
            "byPath": list(_plain(self.by_path, ("change", "path"))),
            "versions": dict(self.versions.most_common()),
            "first": self.first,
            "last": self.last,
        }


def _change(before: Verdict, after: Verdict, record: Record) -> str:
    if before.permitted != after.permitted:
        return NEWLY_PERMITTED if after.permitted else NEWLY_REFUSED
    if (before.code, before.reason) != (after.code, after.reason):
        return OTHER_REFUSAL
    # Whom a credential that does not stand names is not known, and a log names another rule then.
    if before.rule != after.rule and not (record.input and record.input.credential == "bad"):
        return OTHER_RULE
    return ""


def _label(verdict: Verdict) -> str:
    if verdict.permitted:
        return f"permitted by {verdict.rule}"
    return f"{verdict.reason} by {verdict.rule}" if verdict.rule else verdict.reason


def _sample(record: Record, before: Verdict, after: Verdict) -> dict[str, Any]:
    return {
        "decision_id": record.decision_id,
        "time": record.decided,
        "method": record.method,
        "host": record.host,
        "path": record.path,
        "subject": record.subject,
        "before": _label(before),
        "after": _label(after),
    }


def _counted(distinct: Distinct) -> dict[str, Any]:
    return {"count": distinct.count, "exact": distinct.exact}


def _plain(table: Table, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for key, row in table.sorted():
        found: dict[str, Any] = {
            **dict(zip(names, key, strict=True)),
            "decisions": row.decisions,
            "subjects": _counted(row.subjects),
        }
        if row.samples:
            found["samples"] = row.samples
        yield found
