"""What was not done, as `application/problem+json` (RFC 9457), and gRPC's codes as HTTP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import grpc
import orjson
from aiohttp import web

from sidecar.control.authority import Unauthenticated
from sidecar.errors import SidecarError

REALM: Final = 'Bearer realm="sidecar control plane"'
RETRY: Final = 10  # seconds
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Of every answer. None of them lets another origin read it (Fetch section 3.2)."""
STATUSES: Final[Mapping[grpc.StatusCode, tuple[int, str]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "invalid_token"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "denied"),
    grpc.StatusCode.NOT_FOUND: (404, "not_found"),
    grpc.StatusCode.FAILED_PRECONDITION: (409, "conflict"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "too_many"),
    grpc.StatusCode.ABORTED: (503, "unavailable"),
}
"""Status and `code`; what is not there is an error of ours, and nothing of it is told."""
CODES: Final[Mapping[int, str]] = {
    **dict(STATUSES.values()),
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "media_type",
    500: "internal",
    504: "unknown_outcome",
}
"""The usual `code` of a status; 401 has also `authentication_required`, 403 `browser` and `proxy`,
and 421 is `host`."""


@dataclass(frozen=True, slots=True)
class _Told:
    status: int
    code: str
    detail: str
    headers: Mapping[str, str]


class Refused(SidecarError):
    """A request that is not served; says why, and nothing of what came with it that is secret."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`retry`: seconds after which to come again."""
        more = {"retry-after": str(retry)} if retry else {}
        self.told = _Told(status, code, detail, {**more, **(headers or {})})
        super().__init__(detail)


def of_grpc(code: grpc.StatusCode, detail: str) -> Refused:
    """The same that gRPC would have said."""
    status, name = STATUSES.get(code, (500, "internal"))
    if status == 500:
        detail = "an error of the control plane's; it is in its log"
    headers = {"www-authenticate": f'{REALM}, error="invalid_token"'} if status == 401 else {}
    return Refused(
        status, name, detail, retry=RETRY if status in (429, 503) else 0, headers=headers
    )


def unauthenticated(error: Unauthenticated) -> Refused:
    """RFC 6750 section 3: no `error` where nothing was presented."""
    if error.later:
        if error.reason == "keys_unavailable":
            return Refused(503, "unavailable", str(error), retry=RETRY)
        return Refused(429, "too_many", str(error), retry=RETRY)
    if error.reason == "missing":
        return Refused(
            401, "authentication_required",
            "nobody can tell who calls: send `Authorization: Bearer TOKEN`, or show a certificate",
            headers={"www-authenticate": REALM},
        )  # fmt: skip
    return of_grpc(grpc.StatusCode.UNAUTHENTICATED, str(error))


def body(refused: Refused) -> dict[str, Any]:
    """Its members."""
    told = refused.told
    return {
        "type": "about:blank",
        "title": HTTPStatus(told.status).phrase,
        "status": told.status,
        "detail": told.detail,
        "code": told.code,
    }


def answer(refused: Refused) -> web.Response:
    """As it is sent."""
    return web.Response(
        status=refused.told.status,
        body=orjson.dumps(body(refused)),
        headers={
            **HEADERS,
            **refused.told.headers,
            "content-type": "application/problem+json",
        },
    )
