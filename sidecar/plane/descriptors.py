"""File descriptors: every connection takes one, and most systems admit few unless asked."""

from __future__ import annotations

import logging
import resource
from typing import Final

from sidecar.edge.limits import Limits

_BESIDE: Final = 200  # listeners, logs, the control plane's stream, files being read
_log: Final = logging.getLogger("sidecar")


def raise_limit(limits: Limits) -> None:
    """Have as many descriptors admitted as may be used; warn where the system refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + limits.connections_told + limits.upstream_connections + _BESIDE
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    admitted = wanted if hard == unlimited else min(wanted, hard)
    if admitted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (admitted, hard))
    if admitted < limits.connections:
        _log.warning(
            "this system admits %d open files, and %d connections may need %d; raise `ulimit -n` "
            "or lower --max-connections",
            admitted, limits.connections, wanted,
        )  # fmt: skip
