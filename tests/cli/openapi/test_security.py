"""Schemes and requirements."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sidecar.cli.openapi.read import read
from sidecar.cli.openapi.security import Alternative
from sidecar.decide.parse import Source
from tests.cli.openapi.calling import LOCKED, Caller, api, rules, snapshot, written


@pytest.mark.parametrize(
    ("requirement", "says"),
    [
        ("{d: []}", "http digest is not supported ('d')"),
        ("{q: []}", "an API key in the query is not supported ('q')"),
        ("{u: []}", "the header 'api_key' is never read"),
        ("{f: []}", "'x-forwarded-for' cannot be used here"),
        ("{n: []}", "a scheme of the type 'novel' is not supported"),
        ("{zz: []}", "'zz' is not among components.securitySchemes"),
        ("{h: [], c: []}", "a request carries one credential, never 'h' and 'c' at once"),
        ("{h: [], o: []}", "a request carries one credential, never 'h' and 'o' at once"),
        ("{o2: [], o3: []}", "no token is of two issuers"),
        ("{m: [role]}", "roles of a client certificate"),
        ("{o: ['a b']}", "'a b' is not a scope"),
        ("{o: [x], d: []}", "http digest is not supported ('d')"),
    ],
)
def test_what_no_rule_can_ask_for_stays_refused(requirement: str, says: str) -> None:
    text = api(f"/a: {{get: {{security: [{requirement}]}}, put: {{security: [{{o: [w]}}]}}}}")
    texts, said = written(text)
    assert f"{says}" in said
    assert "it stays refused: GET /a" in said
    call = Caller(snapshot(text))
    assert call("GET", "/a", "x w") == "denied"
    assert call("PUT", "/a", "w") == "PUT /a"
    # Beside one that can be asked for, it is only missing.
    more, said = written(text.replace(f"[{requirement}]", f"[{requirement}, {{o: [r]}}]"))
    assert says in said
    assert "stays refused" not in said
    assert more != texts


def test_an_empty_security_of_the_whole_opens_nothing() -> None:
    text = api("/a: {get: {}}\n/b: {get: {security: []}}", "security: []")
    call = Caller(snapshot(text))
    assert call("GET", "/a") == LOCKED
    assert call("GET", "/b") == "GET /b"
    assert "declares no security" in written(text)[1]


def test_issuers() -> None:
    two = api("/a: {get: {security: [{o2: [x]}]}}\n/b: {get: {security: [{o3: [y]}]}}")
    texts, _ = written(two)
    issuers = [each["spec"]["issuer"] for each in yaml.safe_load_all(texts["issuer.yaml"])]
    assert issuers == ["https://two.example", "https://three.example"]
    assert [each["require"]["issuers"] for each in rules(two)] == [[each] for each in issuers]
    texts, said = written(two, issuer="https://own.example")
    assert yaml.safe_load(texts["issuer.yaml"])["spec"]["issuer"] == "https://own.example"
    assert "https://two.example gave way to --issuer" in said
    assert "issuers" not in str(rules(two, issuer="https://own.example"))
    _, said = written(api("/a: {get: {security: [{bad: []}, {odd: [x]}]}}"))
    assert "names no issuer: an https address is expected" in said
    texts, _ = written(api("/a: {get: {security: [{c: []}]}}\n/b: {get: {security: [{m: []}]}}"))
    assert sorted(texts) == ["policy.yaml", "service.yaml"]
    _, said = written(api("/a: {get: {security: [{b: [admin]}]}}"))
    assert "'b' is no oauth2 scheme, so its roles became scopes: admin" in said


def test_credentials_of_the_service() -> None:
    def places(requirement: str) -> Any:
        texts, _ = written(api(f"/a: {{get: {{security: [{requirement}]}}}}"))
        return yaml.safe_load(texts["service.yaml"])["spec"].get("credentials")

    assert places("{o: []}") is None
    assert places("{h: []}, {o: []}") == [{"header": "authorization"}, {"header": "x-key"}]
    assert places("{c: []}") == [{"cookie": "sid"}]
    assert places("{a: []}") is None


def test_what_implies_what() -> None:
    plain = Alternative("token", "token", ("a",))
    more = Alternative("token", "token", ("a", "b"), "i", True)
    certificate, optional, none = (Alternative(each) for each in ("workload", "optional", "none"))
    assert more.implies(plain)
    assert not plain.implies(more)
    assert plain.implies(optional)
    assert not certificate.implies(optional)
    assert more.implies(certificate)
    assert all(each.implies(none) for each in (plain, certificate, optional, none))
    assert not none.implies(optional)
    assert not Alternative("token", "key").implies(Alternative("token", "token"))


def test_weaker_alternatives_make_stronger_ones_empty_words() -> None:
    found = read(
        Source("x", api("/a: {get: {security: [{o: [r, w]}, {o: [r]}, {o: [r]}, {m: []}]}}"))
    )
    assert found.operations[0].alternatives == (
        Alternative("token", "token", ("r",)), Alternative("workload"),
    )  # fmt: skip
