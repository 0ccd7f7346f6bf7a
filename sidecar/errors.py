"""The whole exception tree. Foreign exceptions are mapped to these once, at the boundary.

    SidecarError
    +-- Misuse                 wrong flags, environment or settings file; exit code 2
    +-- DocumentsInvalid       documents that do not parse, check or compile; carries every problem
    +-- BadMessage             bytes that are not one unambiguous HTTP message
    |   +-- BadRequest           from the client: answered with `status` and the connection closed
    |   +-- BadResponse          from the upstream: answered with 502
    +-- TlsFilesUnusable       certificates or keys that cannot be read, parsed or used together
    +-- Uninspectable          a response body that cannot be looked through, so is withheld
    +-- FetchFailed            a fact (keys, metadata) could not be fetched; becomes evidence
    +-- ReleaseRefused         a release that must not be enforced: signature, digest, floor
    +-- SealBroken             what a browser brought back is not what was sealed, or too old
    +-- IdentityRefused        a sidecar that has not shown which workload it belongs to
    +-- StateUnusable          the last-known-good on disk cannot be read, verified or written
    +-- ChannelBroken          between supervisor and worker: gone, or not speaking the protocol
    +-- StoreFailed            the control plane's store refused or lost its footing
    +-- ClusterUnreachable     the Kubernetes API gave no answer, or not the one that was needed
    +-- RedirectFailed         rules of the packet filter that could not be read, set or removed
    +-- ControlPlaneUnreachable  no answer from the control plane; the outcome may be unknown
    |   +-- ControlPlaneRefused    it answered that this caller may not, or is nobody it knows

Nothing in here carries a credential: messages are written to logs and terminals as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SidecarError(Exception):
    """Root of everything this package raises on purpose."""


class SealBroken(SidecarError):
    """What a browser brought back is nothing that was sealed for this; or `expired`."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        self.expired = expired
        super().__init__(reason)


class Misuse(SidecarError):
    """The command was called with settings that cannot work; says every mistake and the mend."""

    def __init__(self, mistakes: Sequence[str] | str) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a document, or one thing in it worth a warning.

    `pointer` is the place inside the document (`spec.rules[2].when`); `document` is
    `Kind/namespace/name` once it is known. `line` and `column` count from 1; 0 is unknown. `code`
    names the kind of warning, for programs; it never changes.
    """

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    document: str = ""
    pointer: str = ""
    hint: str = ""
    warning: bool = False
    code: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.file else self.document
        level = "warning" if self.warning else "error"
        code = f" [{self.code}]" if self.code else ""
        where = f" ({self.pointer})" if self.pointer else ""
        hint = f"\n    hint: {self.hint}" if self.hint else ""
        return f"{place}: {level}: {self.message}{where}{code}{hint}"


class DocumentsInvalid(SidecarError):
    """Documents that cannot be enforced. `problems` holds all of them, never only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BadMessage(SidecarError):
    """Bytes that two HTTP parsers could read differently, or that are not HTTP at all."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BadRequest(BadMessage):
    """From the client. `status` is 400 unless a more exact one exists (414, 431, 501, 505)."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class BadResponse(BadMessage):
    """From the upstream; the client gets 502 and the connection is not reused."""


class TlsFilesUnusable(SidecarError):
    """A certificate, key or CA file; says which file and why, never what is in it."""


class Uninspectable(SidecarError):
    """What may hold what must not be seen, and cannot be looked through.

    `reason` is a metric label: of a JSON text `not_utf8`, `not_json`, `duplicate_name`, `too_deep`
    or `too_complex`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class FetchFailed(SidecarError):
    """A fact could not be fetched in time or made no sense. The message names the address,
    `status` is that of an HTTP answer, 0 without one."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class ReleaseRefused(SidecarError):
    """A release was not adopted; the one enforced before stays."""


class IdentityRefused(SidecarError):
    """Who presents itself is not shown to be that workload; says what is missing."""


class StateUnusable(SidecarError):
    """The state directory cannot be used; says which file and what to do."""


class ChannelBroken(SidecarError):
    """The supervisor or a worker went away, or sent what is no message; the process ends."""


class StoreFailed(SidecarError):
    """The control plane's store failed; nothing was acknowledged."""


class ClusterUnreachable(SidecarError):
    """The Kubernetes API did not do what it was asked for; says which call, and its answer."""


class RedirectFailed(SidecarError):
    """Inbound connections may reach the service undecided; says why and what to do."""


class ControlPlaneUnreachable(SidecarError):
    """The control plane did not answer."""


class ControlPlaneRefused(ControlPlaneUnreachable):
    """The control plane did not do it for this caller; nothing was changed. Says what to do."""
