"""`sidecar init OPENAPI`: what is written checks, and decides as the description says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.cli import run
from tests.casebook import ISSUER
from tests.cli.openapi.calling import KEYED, LOCKED, LOW, Caller, snapshot, written

PETSTORE = """
openapi: 3.0.3
info: {title: Swagger Petstore - OpenAPI 3.0, version: 1.0.11}
servers: [{url: /api/v3}, {url: "https://petstore.example:8443/api/v3/"}]
paths:
  /pet:
    put:
      tags: [pet]
      operationId: updatePet
      summary: Update an existing pet
      security: [{petstore_auth: [write:pets, read:pets]}]
      requestBody: {content: {application/json: {schema: {$ref: pet.yaml}, example: 2017-07-21}}}
    post:
      tags: [pet]
      operationId: addPet
      security: [{petstore_auth: [write:pets, read:pets]}]
  /pet/findByStatus:
    get: {tags: [pet], operationId: findPetsByStatus, security: [{petstore_auth: [read:pets]}]}
  /pet/{pet-id}:
    parameters: [{name: pet-id, in: path, required: yes, schema: {type: integer}}]
    get:
      tags: [pet]
      operationId: getPetById
      security: [{api_key: []}, {petstore_auth: [write:pets, read:pets]}]
    delete: {tags: [pet], operationId: deletePet, security: [{petstore_auth: [write:pets, read:pets]}]}
  /pet/{petId}.json:
    get: {operationId: petAsJson, security: [{petstore_auth: [admin]}]}
  /store/inventory:
    get: {tags: [store], operationId: getInventory, security: [{api_key: []}]}
  /store/order/{orderId}:
    get: {tags: [store], operationId: getOrderById}
    delete: {tags: [store], operationId: deleteOrder}
  /user/login:
    get: {tags: [user], operationId: loginUser, security: []}
  /user/me:
    get: {tags: [user], operationId: me, security: [{petstore_auth: []}]}
  /user/{username}:
    get: {tags: [user], operationId: getUser, security: [{}, {petstore_auth: []}]}
    put: {tags: [user], operationId: putUser, security: [{basic: []}]}
components:
  securitySchemes:
    basic: {type: http, scheme: Basic}
    petstore_auth:
      type: oauth2
      flows: {implicit: {authorizationUrl: "https://petstore.example/oauth", scopes: {}}}
    api_key: {type: apiKey, name: X-API-Key, in: header}
