"""Names and values of the file."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.cli.openapi.calling import LOCKED, Caller, snapshot, written


@pytest.mark.parametrize(
    "evil",
    [
        "x\nauth: none", "x: {y", "- a", "'\"", "# no", "*alias", "&a", "!!python/x", "yes", "1.0",
        "a\u2028b", "a\u0085- name: b", "\x1b[31mred", "null", "{audience}", "%s", "x" * 1000,
        "\U0001f600", "---\nkind: x",
    ],
)  # fmt: skip
def test_text_of_the_file_stays_text(evil: str) -> None:
    body = {
        "openapi": "3.0.0",
        "info": {"title": evil},
        "security": [{"o": []}],
        "paths": {
            "/a": {"get": {"operationId": evil, "summary": evil}, "put": {"tags": [evil]}},
            "/b": {"put": {"tags": [evil]}},
            f"/c/{evil}": {"get": {"operationId": "evil"}},
            f"/d/{{{evil}}}": {"get": {"security": []}},
            f"/d/{evil}": {"get": {"security": [{evil: []}]}},
        },
        "components": {
            "securitySchemes": {
                "o": {"type": "openIdConnect", "openIdConnectUrl": evil},
                evil: {"type": "apiKey", "in": "header", "name": evil},
            }
        },
        "servers": [{"url": "/{v}", "variables": {"v": {"default": "v1"}}}],
    }
    call = Caller(snapshot(json.dumps(body)))
    assert call("GET", "/v1/a") == LOCKED
    assert call("GET", "/v1/a", "") != "denied"
    if not set(evil) & set("{}/"):
        assert call("GET", "/v1/d/x").startswith("GET")
    texts, _ = written(json.dumps(body))
    for text in texts.values():
        comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
        assert all(line.isprintable() for line in comments)
    assert len(yaml.safe_load(texts["policy.yaml"])["spec"]["rules"]) <= 5
