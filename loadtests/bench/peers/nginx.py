"""nginx passing everything through: what a proxy costs that checks nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from loadtests.bench.peers import Command, Peer, Task
from loadtests.bench.processes import program

PREFIX: Final = "daemon off; worker_processes 1;" + (" user root;" if os.getuid() == 0 else "")
"""For every nginx here: in the foreground, one worker, which can read our temporary folders."""


def temporary_paths(root: Path) -> str:
    """The compiled-in ones are not ours to write."""
    return " ".join(
        f"{kind}_temp_path {root}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )


def version() -> str | None:
    nginx = program("nginx")
    if nginx is None:
        return None
    said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def prepare(task: Task) -> Command:
    config = task.folder / "nginx.conf"
    config.write_text(
        f"""{PREFIX} pid {task.folder}/pid; error_log {task.folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; {temporary_paths(task.folder)} keepalive_requests 1000000000;
  upstream behind {{ server 127.0.0.1:{task.upstream}; keepalive 512;
    keepalive_requests 1000000000; keepalive_timeout 600s; }}
  server {{ listen 127.0.0.1:{task.port} backlog=1024; client_max_body_size 0;
    location / {{ proxy_pass http://behind; proxy_http_version 1.1;
      proxy_set_header connection ''; proxy_request_buffering off;
      proxy_max_temp_file_size 0; }} }} }}
"""
    )
    nginx = program("nginx")
    assert nginx is not None
    return Command([nginx, "-p", str(task.folder), "-c", str(config)])


PEER: Final = Peer("nginx", False, version, prepare)
