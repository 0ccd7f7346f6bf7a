"""Files of test cases: what they may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from sidecar.decide.kinds.values import Part, Text


class RequestSpec(Part, frozen=True):
    """The request."""

    method: Text = "GET"
    path: Text = "/"
    host: Text = "localhost"
    scheme: Literal["https", "http"] = "https"
    address: Text = "192.0.2.1"
    headers: dict[str, Any] = {}
    body: Any = None
    content_type: Text | None = None


class SubjectSpec(Part, frozen=True):
    """What is known of the caller beyond its token."""

    consents: list[Text] = []
    profile: dict[str, Any] = {}
    segments: list[Text] = []
    risk: Annotated[float, Meta(ge=0, le=100)] = 0


class Expect(Part, frozen=True):
    """What must come of it. A rule is written `policy/rule`, or `namespace/policy/rule`."""

    permit: Text | bool | None = None
    refuse: int | None = None
    rule: Text | None = None
    code: Text | None = None
    reason: Text | None = None
    kind: Text | None = None
    needs: dict[str, Any] | None = None
    challenge: str | None = None
    headers: dict[str, Any] = {}
    response_headers: dict[str, Any] = {}
    redacted: bool | None = None
    limited: bool | None = None
    shadow: Literal["permit", "refuse", "unknown"] | None = None


class CaseSpec(Part, frozen=True):
    """One request, its caller, and what must come of it."""

    name: Text
    expect: Expect
    request: RequestSpec = RequestSpec()
    token: dict[str, Any] | Literal["bad"] | None = None
    api_key: Text | None = None
    workload: Text | None = None
    proof: list[Literal["dpop", "mtls"]] = []
    subject: SubjectSpec | Literal["unavailable"] | None = None
    enriched: dict[str, Any] = {}
    time: Text | None = None


class FileSpec(Part, frozen=True):
    """A file of cases, for the policies at `policies` (relative to it)."""

    cases: Annotated[list[CaseSpec], Meta(min_length=1)]
    policies: Text | None = None
    namespace: Text = "default"
    labels: dict[str, str] = {}
    time: Text | None = None
