"""`sidecar why`: why a live sidecar decided so, and what would mend it."""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.cli.printable import moment
from sidecar.errors import BadRequest, FetchFailed, Misuse

if TYPE_CHECKING:
    from sidecar.decide.explanation import Explanation
    from sidecar.decide.record import Record
    from sidecar.decide.snapshot import Snapshot

DEFAULT_ADMIN: Final = "127.0.0.1:7402"
TIMEOUT: Final = 10.0  # seconds

DESCRIPTION: Final = """Find a decision by its id (x-sidecar-decision of the response, decision_id
of a problem), decide it again as of its time with the policies in force, and show why, as
`sidecar explain` does, and what would mend it.

The record comes from the sidecar's admin port, which holds the last 200, or from a decision log;
the policies come from the admin port or from --policies."""


def register(commands: Any) -> None:
    from sidecar.cli import policies
    from sidecar.config import address

    parser = commands.add_parser(
        "why",
        help="why a live sidecar decided so, and what would mend it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: sidecar why 4bf92f3577b34da6a3ce929d0e0e4736 --admin 127.0.0.1:7402",
    )
    parser.add_argument("id", metavar="DECISION_ID")
    parser.add_argument(
        "--admin", metavar="HOST:PORT", type=policies.of(lambda text: str(address(text))),
        help=f"the admin port of the sidecar (default {DEFAULT_ADMIN})",
    )  # fmt: skip
    parser.add_argument("--log", metavar="FILE", type=Path, help="the decision log that it is in")
    policies.add_flags(parser, required=False)
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """0: found, and shown; 1: not found, or nobody to ask."""
    line = _in_log(args.log, args.id) if args.log else _in_admin(args)
    if line is None:
        where = str(args.log) if args.log else f"the latest decisions of {_admin(args)}"
        hint = (
            "look in another log" if args.log
            else "it may be older, or of another sidecar: name its decision log with --log FILE"
        )  # fmt: skip
        print(f"sidecar why: {args.id} is not in {where}; {hint}", file=sys.stderr)
        return FOUND_PROBLEMS
    from sidecar.decide.record import read_record

    try:
        record = read_record(line)
    except ValueError as error:
        print(f"sidecar why: the record of {args.id} cannot be read: {error}", file=sys.stderr)
        return FOUND_PROBLEMS
    try:
        snapshot = _snapshot(args)
    except FetchFailed as error:
        if record.reason != "no_snapshot":
            raise
        raise FetchFailed(
            f"{args.id} was refused for want of a policy (503), and {error}"
        ) from None
    found = _Found(record, snapshot)
    if args.output == "json":
        print(json.dumps(found.plain(), indent=2, default=str))
    else:
        found.show()
    return FINE


class _Found:
    """A record with what can be made of it now."""

    def __init__(self, record: Record, snapshot: Snapshot) -> None:
        from sidecar.decide.advice import advice, in_general
        from sidecar.decide.explain import explain
        from sidecar.decide.recorded import NOT_RECORDED, Recorded
        from sidecar.decide.scenario import ScenarioInvalid, decide

        self._record = record
        self._snapshot = snapshot
        self.seen: Explanation | None = None
        self.notes: list[str] = []
        self.advice: list[str] = []
        lacking: tuple[str, ...] = ()
        try:
            rebuilt = Recorded(snapshot).rebuild(record)
            lacking = rebuilt.lacking or rebuilt.late
            if not rebuilt.lacking:
                decided = decide(rebuilt.scenario, snapshot)
                self.seen = explain(decided, snapshot, record.decision_id)
                if self.seen.reason == NOT_RECORDED:  # nobody was answered so
                    self.seen = replace(
                        self.seen, outcome="undecided", code="", reason="", answer=None, shadow=None
                    )
        except (BadRequest, ScenarioInvalid) as error:
            self.notes.append(f"It cannot be decided again: {error}.")
        self._notes(lacking)
        if self.seen is not None and self._same():
            self.advice = advice(self.seen)
        if not self.advice and record.outcome != "permit":
            self.advice = in_general(record.code, record.reason)

    def _same(self) -> bool:
        then, seen = self._record.verdict, self.seen
        return (
            seen is not None
            and then.permitted == (seen.outcome == "permitted")
            and then.reason == seen.reason
        )

    def _notes(self, lacking: tuple[str, ...]) -> None:
        record, version = self._record, self._snapshot.version
        changed = record.version != version
        if changed:
            self.notes.append(
                f"It was decided with {record.version or 'no policy'}; "
                f"{version} is what it is looked at with here."
            )
        if not record.by_rules:
            self.notes.append(
                f"It was not up to rules ({record.code}, {record.reason}): what follows is what "
                "they say of it."
            )
        if record.outcome == "permit" and record.status >= 500:
            self.notes.append(
                f"It was permitted, and then answered with {record.status}: by the service, or for "
                "want of an answer that could go on (sidecar_upstream_errors_total, "
                "sidecar_responses_withheld_total)."
            )
        if record.input is None and record.version:
            self.notes.append(
                "The record holds no inputs: decisionLog.inputs of the ProtectedService is none."
            )
        if lacking:
            why = (
                "since the policies have changed" if changed
                else "since it could not be read, was too much to be logged, or might be a secret"
            )  # fmt: skip
            self.notes.append(f"The record lacks {', '.join(lacking)}, {why}.")
        if self.seen is not None and record.by_rules and not lacking and not self._same():
            why = "the policies have changed" if changed else "something else counted then"
            self.notes.append(
                f"Now it would be {self.seen.outcome} by {self.seen.rule or 'no rule'}"
                f"{f' ({self.seen.reason})' if self.seen.reason else ''}: {why}."
            )

    def plain(self) -> dict[str, Any]:
        """As JSON would have it."""
        record = self._record
        return {
            "decision_id": record.decision_id,
            "time": record.decided,
            "then": {
                "outcome": record.outcome,
                "rule": record.rule,
                "code": record.code,
                "reason": record.reason,
                "version": record.version,
            },
            "version": self._snapshot.version,
            "same": self._same(),
            "notes": self.notes,
            "advice": self.advice,
            "explanation": None if self.seen is None else self.seen.plain(),
        }

    def show(self) -> None:
        from sidecar.cli.explaining import Branch, show, tree_of

        record = self._record
        decided = moment(record.decided)
        said = {"permit": "permitted", "refuse": "refused", "observe": "observed"}[record.outcome]
        tree = Branch(
            f"{record.decision_id}, {decided}, with {record.version or 'no policy'}", "bold"
        )
        tree.add(
            f"{said} by {record.rule or 'no rule'}"
            + (f": {record.code}, {record.reason}" if record.reason else ""),
            "green" if record.outcome == "permit" else "red",
        )
        if record.outcome == "observe":
            tree.add("forwarded all the same: the service is in mode observe", "yellow")
        for note in self.notes:
            tree.add(note, "yellow")
        if self.seen is not None:
            tree.below.append(tree_of(self.seen))
        if self.advice:
            mend = tree.add("what would mend it", "bold")
            for each in self.advice:
                mend.add(each)
        show(tree)


