"""`sidecar test`: cases against policies, with coverage of rules and JUnit for CI."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.cli import FINE, FOUND_PROBLEMS, plain
from sidecar.cli.printable import printable
from sidecar.errors import DocumentsInvalid, Misuse, Problem

if TYPE_CHECKING:
    from sidecar.decide.cases import CaseFile
    from sidecar.decide.snapshot import Snapshot
    from sidecar.decide.trial import Coverage, Result

DESCRIPTION = """Decide the requests that case files describe, and compare with what they expect.

A file of cases has `cases:` at its top, and says which policies they are about (`policies:`,
relative to the file; --policies overrides it). A rule is covered when it was decisive in some case:
an allow rule permitted, a deny rule refused, a guard was selected."""


def register(commands: Any) -> None:
    from sidecar.cli import policies

    parser = commands.add_parser(
        "test",
        help="cases against policies, with coverage of rules",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: sidecar test cases/ --policies policies/ --coverage-at-least 100 "
        "--junit report.xml",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="files of cases, or folders of them"
    )
    policies.add_flags(parser, required=False)
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write a JUnit report as well")
    parser.add_argument(
        "--coverage-at-least", metavar="PERCENT", type=policies.of(_percent), default=None,
        help="exit 1 where fewer of the rules are covered",
    )  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="name the cases that pass, too")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(handler=run)


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f"{text!r} is not a percentage from 0 to 100")
    return value


@dataclass(frozen=True, slots=True)
class _Ran:
    """`result` is a Problem where a case describes what cannot be."""

    file: str
    name: str
    result: Result | Problem
    seconds: float

    @property
    def passed(self) -> bool:
        return not isinstance(self.result, Problem) and not self.result.mismatches


def run(args: argparse.Namespace) -> int:
    """0: all is as expected and covered; 1: not, or mistakes in cases or policies."""
    from sidecar.decide.trial import Coverage

    files = read_files(args.paths)
    held = Snapshots(args)
    problems = [problem for file in files for problem in held.check(file)]
    if problems:
        raise DocumentsInvalid(problems)
    coverage = Coverage()
    ran = [each for file in files for each in _run(file, held.of(file), coverage)]
    if args.junit is not None:
        _write_junit(args.junit, ran)
    enough = args.coverage_at_least is None or coverage.percent >= args.coverage_at_least
    if args.output == "json":
        print(json.dumps(_json(ran, coverage), indent=2))
    else:
        _print(ran, coverage, args)
    if not enough:
        print(
            f"sidecar test: {coverage.percent:.1f} % of the rules are covered, "
            f"{args.coverage_at_least:g} % are asked for",
            file=sys.stderr,
        )
    return FINE if enough and all(each.passed for each in ran) else FOUND_PROBLEMS


def read_files(paths: Sequence[str]) -> list[CaseFile]:
    """All case files at these paths. In folders, files of documents are passed over. Raises
    DocumentsInvalid and Misuse."""
    from sidecar.decide.cases import has_cases, read_cases
    from sidecar.facts.files import read_sources

    found: list[CaseFile] = []
    problems: list[Problem] = []
    for path in paths:
        before = len(found) + len(problems)
        sources, unread = read_sources([path])
        problems += [problem for problem in unread if not problem.warning]
        for source in sources:
            try:
                if not os.path.isdir(path) or has_cases(source):
                    found.append(read_cases(source))
            except DocumentsInvalid as error:
                problems += error.problems
        if len(found) + len(problems) == before:
            raise Misuse(f"{path}: no file in it has cases: at its top")
    if problems:
        raise DocumentsInvalid(problems)
    return found


class Snapshots:
    """What the cases of each file are decided with. `--policies` and the like override the file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._held: dict[tuple[Any, ...], Snapshot] = {}

    def of(self, file: CaseFile) -> Snapshot:
        """Raises DocumentsInvalid and Misuse."""
        from sidecar.cli.policies import snapshot_at

        args = self._args
        path = args.policies
        if path is None:
            if not file.policies:
                raise Misuse(
                    f"{file.file}: which policies? say policies: PATH in it, or --policies"
                )
            path = Path(file.file).parent / file.policies
            if not path.exists():
                message = f"policies: {path} does not exist"
                raise DocumentsInvalid([Problem(message, file.file, 1, 1)])
        namespace = args.namespace or file.namespace
        labels: Mapping[str, str] = {**file.labels, **dict(args.labels)}
        key = (os.path.realpath(path), namespace, *sorted(labels.items()))
        if key not in self._held:
            self._held[key] = snapshot_at(path, namespace, labels)
        return self._held[key]

    def check(self, file: CaseFile) -> list[Problem]:
        """What could never pass."""
        from sidecar.decide.trial import check

        snapshot = self.of(file)
        return [problem for case in file.cases for problem in check(case, snapshot)]


