"""What `sidecar init OPENAPI` writes, and callers of a service that decides by it."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from sidecar.cli.openapi.write import translate
from sidecar.decide.authorize import authorize
from sidecar.decide.cache import ExpiringCache
from sidecar.decide.caller import Evidence
from sidecar.decide.compile import compile_snapshot, validate
from sidecar.decide.outcomes import Permit, Refuse
from sidecar.decide.parse import Source, parse
from sidecar.decide.request import Request, canonical_authority, canonical_target
from sidecar.decide.snapshot import Snapshot
from sidecar.decide.workloads import Certificate, workload
from tests.casebook import ISSUER, jwks, token

NOW = 1_800_000_000.0
KEY = f"""
---
apiVersion: authz.sidecar/v1
kind: ApiKey
metadata: {{name: partner}}
spec: {{id: partner, hash: "sha256:{hashlib.sha256(b"secret").hexdigest()}", scopes: [statements]}}
"""
LOCKED = "authentication_required"
LOW = "insufficient_scope"
KEYED = {"x-api-key": "partner.secret"}


def written(text: str, **flags: str | None) -> tuple[dict[str, str], str]:
    """The files, and all that is said."""
    given: dict[str, Any] = {"issuer": None, "audience": "bank", "name": None, **flags}
    texts, said = translate(Source("dir/openapi.yaml", text), unknown=ISSUER, **given)
    for each in said:
        assert each.isprintable()
        assert each[:40].split(":")[0] in texts["policy.yaml"]
    return texts, "\n".join(said)


def snapshot(text: str, **flags: str | None) -> Snapshot:
    texts, _ = written(text, **flags)
    documents, problems = parse([Source(name, each) for name, each in texts.items()])
    assert not problems + validate(documents)
    texts["key.yaml"] = KEY
    if "issuer.yaml" in texts:
        issuers = [
            {**each, "spec": {**each["spec"], "jwks": {"inline": jwks()}}}
            for each in yaml.safe_load_all(texts["issuer.yaml"])
        ]
        texts["issuer.yaml"] = yaml.safe_dump_all(issuers)
    documents, problems = parse([Source(name, each) for name, each in texts.items()])
    assert not problems + validate(documents)
    return compile_snapshot(documents, namespace="default", labels={})


def rules(text: str, **flags: str | None) -> list[dict[str, Any]]:
    texts, _ = written(text, **flags)
    found: list[dict[str, Any]] = yaml.safe_load(texts["policy.yaml"])["spec"]["rules"]
    return found


class Caller:
    """Somebody who calls a service that decides by `held`."""

    def __init__(self, held: Snapshot) -> None:
        self.held = held

    def __call__(
        self,
        method: str,
        target: str,
        scopes: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        certificate: bool = False,
    ) -> str:
        """`rule` that admits, or status-like reason of the refusal."""
        path, segments, query = canonical_target(target.encode())
        authority, host = canonical_authority(b"bank.example")
        sent = [(b"host", b"bank.example")]
        sent += [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
        if scopes is not None:
            sent.append((b"authorization", b"Bearer " + token(NOW, {"scope": scopes}).encode()))
        shown = Certificate("x", workload("spiffe://prod/a", NOW + 60)) if certificate else None
        request = Request(
            method, path, segments, query, authority, host, "http", sent, "127.0.0.1",
            certificate=shown,
        )  # fmt: skip
        evidence = Evidence({}, ExpiringCache(10), ExpiringCache(10))
        outcome = authorize(request, self.held, evidence, NOW)
        if isinstance(outcome, Permit):
            return outcome.rule.split("/", 2)[2]
        assert isinstance(outcome, Refuse), outcome
        return outcome.code.value


def api(paths: str, more: str = "") -> str:
    return textwrap.dedent(
        """
        openapi: 3.0.0
        components:
          securitySchemes:
            o: {type: oauth2}
            o2: {type: openIdConnect, openIdConnectUrl: "https://two.example/.well-known/openid-configuration"}
            o3: {type: openIdConnect, openIdConnectUrl: "https://three.example/.well-known/openid-configuration"}
            bad: {type: openIdConnect, openIdConnectUrl: "http://far.example/.well-known/openid-configuration"}
            odd: {type: openIdConnect, openIdConnectUrl: "https://odd.example/x"}
            b: {type: http, scheme: bearer}
            d: {type: http, scheme: digest}
            q: {type: apiKey, in: query, name: key}
            h: {type: apiKey, in: header, name: X-Key}
            u: {type: apiKey, in: header, name: api_key}
            f: {type: apiKey, in: header, name: x-forwarded-for}
            a: {type: apiKey, in: header, name: Authorization}
            c: {type: apiKey, in: cookie, name: sid}
            m: {type: mutualTLS}
            n: {type: novel}
        """
    ) + f"{more}\npaths:\n" + textwrap.indent(textwrap.dedent(paths), "  ")  # fmt: skip
