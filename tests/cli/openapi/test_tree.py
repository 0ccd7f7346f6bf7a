"""What is no OpenAPI, or too much of it, is said with its place."""

from __future__ import annotations

import pytest

from sidecar.decide.parse import MAX_TEXT
from sidecar.errors import Misuse
from tests.cli.openapi.calling import rules, written

SMALL = """
openapi: 3.1.0
paths:
  /a: {get: {security: []}}
"""
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join(['*' + chr(97 + at)] * 9)}]\n" for at in range(12)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected one OpenAPI document, found 0"),
        ("a: 1\n---\nb: 2\n", "expected one OpenAPI document, found 2"),
        ("[]", "OpenAPI: expected fields, found a list"),
        ("hello: world", "`openapi: 3...` is missing"),
        ("swagger: '2.0'\npaths: {}", ":1:10: Swagger 2.0 is not supported"),
        ("openapi: 4.0.0", "OpenAPI '4.0.0' is not supported"),
        ("openapi: 3.10.0", "is not supported"),
        ("openapi: {}", "openapi: expected text, found a mapping"),
        ("openapi: 3.0.0\npaths: {}", "there is no operation"),
        ("openapi: 3.0.0\npaths: []", ":2:8: paths: expected fields, found a list"),
        ("openapi: 3.0.0\npaths: {a: {get: {}}}", "'a' does not start with /"),
        ("openapi: 3.0.0\npaths: {/a: {get: []}}", "GET '/a': expected fields, found a list"),
        ("openapi: 3.0.0\npaths: {/a: {get: {}, get: {}}}", "'get' is given twice"),
        ("openapi: 3.0.0\npaths: {/a: {get: {security: {}}}}", "security: expected a list"),
        ("openapi: 3.0.0\npaths: {/a: {get: {security: [x]}}}", "security: expected fields"),
        ("openapi: 3.0.0\npaths: {/a: {$ref: 'b.yaml#/x'}}", "$ref 'b.yaml#/x' leads out of the file"),
        ("openapi: 3.0.0\npaths: {/a: {$ref: '#/b/0/c'}}", "$ref '#/b/0/c' leads nowhere"),
        ("openapi: 3.0.0\npaths: {/a: {$ref: '#/paths/~1a'}}", "without end"),
        ("openapi: 3.0.0\npaths: {/a: {$ref: []}}", "$ref: expected text"),
        ("openapi: 3.0.0\npaths: {/a: {<<: {get: {}}}}", "merge keys are not read"),
        ("openapi: 3.0.0\npaths: {/{a: {get: {}}}", "not valid YAML"),
        ("openapi: 3.0.0\npaths: {? [x] : y}", "expected a field name"),
        ("openapi: 3.0.0\nx: " + "[" * 100 + "]" * 100, "nested more than 64 deep"),
        ("openapi: 3.0.0\nservers: [{url: 'http://[x/'}]\npaths: {/a: {get: {}}}", "no server here"),
        ("openapi: 3.0.0\npaths: {/a: {get: {security: [{x: []}]}}}", "'x' is not among"),
        ("openapi: 3.0.0\npaths: {/a/{b}.c: {get: {}}}".replace("/a/{b}.c", "'/a/{b}.c'"), "no operation can be carried over"),
        (SMALL + "servers: [" + "{url: /a}," * 101 + "]", "more than 100 servers"),
        ("openapi: 3.0.0\npaths: {/a: {get: {security: [" + "{}," * 101 + "]}}}", "more than 100 alternatives"),
        (" " * (MAX_TEXT + 1), "larger than 64 MiB"),
    ],
)  # fmt: skip
def test_what_is_no_openapi_is_said(text: str, says: str) -> None:
    with pytest.raises(Misuse) as caught:
        written(text)
    assert says in str(caught.value)
    assert "openapi.yaml" in str(caught.value)


def test_aliases_and_references_cannot_make_much_of_little() -> None:
    # Nobody looks at a bomb beside the operations; one among them is paid for.
    assert len(rules(SMALL + BOMB)) == 1
    scopes = ",".join(f"s{at}" for at in range(2000))
    paths = "".join(f"  /{at}: *i\n" for at in range(2000))
    text = f"openapi: 3.0.0\nx: &i {{get: {{}}}}\nsecurity: [{{a: [{scopes}]}}]\npaths:\n{paths}"
    text += "components: {securitySchemes: {a: {type: oauth2}}}\n"
    with pytest.raises(Misuse, match="references make too much of it"):
        written(text)
    every = "".join(f"  /{{a}}/{{b}}/x{at}/{{c}}: {{get: {{security: []}}}}\n" for at in range(500))
    assert len(rules(f"openapi: 3.0.0\npaths:\n{every}")) == 1


def test_text_with_a_mark_of_its_encoding_is_read() -> None:
    assert len(rules("\ufeff" + SMALL)) == 1
    assert (
        len(
            rules(
                '\ufeff{"openapi": "3.0.0", "paths": {"/a": {"get": {"tags": ["\\ud83c\\udfe6"]}}}}'
            )
        )
        == 1
    )
