"""The one builder of refusals: RFC 6750 headers to the letter, problem details by RFC 9457."""

from __future__ import annotations

import orjson
import pytest

from sidecar.decide.challenge import problem, refusal
from sidecar.decide.outcomes import Code, Plan, Refuse
from sidecar.decide.request import Request

REQUEST = Request("GET", "/", [""], None, "h", "h", "http", [], "192.0.2.1")


def bearer(refuse: Refuse) -> str:
    [value] = [v for k, v in refusal(refuse, REQUEST, "id").headers if k == b"www-authenticate"]
    return value.decode()


def test_error_only_when_a_credential_was_presented() -> None:
    assert bearer(Refuse(Code.AUTHENTICATION_REQUIRED, "r", realm="bank")) == 'Bearer realm="bank"'
    presented = Refuse(Code.INVALID_TOKEN, "expired", "It expired.", presented=True, realm="bank")
    assert bearer(presented) == (
        'Bearer realm="bank", error="invalid_token", error_description="It expired."'
    )


def test_scopes_are_named() -> None:
    plan = Plan("scope", ("a", "b"), ("b",))
    answer = refusal(Refuse(Code.INSUFFICIENT_SCOPE, "r", plan=plan, presented=True), REQUEST, "id")
    assert answer.status == 403
    assert dict(answer.headers)[b"www-authenticate"].endswith(b', scope="a b"')
    assert orjson.loads(answer.body)["challenge"] == {"kind": "scope", "needs": {"scopes": ["b"]}}


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\r\nset-cookie: x", "é"])
def test_nothing_can_leave_a_quoted_string(text: str) -> None:
    value = bearer(Refuse(Code.INVALID_TOKEN, "r", text, presented=True, realm=text))
    assert value.isascii()
    assert "\r" not in value
    assert value.count('"') == 6
    assert "\\" not in value


@pytest.mark.parametrize(
    ("code", "status", "challenged"),
    [
        (Code.AUTHENTICATION_REQUIRED, 401, True),
        (Code.INVALID_TOKEN, 401, True),
        (Code.INSUFFICIENT_SCOPE, 403, True),
        (Code.DENIED, 403, False),
        (Code.TOO_MANY_REQUESTS, 429, False),
        (Code.UNAVAILABLE, 503, False),
    ],
)
def test_status_and_body(code: Code, status: int, challenged: bool) -> None:
    answer = refusal(Refuse(code, "the reason", rule="ns/p/secret name"), REQUEST, "abc")
    headers = dict(answer.headers)
    assert answer.status == status
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-sidecar-decision"] == b"abc"
    assert (b"www-authenticate" in headers) is challenged
    assert (b"retry-after" in headers) is (status in (429, 503))
    body = orjson.loads(answer.body)
    assert body["status"] == status
    assert body["code"] == code.value
    assert body["decision_id"] == "abc"
    assert body["title"]
    assert body["detail"]
    assert b"secret name" not in answer.body, "rule names stay in the log"
    assert b"the reason" not in answer.body


def test_problem() -> None:
    answer = problem(502, "bad_gateway", "No.", "id")
    assert orjson.loads(answer.body) == {
        "type": "about:blank", "title": "Bad Gateway", "status": 502, "detail": "No.",
        "code": "bad_gateway", "decision_id": "id",
    }  # fmt: skip