"""

BANK = {
    "openapi": "3.1.0",
    "info": {"title": "Bank \U0001f3e6", "version": "2"},
    "servers": [
        {
            "url": "https://{region}.bank.example/{version}",
            "variables": {
                "region": {"default": "eu"},
                "version": {"default": "v1", "enum": ["v1", "v2"]},
            },
        }
    ],
    "security": [{"login": ["accounts"]}],
    "paths": {
        "/accounts": {"get": {"operationId": "accounts"}},
        "/accounts/{id}": {
            "$ref": "#/components/pathItems/account",
            "head": {"operationId": "probe", "security": [{"login": ["probe"]}]},
        },
        "/accounts/{id}/statements": {
            "get": {"operationId": "statements", "security": [{"login": ["accounts"]}, {"sid": []}]}
        },
        "/accounts/frozen": {"get": {"operationId": "frozen", "security": [{"login": ["admin"]}]}},
        "/rates/{currency}": {"get": {"operationId": "rates", "security": []}},
        "/rates/internal": {"get": {"operationId": "ratesInternal"}},
        "/settlements": {
            "post": {"operationId": "settle", "security": [{"mesh": []}]},
            "put": {"operationId": "resettle", "security": [{"mesh": [], "login": ["settle"]}]},
        },
        "/upload": {
            "servers": [{"url": "/files"}],
            "post": {"operationId": "upload", "servers": [{"url": "https://up.example/direct"}]},
            "put": {"operationId": "replace"},
        },
    },
    "components": {
        "pathItems": {
            "account": {
                "get": {"operationId": "account"},
                "delete": {
                    "operationId": "closeAccount",
                    "security": [{"login": ["accounts"], "more": ["close"]}],
                },
                "trace": {"operationId": "trace"},
            }
        },
        "securitySchemes": {
            "login": {
                "type": "openIdConnect",
                "openIdConnectUrl": f"{ISSUER}/.well-known/openid-configuration",
            },
            "more": {"$ref": "#/components/securitySchemes/login"},
            "sid": {"type": "apiKey", "in": "cookie", "name": "sid"},
            "mesh": {"type": "mutualTLS"},
        },
    },
    "webhooks": {"paid": {"post": {}}},
}


def test_a_petstore_decides_as_it_is_described() -> None:
    call = Caller(snapshot(PETSTORE))
    both = "write:pets read:pets"
    assert call("PUT", "/api/v3/pet") == LOCKED
    assert call("PUT", "/api/v3/pet", "read:pets") == LOW
    assert call("PUT", "/api/v3/pet", both).startswith("pet POST, PUT")
    assert call("PUT", "/pet", both) == "denied"
    assert call("PUT", "/api/v3/pet", headers=KEYED) == "denied"
    # The concrete path goes first, whatever the templated one admits.
    assert call("GET", "/api/v3/pet/findByStatus", headers=KEYED) == "denied"
    assert call("GET", "/api/v3/pet/findByStatus", "read:pets") == "findPetsByStatus"
    assert call("GET", "/api/v3/pet/7.json", headers=KEYED) == "denied"
    assert call("GET", "/api/v3/pet/7", headers=KEYED) == "getPetById with an API key"
    assert call("HEAD", "/api/v3/pet/7", headers=KEYED) == "getPetById with an API key"
    assert call("GET", "/api/v3/pet/7", "read:pets") == LOW
    assert call("GET", "/api/v3/pet/7", both).startswith("getPetById with a token")
    assert call("GET", "/api/v3/store/inventory", both) == "denied"
    assert call("GET", "/api/v3/store/inventory", headers=KEYED) == "getInventory"
    # No security declared is not open.
    assert call("GET", "/api/v3/store/order/1") == LOCKED
    assert call("GET", "/api/v3/store/order/1", "") == "store GET, DELETE declares no security"
    assert call("GET", "/api/v3/user/login") == "loginUser"
    assert call("GET", "/api/v3/user/me") == LOCKED
    assert call("GET", "/api/v3/user/%6de") == LOCKED
    assert call("GET", "/api/v3/user/me", "") == "me"
    assert call("GET", "/api/v3/user/ann") == "getUser"
    assert (
        call("GET", "/api/v3/user/ann", headers={"authorization": "Bearer no"}) == "invalid_token"
    )
    assert call("PUT", "/api/v3/user/ann", both) == "denied"


def test_a_petstore_says_what_is_missing() -> None:
    _, said = written(PETSTORE)
    assert (
        "'{petId}.json': a variable is a whole segment of a pattern; no rule is made for it" in said
    )
    assert (
        "declares no security: a token is needed until you say otherwise: "
        "GET /store/order/{orderId}, DELETE /store/order/{orderId}" in said
    )
    assert "http basic is not supported ('basic'); it stays refused: PUT /user/{username}" in said
    assert "'api_key': each caller needs an ApiKey document" in said
    assert "no issuer is known" in said
    assert "match.hosts`: petstore.example" in said


def test_a_bank_decides_as_it_is_described() -> None:
    text = json.dumps(BANK)
    call = Caller(snapshot(text))
    for version in ("v1", "v2"):
        assert call("GET", f"/{version}/accounts") == LOCKED
        assert call("GET", f"/{version}/accounts", "other") == LOW
        assert call("GET", f"/{version}/accounts", "accounts") == "accounts"
    assert call("GET", "/v3/accounts", "accounts") == "denied"
    assert call("GET", "/v1/accounts/7", "accounts").startswith("account")
    assert call("GET", "/v1/accounts/frozen", "accounts") == LOW
    assert call("GET", "/v1/accounts/frozen", "admin") == "frozen"
    assert call("HEAD", "/v1/accounts/7", "accounts") == LOW
    assert call("HEAD", "/v1/accounts/7", "probe").startswith("probe")
    assert call("DELETE", "/v1/accounts/7", "accounts") == LOW
    assert call("DELETE", "/v1/accounts/7", "accounts close") == "closeAccount"
    # A cookie is a place for API keys; whose tokens are whose stays apart.
    cookie = {"cookie": "sid=partner.secret"}
    assert call("GET", "/v1/accounts/7/statements", headers=cookie) == "statements with an API key"
    assert call("GET", "/v1/accounts/7/statements", "accounts").startswith(
        "statements with a token"
    )
    assert call("GET", "/v1/accounts/7/statements", "") == LOW
    assert call("GET", "/v1/accounts", headers=cookie) == "denied"
    assert call("GET", "/v1/rates/eur").startswith("rates")
    assert call("GET", "/v1/rates/internal") == LOCKED
    assert call("GET", "/v1/rates/internal", "accounts") == "ratesInternal"
    assert call("POST", "/v1/settlements", "accounts") == "denied"
    assert call("POST", "/v1/settlements", certificate=True) == "settle"
    assert call("PUT", "/v1/settlements", certificate=True) == LOCKED
    assert call("PUT", "/v1/settlements", "settle") == "denied"
    assert call("PUT", "/v1/settlements", "settle", certificate=True) == "resettle"
    assert call("POST", "/direct/upload", "accounts") == "upload"
    assert call("PUT", "/files/upload", "accounts") == "replace"
    assert call("POST", "/v1/upload", "accounts") == "denied"
    texts, said = written(text)
    assert yaml.safe_load(texts["issuer.yaml"])["spec"] == {"issuer": ISSUER}
    assert "'region' was taken to be 'eu'" in said
    assert "TRACE is always refused: TRACE /accounts/{id}" in said
    assert "webhooks" in said
    assert "require.workloads" in said


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "openapi.yaml", tmp_path / "policies"
    file.write_text(PETSTORE)
    assert run(["init", str(file), "--into", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "Wrote issuer.yaml, service.yaml, policy.yaml" in printed.out
    assert "it stays refused" in printed.err
    assert "it stays" in (folder / "policy.yaml").read_text()
    assert str(tmp_path) not in (folder / "policy.yaml").read_text()
    assert run(["check", str(folder)]) == 0
    assert "3 documents, 0 errors, 0 warnings" in capsys.readouterr().out
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert run(["init", str(file), "--into", str(folder)]) == 2
    assert "already holds" in capsys.readouterr().err
    assert before == {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_text("{"), "not valid YAML"),
        (lambda path: None, "no such file"),
    ],
)
def test_files_that_cannot_be_read_are_misuse(
    tmp_path: Path, make: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "file")
    assert run(["init", str(tmp_path / "file"), "--into", str(tmp_path / "into")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "into").exists()
