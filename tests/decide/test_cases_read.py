"""Files of test cases: what they say, and every mistake with its place."""

from __future__ import annotations

import pytest

from sidecar.decide.cases import CaseFile, has_cases, read_cases
from sidecar.decide.outcomes import Unavailable
from sidecar.decide.parse import Source
from sidecar.decide.scenario import JUNK
from sidecar.decide.subjects import Subject
from sidecar.errors import DocumentsInvalid


def read(text: str) -> CaseFile:
    return read_cases(Source("c.yaml", text))


def mistakes(text: str) -> list[str]:
    with pytest.raises(DocumentsInvalid) as raised:
        read(text)
    return [str(problem).replace("\n    hint: ", " | ") for problem in raised.value.problems]


def test_all_that_a_case_may_say() -> None:
    [case] = read("""
policies: ../policies
namespace: payments
labels: {app: bank}
time: "2027-02-01T00:00:00Z"
cases:
- name: everything
  request:
    method: POST
    path: /transfers?dry=1
    host: bank.example
    scheme: http
    address: 192.0.2.7
    headers: {X-One: a, X-Two: [b, c]}
    body: {amount: 5, note: null}
    contentType: application/json
  token: {sub: alice, amr: [otp], exp: 60, nested: {a: 1.5}}
  workload: spiffe://prod/ns/pay/sa/billing
  proof: [dpop, mtls]
  subject: {consents: [payments], profile: {phone: "1"}, segments: [vip], risk: 12.5}
  enriched: {account: {limit: 5}, down: null}
  time: "2027-02-01T01:00:00+01:00"
  expect: {permit: p/x, headers: {x-a: b, x-c: null}, responseHeaders: {x-d: e}, redacted: false, limited: true, shadow: refuse}
""").cases
    found = case.scenario
    assert (found.method, found.target, found.host) == ("POST", "/transfers?dry=1", "bank.example")
    assert found.headers == (
        ("X-One", "a"), ("X-Two", "b"), ("X-Two", "c"), ("content-type", "application/json"),
    )  # fmt: skip
    assert found.body == b'{"amount":5,"note":null}'
    assert found.claims == {"sub": "alice", "amr": ["otp"], "exp": 60, "nested": {"a": 1.5}}
    assert found.proof == ("dpop", "mtls")
    assert isinstance(found.subject, Subject)
    assert (found.subject.risk, set(found.subject.segments)) == (12.5, {"vip"})
    assert found.enriched == {"account": {"limit": 5}, "down": Unavailable("enricher_unavailable")}
    assert found.now == 1_801_440_000.0


