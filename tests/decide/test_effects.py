"""What changes of documents are said to mean, as data; and that nothing that differs is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.decide.documents import KINDS, Document
from sidecar.decide.effects import MOST, Effect, effects
from sidecar.decide.effects_words import LONGEST, pair, shown
from sidecar.decide.parse import Source, parse, with_spec

ROOT = Path(__file__).parents[2]


def read(text: str) -> list[Document]:
    found, problems = parse([Source("f.yaml", text)])
    assert not problems, problems
    return found


def document(kind: str, spec: Mapping[str, Any], name: str = "it", **metadata: Any) -> Document:
    body = {
        "apiVersion": "authz.sidecar/v1", "kind": kind, "metadata": {"name": name, **metadata},
        "spec": spec,
    }  # fmt: skip
    return read(orjson.dumps(body).decode())[0]


def texts(before: list[Document], after: list[Document]) -> list[str]:
    return [effect.text for effect in effects(before, after)]


def policy(rules: str, more: str = "") -> list[Document]:
    return read(
        "apiVersion: authz.sidecar/v1\nkind: AccessPolicy\nmetadata: {name: pay}\nspec:\n"
        f"{more}  rules:\n" + "".join(f"  - {{{each}}}\n" for each in rules.split("\n"))
    )


READ = "name: read, match: {methods: [GET], paths: ['/accounts/{id}/**']}"
SEND = "name: send, match: {methods: [POST], paths: [/transfers]}"
GUARD = "name: big, effect: guard, match: {methods: [POST], paths: [/transfers]}"
BIG = GUARD + ", when: request.body.amount >= 1000"
MFA = ", require: {stepUp: {acr: ['urn:mfa'], maxAge: 5m}}"
DENY = "name: frozen, effect: deny"
OTHER = "name: other, match: {paths: [/other]}"

RULES: list[tuple[str, str, list[str]]] = [
    # rules that come and go
    (OTHER, f"{OTHER}\n{READ}, when: request.params.id == token.sub, require: {{scopes: [a]}}", [
        "[wider] GET /accounts/{id}/** is now admitted with a token and scope a "
        "when request.params.id == token.sub (policy pay, rule read)",
    ]),
    (f"{OTHER}\n{READ}, require: {{scopes: [a, b]}}", OTHER, [
        "GET /accounts/{id}/** is no longer admitted with a token and scope a and b "
        "(policy pay, rule read)",
    ]),
    (SEND, f"{SEND}\n{BIG}{MFA}", [
        "POST /transfers now needs step-up (acr urn:mfa, at most 5m old) "
        "when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    (f"{SEND}\n{BIG}{MFA}", SEND, [
        "[wider] POST /transfers no longer needs step-up (acr urn:mfa, at most 5m old) "
        "when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    (SEND, f"{SEND}\n{DENY}, when: has(token.frozen)", [
        "every request is now refused when has(token.frozen) (policy pay, rule frozen)",
    ]),
    (f"{SEND}\n{DENY}, match: {{hosts: [a.example]}}", SEND, [
        "[wider] every request to a.example is no longer refused (policy pay, rule frozen)",
    ]),
    (SEND, f"{SEND}\n{GUARD}, limit: {{rate: 10/m, burst: 5, per: token.sub}}", [
        "a guard now holds for POST /transfers: limited to 10/m, 5 at once for each token.sub "
        "(policy pay, rule big)",
    ]),
    (SEND, SEND.replace("name: send", "name: send, effect: deny"), [
        "POST /transfers is no longer admitted with a token (policy pay, rule send)",
        "POST /transfers is now refused (policy pay, rule send)",
    ]),
    # names and order
    (SEND, SEND.replace("send", "sending"), [
        "rule send is called sending now and is otherwise the same (policy pay)",
    ]),
    (f"{SEND}\n{OTHER}", f"{OTHER}\n{SEND}", [
        "[check] allow rules of policy pay stand in another order: other goes before send now; of "
        "those that admit a request the first gives headers, redactions and limit",
    ]),
    (f"{SEND}\n{DENY}", f"{DENY}\n{SEND}", [
        "rules of policy pay stand in another order; no decision depends on it",
    ]),
    # who may come
    (READ, f"{READ}, auth: none", [
        "[wider] GET /accounts/{id}/** no longer needs a credential, and none is looked at; "
        "before: a token (policy pay, rule read)",
    ]),
    (f"{READ}, auth: none", f"{READ}, auth: optional", [
        "GET /accounts/{id}/** still needs no credential, but a bad one is refused now; "
        "before: none was looked at (policy pay, rule read)",
    ]),
    (f"{READ}, auth: optional", READ, [
        "GET /accounts/{id}/** now needs a token; before: a credential or none "
        "(policy pay, rule read)",
    ]),
    (READ, f"{READ}, auth: either", [
        "[wider] GET /accounts/{id}/** now is admitted with a token or a client certificate; "
        "before: a token (policy pay, rule read)",
    ]),
    (READ, f"{READ}, auth: token", [
        "GET /accounts/{id}/**: that it takes a token is written out, and was so before "
        "(policy pay, rule read)",
    ]),
    # conditions
    (READ, f"{READ}, when: token.a == 1", [
        "GET /accounts/{id}/** is now admitted only when token.a == 1; before: always "
        "(policy pay, rule read)",
    ]),
    (f"{READ}, when: token.a == 1", READ, [
        "[wider] GET /accounts/{id}/** is now admitted always; before: only when token.a == 1 "
        "(policy pay, rule read)",
    ]),
    (f"{SEND}\n{BIG}{MFA}", f"{SEND}\n{GUARD}, when: token.a == 1{MFA}", [
        "[check] POST /transfers now needs step-up (acr urn:mfa, at most 5m old) when token.a == 1;"
        " before: when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    (f"{SEND}\n{GUARD}{MFA}", f"{SEND}\n{BIG}{MFA}", [
        "[wider] POST /transfers now needs step-up (acr urn:mfa, at most 5m old) only when "
        "request.body.amount >= 1000; before: always (policy pay, rule big)",
    ]),
    # where
    (SEND, SEND.replace("[POST]", "[POST, PUT]"), [
        "[wider] PUT /transfers is now admitted with a token (policy pay, rule send)",
    ]),
    (SEND, SEND.replace("[/transfers]", "[/payments, /refunds]"), [
        "[wider] POST /payments and /refunds are now admitted with a token (policy pay, rule send)",
        "POST /transfers is no longer admitted with a token (policy pay, rule send)",
    ]),
    (SEND, SEND.replace("methods: [POST], ", ""), [
        "[wider] admitted with a token: all requests to /transfers now; before: POST /transfers "
        "(policy pay, rule send)",
    ]),
    (f"{SEND}\n{BIG}{MFA}", f"{SEND}\n{BIG.replace('[POST]', '[PUT]')}{MFA}", [
        "[wider] POST /transfers no longer needs step-up (acr urn:mfa, at most 5m old) "
        "when request.body.amount >= 1000 (policy pay, rule big)",
        "PUT /transfers now needs step-up (acr urn:mfa, at most 5m old) "
        "when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    (f"{SEND}\n{DENY}", f"{SEND}\n{DENY}, match: {{paths: [/a]}}", [
        "[wider] refused: all requests to /a now; before: every request (policy pay, rule frozen)",
    ]),
    (READ, READ.replace("[GET]", "[GET, HEAD]").replace("{id}", "{account}"), [
        "GET and HEAD /accounts/{account}/**: its match is written differently, and means the same "
        "(policy pay, rule read)",
    ]),
    (READ, READ.replace("match: {", "match: {hosts: [a.example], "), [
        "admitted with a token: GET a.example/accounts/{id}/** now; before: GET /accounts/{id}/** "
        "(policy pay, rule read)",
    ]),
    # requirements
    (f"{SEND}, require: {{scopes: [a, b]}}", f"{SEND}, require: {{scopes: [a, c]}}", [
        "[wider] POST /transfers no longer needs scope b (policy pay, rule send)",
        "POST /transfers now needs scope c (policy pay, rule send)",
    ]),
    (f"{SEND}, require: {{issuers: [a]}}", f"{SEND}, require: {{issuers: [a, b]}}", [
        "[wider] POST /transfers now takes issuer b too (policy pay, rule send)",
    ]),
    (f"{SEND}, require: {{audiences: [a, b]}}", f"{SEND}, require: {{audiences: [a]}}", [
        "POST /transfers no longer takes audience b (policy pay, rule send)",
    ]),
    (SEND, f"{SEND}, require: {{proof: [dpop, mtls]}}", [
        "POST /transfers now needs proof of possession by dpop or mtls (policy pay, rule send)",
    ]),
    (f"{SEND}, require: {{segments: [a, b]}}", SEND, [
        "[wider] POST /transfers no longer needs segment a or b (policy pay, rule send)",
    ]),
    (f"{SEND}, auth: workload", f"{SEND}, auth: workload, require: {{workloads: ['spiffe://a/b']}}", [
        "POST /transfers now needs workload spiffe://a/b (policy pay, rule send)",
    ]),
    (SEND, f"{SEND}, require: {{consent: [{{purpose: p, bind: [request.body.to]}}], profile: [x]}}", [
        "POST /transfers now needs consent p to request.body.to (policy pay, rule send)",
        "POST /transfers now needs profile x (policy pay, rule send)",
    ]),
    (f"{SEND}\n{BIG}{MFA}", f"{SEND}\n{BIG}{MFA.replace('5m', '1h')}", [
        "[wider] POST /transfers now needs step-up (acr urn:mfa, at most 1h old) instead of step-up "
        "(acr urn:mfa, at most 5m old) when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    (f"{SEND}\n{BIG}{MFA}", f"{SEND}\n{BIG}{MFA.replace('5m', '1m')}", [
        "POST /transfers now needs step-up (acr urn:mfa, at most 1m old) instead of step-up "
        "(acr urn:mfa, at most 5m old) when request.body.amount >= 1000 (policy pay, rule big)",
    ]),
    # what becomes of it
    (f"{SEND}, limit: {{rate: 10/m}}", f"{SEND}, limit: {{rate: 1/s}}", [
        "[wider] POST /transfers: now limited to 1/s for all together; before: 10/m for all together"
        " (policy pay, rule send)",
    ]),
    (f"{SEND}, limit: {{rate: 10/m}}", SEND, [
        "[wider] POST /transfers: no longer limited; before: 10/m for all together "
        "(policy pay, rule send)",
    ]),
    (f"{READ}, then: {{redact: [{{drop: [$.ssn]}}]}}", READ, [
        "[wider] GET /accounts/{id}/**: no longer so: responses lack $.ssn (policy pay, rule read)",
    ]),
    (f"{READ}, then: {{redact: [{{drop: [$.ssn]}}]}}",
     f"{READ}, then: {{redact: [{{drop: [$.ssn], unless: token.a == 1}}]}}", [
        "[wider] GET /accounts/{id}/**: responses lack $.ssn unless token.a == 1; before: "
        "responses lack $.ssn (policy pay, rule read)",
    ]),
    (f"{READ}, then: {{redact: [{{keep: [$.a]}}]}}",
     f"{READ}, then: {{redact: [{{keep: [$.a, $.b]}}]}}", [
        "[wider] GET /accounts/{id}/**: responses have only $.a and $.b; before: responses have "
        "only $.a (policy pay, rule read)",
    ]),
    (f"{READ}, then: {{setHeaders: {{x-tier: token.tier}}}}", READ, [
        "[wider] GET /accounts/{id}/**: header x-tier is not set for the service any more: unless "
        "another rule sets it, callers can send it themselves (policy pay, rule read)",
    ]),
    (f"{READ}, then: {{setHeaders: {{x-tier: token.tier}}}}",
     f"{READ}, then: {{setHeaders: {{x-tier: token.rank}}}}", [
        "[check] GET /accounts/{id}/**: header x-tier is now set for the service to token.rank; "
        "before: token.tier (policy pay, rule read)",
    ]),
    (f"{READ}, then: {{setHeaders: {{x-api-key: \"'s3cret'\"}}}}",
     f"{READ}, then: {{setHeaders: {{x-api-key: \"'s3cret2'\"}}}}", [
        "[check] GET /accounts/{id}/**: header x-api-key is now set for the service to (not shown); "
        "before: (not shown) (policy pay, rule read)",
    ]),
    (READ, f"{READ}, offer: false, subject: {{staleIfError: 1h}}", [
        "[wider] GET /accounts/{id}/**: while the control plane is away, what is known of the "
        "subject is believed for 1h; before: 10s (policy pay, rule read)",
        "GET /accounts/{id}/**: callers who are refused are no longer told of this way in "
        "(policy pay, rule read)",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), RULES)
def test_rules(before: str, after: str, said: list[str]) -> None:
    assert texts(policy(before), policy(after)) == said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("  selector: {app: a}\n", "  selector: {app: b}\n", [
            "[check] policy pay is for sidecars with app=b now; before: sidecars with app=a",
        ]),
        ("", "  mode: shadow\n", [
            "[wider] policy pay is in shadow now: none of its rules (1 allow and 1 deny) is "
            "enforced any more, they are only logged",
        ]),
        ("  mode: shadow\n", "", [
            "[wider] policy pay is enforced now: its rules (1 allow and 1 deny) were only logged "
            "before",
        ]),
        ("", "  mode: enforce\n", ["policy pay is written differently, and means the same"]),
    ],
)  # fmt: skip
def test_policies(before: str, after: str, said: list[str]) -> None:
    rules = f"{SEND}\n{DENY}"
    assert texts(policy(rules, before), policy(rules, after)) == said


def test_a_policy_that_comes_and_goes() -> None:
    come = [
        "[wider] POST /transfers is now admitted with a token (policy pay, rule send)",
        "policy pay is new: 1 rule for all sidecars of the namespace",
    ]
    gone = [
        "POST /transfers is no longer admitted with a token (policy pay, rule send)",
        "policy pay is gone: 1 rule for all sidecars of the namespace",
    ]
    assert sorted(texts([], policy(SEND))) == sorted(come)
    assert sorted(texts(policy(SEND), [])) == sorted(gone)


def test_a_policy_that_goes_by_another_name() -> None:
    before = policy(SEND)
    after = [document("AccessPolicy", orjson.loads(before[0].canonical)["spec"], "other")]
    assert effects(before, after) == [
        Effect(
            "[check] policy pay is called other now and is otherwise the same; policies count in "
            "the order of their names",
            "AccessPolicy/default/other",
        )
    ]


def test_what_is_only_logged_admits_nobody() -> None:
    shadow = "  mode: shadow\n"
    assert texts(policy(SEND, shadow), policy(f"{SEND}\n{OTHER}", shadow)) == [
        "all requests to /other are now admitted with a token (policy pay, rule other): in shadow, "
        "only logged"
    ]


def test_the_most_dangerous_comes_first_whatever_document_it_is_of() -> None:
    before = [*policy(SEND), document("ApiKey", {"id": "a", "hash": "sha256:" + "0" * 64})]
    after = [
        *policy(f"{SEND}, require: {{scopes: [a]}}"),
        document("ApiKey", {"id": "a", "hash": "sha256:" + "0" * 64, "scopes": ["x"]}),
    ]
    assert effects(before, after) == [
        Effect("[wider] API key it: callers now have scope x", "ApiKey/default/it"),
        Effect(
            "POST /transfers now needs scope a (policy pay, rule send)", "AccessPolicy/default/pay"
        ),
    ]


KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
ISSUER = {"issuer": "https://i.example"}

KINDS_SAID: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("TokenIssuer", ISSUER, ISSUER | {"issuer": "https://j.example"}, [
        "[check] issuer it: tokens of https://j.example are accepted now, and those of "
        "https://i.example no longer",
    ]),
    ("TokenIssuer", ISSUER | {"audiences": ["a"]}, ISSUER | {"audiences": ["b"]}, [
        "[wider] issuer it: tokens for audience b are accepted too, where the service names none",
        "issuer it: tokens for audience a are no longer accepted, where the service names none",
    ]),
    ("TokenIssuer", ISSUER | {"jwks": {"inline": {"keys": [KEY | {"kid": "one"}]}}},
     ISSUER | {"jwks": {"inline": {"keys": [KEY | {"kid": "one"}, KEY]}}}, [
        "[wider] issuer it: tokens signed with key kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k are "
        "accepted too",
    ]),
    ("TokenIssuer", ISSUER, ISSUER | {"jwks": {"uri": "https://u:p@i.example/k?key=s3cret"}}, [
        "[check] issuer it: its keys are now: from https://…@i.example/k?…; before: found by "
        "OpenID discovery",
    ]),
    ("TokenIssuer", ISSUER | {"clockSkew": "30s"}, ISSUER | {"clockSkew": "5m"}, [
        "[wider] issuer it: tokens are accepted 5m beyond their times; before: 30s",
    ]),
    ("TokenIssuer", ISSUER | {"profile": "rfc9068"}, ISSUER, [
        "[wider] issuer it: tokens are held to profile jwt; before: rfc9068",
    ]),
    ("TokenIssuer", ISSUER,
     ISSUER | {"introspection": {"endpoint": "https://i.example/in", "clientId": "me"}}, [
        "[wider] issuer it: opaque tokens are accepted now that https://i.example/in vouches for",
    ]),
    ("ApiKey", {"id": "a", "hash": "sha256:" + "0" * 64}, {"id": "a", "hash": "sha256:" + "1" * 64}, [
        "[check] API key it: another secret goes with it; the one before is refused",
    ]),
    ("ProtectedService", {}, {"mode": "observe"}, [
        "[wider] service it: only observed now: what its rules refuse is forwarded all the same",
    ]),
    ("ProtectedService", {"audiences": ["a"]}, {"audiences": ["a", "b"]}, [
        "[wider] service it: tokens for audience b are accepted too",
    ]),
    ("ProtectedService", {}, {"cors": {"origins": ["https://app.example"]}}, [
        "[wider] service it: pages of https://app.example may call it now",
    ]),
    ("ProtectedService", {"limits": {"perAddress": "100/s"}}, {}, [
        "[wider] service it: one address may make any number of requests; before: 100/s",
    ]),
    ("ProtectedService", {"interaction": {"url": "https://a.example/i"}},
     {"interaction": {"url": "https://b.example/i"}}, [
        "[check] service it: people are sent to https://b.example/i for what they are asked for; "
        "before: https://a.example/i",
    ]),
    ("Segment", {"namespaces": ["a"]}, {"namespaces": ["a", "b"]}, [
        "[check] segment it: workloads of namespace b are of it too",
    ]),
    ("Enricher", {"url": "https://e.example/a", "type": {"x": "text"}},
     {"url": "https://f.example/a", "type": {"x": "text"}, "cache": "1m"}, [
        "[check] enricher it: https://f.example/a is asked; before: https://e.example/a",
        "[check] enricher it: an answer is believed for 1m; before: 30s",
    ]),
    ("ConsentPurpose", {"words": {"en": {"title": "a", "text": "b"}}},
     {"words": {"en": {"title": "a", "text": "b"}}, "version": 2, "attributes": ["phone"]}, [
        "[wider] consent it: who agrees to it shows phone in responses too",
        "consent it: who agreed to version 1 is asked again: it is version 2 now",
    ]),
    ("ProfileAttribute", {"words": {"en": {"label": "a"}}, "responses": ["$.a"]},
     {"words": {"en": {"label": "a"}}}, [
        "[wider] attribute it: no longer cut out of responses without consent: $.a",
    ]),
    ("IdentityPolicy", {}, {"identifiers": [{"type": "email", "claim": "email"}]}, [
        "[wider] identity policy it: customers are known again by email (claim email)",
    ]),
    ("IdentityPolicy", {"risk": {"signals": {"new-device": 20}}},
     {"risk": {"signals": {"new-device": 10}}}, [
        "[wider] identity policy it: new-device adds 10 to subject.risk; before: 20",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after", "said"), KINDS_SAID)
def test_other_kinds(
    kind: str, before: dict[str, Any], after: dict[str, Any], said: list[str]
) -> None:
    assert texts([document(kind, before)], [document(kind, after)]) == said


def test_labels_of_who_vouches_are_to_be_looked_at() -> None:
    before = document("TokenIssuer", ISSUER, labels={"tier": "a"})
    after = document("TokenIssuer", ISSUER, labels={"tier": "b"})
    assert texts([before], [after]) == ["[check] issuer it has labels tier=b now; before: tier=a"]


# --- nothing that differs is silent -------------------------------------------------------------

EVERYTHING = """
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: i}
spec:
  issuer: https://i.example
  audiences: [a]
  jwks: {inline: {keys: [{kty: OKP, crv: Ed25519, kid: one, x: eA}]}}
  algorithms: [EdDSA]
  tokenTypes: [JWT]
  clockSkew: 10s
  profile: rfc9068
  introspection:
    endpoint: https://i.example/in
    clientId: me
    clientSecret: {fromFile: /run/secrets/a}
    privateKey: {fromEnv: SIDECAR_SECRET_A}
    keyId: k
    certificate: {fromFile: /run/secrets/c}
    ca: {fromFile: /run/secrets/d}
    tokenPrefix: opq_
    location: {header: authorization}
    audience: insecureIfPresent
    cache: 10s
    negativeCache: 1s
  claims: {subject: uid, scopes: scp}
