"""Cross-origin requests: preflights, and what answers say besides."""

from __future__ import annotations

import pytest

from sidecar.decide.compile import compile_snapshot
from sidecar.decide.cors import Cors, preflight, response_headers
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request
from sidecar.errors import DocumentsInvalid

APP = "https://app.example"
DOCUMENT = """
apiVersion: authz.sidecar/v1
kind: ProtectedService
metadata: {{name: s}}
spec: {{cors: {cors}}}
"""


def compiled(text: str) -> Cors:
    documents, problems = parse([Source("f", DOCUMENT.format(cors=text))])
    assert not problems
    cors = compile_snapshot(documents, namespace="default", labels={}).service.cors
    assert cors is not None
    return cors


CORS = compiled(f"{{origins: ['{APP}', 'http://[::1]:3000']}}")


def asked(method: str = "OPTIONS", **headers: str) -> Request:
    found = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(method, "/x", ["x"], None, "h", "h", "http", found, "192.0.2.1")


def told(cors: Cors = CORS, **headers: str) -> tuple[int, dict[str, str]] | None:
    answer = preflight(asked(**headers), cors)
    if answer is None:
        return None
    return answer.status, {name.decode(): value.decode() for name, value in answer.headers}


def test_a_preflight_is_answered() -> None:
    found = told(
        origin=APP, access_control_request_method="PUT",
        access_control_request_headers="Authorization, content-type",
    )  # fmt: skip
    assert found == (204, {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-max-age": "600",
        "vary": "origin, access-control-request-method, access-control-request-headers",
        "access-control-allow-headers": "authorization, content-type",
    })  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "access_control_request_method": "GET"},
        {"origin": "http://app.example", "access_control_request_method": "GET"},
        {"origin": "https://app.example.evil.example", "access_control_request_method": "GET"},
        {"origin": "null", "access_control_request_method": "GET"},
        {"origin": APP, "access_control_request_method": "PROPFIND"},
        {"origin": APP, "access_control_request_method": "put"},
        {
            "origin": APP, "access_control_request_method": "GET",
            "access_control_request_headers": "x-debug",
        },
    ],
)  # fmt: skip
def test_what_is_not_admitted_is_refused(headers: dict[str, str]) -> None:
    found = told(CORS, **headers)
    assert found is not None
    assert found[0] == 403
    assert "access-control-allow-origin" not in found[1]


def test_what_is_no_preflight_is_decided() -> None:
    assert told(origin=APP) is None
    assert told(access_control_request_method="GET") is None
    assert preflight(asked("GET", origin=APP, access_control_request_method="GET"), CORS) is None


def test_answers_name_the_origin_that_may_read_them() -> None:
    assert response_headers(asked("GET", origin=APP), CORS) == [
        (b"access-control-allow-origin", APP.encode()),
        (
            b"access-control-expose-headers",
            b"www-authenticate, dpop-nonce, retry-after, x-sidecar-decision",
        ),
        (b"vary", b"origin"),
    ]
    assert response_headers(asked("GET", origin="https://evil.example"), CORS) == [
        (b"vary", b"origin")
    ]
    assert response_headers(asked("GET"), CORS) == [(b"vary", b"origin")]
    twice = asked("GET", origin=APP)
    twice.headers.append((b"origin", APP.encode()))
    assert response_headers(twice, CORS) == [(b"vary", b"origin")]


def test_anyone_without_cookies() -> None:
    anyone = compiled("{origins: ['*'], exposeHeaders: []}")
    assert response_headers(asked("GET", origin=APP), anyone) == [
        (b"access-control-allow-origin", b"*"), (b"vary", b"origin"),
    ]  # fmt: skip


def test_with_cookies_the_origin_is_named() -> None:
    cookies = compiled(f"{{origins: ['{APP}'], credentials: true, exposeHeaders: []}}")
    assert response_headers(asked("GET", origin=APP), cookies) == [
        (b"access-control-allow-origin", APP.encode()),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"origin"),
    ]


@pytest.mark.parametrize(
    ("cors", "said"),
    [
        ("{origins: ['https://app.example/']}", "is not an origin"),
        ("{origins: [app.example]}", "is not an origin"),
        ("{origins: ['https://*.example']}", "is not an origin"),
        ("{origins: ['https://App.example']}", "is not an origin"),
        ("{origins: ['*'], credentials: true}", "not with the origin"),
        ("{origins: ['*'], headers: ['a b']}", "is not a header name"),
        ("{origins: ['*'], exposeHeaders: ['a,b']}", "is not a header name"),
        ("{origins: ['*'], methods: [get]}", "is no method"),
    ],
)
def test_mistakes_are_found_at_compile_time(cors: str, said: str) -> None:
    with pytest.raises(DocumentsInvalid, match=said):
        compiled(cors)
