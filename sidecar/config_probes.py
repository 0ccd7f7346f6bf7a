"""`--probes` as JSON: part of `config`, which alone reads flags, environment and file."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from sidecar.decide.strict import json_object
from sidecar.edge.probes import Probe

MOST: Final = 64
_EXAMPLE: Final = '{"live": {"http": {"port": 8080, "path": "/live"}}}'
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
"""Room for a container's name, 63 at most, and which of its probes it is."""
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(r"[\t -~]{0,4096}")
_PATH: Final = re.compile(r"[!-~]{0,4096}")
_KEY: Final = re.compile(r"[!-~]{0,256}")
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]{1,253}")


def to_probes(text: str) -> dict[str, Probe]:
    """`{"NAME": {"http": {...}, "timeout": 1}}` as probes by name."""
    try:
        found = msgspec.convert(json_object(text.encode()), dict[str, Probe])
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}; write it as in {_EXAMPLE}") from None
    except ValueError as error:
        raise ValueError(f"not JSON as in {_EXAMPLE}: {error}") from None
    if len(found) > MOST:
        raise ValueError(f"{len(found)} probes are more than {MOST}")
    for name, probe in found.items():
        why = _mistake(name, probe)
        if why:
            raise ValueError(f"{name!r}: {why}")
    return found


def _mistake(name: str, probe: Probe) -> str:
    if not _NAME.fullmatch(name):
        return "a name has letters, digits, '.', '_' and '-', 127 at most"
    if [probe.http, probe.tcp, probe.grpc].count(None) != 2:
        return "a probe is one of http, tcp and grpc"
    if not _KEY.fullmatch(probe.key):
        return "a key is 256 visible ASCII characters at most"
    http = probe.http
    host = http.host if http is not None else probe.tcp.host if probe.tcp is not None else ""
    if host and not _HOST.fullmatch(host):
        return f"{host!r} is no host"
    if http is None:
        return ""
    if not _PATH.fullmatch(http.path):
        return "a path is what may stand in a request line: visible ASCII"
    for header, value in http.headers.items():
        if not _HEADER.fullmatch(header) or not _VALUE.fullmatch(value):
            return f"{header!r} is no header that can be sent"
    return ""
