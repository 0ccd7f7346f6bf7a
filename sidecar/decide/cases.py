"""Test cases for policies: YAML text -> described requests with what is expected of each. Pure.

Read as strictly as documents are: every mistake with file, line and column, and what could never
fail, or never hold, is one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import orjson
import yaml
from msgspec import inspect

from sidecar.decide.api_keys import expiry
from sidecar.decide.kinds.case import CaseSpec, Expect, FileSpec, RequestSpec, SubjectSpec
from sidecar.decide.nodes import NodeReader, TooMuch, closest
from sidecar.decide.outcomes import Code, Unavailable
from sidecar.decide.parse import Source, compose
from sidecar.decide.scenario import JUNK, UNREACHED, Scenario
from sidecar.decide.subjects import NOT_KNOWN, Subject
from sidecar.errors import DocumentsInvalid, Problem

DEFAULT_TIME: Final = "2027-01-15T12:00:00Z"
"""When a request is made that says nothing of it: the same result on every day."""
STATUSES: Final = (302, 400, 401, 403, 413, 503)
PLANS: Final = ("authentication", "proof", "step_up", "scope", "consent", "profile")
_ONLY_PERMITTED: Final = ("headers", "response_headers", "redacted", "limited")
_ONLY_REFUSED: Final = ("code", "reason", "kind", "needs", "challenge")


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to be decided. `marks` are the places of what it says, by pointer."""

    file: str
    name: str
    scenario: Scenario
    expect: Expect
    pointer: str
    marks: Mapping[str, tuple[int, int]]

    def problem(self, pointer: str, message: str, hint: str = "") -> Problem:
        """A mistake at a part of it (`.expect.rule`)."""
        place = self.pointer + pointer
        while place and place not in self.marks:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        line, column = self.marks.get(place, (1, 1))
        return Problem(
            message,
            self.file,
            line,
            column,
            pointer=(self.pointer + pointer).lstrip("."),
            hint=hint,
        )


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file of cases. `policies` is as it is written, empty where it is not."""

    file: str
    policies: str
    namespace: str
    labels: Mapping[str, str]
    cases: tuple[Case, ...]


def has_cases(source: Source) -> bool:
    """Whether it is a file of cases, rather than of documents. Raises DocumentsInvalid."""
    node = next(compose(source), None)
    return isinstance(node, yaml.MappingNode) and "cases" in _names(node)


def read_cases(source: Source) -> CaseFile:
    """Raises DocumentsInvalid with every mistake."""
    problems: list[Problem] = []
    reader = NodeReader(source.name, source.text, problems)
    nodes = list(compose(source))
    if len(nodes) != 1:
        raise DocumentsInvalid([Problem(f"expected one file of cases, found {len(nodes)}",
                                        source.name, 1, 1)])  # fmt: skip
    reader.begin(nodes[0])
    if isinstance(nodes[0], yaml.MappingNode) and "apiVersion" in _names(nodes[0]):
        reader.fail(nodes[0], "", "this is a document, not a file of cases",
                    "a file of cases has cases: at its top")  # fmt: skip
        raise DocumentsInvalid(problems)
    try:
        plain = reader.value(nodes[0], inspect.type_info(FileSpec), "", 1)
    except TooMuch as error:
        mark = error.problem_mark
        raise DocumentsInvalid(
            [Problem(str(error), source.name, mark.line + 1, mark.column + 1)]
        ) from None
    if problems:
        raise DocumentsInvalid(
            [replace(problem, pointer=problem.pointer.lstrip(".")) for problem in problems]
        )
    return _Reader(source.name, plain, reader.marks).file()


def _names(node: yaml.MappingNode) -> list[Any]:
    return [key.value for key, _ in node.value]


class _Reader:
    """Well-formed values -> cases; the mistakes that are left are of meaning."""

    def __init__(self, name: str, plain: dict[str, Any], marks: Mapping[str, tuple[int, int]]):
        self._name = name
        self._plain = plain
        self._marks = marks
        self._problems: list[Problem] = []

    def file(self) -> CaseFile:
        try:
            spec = msgspec.convert(self._plain, FileSpec)
        except msgspec.ValidationError as error:
            raise DocumentsInvalid([Problem(str(error), self._name, 1, 1)]) from None
        now = self._moment(spec.time or DEFAULT_TIME, ".time")
        names: dict[str, str] = {}
        cases = []
        for place, each in enumerate(spec.cases):
            pointer = f".cases[{place}]"
            if names.setdefault(each.name, pointer) is not pointer:
                self._fail(f"{pointer}.name", f"{each.name!r} is the name of another case")
            cases.append(self._case(each, pointer, now))
        if self._problems:
            raise DocumentsInvalid(self._problems)
        return CaseFile(self._name, spec.policies or "", spec.namespace, spec.labels, tuple(cases))

    def _case(self, spec: CaseSpec, pointer: str, now: float) -> Case:
        if spec.time is not None:
            now = self._moment(spec.time, f"{pointer}.time")
        self._expect(spec.expect, f"{pointer}.expect")
        if spec.token is not None and spec.api_key is not None:
            self._fail(f"{pointer}.apiKey", "a request carries one credential, token or apiKey")
        if "dpop" in spec.proof and spec.token is None:
            self._fail(f"{pointer}.proof", "dpop is shown with a token", "add token: {}")
        if not is_address(spec.request.address):
            said = f"{spec.request.address!r} is not an IP address"
            self._fail(f"{pointer}.request.address", said)
        scenario = Scenario(
            method=spec.request.method,
            target=spec.request.path,
            host=spec.request.host,
            scheme=spec.request.scheme,
            address=spec.request.address,
            headers=tuple(self._headers(spec.request, f"{pointer}.request")),
            body=_body(spec.request.body),
            claims=spec.token if isinstance(spec.token, dict) else None,
            bad=JUNK if spec.token == "bad" else None,  # noqa: S105  (a word, no secret)
            api_key=spec.api_key or "",
            workload=spec.workload or "",
            proof=tuple(spec.proof),
            subject=subject_of(spec.subject),
            enriched={
                name: self._answer(values, f"{pointer}.enriched.{name}")
                for name, values in spec.enriched.items()
            },
            now=now,
        )
        return Case(self._name, spec.name, scenario, spec.expect, pointer, self._marks)

    def _expect(self, expect: Expect, pointer: str) -> None:
        """What could not fail says nothing, and what could not hold is a slip."""
        said = [
            name for name in expect.__struct_fields__ if getattr(expect, name) not in (None, {})
        ]
        if not said:
            self._fail(pointer, "expects nothing", "say permit: policy/rule or refuse: 403")
        if expect.permit is False:
            self._fail(f"{pointer}.permit", "permit is true or a rule", "or say refuse: 403")
        if expect.permit is not None and expect.refuse is not None:
            self._fail(f"{pointer}.refuse", "either permit or refuse is expected")
        if isinstance(expect.permit, str) and expect.rule is not None:
            self._fail(f"{pointer}.rule", "permit names the rule already")
        permitted = expect.permit is not None
        refused = expect.refuse is not None
        for name in _ONLY_REFUSED if permitted else ():
            if getattr(expect, name) is not None:
                self._fail(f"{pointer}.{name}", f"a permitted request has no {name}")
        for name in _ONLY_PERMITTED if refused else ():
            if getattr(expect, name) not in (None, {}):
                written = "responseHeaders" if name == "response_headers" else name
                self._fail(f"{pointer}.{written}", f"a refused request has no {written}")
        if refused and expect.refuse not in STATUSES:
            known = ", ".join(map(str, STATUSES))
            self._fail(
                f"{pointer}.refuse", f"{expect.refuse} is never the answer to a case",
                f"one of {known}; limits are counted in traffic, so 429 is not met here",
            )  # fmt: skip
        self._one_of(expect.code, [code.value for code in Code], f"{pointer}.code")
        self._one_of(expect.kind, list(PLANS), f"{pointer}.kind")
        for group, written in ((expect.headers, "headers"),
                               (expect.response_headers, "responseHeaders")):  # fmt: skip
            for name, value in group.items():
                if value is not None and not isinstance(value, str):
                    self._fail(f"{pointer}.{written}.{name}", "expected text, or null for: not set")

    def _one_of(self, value: str | None, known: list[str], pointer: str) -> None:
        if value is not None and value not in known:
            hint = closest(value, known) or f"known: {', '.join(known)}"
            self._fail(pointer, f"{value!r} is not one that there is", hint)

    def _headers(self, spec: RequestSpec, pointer: str) -> list[tuple[str, str]]:
        found = []
        for name, value in spec.headers.items():
            values = value if isinstance(value, list) else [value]
            if not all(isinstance(each, str) for each in values):
                self._fail(f"{pointer}.headers.{name}", "expected text or a list of texts")
                continue
            if name.lower() == "authorization":
                self._fail(
                    f"{pointer}.headers.{name}", "a credential is not written here",
                    "say token: {...claims}, token: bad or apiKey: ID",
                )  # fmt: skip
            found += [(name, each) for each in values]
        if spec.content_type is not None:
            found.append(("content-type", spec.content_type))
        return found

    def _answer(self, values: Any, pointer: str) -> Mapping[str, Any] | Unavailable:
        if values is None:
            return UNREACHED
        if not isinstance(values, dict):
            self._fail(pointer, "expected the members of the answer, or null for: not reached")
            return UNREACHED
        return values

    def _moment(self, text: str, pointer: str) -> float:
        try:
            return expiry(text)
        except ValueError:
            self._fail(pointer, f"{text!r} is not a time", f"write {DEFAULT_TIME}, in quotes")
            return 0.0

    def _fail(self, pointer: str, message: str, hint: str = "") -> None:
        place = pointer
        while place and place not in self._marks:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        line, column = self._marks.get(place, (1, 1))
        self._problems.append(
            Problem(message, self._name, line, column, pointer=pointer.lstrip("."), hint=hint)
        )


def is_address(text: str) -> bool:
    """Whether a client can have it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _body(value: Any) -> bytes:
    """Text is sent as it is, all else as JSON."""
    if value is None:
        return b""
    return value.encode("utf-8") if isinstance(value, str) else orjson.dumps(value)


def subject_of(spec: SubjectSpec | str | None) -> Subject | Unavailable:
    """What is known of a subject: nothing, that, or (any text) that it cannot be had."""
    if spec is None:
        return NOT_KNOWN
    if isinstance(spec, str):
        return Unavailable("subject_unavailable")
    return Subject(frozenset(spec.consents), spec.profile, frozenset(spec.segments), spec.risk)


def find(files: Sequence[CaseFile], name: str) -> Case | None:
    """The case of this name."""
    return next((case for file in files for case in file.cases if case.name == name), None)
