"""`sidecar replay`: what other policies would have made of logged decisions."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final

from sidecar.cli import FINE, FOUND_PROBLEMS
from sidecar.errors import Misuse

if TYPE_CHECKING:
    from sidecar.decide.replay import Replay, Row

LONGEST_LINE: Final = 1024 * 1024  # bytes; what is longer is no record
_EVERY: Final = 2000  # lines between two looks at how far it is

DESCRIPTION: Final = """Read decision logs (JSON lines, also .gz, - is standard input), decide each
record again with other policies, and report what would change, by rule and by path, for how many
subjects, with samples.

Each record is decided as of its own time. Limits and what could not be had then (429, 503) are
not up to rules and are left out. A record that lacks what the new rules read is not decided, and
counted apart: the log holds what the rules of its day read. Decisions count, not their enforcement:
what mode observe let pass was refused."""


def register(commands: Any) -> None:
    from sidecar.cli import policies

    parser = commands.add_parser(
        "replay",
        help="what other policies would have made of logged decisions",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: sidecar replay decisions.log.gz --policies policies/ --threshold 0.5%",
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a decision log; - is stdin")
    policies.add_flags(parser, required=True)
    parser.add_argument(
        "--threshold", metavar="N|N%", type=policies.of(_bound), default=(0.0, False),
        help="exit 1 where more decisions than that turn, from permitted to refused or back: so "
        "many, or that share of those decided again (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--max-newly-refused", metavar="N|N%", type=policies.of(_bound), default=None,
        help="the same for those alone that would be refused",
    )  # fmt: skip
    parser.add_argument(
        "--max-lacked", metavar="N|N%", type=policies.of(_bound), default=None,
        help="exit 1 where more records than that lack what the new rules read",
    )  # fmt: skip
    parser.add_argument(
        "--enforce-shadows", action="store_true", help="as if shadow policies were enforced"
    )
    parser.add_argument(
        "--samples", metavar="N", type=policies.of(_count), default=5,
        help="decisions to show of each change (default 5)",
    )  # fmt: skip
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


Bound = tuple[float, bool]
"""So many, or (True) so many of a hundred."""


def _bound(text: str) -> Bound:
    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (share and value > 100):
        raise ValueError(f"{text!r} is neither a count nor a percentage, such as 20 or 0.5%")
    return value, share


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1000:
        raise ValueError(f"{text!r} is not a number from 0 to 1000")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """0: within the bounds; 1: beyond one of them, or nothing could be decided again."""
    from sidecar.cli.policies import snapshot_at
    from sidecar.decide.replay import Replay

    for log in args.logs:
        if log != "-" and (os.path.isdir(log) or not os.path.exists(log)):
            what = "a folder" if os.path.isdir(log) else "no such file"
            raise Misuse(f"{log}: {what}; name decision logs, or - for standard input")
    snapshot = snapshot_at(args.policies, args.namespace or "default", dict(args.labels))
    replay = Replay(snapshot, samples=args.samples, shadows=args.enforce_shadows)
    damaged: list[str] = []
    with _progress(args.logs) as moved:
        for line in _lines(args.logs, moved, damaged):
            replay.take(line)
    why = _verdict(replay, args)
    if args.output == "json":
        said = {**replay.plain(), "damaged": damaged, "exceeded": why}
        print(json.dumps(said, indent=2))
    else:
        _print(replay, damaged)
    for reason in why:
        print(f"sidecar replay: {reason}", file=sys.stderr)
    return FOUND_PROBLEMS if why else FINE


def _verdict(replay: Replay, args: argparse.Namespace) -> list[str]:
    """What is beyond its bound."""
    from sidecar.decide.replay import NEWLY_REFUSED

    found = []
    if not replay.decided:
        what = "the log holds no records" if not replay.records else "no record could be decided"
        found.append(f"{what}, so nothing is known of what would change")
    asked: list[tuple[str, int, int, Bound | None, str]] = [
        ("decisions turn", replay.changed, replay.decided, args.threshold, "--threshold"),
        (
            "decisions would be refused", replay.changes[NEWLY_REFUSED], replay.decided,
            args.max_newly_refused, "--max-newly-refused",
        ),
        (
            "records lack what the new rules read", replay.lacked, replay.records,
            args.max_lacked, "--max-lacked",
        ),
    ]  # fmt: skip
    for what, count, of, bound, flag in asked:
        if bound is None:
            continue
        value, share = bound
        if count > (value * of / 100 if share else value):
            found.append(f"{count} of {of} {what}; {flag} {value:g}{'%' if share else ''}")
    return found


# Reading, line by line, whatever the size.


def _lines(logs: list[str], moved: Callable[[int], None], damaged: list[str]) -> Iterator[bytes]:
    done = 0
    for log in logs:
        with _opened(log) as (raw, file):
            try:
                for number, line in enumerate(_each(file)):
                    if number % _EVERY == 0:
                        moved(done + _position(raw))
                    yield line
            except (OSError, EOFError, zlib.error) as error:
                damaged.append(f"{log}: {error}")
        done += os.path.getsize(log) if log != "-" else 0
        moved(done)


@contextlib.contextmanager
def _opened(log: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file as it is on disk, and as it is to be read."""
    try:
        # Its beginning is peeked at, since a pipe cannot go back.
        raw: Any = sys.stdin.buffer if log == "-" else open(log, "rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise Misuse(f"{log}: cannot be read: {error.strerror}") from None
    with contextlib.nullcontext() if log == "-" else raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":  # whatever its name
            with gzip.open(raw, "rb") as unpacked:
                yield raw, unpacked
        else:
            yield raw, raw


def _each(file: IO[bytes]) -> Iterator[bytes]:
    """Lines that are not empty; of one that is too long, its beginning."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE)
        if line.strip():
            yield line


def _position(raw: IO[bytes]) -> int:
    return raw.tell() if raw.seekable() else 0


@contextlib.contextmanager
def _progress(logs: list[str]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda position: None
        return
    from rich.console import Console
    from rich.progress import Progress

    known = all(os.path.isfile(log) for log in logs)  # pipes end when they end
    total = sum(os.path.getsize(log) for log in logs) if known else None
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("deciding again", total=total)
        yield lambda position: bar.update(task, completed=position)


# What people read.


def _print(replay: Replay, damaged: list[str]) -> None:
    from rich.console import Console

    from sidecar.decide.replay import CHANGES, NEWLY_PERMITTED, NEWLY_REFUSED

    console = Console(highlight=False, markup=False, soft_wrap=True)
    span = f", {_time(replay.first)} to {_time(replay.last)}" if replay.records else ""
    console.print(f"{replay.lines} lines, {replay.records} records{span}", style="bold")
    for each in damaged:
        console.print(f"  damaged: {_plain(each)}", style="red")
    if replay.foreign:
        console.print(f"  {replay.foreign} lines are no records of decisions", style="yellow")
    if replay.not_by_rules:
        console.print(f"  {replay.not_by_rules} were not up to rules (limits, unavailable)")
    if replay.lacked:
        style = "yellow"
        console.print(f"  {replay.lacked} lack what the new rules read, of", style=style)
        for name, count in replay.lacking.most_common(20):
            console.print(f"    {_plain(name)}: {count}", style=style)
    console.print(f"{replay.decided} decided again, {replay.unchanged} unchanged", style="bold")
    styles = {NEWLY_REFUSED: "red", NEWLY_PERMITTED: "yellow"}
    for change in CHANGES:
        count = replay.changes[change]
        if count:
            share = 100 * count / replay.decided
            console.print(
                f"{count} {change} ({share:.2g} %), {replay.subjects[change]} subjects",
                style=styles.get(change, ""),
            )
    if not replay.by_rule.rows:
        return
    console.print("\nby rule", style="bold")
    for (change, before, after), row in replay.by_rule.sorted():
        console.print(
            f"  {change}: {_plain(before)} -> {_plain(after)}", style=styles.get(change, "")
        )
        console.print(f"    {_counted(row)}")
        for sample in row.samples:
            console.print(
                f"    {_plain(sample['decision_id'])}  {_time(sample['time'])}  "
                f"{_plain(sample['method'])} "
                f"{_plain(sample['path'])}  {_plain(sample['subject']) or 'anonymous'}",
                style="dim",
            )
    console.print("\nby path", style="bold")
    for (change, path), row in replay.by_path.sorted():
        console.print(f"  {change}: {_plain(path)}: {_counted(row)}", style=styles.get(change, ""))


def _counted(row: Row) -> str:
    return f"{row.decisions} decisions, {row.subjects} subjects"


def _time(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def _plain(text: str) -> str:
    from sidecar.cli.printable import printable

    return printable(text)