---
apiVersion: authz.sidecar/v1
kind: TokenIssuer
metadata: {name: j}
spec: {issuer: https://j.example, jwks: {uri: https://j.example/jwks}}
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {name: k}
spec:
  id: k1
  hash: sha256:0000000000000000000000000000000000000000000000000000000000000000
  selector: {app: a}
  subject: me
  scopes: [a]
  expires: "2027-01-31T00:00:00Z"
  attributes: {tier: a, secret: b, more: {x: 1}}
---
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {name: s}
spec:
  selector: {app: a}
  audiences: [a, b]
  mode: observe
  credentials: [{header: authorization}, {cookie: sid}]
  cors:
    origins: [https://a.example]
    methods: [GET]
    headers: [a]
    exposeHeaders: [b]
    credentials: true
    maxAge: 1m
  limits: {perAddress: 10/s, failedCredentials: 1/s, body: 1KiB}
  assertion: {audience: a, issuer: b, algorithm: EdDSA, lifetime: 1m}
  decisionLog: {inputs: none}
  removeCredential: true
  friction: {scope: 2, proof: 3, consent: 4, profile: 5, stepUp: 6}
  interaction: {url: "https://a.example/i?x=1", login: https://a.example/l}
  dpop: {algorithms: [ES256], maxAge: 10s, nonce: required}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: p}
spec:
  selector: {app: a}
  mode: shadow
  rules:
  - name: r
    effect: allow
    match: {hosts: [a.example], methods: [GET], paths: ["/a/{x}"]}
    auth: optional
    when: token.a == 1
    require:
      scopes: [a]
      issuers: [https://i.example]
      audiences: [a]
      stepUp: {acr: [a], amr: [b], maxAge: 5m}
      proof: [dpop]
      consent: [c, {purpose: c, bind: [request.query.x]}]
      profile: [p]
      segments: [s]
      workloads: [spiffe://a/b]
    then:
      setHeaders: {x-a: token.sub}
      removeHeaders: [x-b]
      setResponseHeaders: {x-c: token.sub}
      removeResponseHeaders: [x-d]
      redact: [{drop: [$.a], unless: token.a == 1}, {keep: [$.b]}]
    limit: {rate: 1/s, burst: 2, per: token.sub, scope: pod}
    subject: {staleIfError: 1m, cutIfError: true, visitor: true}
    offer: false
  - {name: g, effect: guard, require: {scopes: [a]}}
---
apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {name: q}
spec:
  rules:
  - {name: r, match: {paths: [/a]}, require: {stepUp: {acr: [a]}}, then: {redact: [{drop: [$.a]}]}}
  - {name: d, effect: deny, when: token.a == 1}
---
apiVersion: authz.sidecar/v1
kind: Segment
metadata: {name: s}
spec: {labels: {tier: a}, workloads: [spiffe://a/b], namespaces: [a], when: token.a == 1}
---
apiVersion: authz.sidecar/v1
kind: Enricher
metadata: {name: e}
spec:
  url: https://e.example/a
  method: POST
  parameters: {x: token.sub}
  headers: {authorization: {fromFile: /run/secrets/e}}
  type: {a: text}
  optional: [a]
  timeout: 1s
  cache: 1m
  staleIfError: 1m
  maxSize: 1KiB
  ca: {fromEnv: SIDECAR_SECRET_B}
---
apiVersion: authz.sidecar/v1
kind: ConsentPurpose
metadata: {name: c}
spec:
  words: {en: {title: a, text: b}}
  version: 3
  attributes: [p]
  recipients: [me]
  legalBasis: contract
  maxUses: 3
  expires: 10d
  reviewEvery: 5d
---
apiVersion: authz.sidecar/v1
kind: ProfileAttribute
metadata: {name: p}
spec:
  attribute: q
  type: choice
  words: {en: {label: a, help: b, choices: {a: A}}}
  choices: [a]
  validation: {pattern: a, minLength: 1, maxLength: 2, minimum: 1.5, maximum: 2.5}
  order: 2
  required: false
  askEvery: 1d
  claims: [a, {claim: b, issuers: [https://i.example], verifiedBy: c}]
  enricher: {name: e, member: a}
  responses: [$.a]
  retention: 10d
---
apiVersion: authz.sidecar/v1
kind: IdentityPolicy
metadata: {name: d}
spec:
  selector: {app: a}
  identifiers: [{type: email, claim: a, issuers: [https://i.example], verifiedBy: b, links: false}]
  anonymous: merge
  visitor: {cookie: a, maxAge: 1d, insecureCookie: true}
  risk: {halfLife: 1h, signals: {new-device: 1}}
"""

OTHERS = ["x", "1h", "9/s", "9KiB", "other", 7, 7.5, True, False, ["x"], {"x": "y"}]
"""What a field may be instead; those of the wrong type are passed over."""


def literals(path: str) -> list[str]:
    """Values of enumerations, wherever they fit."""
    return [
        "jwt", "required", "none", "read", "enforce", "deny", "guard", "allow", "token", "GET",
        "mtls", "dpop", "keep-apart", "consent", "text", "number", "ES256", "EdDSA",
    ]  # fmt: skip


def mutations(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything a value might be instead, one change at a time, as (path, value)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key} gone", {k: v for k, v in value.items() if k != key}
            for at, other in mutations(inner, f"{path}.{key}"):
                yield at, value | {key: other}
        yield f"{path} more", value | {"zz": next(iter(value.values()), "y")}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield f"{path}[{place}] gone", value[:place] + value[place + 1 :]
            for at, other in mutations(inner, f"{path}[{place}]"):
                yield at, [*value[:place], other, *value[place + 1 :]]
        yield f"{path} turned", value[::-1]
        if value and isinstance(value[0], str):
            yield f"{path} more", [*value, "zz"]
    for other in [*OTHERS, *literals(path)]:
        if other != value or type(other) is not type(value):
            yield f"{path} = {other}", other


def documents_of_the_docs() -> list[Document]:
    sources = [
        Source(path.name, path.read_text())
        for path in sorted((ROOT / "sidecar/demo/policies").glob("*.yaml"))
    ]
    found, problems = parse([Source("everything", EVERYTHING), *sources])
    assert not problems, problems
    return found


def test_the_documents_have_every_field() -> None:
    """So that a field that is added without words is at least told by its pointer."""
    seen: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for each in read(EVERYTHING):
        seen[each.kind] |= set(orjson.loads(each.canonical)["spec"])
    for kind, spec in KINDS.items():
        assert seen[kind] == set(spec.__struct_encode_fields__)


@pytest.mark.parametrize("each", documents_of_the_docs(), ids=lambda each: str(each.ref))
def test_no_change_is_silent(each: Document) -> None:
    assert effects([each], [each]) == []
    spec = orjson.loads(each.canonical)["spec"]
    tried = 0
    for path, changed in mutations(spec):
        try:
            other = with_spec(each, changed)
        except (ValueError, TypeError):
            continue
        if other.canonical == each.canonical:
            continue
        tried += 1
        for before, after in ((each, other), (other, each)):
            said = effects([before], [after])
            assert said, path
            assert {effect.document for effect in said} == {each.ref}, path
            for effect in said:
                assert effect.text.isprintable(), (path, effect.text)
                assert "spec." not in effect.text, (path, effect.text)
                assert "before: None" not in effect.text
    assert tried > 5


def test_every_document_that_comes_or_goes_is_said() -> None:
    for each in documents_of_the_docs():
        assert {effect.document for effect in effects([], [each])} == {each.ref}
        assert {effect.document for effect in effects([each], [])} == {each.ref}


# --- what an attacker could write ----------------------------------------------------------------


def test_no_text_begins_a_line_of_its_own() -> None:
    bad = (
        'name: "a\\n[neutral] nothing\\e[2K\\u202e", match: {paths: [/a]}, when: "true ||\\nfalse"'
    )
    (text,) = texts(policy(OTHER), policy(f"{OTHER}\n{bad}"))
    assert text.isprintable()
    assert "true || ⏎ false" in text
    assert "\\x1b[2K\\u202e" in text


def test_braces_are_nobodys_templates() -> None:
    spec = {"audiences": ["{items}", "{0}", "{before.__class__}"]}
    assert texts([document("ProtectedService", {"audiences": ["a"]})],
                 [document("ProtectedService", spec)])  # fmt: skip
    required = f"{SEND}, require: {{issuers: ['{{take}}', '{{']}}"
    assert texts(policy(f"{SEND}, require: {{issuers: [a]}}"), policy(required))


def test_what_stands_at_the_end_is_shown() -> None:
    long = "token.a == 'x' && " * 100
    assert shown(f"{long}true || true").endswith("true || true (1812 characters)")
    assert len(shown(long)) < 2 * LONGEST


def test_a_difference_in_the_middle_is_shown() -> None:
    before, after = pair("a" * 400 + "b" + "c" * 400, "a" * 400 + "d" + "c" * 400)
    assert before != after
    assert "b" in before
    assert "d" in after
    assert pair("a  \n b", "a\nb") == ("a ⏎ b", "the same with other white space")


def test_secrets_are_not_said() -> None:
    before = read(EVERYTHING)
    after = read(
        EVERYTHING.replace("sha256:00", "sha256:5ec4e7").replace("secret: b", "secret: 5ec4e7")
        .replace("x: eA", "x: 5ec4e7AA").replace("i?x=1", "i?x=5ec4e7")
    )  # fmt: skip
    changes = [*effects(before, after), *effects([], after), *effects(after, [])]
    assert len(changes) > 20
    assert not [effect for effect in changes if "5ec4e7" in effect.text]


# --- size ----------------------------------------------------------------------------------------


def many(count: int, change: int | None = None) -> Document:
    rules = [
        {"name": f"r{n}", "match": {"paths": [f"/a/{n}"]}, "require": {"scopes": [f"s{n}"]}}
        for n in range(count)
    ]
    if change is not None:
        rules[change]["require"] = {"scopes": ["other"]}
    return document("AccessPolicy", {"rules": rules})


def test_one_change_among_ten_thousand_rules() -> None:
    before, after = many(10_000), many(10_000, change=7_000)
    began = time.process_time()
    said = effects([before], [after])
    assert time.process_time() - began < 1
    assert [effect.text for effect in said] == [
        "[wider] all requests to /a/7000 no longer need scope s7000 (policy it, rule r7000)",
        "all requests to /a/7000 now need scope other (policy it, rule r7000)",
    ]


def test_very_long_lists_are_compared_once() -> None:
    before = document("ProtectedService", {"audiences": [f"a{n}" for n in range(50_000)]})
    after = document("ProtectedService", {"audiences": [f"b{n}" for n in range(50_000)]})
    began = time.process_time()
    said = texts([before], [after])
    assert time.process_time() - began < 2
    assert said[0].endswith("b8, b9 and 49990 more are accepted too")


def test_of_very_many_the_first_are_said_and_how_many_more() -> None:
    said = effects([many(1)], [many(2 * MOST + 1)])
    assert len(said) == MOST + 1
    assert said[-1] == Effect(f"and {MOST} more, {MOST} [wider] among them", "")
