"""HAProxy with jwt_verify: signature, issuer, audience, expiry and scope, one thread.

It has no cache of verified tokens, so it checks each signature each time.
"""

from __future__ import annotations

import subprocess
from typing import Final

from loadtests.bench.mint import AUDIENCE, ISSUER, SCOPE
from loadtests.bench.peers import Command, Peer, Task
from loadtests.bench.processes import program


def version() -> str | None:
    haproxy = program("haproxy")
    if haproxy is None:
        return None
    said = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True).stdout
    return said.split()[2]


def prepare(task: Task) -> Command:
    key = task.folder / "key.pem"
    key.write_text(task.mint.pem)
    checks = "\n".join(f"  http-request {check}" for check in _checks(str(key)))
    config = task.folder / "haproxy.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 4096

defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 600s
  http-reuse always

frontend callers
  bind 127.0.0.1:{task.port} backlog 1024
{checks}
  default_backend service

backend service
  server upstream 127.0.0.1:{task.upstream} pool-max-conn 512
"""
    )
    haproxy = program("haproxy")
    assert haproxy is not None
    return Command([haproxy, "-db", "-f", str(config)])


def _checks(key: str) -> list[str]:
    token, invalid = "var(txn.bearer)", "deny deny_status 401 unless"
    return [
        "set-var(txn.bearer) http_auth_bearer",
        f"{invalid} {{ {token} -m found }}",
        f"{invalid} {{ {token},jwt_header_query('$.alg') -m str RS256 }}",
        f'{invalid} {{ {token},jwt_verify("RS256","{key}") -m int 1 }}',
        f"{invalid} {{ {token},jwt_payload_query('$.iss') -m str {ISSUER} }}",
        f"{invalid} {{ {token},jwt_payload_query('$.aud') -m str {AUDIENCE} }}",
        f"set-var(txn.exp) {token},jwt_payload_query('$.exp','int')",
        "set-var(txn.left) date(),neg,add(txn.exp)",
        f"{invalid} {{ var(txn.left) -m int gt 0 }}",
        f"set-var(txn.scope) {token},jwt_payload_query('$.scope')",
        rf"deny deny_status 403 unless {{ var(txn.scope) -m reg (^|\ ){SCOPE}(\ |$) }}",
    ]


PEER: Final = Peer("haproxy", True, version, prepare)
