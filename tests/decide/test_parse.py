"""Texts made to harm, and documents as they travel."""

from __future__ import annotations

import dataclasses
import hashlib

import orjson
import pytest

from sidecar.decide.nodes import MAX_DEPTH
from sidecar.decide.parse import Source, from_canonical, parse
from sidecar.decide.problems import problem_at
from sidecar.errors import DocumentsInvalid, Problem

ISSUER = """apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: corp, labels: {a: é}}
spec:
  issuer: https://idp.example
"""


def problems(text: str) -> list[Problem]:
    documents, found = parse([Source("x.yaml", text)])
    assert not documents or not found
    return found


def nested(depth: int) -> str:
    """An issuer whose keys hold a list inside a list, `depth` in all with what is around them."""
    inside = depth - 4  # the document, spec, jwks, inline
    return f"{ISSUER}  jwks: {{inline: {{keys: {'[' * inside}1{']' * inside}}}}}\n"


@pytest.mark.parametrize("level", ["[", "- ", "{a: ", "? ", '{"a":'])
def test_deep_text_is_a_problem_with_its_place(level: str) -> None:
    [found] = problems(level * 100_000)
    assert found.message == f"nested more than {MAX_DEPTH} deep"
    assert (found.file, found.line) == ("x.yaml", 1)
    assert found.column == MAX_DEPTH * len(level) + 1
    assert not found.hint
    with pytest.raises(DocumentsInvalid, match="nested more than"):
        from_canonical(level.encode() * 100_000)


def test_the_deepest_document_travels_and_one_deeper_is_refused() -> None:
    documents, found = parse([Source("x.yaml", nested(MAX_DEPTH))])
    assert not found
    assert from_canonical(documents[0].canonical) == documents[0]
    [problem] = problems(nested(MAX_DEPTH + 1))
    assert "nested more than" in problem.message
    assert problem.line == 6
    deeper = documents[0].canonical.replace(b"[1]", b"[[1]]")
    with pytest.raises(DocumentsInvalid, match="nested more than"):
        from_canonical(deeper)


def test_documents_before_a_syntax_error_are_read() -> None:
    documents, found = parse([Source("x.yaml", f"{ISSUER}---\na: [")])
    assert [document.name for document in documents] == ["corp"]
    assert found[0].line == 8


def test_aliases_that_make_too_much_of_a_text_are_said_as_such() -> None:
    layers = "\n".join(f"    l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    text = f"{ISSUER}  jwks:\n   inline:\n    l0: &l0 [1]\n{layers}\n"
    [found] = problems(text)
    assert found.message == "aliases make too many values of this text"
    assert found.line > 1
    assert not found.hint


def test_canonical_form_is_read_back_equal_with_the_same_digest() -> None:
    text = ISSUER + (
        "  clockSkew: 5s\n  algorithms: [ES256]\n"
        "  jwks: {inline: {keys: [{kty: EC, n: 1, f: 1.5, b: true, t: '\U0001f600'}]}}\n"
    )
    documents, found = parse([Source("x.yaml", text)])
    assert not found
    again = from_canonical(documents[0].canonical)
    assert again == documents[0]
    assert again.digest == hashlib.sha256(documents[0].canonical).hexdigest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"issuer":', b'"issuer":"https://other.example","issuer":', "given twice"),
        (b'"issuer":', b'"jwks":null,"issuer":', "expected fields, found nothing"),
        (b'"issuer":', b'"isuer":', "unknown field"),
        (b'"name":"corp"', b'"name":"Corp"', "not a name"),
        (b'"kind":"TokenIssuer"', b'"kind":"Other"', "unknown kind"),
        (b"/v1", b"/v2", "unknown apiVersion"),
        (b'{"labels":{"a":"\xc3\xa9"},', b'{"labels":{"a":1},', "expected text"),
    ],
)
def test_what_no_document_may_hold_is_refused_in_canonical_form_too(
    old: bytes, new: bytes, message: str
) -> None:
    canonical = parse([Source("x.yaml", ISSUER)])[0][0].canonical
    assert old in canonical
    with pytest.raises(DocumentsInvalid, match=message):
        from_canonical(canonical.replace(old, new))


