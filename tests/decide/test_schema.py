"""The JSON Schema takes exactly what the parser's check of the shape takes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from msgspec import inspect

from sidecar.cli import run
from sidecar.decide.documents import KINDS
from sidecar.decide.parse import Source, parse
from sidecar.decide.schema import _type, schema
from tests.casebook import FOLDER, jwks

ROOT = Path(__file__).parent.parent.parent
SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FULL = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: full, namespace: a.b-c, labels: {team: core, empty: ""}}
spec:
  issuer: https://idp.example
  jwks: {inline: {keys: [], more: [null, 1, 1.5, true, {deep: [[]]}]}}
  clockSkew: 30s
  introspection:
    endpoint: https://idp.example/introspect
    clientId: me
    clientSecret: {fromFile: secret}
    cache: 500ms
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: full}
spec:
  limits: {perAddress: 100/s}
  removeCredential: true
  friction: {scope: 2, stepUp: 1000}
  cors: {origins: ["*"], credentials: false}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: full}
spec:
  rules:
  - name: one
    auth: token
    match: {paths: ["/a/{id}"]}
    when: request.params.id == token.sub
    then: {setHeaders: {x-tier: token.tier}}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {name: full}
spec: {labels: {app: a}, workloads: ["spiffe://prod/a"], when: token.tier == 'gold'}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: full}
spec:
  url: https://facts.example/{id}
  parameters: {id: token.sub}
  type: {tier: text}
  cache: 30s
  maxSize: 64KiB
"""


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that is a document somewhere in this house."""
    texts = {
        path.stem: yaml.safe_load(path.read_text())["documents"].replace(
            "$JWKS", json.dumps(jwks())
        )
        for path in sorted(FOLDER.glob("*.yaml"))
    }
    for path in sorted((ROOT / "sidecar" / "demo" / "policies").glob("*.yaml")):
        texts[path.name] = path.read_text()
    texts["full"] = FULL
    for name, text in texts.items():
        for place, body in enumerate(yaml.safe_load_all(text)):
            yield f"{name} {place} {body['kind']}", body


DOCUMENTS = dict(documents())


def shaped(body: Any) -> bool:
    """Whether the parser finds nothing wrong with it."""
    _, problems = parse([Source("x", json.dumps(body))])
    return not problems


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert set(SCHEMA["properties"]["kind"]["enum"]) == set(KINDS)


@pytest.mark.parametrize("body", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_are_taken(body: dict[str, Any]) -> None:
    assert shaped(body)
    jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
    jsonschema.validate(body, SCHEMA, jsonschema.Draft7Validator)


def test_what_init_writes_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    assert run(["init", "--into", str(folder)]) == 0
    files = sorted(folder.iterdir())
    assert len(files) == 3
    for path in files:
        for body in yaml.safe_load_all(path.read_text()):
            jsonschema.validate(body, SCHEMA)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("spec.rules.0.colour: red", "'colour' was unexpected"),
        ("spec.rules.0.name: 7", "7 is not of type 'string'"),
        ("spec.rules.0.name:", "'name' is a required property"),
        ("spec.rules.0.effect: maybe", "'maybe' is not one of"),
        ("spec.rules: []", "should be non-empty"),
        ("metadata.name: Not A Name", "does not match"),
        ("metadata.name:", "'name' is a required property"),
        ("spec:", "'spec' is a required property"),
        ("kind: AccessPolicies", "is not one of"),
        ("apiVersion: v2", "was expected"),
        ("more: 1", "'more' was unexpected"),
    ],
)
def test_mistakes_are_named(change: str, says: str) -> None:
    body = copy.deepcopy(DOCUMENTS["full 2 AccessPolicy"])
    place, _, value = change.partition(":")
    *way, last = place.split(".")
    at: Any = body
    for part in way:
        at = at[int(part) if part.isdigit() else part]
    if value:
        at[last] = yaml.safe_load(value)
    else:
        del at[last]
    errors = list(VALIDATOR.iter_errors(body))
    assert [error for error in errors if says in error.message]
    assert len(errors) == 1, "one mistake, one message"
    assert not shaped(body)


@pytest.mark.parametrize("value", ["30 s", "5", "1w", "-1s", "1234567890s", "x30s", "30sx", "", 30])
def test_bad_durations_are_refused(value: Any) -> None:
    body = copy.deepcopy(DOCUMENTS["full 0 TokenIssuer"])
    body["spec"]["clockSkew"] = value
    assert not VALIDATOR.is_valid(body)
    assert not shaped(body)


def variations(body: Any) -> Iterator[Any]:
    """The same without a part, with something else in its place, with something more in it."""
    others: tuple[Any, ...] = (
        None,
        0,
        1.5,
        True,
        "",
        "x",
        "5m",
        "9/s",
        "none",
        [],
        ["x"],
        {},
        {"x": "y"},
        2**64,
    )
    for way in list(ways(body)):
        for other in (*others, KeyError):
            changed = copy.deepcopy(body)
            *inner, last = way
            at = changed
            for part in inner:
                at = at[part]
            if other is not KeyError:
                at[last] = other
            elif last in at or isinstance(at, list):
                del at[last]
            yield changed


def ways(body: Any) -> Iterator[tuple[Any, ...]]:
    parts = body.items() if isinstance(body, dict) else enumerate(body)
    for key, value in parts:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in ways(value))
    if isinstance(body, dict):
        yield ("unheardOf",)


FIRST = {body["kind"]: name for name, body in reversed(DOCUMENTS.items())}  # of each kind
assert set(FIRST) == set(KINDS), "each kind has a document that is changed everywhere below"
FULLER = [name for name in DOCUMENTS if name.startswith("full")]


@pytest.mark.parametrize("name", dict.fromkeys([*FULLER, *FIRST.values()]))
def test_it_agrees_with_the_parser_on_whatever_is_changed(name: str) -> None:
    answers = set()
    for changed in variations(DOCUMENTS[name]):
        taken = VALIDATOR.is_valid(changed)
        assert taken == shaped(changed), changed
        answers.add(taken)
    assert answers == {True, False}


def test_every_field_is_described_and_its_default_is_one_it_takes() -> None:
    defaults = 0
    for name, definition in SCHEMA["$defs"].items():
        assert definition["description"], name
        for field, part in definition.get("properties", {}).items():
            assert part.get("description"), f"{name}.{field}"
            if "default" in part:
                defaults += 1
                alone = {"$defs": SCHEMA["$defs"], **part}
                jsonschema.validate(part["default"], alone, jsonschema.Draft202012Validator)
    assert defaults > 10
    when = SCHEMA["$defs"]["Rule"]["properties"]["when"]
    assert when["title"] == "CEL expression"
    assert "If it fails" in when["description"]


def test_what_has_no_schema_is_said() -> None:
    with pytest.raises(TypeError, match="no JSON Schema"):
        _type(inspect.type_info(bytes), {})
    with pytest.raises(TypeError, match="JavaScript"):
        _type(inspect.StrType(pattern=r"(?P<x>\A)"), {})


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
