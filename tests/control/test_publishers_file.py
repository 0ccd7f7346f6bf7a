"""The file of publishers: what it says, and every mistake in it with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.control.authority import Permission
from sidecar.control.peer_certificate import PeerCertificate
from sidecar.control.publishers import MOST_PERMISSIONS, Publishers, load, parse
from sidecar.errors import DocumentsInvalid, Misuse
from tests.casebook import jwks

IDP = "https://idp.example"
HEAD = f"""issuers:
- issuer: {IDP}
  audience: sidecar-control-plane
- issuer: https://other.example
  audience: sidecar-control-plane
permissions:
"""
FILE = f"""{HEAD}- {{who: {{issuer: "{IDP}", subject: alice}}, role: publisher, namespaces: [payments], kinds: [AccessPolicy]}}
- {{who: {{issuer: "{IDP}", claims: {{groups: platform-team}}}}, role: admin}}
- {{who: {{issuer: "{IDP}", subject: bob, claims: {{mfa: true, level: 2}}}}, role: approver}}
- {{who: {{spiffe: spiffe://prod/ns/ci/sa/deploy}}, role: publisher, namespaces: [payments, shop]}}
- {{who: {{certificate: Deploy.CI.example}}, role: viewer, customers: true}}
"""


def read(text: str) -> Publishers:
    return parse("publishers.yaml", text, Path("/nowhere"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(DocumentsInvalid) as found:
        read(text)
    return [str(problem) for problem in found.value.problems]


def token(subject: str = "alice", issuer: str = IDP, **claims: Any) -> tuple[Permission, ...]:
    return read(FILE).of_token(issuer, subject, {"sub": subject, "iss": issuer, **claims})


ALICE = Permission("publisher", frozenset(["payments"]), frozenset(["AccessPolicy"]))
ADMIN = Permission("admin")


def test_tokens_by_subject_and_by_claims() -> None:
    assert token() == (ALICE,)
    assert token(groups="platform-team") == (ALICE, ADMIN)
    assert token("carol", groups=["x", "platform-team"]) == (ADMIN,)
    assert token("carol", groups=["platform-team2", ["platform-team"]]) == ()
    assert token("carol", groups={"platform-team": True}) == ()
    assert token("carol") == ()


def test_a_subject_is_its_issuers() -> None:
    assert token(issuer="https://other.example", groups="platform-team") == ()


def test_claims_are_what_they_are() -> None:
    both = Permission("approver")
    assert token("bob", mfa=True, level=2) == (both,)
    for wrong in ({"mfa": True}, {"mfa": 1, "level": 2}, {"mfa": "true", "level": 2},
                  {"mfa": True, "level": 2.0}, {"mfa": True, "level": True}):  # fmt: skip
        assert token("bob", **wrong) == (), wrong
    assert token("carol", mfa=True, level=2) == ()


def test_claims_inside_others() -> None:
    text = HEAD + f'- {{who: {{issuer: "{IDP}", claims: {{realm.roles: ops}}}}, role: viewer}}\n'
    found = read(text)
    assert found.of_token(IDP, "x", {"realm": {"roles": ["ops"]}}) == (Permission("viewer"),)
    assert found.of_token(IDP, "x", {"realm": "roles"}) == ()


def test_certificates() -> None:
    found = read(FILE)
    deploy = Permission("publisher", frozenset(["payments", "shop"]))
    support = Permission("viewer", customers=True)
    spiffe = "spiffe://prod/ns/ci/sa/deploy"
    assert found.of_certificate(PeerCertificate(spiffe)) == (deploy,)
    assert found.of_certificate(PeerCertificate(spiffe + "er")) == ()
    dns = frozenset(["a.example", "deploy.ci.example"])
    assert found.of_certificate(PeerCertificate("", dns)) == (support,)
    assert found.of_certificate(PeerCertificate(spiffe, dns)) == (deploy, support)
    assert found.of_certificate(PeerCertificate("", frozenset(["x.deploy.ci.example"]))) == ()
    assert found.of_certificate(PeerCertificate()) == ()
    assert found.of_token("", "", {}) == (), "and are no tokens"


def test_issuers(tmp_path: Path) -> None:
    (tmp_path / "keys.jwks").write_text(json.dumps(jwks()))
    text = f"""issuers:
- {{issuer: https://a.example, audience: x}}
- {{issuer: https://b.example, audience: x, jwks: {{uri: "https://b.example/keys"}}}}
- {{issuer: c, audience: x, jwks: {{file: keys.jwks}}, algorithms: [EdDSA], subject: email}}
- {{issuer: d, audience: x, jwks: {{inline: {json.dumps(jwks())}}}}}
permissions:
- {{who: {{issuer: c, subject: alice}}, role: admin}}
"""
    (tmp_path / "publishers.yaml").write_text(text)
    found = load(tmp_path / "publishers.yaml")
    a, b, c, d = found.issuers.values()
    assert (a.keys, a.jwks_uri) == (None, None)
    assert b.jwks_uri == "https://b.example/keys"
    assert (c.algorithms, c.subject, c.audiences) == (
        frozenset(["EdDSA"]), "email", frozenset(["x"]),
    )  # fmt: skip
    assert c.keys is not None
    assert d.keys is not None
    assert "none" not in a.algorithms
    assert found.files == (tmp_path / "keys.jwks",)


def one(entry: str) -> str:
    return f"{HEAD}- {entry}\n"


WHO = f'who: {{issuer: "{IDP}", subject: alice}}'


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (f"{{{WHO}}}", "role is missing"),
        (f"{{{WHO}, role: root}}", "'root' is not one of admin, approver, publisher, viewer"),
        (f"{{{WHO}, role: viewer, role: admin}}", "'role' is given twice"),
        (f"{{{WHO}, role: viewer, namespace: x}}", "unknown field 'namespace'"),
        (f"{{{WHO}, role: admin, namespaces: []}}", "expected at least one entry"),
        (f"{{{WHO}, role: admin, namespaces: }}", "expected a list"),
        (f"{{{WHO}, role: admin, kinds: []}}", "expected at least one entry"),
        (f"{{{WHO}, role: admin, namespaces: ['*']}}", "leave the field out"),
        (f"{{{WHO}, role: admin, namespaces: [Payments]}}", "is no namespace's name"),
        (f"{{{WHO}, role: admin, kinds: [Policy]}}", "there is no kind 'Policy'"),
        (f"{{{WHO}, role: viewer, customers: yes}}", "expected true or false"),
        (f"{{{WHO}, role: viewer, customers: true, namespaces: [a]}}", "cannot be limited"),
        (f"{{{WHO}, role: viewer, customers: true, kinds: [AccessPolicy]}}", "cannot be limited"),
        ("{who: {}, role: viewer}", "exactly one of issuer, spiffe and certificate"),
        (
            f'{{who: {{issuer: "{IDP}", subject: a, spiffe: spiffe://p/a}}, role: viewer}}',
            "exactly one of issuer, spiffe and certificate",
        ),
        ("{who: {spiffe: spiffe://p/a, claims: {a: b}}, role: viewer}", "name their issuer"),
        ('{who: {issuer: "https://idp.exampel", subject: a}, role: viewer}', "did you mean"),
        (f'{{who: {{issuer: "{IDP}"}}, role: viewer}}', "everybody with a token of this issuer"),
        (f'{{who: {{issuer: "{IDP}", claims: {{}}}}, role: viewer}}', "everybody with a token"),
        (f'{{who: {{issuer: "{IDP}", subject: ""}}, role: viewer}}', "must not be empty"),
        (f'{{who: {{issuer: "{IDP}", claims: {{a: [b]}}}}, role: viewer}}', "a text, a whole"),
        (f'{{who: {{issuer: "{IDP}", claims: {{a: null}}}}, role: viewer}}', "a text, a whole"),
        (f'{{who: {{issuer: "{IDP}", claims: {{a: ""}}}}, role: viewer}}', "a text, a whole"),
        (f'{{who: {{issuer: "{IDP}", claims: {{a: 1.5}}}}, role: viewer}}', "a text, a whole"),
        ("{who: {spiffe: spiffe://prod}, role: viewer}", "not the path of a workload"),
        ("{who: {spiffe: https://prod/a}, role: viewer}", "not a SPIFFE id"),
        ("{who: {certificate: '*.example'}, role: viewer}", "a DNS name is expected"),
        ("{who: {certificate: CN=deploy}, role: viewer}", "a DNS name is expected"),
    ],
)
def test_permissions_that_cannot_be(entry: str, says: str) -> None:
    [said] = mistakes(one(entry))
    assert says in said
    assert said.startswith("publishers.yaml:7:")


@pytest.mark.parametrize(
    ("issuer", "says"),
    [
        ("{issuer: https://a.example}", "audience is missing"),
        ("{issuer: 'https://a.example#b', audience: x}", "an address without #"),
        ("{issuer: 'https://a.exämple', audience: x, jwks: {uri: 'https://a/k'}}", "without #"),
        ("{issuer: http://a.example, audience: x}", "an https address is expected"),
        ("{issuer: a, audience: x}", "is not an https address"),
        ("{issuer: a, audience: x, jwks: {}}", "exactly one of uri, file and inline"),
        ("{issuer: a, audience: x, jwks: {uri: 'http://a/k'}}", "an https address is expected"),
        ("{issuer: a, audience: x, jwks: {file: gone.jwks}}", "gone.jwks is no JWK Set"),
        ("{issuer: a, audience: x, jwks: {inline: {keys: [{kty: oct, k: AA}]}}}", "private key"),
        ("{issuer: a, audience: x, algorithms: [HS256]}", "'HS256' is not one of"),
        ("{issuer: a, audience: x, algorithms: [none]}", "'none' is not one of"),
    ],
)
def test_issuers_that_cannot_be(issuer: str, says: str) -> None:
    text = (
        f"issuers:\n- {issuer}\npermissions:\n- {{who: {{spiffe: spiffe://p/a}}, role: viewer}}\n"
    )
    found = mistakes(text)
    assert says in found[0]
    assert found[0].startswith("publishers.yaml:2:")


def test_a_subject_of_no_issuer() -> None:
    found = mistakes(one("{who: {subject: alice}, role: viewer}"))
    assert len(found) == 2
    assert "name their issuer" in found[1]


def test_every_mistake_at_once() -> None:
    text = HEAD.replace("https://other.example", IDP) + (
        f"- {{{WHO}, role: viewer, kinds: [A, B]}}\n- {{who: {{}}, role: admin}}\n"
    )
    assert len(mistakes(text)) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one mapping with permissions"),
        ("- a\n", "expected fields"),
        ("permissions: []\n", "at least one entry"),
        ("issuers: []\n", "permissions is missing"),
        (FILE + "---\n" + FILE, "one mapping with permissions"),
        ("permissions: [", "YAML"),
        ("permissions: " + "[" * 500, "nested more than 64 deep"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n"
            for n in range(8)
        ), "unknown field"),
    ],
)  # fmt: skip
def test_no_such_file(text: str, says: str) -> None:
    assert any(says in said for said in mistakes(text))


def test_too_many() -> None:
    entry = "- {who: {spiffe: spiffe://p/a}, role: viewer}\n"
    assert len(read("permissions:\n" + entry * MOST_PERMISSIONS).grants) == MOST_PERMISSIONS
    [said] = mistakes("permissions:\n" + entry * (MOST_PERMISSIONS + 1))
    assert f"more than {MOST_PERMISSIONS}" in said


def test_files_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"--publishers .*: No such file"):
        load(tmp_path / "gone.yaml")
    path = tmp_path / "publishers.yaml"
    path.write_bytes(b"permissions: \xff")
    with pytest.raises(Misuse, match="it is not UTF-8"):
        load(path)
    path.write_text("#" * (1024 * 1024 + 1))
    with pytest.raises(Misuse, match="longer than"):
        load(path)
    path.write_text(one("{who: {}, role: root}"))
    with pytest.raises(Misuse, match=r"--publishers .*publishers.yaml:7:\d+: 'root' is not one of"):
        load(path)


def test_the_one_that_is_shown_works() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "control-plane.md"
    [text] = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    found = read(text)
    alice = found.of_token(IDP, "alice", {"groups": ["security"]})
    assert alice == (ALICE, Permission("approver"))
    github = "https://token.actions.githubusercontent.com"
    claims = {"repository": "example/payments-policies", "ref": "refs/heads/main"}
    assert found.of_token(github, "x", claims)[0].namespaces == {"payments"}
    assert found.of_token(github, "x", {**claims, "ref": "refs/pull/1/merge"}) == ()
