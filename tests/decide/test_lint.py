"""What is warned of, and, as much, what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.decide import inclusion
from sidecar.decide.compile import validate
from sidecar.decide.documents import Document
from sidecar.decide.lint import lint, review
from sidecar.decide.parse import Source, parse
from sidecar.errors import Problem
from tests.casebook import FOLDER, documents

DEMO = Path(__file__).parents[2] / "sidecar" / "demo" / "policies"
ISSUER = """\
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: i}
spec: {issuer: "https://i.example", audiences: [a]}
---
"""


def policy(rules: str, name: str = "p", namespace: str = "default", more: str = "") -> str:
    return (
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec:\n{more}  rules:\n" + "".join(f"  - {{{each}}}\n" for each in rules.split("\n"))
    )  # fmt: skip


def read(text: str) -> list[Document]:
    found, problems = parse([Source("f.yaml", text)])
    assert not problems, problems
    return found


def warnings(text: str) -> list[Problem]:
    found = read(text)
    assert not validate(found)
    return lint(found)


def brief(text: str) -> list[tuple[str, str]]:
    return [(each.code, each.pointer.removeprefix("spec.")) for each in warnings(text)]


BROAD = "name: broad, match: {methods: [GET], paths: ['/a/**']}"


@pytest.mark.parametrize(
    ("rules", "code", "pointer"),
    [
        # never matches
        ("name: a, when: 'false'", "never-matches", "rules[0].when"),
        ("name: a, when: \"token.x == 'y' && false\"", "never-matches", "rules[0].when"),
        ("name: a, effect: deny, when: 1 == 2", "never-matches", "rules[0].when"),
        (
            "name: a, when: token.role == 'x' && token.role == 'y'",
            "never-matches", "rules[0].when",
        ),
        (
            "name: a, match: {methods: [GET]}, when: request.method == 'POST'",
            "never-matches", "rules[0].when",
        ),
        (
            "name: a, match: {paths: [/a]}\nname: b, effect: deny, match: {paths: ['/*']}",
            "never-matches", "rules[0]",
        ),
        ("name: a, when: \"'x' == request.headers['X-Tier']\"", "header-case", "rules[0].when"),
        (
            "name: a, then: {setHeaders: {x-a: \"request.headers['X-B']\"}}",
            "header-case", "rules[0].then.setHeaders.x-a",
        ),
        ("name: a, require: {issuers: ['https://other']}", "unknown-issuer", "rules[0].require.issuers[0]"),
        # protects nothing
        (f"{BROAD}\nname: g, effect: deny, match: {{paths: [/b]}}", "protects-nothing", "rules[1].match"),
        (
            f"{BROAD}\nname: g, effect: guard, match: {{methods: [POST], paths: ['/a/**']}}, "
            "require: {scopes: [x]}",
            "protects-nothing", "rules[1].match",
        ),
        (
            "name: a, match: {paths: [/a], hosts: [x.example]}\n"
            "name: g, effect: deny, match: {paths: [/a], hosts: ['*.y.example']}, when: token.?x == optional.of(1)",
            "protects-nothing", "rules[1].match",
        ),
        # shadowed
        (f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a/b]}}", "shadowed", "rules[1]"),
        (f"{BROAD}\nname: b, match: {{methods: [HEAD], paths: [/a]}}", "shadowed", "rules[1]"),
        (
            f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a/b]}}, then: {{setHeaders: {{x-a: token.sub}}}}",
            "shadowed", "rules[1]",
        ),
        (
            f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a/b]}}, when: token.vip, limit: {{rate: 9/s}}",
            "shadowed", "rules[1]",
        ),
        (
            "name: a, when: token.x, match: {paths: ['/**']}\nname: b, when: token.x, match: {paths: [/b]}",
            "shadowed", "rules[1]",
        ),
        # narrowed by an allow
        (
            f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a/b]}}, require: {{scopes: [x]}}",
            "narrowed-by-allow", "rules[1].require",
        ),
        (
            f"name: b, match: {{methods: [GET], paths: ['/a/{{id}}']}}, when: request.params.id == token.sub\n{BROAD}",
            "narrowed-by-allow", "rules[0].when",
        ),
        (
            "name: b, match: {methods: [GET], paths: [/a/b]}, require: {scopes: [x]}\n"
            f"{BROAD}, auth: none",
            "narrowed-by-allow", "rules[0].require",
        ),
        (f"{BROAD}, auth: optional\nname: b, match: {{methods: [GET], paths: [/a/b]}}", "narrowed-by-allow", "rules[1].auth"),
        (
            "name: b, match: {paths: [/a/b]}, require: {stepUp: {acr: [urn:mfa], maxAge: 5m}, scopes: [x]}\n"
            "name: a, match: {paths: ['/a/*']}, require: {stepUp: {acr: [urn:mfa, urn:otp]}}",
            "narrowed-by-allow", "rules[0].require",
        ),
        # repeated
        ("name: a, match: {paths: [/a, /b]}\nname: b, match: {paths: [/b, /a]}", "repeated", "rules[1]"),
        (
            "name: c\nname: a, effect: guard, require: {scopes: [x]}\nname: b, effect: guard, require: {scopes: [x]}",
            "repeated", "rules[2]",
        ),
        # open
        ("name: a, auth: none", "open", "rules[0].auth"),
        ("name: a, auth: optional, match: {methods: [GET], paths: ['/**']}", "open", "rules[0].auth"),
        ("name: a, auth: none, match: {methods: [GET, POST], paths: [/a]}", "open", "rules[0].auth"),
        ("name: a, auth: none, match: {paths: [/a]}", "open", "rules[0].auth"),
        # unguarded
        ("name: a\nname: b, effect: deny, when: token.a.b == 1", "unguarded", "rules[1].when"),
        ("name: a\nname: b, effect: deny, when: \"request.headers['x-a'] == '1'\"", "unguarded", "rules[1].when"),
        ("name: a\nname: b, effect: guard, when: request.query.a == '1'", "unguarded", "rules[1].when"),
        ("name: a\nname: b, effect: guard, when: subject.profile.age > 1", "unguarded", "rules[1].when"),
        ("name: a\nname: b, effect: guard, when: has(token.a) && token.a.b", "unguarded", "rules[1].when"),
        ("name: a\nname: b, effect: guard, when: \"'x' in token.groups\"", "unguarded", "rules[1].when"),
        # text and numbers
        (
            "name: a, match: {paths: ['/{id}']}, when: \"request.params.id in ['a', 7]\"",
            "string-number", "rules[0].when",
        ),
        ("name: a, when: dyn(request.query.n) > 5", "string-number", "rules[0].when"),
        # literals that are none
        ("name: a, when: \"request.path.matches('[')\"", "always-fails", "rules[0].when"),
        ("name: a, when: \"request.time > timestamp('2027-13-01')\"", "always-fails", "rules[0].when"),
        ("name: a, when: \"request.time.getHours('Europe/Berln') > 5\"", "always-fails", "rules[0].when"),
        ("name: a, then: {setHeaders: {x-a: \"string(duration('5x'))\"}}", "always-fails", "rules[0].then.setHeaders.x-a"),
        # headers
        (
            "name: a, when: \"request.headers['x-t'] == 'b'\"\n"
            "name: b, match: {paths: [/b]}, require: {scopes: [s]}, then: {setHeaders: {x-t: token.sub}}",
            "set-by-rule", "rules[0].when",
        ),
    ],
)  # fmt: skip
def test_warned_of(rules: str, code: str, pointer: str) -> None:
    assert brief(ISSUER + policy(rules)) == [(code, pointer)]


@pytest.mark.parametrize(
    "rules",
    [
        # literals that do
        "name: a, when: \"request.path.matches('^/a+$') && request.time.getHours('+01:00') > 5\"",
        "name: a, when: \"request.time > timestamp('2027-01-01T00:00:00Z') - duration('1h30m')\"",
        # conditions that can hold
        "name: a, when: 'true'",
        "name: a, when: token.x != token.x",
        "name: a, when: token.a == 'x' || token.a == 'y'",
        "name: a, match: {methods: [GET]}, when: request.method == 'HEAD'",
        # another way in asks for something else
        "name: own, match: {paths: ['/a/{id}']}, when: request.params.id == token.sub, require: {scopes: [r]}\n"
        "name: all, match: {paths: ['/a/*']}, require: {scopes: [all]}",
        "name: a, match: {paths: [/a]}, require: {issuers: ['https://i.example']}\n"
        "name: b, match: {paths: [/a]}, require: {consent: [x]}, auth: workload",
        "name: a, match: {paths: [/a]}, auth: workload\nname: b, match: {paths: [/a]}",
        "name: a, match: {paths: [/a]}, require: {proof: [dpop]}\n"
        "name: b, match: {paths: [/a]}, require: {proof: [mtls]}",
        "name: a, match: {paths: [/a]}, require: {stepUp: {maxAge: 5m}}\n"
        "name: b, match: {paths: [/a]}, require: {stepUp: {acr: [x]}}",
        # another path, method or host
        "name: a, match: {paths: ['/a/*']}\nname: b, match: {paths: ['/a/**']}, require: {scopes: [x]}",
        "name: a, match: {methods: [GET], paths: [/a]}\nname: b, match: {paths: [/a]}, require: {scopes: [x]}",
        "name: a, match: {hosts: ['*.x'], paths: [/a]}\n"
        "name: b, match: {hosts: [x], paths: [/a]}, require: {scopes: [x]}",
        # allow rules match no trailing slash
        "name: a, match: {paths: [/a]}\nname: b, match: {paths: [/a/]}, require: {scopes: [x]}",
        # who is told apart first gets something else
        "name: vip, match: {paths: [/a]}, when: token.vip, then: {setHeaders: {x-tier: \"'vip'\"}}\n"
        "name: others, match: {paths: [/a]}",
        "name: vip, match: {paths: [/a]}, when: token.vip\n"
        "name: others, match: {paths: [/a]}, limit: {rate: 1/s}",
        # who has a credential is known, and all are admitted
        f"name: known, match: {{methods: [GET], paths: [/a/b]}}\n{BROAD}, auth: none",
        # narrower and first, and no harm
        f"name: narrow, match: {{methods: [GET], paths: [/a/b]}}\n{BROAD}",
        # a hidden way in beside an offered one
        "name: hidden, match: {paths: [/a]}, offer: false\n"
        "name: offered, match: {paths: [/a]}, require: {scopes: [x]}",
        # equal conditions on different parameters
        "name: a, match: {paths: ['/{x}/*']}, when: request.params.x == token.sub\n"
        "name: b, match: {paths: ['/*/{x}']}, when: request.params.x == token.sub",
        # what the sidecar itself serves
        f"{BROAD}\nname: g, effect: guard, match: {{paths: [/.well-known/sidecar/privacy]}}, require: {{scopes: [x]}}",
        # guards as they are meant
        f"{BROAD}\nname: g, effect: guard, match: {{paths: ['/a/admin/**']}}, require: {{scopes: [x]}}",
        f"{BROAD}\nname: g, effect: guard, match: {{paths: ['/*/b']}}, require: {{scopes: [x]}}",
        "name: a, match: {paths: [/a/]}\nname: g, effect: deny, match: {paths: [/a]}, when: token.?x.hasValue()",
        "name: g, effect: guard, match: {paths: [/x]}, require: {scopes: [x]}",
        # reading without a credential, and writing within a limit
        "name: a, auth: none, match: {methods: [GET], paths: [/health]}",
        "name: a, auth: optional, match: {methods: [GET, OPTIONS], paths: ['/catalogue/**']}",
        "name: a, auth: none, match: {methods: [POST], paths: [/login]}, limit: {rate: 9/m, per: request.address}",
        "name: a, auth: none, when: request.address == '::1'",
        "name: a, auth: optional, require: {scopes: [x]}",
        # guarded
        "name: a\nname: b, effect: deny, when: token.?a.?b.orValue('') == 'x'",
        "name: a\nname: b, effect: deny, when: token.?a.b.orValue('') == 'x'",
        "name: a\nname: b, effect: deny, when: has(token.a) && has(token.a.b) && token.a.b == 'x'",
        "name: a\nname: b, effect: guard, when: \"'x-a' in request.headers && request.headers['x-a'] == '1'\"",
        "name: a, when: token.a == 1",
        "name: a\nname: b, effect: guard, when: request.body.amount > 1000",
        # numbers
        "name: a, match: {paths: ['/{id}']}, when: int(request.params.id) == 7",
        "name: a, match: {paths: ['/{id}']}, when: request.params.id == token.account",
        # a credential that no TokenIssuer stands for
        "name: a, auth: either, require: {issuers: [api-key, 'spiffe://prod']}",
    ],
)  # fmt: skip
def test_not_warned_of(rules: str) -> None:
    assert not brief(ISSUER + policy(rules))


def test_what_a_warning_says() -> None:
    text = policy(f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a/b]}}, when: token.x")
    [found] = warnings(text)
    assert str(found) == (
        "f.yaml:7:61: warning: narrows nothing: default/p/broad (f.yaml:6) admits the same requests "
        "without this condition (spec.rules[1].when) [narrowed-by-allow]\n    hint: make it effect: "
        "guard, which binds whatever else admits; or narrow the match of default/p/broad"
    )
    [found] = warnings(policy("name: a\nname: b, effect: deny, when: token.a.b == 1"))
    assert found.message == "token.a.b is read unguarded: without that claim the deny fires"
    assert found.hint.startswith("token.?a.?b.orValue('') or has(token.a.b)")


@pytest.mark.parametrize(
    ("one", "other", "codes"),
    [
        # (namespace, selector, mode) of a broad allow and of one that would narrow it
        (("default", "{}", "enforce"), ("default", "{app: x}", "enforce"), ["narrowed-by-allow"]),
        (("platform", "{}", "enforce"), ("default", "{app: x}", "enforce"), ["narrowed-by-allow"]),
        # not wherever the other one is seen, or enforced
        (("default", "{app: y}", "enforce"), ("default", "{app: x}", "enforce"), []),
        (("default", "{app: x}", "enforce"), ("default", "{}", "enforce"), []),
        (("default", "{}", "enforce"), ("platform", "{}", "enforce"), []),
        (("default", "{}", "shadow"), ("default", "{}", "enforce"), []),
        (("default", "{}", "enforce"), ("default", "{}", "shadow"), []),
        (("default", "{}", "shadow"), ("default", "{}", "shadow"), ["narrowed-by-allow"]),
    ],
)
def test_only_what_one_sidecar_sees_is_compared(
    one: tuple[str, str, str], other: tuple[str, str, str], codes: list[str]
) -> None:
    texts = [
        policy(rules, name, namespace, f"  selector: {selector}\n  mode: {mode}\n")
        for rules, name, (namespace, selector, mode) in (
            (BROAD, "a", one),
            ("name: b, match: {methods: [GET], paths: [/a]}, require: {scopes: [x]}", "b", other),
        )
    ]
    assert [each.code for each in warnings("---\n".join(texts))] == codes


def test_repeated_in_another_document() -> None:
    rules = "name: a, match: {paths: [/a]}"
    apart = [policy(rules, name, more=f"  selector: {{app: {name}}}\n") for name in "xy"]
    assert not warnings("---\n".join(apart))
    both = [policy(rules, "x"), policy(rules, "y", more="  selector: {app: y}\n")]
    [found] = warnings("---\n".join(both))
    assert (found.code, found.document) == ("repeated", "AccessPolicy/default/y")
    assert "default/x/a (f.yaml:6)" in found.message


def test_what_another_document_switches_off_is_meant() -> None:
    allow, deny = policy("name: a, match: {paths: [/a]}"), "name: d, effect: deny"
    assert not warnings(f"{allow}---\n" + policy(f"{deny}, match: {{paths: [/a]}}", "tonight"))
    assert not warnings(policy(f"name: a, match: {{paths: [/a]}}\n{deny}"))


def test_guards_of_the_platform_may_protect_other_namespaces() -> None:
    assert not warnings(
        policy("name: a, match: {paths: [/a]}", namespace="platform")
        + "---\n"
        + policy("name: g, effect: deny, match: {paths: [/b]}", "q", "platform")
    )


def test_rules_with_mistakes_are_compared_with_none() -> None:
    found = read(policy(f"{BROAD}\nname: b, match: {{methods: [GET], paths: [/a]}}, when: foo"))
    assert [each.code for each in lint(found)] == []
    found = read(policy(f"name: a, when: foo\n{BROAD}\nname: b, effect: deny, when: token.x"))
    assert [each.code for each in lint(found)] == ["unguarded"]
    assert len(review(found)) == 2


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: str(file.stem))
def test_the_decision_cases_are_warned_of_where_right(file: Path) -> None:
    """Exactly these: they are about what rules do that nobody should write."""
    found = documents(yaml.safe_load(file.read_text())["documents"])
    seen = {each.code for each in lint(found)} - {"open", "unknown-issuer"}
    assert seen == {
        "plan": {"narrowed-by-allow"},
        "rules": {"unguarded", "narrowed-by-allow"},
    }.get(file.stem, set())


def test_the_demo_is_as_it_should_be() -> None:
    texts = [
        Source(file.name, file.read_text().replace("@ISSUER@", "http://127.0.0.1:1"))
        for file in sorted(DEMO.glob("*.yaml"))
    ]
    found, problems = parse(texts)
    assert len(found) > 3
    assert not problems
    assert not review(found)


@pytest.mark.parametrize("paths", [2_000, 10_000, 1])
def test_ten_thousand_rules_are_not_held_each_against_each(
    paths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    covers = inclusion.covers

    def counted(*parts: Any) -> bool:
        nonlocal calls
        calls += 1
        return covers(*parts)

    monkeypatch.setattr(inclusion, "covers", counted)
    found = [
        read(
            policy(
                "\n".join(
                    f"name: r{number}, match: {{methods: [GET], paths: ['/v1/s{number % paths}/{{id}}']}}, "
                    f"require: {{scopes: [{'s' if number % 2 else f's{number}'}]}}"
                    for number in range(begin, begin + 1_000)
                ),
                f"p{begin}",
            )
        )[0]
        for begin in range(0, 10_000, 1_000)
    ]  # fmt: skip
    lint(found)
    assert calls <= 10_000