# The record.


def _in_log(path: Path, id_: str) -> bytes | None:
    """The line of this decision, in a log of any size."""
    mark = json.dumps(id_).encode()
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for line in file:
                if mark in line and _is_of(line, id_):
                    return line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        print(
            f"sidecar why: {path} is damaged, and was not read to its end: {error}", file=sys.stderr
        )
    except OSError as error:
        raise Misuse(f"--log: {path} cannot be read: {error.strerror or error}") from None
    return None


def _is_of(line: bytes, id_: str) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("decision_id") == id_


def _in_admin(args: argparse.Namespace) -> bytes | None:
    for record in _page(args, "/decisions").get("decisions", ()):
        if isinstance(record, dict) and record.get("decision_id") == args.id:
            return json.dumps(record).encode()
    return None


# The policies.


def _snapshot(args: argparse.Namespace) -> Snapshot:
    from sidecar.cli.policies import snapshot_at, snapshot_of
    from sidecar.decide.parse import from_canonical

    labels: Mapping[str, str] = dict(args.labels)
    if args.policies is not None:
        namespace = args.namespace or "default"
        if not labels and not (args.log and args.admin is None):
            # As the sidecar that decided: it says whose policies it enforces.
            state = _page(args, "/snapshot").get("snapshot") or {}
            labels = state.get("labels", {})
            namespace = args.namespace or state.get("namespace", "default")
        return snapshot_at(args.policies, namespace, labels)
    if args.log and args.admin is None:
        raise Misuse(
            "which policies? --admin HOST:PORT of a sidecar that enforces them, or --policies"
        )
    page = _page(args, "/documents")
    if page.get("version") is None:
        raise FetchFailed(f"{_admin(args)} enforces no policies yet")
    documents = [
        from_canonical(orjson.dumps(each, option=orjson.OPT_SORT_KEYS))
        for each in page["documents"]
    ]
    return snapshot_of(
        documents, page["namespace"], page["labels"], _admin(args), version=page["version"]
    )


def _admin(args: argparse.Namespace) -> str:
    return str(args.admin or DEFAULT_ADMIN)


def _page(args: argparse.Namespace, path: str) -> dict[str, Any]:
    """A page of the admin port. Raises FetchFailed."""
    address = _admin(args)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}{path}", timeout=TIMEOUT) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise FetchFailed(f"{address}{path} answered {error.code}: not an admin port") from None
    except (http.client.HTTPException, ValueError) as error:
        what = f"{type(error).__name__}: {error}".strip()
        raise FetchFailed(f"{address}{path} is not the page of a sidecar ({what})") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise FetchFailed(
            f"nobody answers at the admin port {address} ({reason}); say --admin HOST:PORT, or "
            "--log FILE with --policies PATH"
        ) from None
    if not isinstance(found, dict):
        raise FetchFailed(f"{address}{path} is not the page of a sidecar")
    return found
