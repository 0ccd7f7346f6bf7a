"""Mistakes in documents: all at once, each at its place; and what a snapshot is made of."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.documents import Document
from sidecar.decide.lint import review as validate
from sidecar.decide.parse import Source, from_canonical, parse
from sidecar.errors import DocumentsInvalid, Problem
from tests.casebook import documents

HEAD = "apiVersion: authz.sidecar/v1\nkind: {}\nmetadata: {{name: {}}}\nspec:\n"


def policy(rules: str, name: str = "p", more: str = "") -> str:
    return HEAD.format("AccessPolicy", name) + more + "  rules:\n" + rules


def problems(text: str) -> list[Problem]:
    found, mistakes = parse([Source("f.yaml", text)])
    return mistakes or validate(found)


def places(text: str) -> list[str]:
    return [f"{p.line}:{p.column} {p.message}" for p in problems(text)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("  - {name: a, when: foo == 1}", "6:21 undeclared reference to 'foo'"),
        ("  - {name: a, when: 'foo == 1'}", "6:22 undeclared reference to 'foo'"),
        ("  - name: a\n    when: |\n      true &&\n      foo", "9:1 undeclared reference"),
        ("  - {name: a, match: {paths: [a]}}", "6:31 a path pattern starts with /"),
        ("  - {name: a, match: {methods: [get]}}", "6:33 'get' is not a method"),
        ("  - {name: a, match: {methods: [TRACE]}}", "6:33 TRACE is always refused"),
        ("  - {name: a, match: {hosts: ['A:80']}}", "6:31 'A:80' is not a host"),
        ("  - {name: a, match: {hosts: ['[0::1]']}}", "'[0::1]' is not a host"),
        ("  - {name: a, match: {hosts: [a.example.]}}", "'a.example.' is not a host"),
        ("  - {name: a, require: {scopes: [a b]}}", "'a b' is not a scope"),
        ("  - {name: a}\n  - {name: a}", "7:12 a second rule is named 'a'"),
        ("  - {name: a, effect: deny, auth: none}", "6:35 a deny rule has no auth"),
        ("  - {name: a, effect: guard, auth: none}", "6:36 a guard rule has no auth"),
        ("  - {name: a, effect: deny, require: {scopes: [x]}}", "6:38 a deny rule has no require"),
        ("  - {name: a, auth: none, require: {scopes: [x]}}", "6:36 with auth: none nothing"),
        ("  - {name: a, when: request.params.id == ''}", "6:21 request.params.id is not bound"),
        ("  - {name: a, match: {paths: ['/{id}', /x]}, when: request.params.id == ''}", "not bound"),
        ("  - {name: a, then: {setHeaders: {host: \"'x'\"}}}", "host is not for rules to set"),
        ("  - {name: a, then: {setHeaders: {X-Sidecar-Subject: \"'x'\"}}}", "not for rules to set"),
        ("  - {name: a, then: {setHeaders: {'a b': \"'x'\"}}}", "'a b' is not a header name"),
        ("  - {name: a, then: {setHeaders: {x-a: '[1]'}}}", "gives list"),
        ("  - {name: a, when: token.sub}\n  - {name: b, whn: x}", "7:15 unknown field 'whn'"),
        ("  - {name: a, effect: alow}", "6:23 'alow' is not one of allow, deny, guard"),
        ("  - {name: a, match: [GET]}", "6:22 expected fields, found a list"),
        ("  - {name: a, match: {paths: /x}}", "6:30 expected a list, found text"),
        ("  - {name: 7}", "6:12 expected text, found a number"),
        ("  - {when: token.sub == ''}", "6:5 name is missing"),
        ("    []\n", "6:5 expected at least one entry"),
    ],
)  # fmt: skip
def test_policy_mistakes(rules: str, expected: str) -> None:
    found = places(policy(rules))
    assert any(expected in place for place in found), found


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("  issuer: https://i\n  audiences: [a]\n  jwks: {uri: a, inline: {keys: []}}", "7:9 exactly one"),
        ("  issuer: https://i\n  audiences: [a]\n  jwks: {}", "7:9 exactly one of uri, file and inline"),
        ("  issuer: https://i\n  audiences: [a]\n  jwks: {inline: {keys: []}}", "7:18 a JWK Set without"),
        ("  issuer: https://i\n  audiences: [a]\n  jwks: {uri: 'http://far.example/k'}", "7:15 an https"),
        ("  issuer: corp\n  audiences: [a]", "5:11 'corp' is not an https address for discovery"),
        ("  issuer: https://i\n  audiences: [a]\n  clockSkew: 1h", "7:14 more than 10m"),
        ("  issuer: https://i\n  audiences: [a]\n  clockSkew: 30", "7:14 expected text, found a number"),
        ("  issuer: https://i\n  audiences: [a]\n  clockSkew: soon", "7:14 'soon' is not a duration"),
        ("  issuer: https://i\n  audiences: [a]\n  algorithms: [HS256]", "7:16 'HS256' is not one of"),
        ("  issuer: https://i", "5:3 no audience"),
        ("  audiences: [a]", "issuer is missing"),
    ],
)  # fmt: skip
def test_issuer_mistakes(spec: str, expected: str) -> None:
    found = places(HEAD.format("TokenIssuer", "i") + spec)
    assert any(expected in place for place in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "2:1 not valid YAML"),
        ("- 1", "1:1 expected a document, found a list"),
        ("apiVersion: v2\nkind: Nope\nmetadata: {name: A_b}\nspec: {}", "2:7 unknown kind 'Nope'"),
        ("apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nspec: {rules: []}", "metadata is missing"),
        (policy("  - {name: a}\n") + "kind: x\n", "'kind' is given twice"),
        (policy("  - {name: a, name: b}\n"), "'name' is given twice"),
        (policy("  - {name: a}\n") + "---\n" + policy("  - {name: a}\n"), "already defined at f.yaml:3"),
        (policy("  - {<<: {name: a}}\n"), "expected a field name"),
    ],
)  # fmt: skip
def test_shape_mistakes(text: str, expected: str) -> None:
    assert any(expected in place for place in places(text)), places(text)


def test_all_mistakes_come_at_once() -> None:
    text = policy("  - {name: a, when: foo, auht: x}\n  - {name: b, match: {paths: [x]}}\n")
    text += "---\n" + policy("  - {name: a, effct: deny}", "q")
    assert [p.line for p in problems(text)] == [6, 6, 14]
    text = text.replace(", auht: x", "").replace("effct", "effect")
    assert [p.line for p in problems(text)] == [6, 7]


def test_a_billion_laughs_is_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = HEAD.format("TokenIssuer", "i") + "  jwks: {inline: {keys: *a}}\n"
    assert problems("x: &a\n  " + "\n  ".join(lines) + "\n" + text)


def test_an_alias_that_holds_itself_is_refused() -> None:
    text = HEAD.format("TokenIssuer", "i") + "  jwks: {inline: &a {keys: *a}}\n"
    assert any("nested more than 64 deep" in place for place in places(text))


def test_json_is_read_too() -> None:
    text = (
        '{"apiVersion": "authz.sidecar/v1",\t"kind": "AccessPolicy", "metadata": {"name": "p"},'
        '\n\t"spec": {"rules": [{"name": "\\ud83d\\ude00 \\/", "when": "foo"}]}}'
    )
    [found] = problems(text)
    assert (found.line, found.message) == (2, "undeclared reference to 'foo'")
    documents, _ = parse([Source("f.json", text)])
    assert "😀 /" in documents[0].canonical.decode()


def test_canonical_form_round_trips() -> None:
    [document], _ = parse([Source("f", policy("  - {name: a, match: {paths: [/x]}}"))])
    again = from_canonical(document.canonical)
    assert again == document
    assert again.digest == document.digest
    with pytest.raises(DocumentsInvalid):
        from_canonical(b"{}")


def issuer(
    name: str, namespace: str = "default", iss: str = "https://i", audience: str = "a"
) -> str:
    return (
        f"apiVersion: authz.sidecar/v1\nkind: TokenIssuer\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{issuer: {iss}, audiences: [{audience}]}}\n---\n"
    )


def loaded(text: str) -> list[Document]:
    found, mistakes = parse([Source("f", text)])
    assert not mistakes
    return found


def test_an_issuer_is_unique_within_what_a_sidecar_sees() -> None:
    both = loaded(issuer("a", "platform") + issuer("b"))
    assert "already stands for the issuer" in validate(both)[0].message
    apart = loaded(issuer("a", "one") + issuer("b", "two"))
    assert compile_snapshot(apart, namespace="one", labels={}).issuers.keys() == {"https://i"}


def test_namespaces_and_labels_select() -> None:
    text = "---\n".join(
        policy(f"  - {{name: {name}}}\n", name, f"  selector: {selector}\n").replace(
            "{name: " + name + "}\nspec", "{name: " + name + ", namespace: " + namespace + "}\nspec"
        )
        for name, namespace, selector in (
            ("mine", "default", "{app: a}"), ("all", "default", "{}"),
            ("platform", "platform", "{}"), ("other", "other", "{}"), ("b", "default", "{app: b}"),
        )
    )  # fmt: skip
    snapshot = compile_snapshot(loaded(text), namespace="default", labels={"app": "a"})
    found = [rule.ref for rule, _ in snapshot.routes.find("GET", "h", [""])]
    assert found == ["platform/platform/platform", "default/all/all", "default/mine/mine"]


def test_the_first_service_applies_and_a_second_is_warned_of() -> None:
    text = "---\n".join(
        HEAD.format("ProtectedService", name) + f"  audiences: [{name}]\n" for name in ("b", "a")
    )
    found = loaded(text)
    [warning] = validate(found)
    assert warning.warning
    assert "ProtectedService/default/a comes first" in warning.message
    assert compile_snapshot(found, namespace="default", labels={}).service.name == "a"


def test_an_unguarded_claim_in_a_deny_is_warned_of() -> None:
    text = policy("  - {name: a, effect: deny, when: token.x == 1 && has(token.y) && token.y == 1}")
    [warning] = problems(text)
    assert warning.warning
    assert warning.message.startswith("token.x is read unguarded")


def test_reading_a_header_that_a_rule_sets_is_warned_of() -> None:
    rules = (
        "  - {name: a, when: \"request.headers['x-tier'] == 'gold'\"}\n"
        "  - {name: b, then: {setHeaders: {X-Tier: token.tier}}}\n"
    )
    [warning] = problems(policy(rules))
    assert warning.warning
    assert (warning.line, warning.pointer) == (6, "spec.rules[0].when")
    assert "request.headers['x-tier'] is set by a rule" in warning.message


def test_trust_changes_with_what_verifying_depends_on() -> None:
    base = 'apiVersion: authz.sidecar/v1\nkind: TokenIssuer\nmetadata: {name: c}\nspec: {issuer: "https://idp.example", audiences: [A], jwks: {inline: $JWKS}}\n'
    one, other = (
        compile_snapshot(documents(base.replace("A]", name)), namespace="default", labels={})
        for name in ("a]", "b]")
    )
    with_policy = compile_snapshot(
        documents(base.replace("A]", "a]") + "---\n" + policy("  - {name: x}\n")),
        namespace="default", labels={},
    )  # fmt: skip
    assert one.trust == with_policy.trust != other.trust
    assert one.digest != with_policy.digest


def test_invalid_documents_do_not_compile() -> None:
    found: list[Any] = loaded(policy("  - {name: a, when: foo}\n"))
    with pytest.raises(DocumentsInvalid, match="undeclared reference"):
        compile_snapshot(found, namespace="default", labels={})


@pytest.mark.parametrize(
    "asks",
    [
        "require: {segments: [staff]}",
        "when: \"!('staff' in subject.segments)\"",
        "then: {setHeaders: {x-a: \"'staff' in source.segments ? 'a' : 'b'\"}}",
    ],
)
def test_no_team_says_who_is_in_a_segment_that_platform_asks_for(asks: str) -> None:
    team = HEAD.format("Segment", "staff") + "  when: '!subject.anonymous'\n"
    plain = policy(f"  - {{name: a, effect: guard, {asks}}}\n")
    guard = plain.replace("{name: p}", "{name: p, namespace: platform}")
    said = "AccessPolicy/platform/p asks who is in this segment, so only platform says it"
    assert [p.message for p in problems(f"{team}---\n{guard}") if not p.warning] == [said]
    for own in (plain, guard.replace("staff", "crew")):
        assert not [p for p in problems(f"{team}---\n{own}") if not p.warning]