def test_json_that_is_not_canonical_is_read_into_its_canonical_form() -> None:
    canonical = parse([Source("x.yaml", ISSUER)])[0][0].canonical
    spaced = orjson.dumps(orjson.loads(canonical), option=orjson.OPT_INDENT_2)
    assert from_canonical(spaced).canonical == canonical


@pytest.mark.parametrize(
    ("field", "message", "column"),
    [
        ("clockSkew: 99999999999999s", "is not a duration", 14),
        ('clockSkew: "30s\\n"', "is not a duration", 14),
        ("jwks: {inline: {n: 123456789012345678901234567890}}", "a number beyond 64 bits", 22),
        ("jwks: {inline: {n: -9223372036854775809}}", "a number beyond 64 bits", 22),
        ("jwks: {inline: {n: 1.0e+400}}", "a number beyond 64 bits", 22),
    ],
)
def test_values_that_no_later_step_could_take_are_refused_at_their_place(
    field: str, message: str, column: int
) -> None:
    [found] = problems(f"{ISSUER}  {field}\n")
    assert message in found.message
    assert (found.line, found.column) == (6, column)


@pytest.mark.parametrize("number", [-(2**63), 2**64 - 1])
def test_integers_of_64_bits_are_kept(number: int) -> None:
    documents, found = parse([Source("x", f"{ISSUER}  jwks: {{inline: {{n: {number}}}}}\n")])
    assert not found
    assert str(number).encode() in documents[0].canonical
    assert from_canonical(documents[0].canonical) == documents[0]


@pytest.mark.parametrize("pointer", ["", "spec", "spec.rules[0].when", "spec.rules[0][1]", "a..b["])
def test_a_document_that_came_over_the_wire_has_problems_without_places(pointer: str) -> None:
    document = from_canonical(parse([Source("x.yaml", ISSUER)])[0][0].canonical)
    problem = problem_at(document, pointer, "wrong")
    assert (problem.pointer, problem.line, problem.file) == (pointer, 0, "")


@pytest.mark.parametrize(
    ("pointer", "place"),
    [
        ("spec.rules[0].when", (5, 3)),
        ("spec.rules[0].match.paths[3]", (5, 3)),
        ("spec.rules[7]", (4, 1)),
        ("spec", (3, 1)),
        ("metadata.name", (1, 1)),
        ("", (1, 1)),
    ],
)
def test_a_problem_stands_at_the_nearest_place_that_is_known(
    pointer: str, place: tuple[int, int]
) -> None:
    marks = {"": (1, 1), "spec": (3, 1), "spec.rules": (4, 1), "spec.rules[0]": (5, 3)}
    [document], _ = parse([Source("f", ISSUER)])
    marked = dataclasses.replace(document, marks=marks)
    assert (problem_at(marked, pointer, "m").line, problem_at(marked, pointer, "m").column) == place
    unmarked = dataclasses.replace(document, marks={})
    assert problem_at(unmarked, pointer, "m").line == 0


def test_a_wrong_type_hides_no_wrong_expression() -> None:
    text = """\
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  rules:
  - name: a
    effect: alow
    when: tokn.x == 'a'
    then: {setHeaders: {x-a: "token.sub +"}}
  - {name: b, when: request.params.id == 'x', limit: {rate: 5, per: token.sub}}
"""
    documents, problems = parse([Source("f", text)])
    assert documents == []
    places = sorted((problem.line, problem.pointer) for problem in problems)
    assert places == [
        (7, "spec.rules[0].effect"),
        (8, "spec.rules[0].when"),
        (9, "spec.rules[0].then.setHeaders.x-a"),
        (10, "spec.rules[1].limit.rate"),
    ]
