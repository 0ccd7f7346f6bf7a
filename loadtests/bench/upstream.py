"""The service behind every proxy: nginx with keep-alive; a sink for uploads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtests.bench.asked import answers
from loadtests.bench.peers.nginx import PREFIX, temporary_paths
from loadtests.bench.processes import free_port, program, running

SMALL: Final = (
    '{"id": "7", "owner": "customer-000007", "currency": "EUR", "balance": "1204.50", '
    '"available": "1104.50", "status": "open", "updated": "2026-03-01T09:30:00Z"}'
)
LARGE: Final = 64 * 1024
STREAM: Final = 1 << 30


@contextmanager
def upstream(folder: Path, core: int | None, uploads: int | None = None) -> Iterator[int]:
    """Yields its port: /api/small/*, /api/large/* and /api/stream; POST /upload goes on to the
    port `uploads`, where there is one."""
    nginx = program("nginx")
    if nginx is None:
        raise SystemExit("nginx is not installed; the benchmark needs it as the upstream")
    port, root = free_port(), folder / "upstream"
    www = root / "www"
    www.mkdir(parents=True)
    (www / "large").write_bytes(b"x" * LARGE)
    with (www / "stream").open("wb") as file:
        file.truncate(STREAM)  # sparse: no disk to wait for
    upload = ""
    if uploads is not None:
        upload = f"location /upload {{ proxy_pass http://127.0.0.1:{uploads}; }}"
    config = root / "nginx.conf"
    config.write_text(
        f"""{PREFIX} pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 2048; }}
http {{ access_log off; {temporary_paths(root)} sendfile on; tcp_nopush on; open_file_cache max=10;
  keepalive_requests 1000000000; keepalive_timeout 600s; default_type application/json;
  server {{ listen 127.0.0.1:{port} backlog=1024; root {www};
    location /api/ {{ return 200 '{SMALL}'; }}
    location /api/large/ {{ try_files /large =404; }}
    location /api/stream {{ try_files /stream =404; }} {upload} }} }}
"""
    )
    with running("upstream", [nginx, "-p", str(root), "-c", str(config)], root, core) as started:
        started.ready(lambda: answers(port, "/api/small/7", 200))
        yield port


@contextmanager
def sink(folder: Path, core: int | None) -> Iterator[int]:
    """Yields the port of a server that swallows what is uploaded; see sink.py."""
    port = free_port()
    arguments = [sys.executable, str(Path(__file__).with_name("sink.py")), str(port)]
    with running("sink", arguments, folder, core) as started:
        started.ready(lambda: answers(port, "/", 200))
        yield port
