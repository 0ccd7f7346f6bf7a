"""Envoy with jwt_authn, its cache of verified tokens, and RBAC on the scope; one worker."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from loadtests.bench.mint import AUDIENCE, ISSUER, SCOPE
from loadtests.bench.peers import Command, Peer, Task
from loadtests.bench.processes import program

_TYPE: Final = "type.googleapis.com/envoy"
_HTTP: Final = f"{_TYPE}.extensions.filters.http"
_MANAGER: Final = f"{_TYPE}.extensions.filters.network.http_connection_manager.v3"
_HERE: Final = Path(__file__).parents[3] / "build" / "peers" / "envoy" / "_bin" / "envoy"
"""Where `make bench` puts it."""


def binary() -> str | None:
    return str(_HERE) if os.access(_HERE, os.X_OK) else program("envoy")


def version() -> str | None:
    envoy = binary()
    if envoy is None:
        return None
    said = subprocess.run([envoy, "--version"], capture_output=True, text=True, check=True).stdout
    return said.strip().split("version:")[-1].split("/")[1]


def prepare(task: Task) -> Command:
    config = task.folder / "envoy.json"
    config.write_text(json.dumps(_bootstrap(task)))
    envoy = binary()
    assert envoy is not None
    return Command(
        [envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    )


def _bootstrap(task: Task) -> dict[str, Any]:
    service = {"cluster": "service", "timeout": "600s"}
    connections = {
        "@type": f"{_MANAGER}.HttpConnectionManager",
        "stat_prefix": "callers",
        "http_filters": [_jwt(task), _rbac(task), _router()],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": service}],
                }
            ]
        },
    }  # fmt: skip
    listener = {
        "name": "callers",
        "address": _address(task.port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": connections,
                    }
                ]
            }
        ],
    }
    cluster = {
        "name": "service",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
            ]
        },
        "load_assignment": {
            "cluster_name": "service",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(task.upstream)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _jwt(task: Task) -> dict[str, Any]:
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": task.mint.jwks},
        "payload_in_metadata": "claims",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        "jwt_cache_config": {"jwt_cache_size": 4096},
        "clock_skew_seconds": 30,
    }
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{_HTTP}.jwt_authn.v3.JwtAuthentication",
            "providers": {"corp": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}],
        },
    }


def _rbac(task: Task) -> dict[str, Any]:
    principal = {
        "metadata": {
            "filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "claims"}, {"key": "scope"}],
            "value": {"list_match": {"one_of": {"string_match": {"exact": SCOPE}}}},
        }
    }
    prefixes = [f"/api/rule-{n}/" for n in range(task.rules)] or ["/api/"]
    policies = {
        f"policy-{n}": {
            "permissions": [
                {
                    "and_rules": {
                        "rules": [
                            {"url_path": {"path": {"prefix": prefix}}},
                            {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                        ]
                    }
                }
            ],
            "principals": [principal],
        }
        for n, prefix in enumerate(prefixes)
    }
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": f"{_HTTP}.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": policies},
        },
    }


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_HTTP}.router.v3.Router"},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


PEER: Final = Peer("envoy", True, version, prepare)