def test_short_ones() -> None:
    file = read("""
cases:
- {name: bad, token: bad, subject: unavailable, expect: {refuse: 401}}
- {name: text, request: {body: "a=b", contentType: application/x-www-form-urlencoded}, expect: {permit: true}}
- {name: key, apiKey: partner, expect: {reason: no_rule}}
""")
    bad, text, key = [case.scenario for case in file.cases]
    assert (bad.bad, bad.claims, bad.subject) == (JUNK, None, Unavailable("subject_unavailable"))
    assert text.body == b"a=b"
    assert key.api_key == "partner"
    assert bad.now == text.now > 1_800_000_000
    assert file.policies == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("case: []", ["1:1: error: unknown field 'case' (case) | did you mean cases?", "1:1: error: cases is missing"]),
        ("cases: []", ["1:8: error: expected at least one entry (cases) | or leave the field out"]),
        ("cases: [{name: x, expect: {permt: y}}]", ["1:28: error: unknown field 'permt' (cases[0].expect.permt) | did you mean permit?"]),
        ("cases: [{name: x, expect: {}}]", ["1:27: error: expects nothing (cases[0].expect) | say permit: policy/rule or refuse: 403"]),
        ("cases: [{name: x}]", ["1:9: error: expect is missing (cases[0])"]),
        ("cases: [{name: x, expect: {permit: false}}]", ["1:36: error: permit is true or a rule (cases[0].expect.permit) | or say refuse: 403"]),
        ("cases: [{name: x, expect: {permit: a/b, refuse: 403}}]", ["1:49: error: either permit or refuse is expected (cases[0].expect.refuse)"]),
        ("cases: [{name: x, expect: {permit: a/b, reason: no_rule}}]", ["1:49: error: a permitted request has no reason (cases[0].expect.reason)"]),
        ("cases: [{name: x, expect: {refuse: 401, limited: true}}]", ["1:50: error: a refused request has no limited (cases[0].expect.limited)"]),
        ("cases: [{name: x, expect: {refuse: 200}}]", ["1:36: error: 200 is never the answer to a case (cases[0].expect.refuse) | one of 302, 400, 401, 403, 413, 503; limits are counted in traffic, so 429 is not met here"]),
        ("cases: [{name: x, expect: {refuse: 403, code: denyed}}]", ["1:47: error: 'denyed' is not one that there is (cases[0].expect.code) | did you mean denied?"]),
        ("cases: [{name: x, expect: {refuse: 403, kind: scopes}}]", ["1:47: error: 'scopes' is not one that there is (cases[0].expect.kind) | did you mean scope?"]),
        ("cases: [{name: x, token: {}, apiKey: y, expect: {permit: true}}]", ["1:38: error: a request carries one credential, token or apiKey (cases[0].apiKey)"]),
        ("cases: [{name: x, proof: [dpop], expect: {permit: true}}]", ["1:26: error: dpop is shown with a token (cases[0].proof) | add token: {}"]),
        ("cases: [{name: x, proof: [dpob], expect: {permit: true}}]", ["1:27: error: 'dpob' is not one of dpop, mtls (cases[0].proof[0]) | did you mean dpop?"]),
        ("cases: [{name: x, token: good, expect: {permit: true}}]", ["1:26: error: 'good' is not one of bad (cases[0].token)"]),
        ("cases: [{name: x, token: [], expect: {permit: true}}]", ["1:26: error: expected text, found a list (cases[0].token) | quote it: token: \"[]\""]),
        ("cases: [{name: x, time: soon, expect: {permit: true}}]", ["1:25: error: 'soon' is not a time (cases[0].time) | write 2027-01-15T12:00:00Z, in quotes"]),
        ("cases: [{name: x, request: {headers: {Authorization: x}}, expect: {permit: true}}]", ["1:54: error: a credential is not written here (cases[0].request.headers.Authorization) | say token: {...claims}, token: bad or apiKey: ID"]),
        ("cases: [{name: x, request: {headers: {X-A: 5}}, expect: {permit: true}}]", ["1:44: error: expected text or a list of texts (cases[0].request.headers.X-A)"]),
        ("cases: [{name: x, request: {address: here}, expect: {permit: true}}]", ["1:38: error: 'here' is not an IP address (cases[0].request.address)"]),
        ("cases: [{name: x, subject: {risk: 500}, expect: {permit: true}}]", ["1:35: error: 500 is not from 0 to 100 (cases[0].subject.risk)"]),
        ("cases: [{name: x, enriched: {a: 5}, expect: {permit: true}}]", ["1:33: error: expected the members of the answer, or null for: not reached (cases[0].enriched.a)"]),
        ("cases: [{name: x, expect: {permit: true}}, {name: x, expect: {permit: true}}]", ["1:51: error: 'x' is the name of another case (cases[1].name)"]),
        ("apiVersion: authz.sidecar/v1\nkind: X", ["1:1: error: this is a document, not a file of cases | a file of cases has cases: at its top"]),
        ("", ["1:1: error: expected one file of cases, found 0"]),
        ("cases: {", ["error: not valid YAML"]),
    ],
)  # fmt: skip
def test_mistakes(text: str, expected: list[str]) -> None:
    found = mistakes(text)
    assert len(found) == len(expected), found
    for one, other in zip(found, expected, strict=True):
        assert other in one, one


def test_which_files_are_of_cases() -> None:
    assert has_cases(Source("c", "cases: []"))
    assert not has_cases(Source("c", "kind: AccessPolicy"))
    assert not has_cases(Source("c", "- a"))
    assert not has_cases(Source("c", ""))