def _run(file: CaseFile, snapshot: Snapshot, coverage: Coverage) -> list[_Ran]:
    from sidecar.decide import trial

    coverage.know(snapshot)
    ran = []
    for case in file.cases:
        started = time.perf_counter()
        result = trial.run(case, snapshot)
        ran.append(_Ran(file.file, case.name, result, time.perf_counter() - started))
        if not isinstance(result, Problem):
            coverage.count(result.explanation)
    return ran


# What people and programs read.


def _print(ran: Sequence[_Ran], coverage: Coverage, args: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    file = ""
    for each in ran:
        if each.file != file:
            file = each.file
            count = sum(other.file == file for other in ran)
            console.print(f"{file}: {count} cases")
        if each.passed:
            if args.verbose:
                console.print(f"  ok    {printable(each.name)}", style="green")
            continue
        console.print(f"  FAIL  {printable(each.name)}", style="bold red")
        for line in failure(each.result):
            console.print(f"        {printable(line)}")
    failed = sum(not each.passed for each in ran)
    style = "bold red" if failed else "bold green"
    console.print(f"{len(ran)} cases, {failed} failed", style=style)
    console.print(
        f"{coverage.covered} of {len(coverage.rules)} rules covered ({coverage.percent:.1f} %)"
    )
    for rule, tried in coverage.rules.items():
        name = printable(rule)
        if not tried.covered:
            console.print(f"  not covered: {tried.effect} {name}", style="yellow")
        elif tried.half:
            console.print(f"  half covered: {tried.effect} {name} {tried.half}", style="yellow")


def failure(result: Result | Problem) -> list[str]:
    """What is wrong, in lines."""
    if isinstance(result, Problem):
        return str(result).splitlines()
    found = []
    for each in result.mismatches:
        found.append(f"{each.what}")
        found.append(f"  expected  {_said(each.expected)}")
        found.append(f"  found     {_said(each.found)}")
    return [*found, f"because: {result.explanation.essence()}"]


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(ran: Sequence[_Ran], coverage: Coverage) -> dict[str, Any]:
    return {
        "cases": [
            {
                "file": each.file,
                "name": each.name,
                "passed": each.passed,
                "seconds": round(each.seconds, 6),
                **(
                    {"problem": plain(each.result)}
                    if isinstance(each.result, Problem)
                    else {
                        "mismatches": [asdict(other) for other in each.result.mismatches],
                        "because": each.result.explanation.essence(),
                    }
                ),
            }
            for each in ran
        ],
        "passed": sum(each.passed for each in ran),
        "failed": sum(not each.passed for each in ran),
        "coverage": {
            "rules": len(coverage.rules),
            "covered": coverage.covered,
            "percent": coverage.percent,
            "uncovered": [name for name, each in coverage.rules.items() if not each.covered],
            "half": {name: each.half for name, each in coverage.rules.items() if each.half},
        },
    }


def _write_junit(path: Path, ran: Sequence[_Ran]) -> None:
    """As CI systems read it: a suite a file, a failure with what was expected and found."""
    from xml.etree import ElementTree

    root = ElementTree.Element("testsuites", name="sidecar test")
    suites: dict[str, list[_Ran]] = {}
    for each in ran:
        suites.setdefault(each.file, []).append(each)
    for file, cases in suites.items():
        suite = ElementTree.SubElement(
            root, "testsuite", name=_xml(file), tests=str(len(cases)),
            failures=str(sum(not each.passed for each in cases)), errors="0",
            time=f"{sum(each.seconds for each in cases):.6f}",
        )  # fmt: skip
        for each in cases:
            element = ElementTree.SubElement(
                suite, "testcase", classname=_xml(file), name=_xml(each.name),
                time=f"{each.seconds:.6f}",
            )  # fmt: skip
            if not each.passed:
                lines = failure(each.result)
                failed = ElementTree.SubElement(element, "failure", message=_xml(lines[0]))
                failed.text = _xml("\n".join(lines))
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise Misuse(f"--junit: {path} cannot be written: {error.strerror}") from None


def _xml(text: str) -> str:
    """What XML 1.0 cannot hold, however it is escaped, is shown as it would be in Python."""
    return "".join(
        char
        if char in "\t\n"
        or (char >= " " and not 0xD800 <= ord(char) <= 0xDFFF and char not in "\ufffe\uffff")
        else repr(char)[1:-1]
        for char in text
    )
