"""Compiles the modules that every request passes, where a C compiler is at hand.

The sources are ordinary Python and run as such (`SIDECAR_COMPILE=0`, or no compiler): mypyc makes
extension modules of the very same files, in which a request costs about half. Everything else about
the build is in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# The straight line of a request (DESIGN section 2), in its order.
HOT = (
    "sidecar/edge/lifetime.py",
    "sidecar/edge/uploading.py",
    "sidecar/edge/connection.py",
    "sidecar/edge/fields.py",
    "sidecar/edge/names.py",
    "sidecar/edge/websocket.py",
    "sidecar/edge/tunnel.py",
    "sidecar/edge/http1.py",
    "sidecar/edge/response_head.py",
    "sidecar/edge/bodies.py",
    "sidecar/edge/decision.py",
    "sidecar/edge/authorizer.py",
    "sidecar/edge/effects.py",
    "sidecar/edge/ledger.py",
    "sidecar/edge/journeys.py",
    "sidecar/edge/visitors.py",
    "sidecar/edge/assertions.py",
    "sidecar/decide/rates.py",
    "sidecar/edge/rates.py",
    "sidecar/decide/cors.py",
    "sidecar/decide/request.py",
    "sidecar/decide/about.py",
    "sidecar/decide/authorize.py",
    "sidecar/decide/caller.py",
    "sidecar/decide/refusals.py",
    "sidecar/decide/credentials.py",
    "sidecar/decide/cache.py",
    "sidecar/decide/evaluate.py",
    "sidecar/decide/privacy.py",
    "sidecar/decide/obligations.py",
    "sidecar/decide/step_up.py",
    "sidecar/decide/plan.py",
    "sidecar/decide/strict.py",
    "sidecar/decide/tokens.py",
    "sidecar/decide/introspection.py",
    "sidecar/decide/revocations.py",
    "sidecar/decide/dpop.py",
    "sidecar/decide/proofs.py",
    "sidecar/decide/api_keys.py",
    "sidecar/edge/exchange.py",
    "sidecar/edge/forward.py",
    "sidecar/edge/upstream.py",
    "sidecar/edge/upstream_connection.py",
    "sidecar/edge/limits.py",
    "sidecar/edge/sweeper.py",
    "sidecar/telemetry/metrics.py",
    "sidecar/telemetry/decision_log.py",
)
GROUP = "sidecar.compiled"  # one library in the package, which all of them share
CHECKED = ("--config-file=", "--ignore-missing-imports", "--disable-error-code=no-any-return")


def compiled() -> list[Extension]:
    """The extension modules; none where they are not wanted or cannot be made."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    if os.environ.get("SIDECAR_COMPILE", "1") == "0" or not compiler or not headers.exists():
        print("sidecar: not compiled; what runs is interpreted", file=sys.stderr)
        return []
    from mypyc.build import mypycify

    try:
        return mypycify([*CHECKED, *HOT], opt_level="3", debug_level="0", group_name=GROUP)
    except SystemExit:  # mypyc has said why; what is slower still does the same
        if os.environ.get("SIDECAR_COMPILE"):
            raise
        print("sidecar: mypyc refused; what runs is interpreted", file=sys.stderr)
        return []


setup(ext_modules=compiled())
