"""Secrets that documents name and never hold: files below one folder, variables of one prefix.

Whoever may publish a document may not have any file or variable of the sidecar sent to an address
of their own: only what was put where secrets are is read, symbolic links followed and checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.decide.compile_introspection import SECRET_VARIABLE
from sidecar.decide.introspection import Secret
from sidecar.errors import FetchFailed

DEFAULT_FOLDER: Final = Path("/run/secrets")
# What Kubernetes mounts below /run/secrets by itself: the pod's token for the API server.
_NEVER: Final = frozenset(("kubernetes.io", "eks.amazonaws.com", "azure"))
MAX_SECRET: Final = 64 * 1024  # bytes


class Secrets:
    """`variable` reads one of the environment; None where there is none."""

    def __init__(self, folder: Path, variable: Callable[[str], str | None]) -> None:
        self._folder = folder
        self._variable = variable

    def read(self, secret: Secret) -> bytes:
        """What it is at the moment, without white space around it. Raises FetchFailed, which names
        the place and never the secret. Reads a file: not for the event loop where that may hang."""
        if secret.variable:
            return self._of_variable(secret.variable)
        path = self.path(secret)
        try:
            with path.open("rb") as file:
                found = file.read(MAX_SECRET + 1)
        except OSError as error:
            raise FetchFailed(f"the secret {secret.file}: {error.strerror}") from None
        if len(found) > MAX_SECRET:
            raise FetchFailed(f"the secret {secret.file} has more than {MAX_SECRET} bytes")
        if not found.strip():
            raise FetchFailed(f"the secret {secret.file} is empty")
        return found.strip()

    def path(self, secret: Secret) -> Path:
        """The file itself, for libraries that read it on their own. Raises FetchFailed."""
        try:
            path = Path(secret.file).resolve(strict=True)
            folder = self._folder.resolve(strict=True)
        except (OSError, RuntimeError):
            raise FetchFailed(f"the secret {secret.file} does not exist") from None
        if _NEVER & {*path.parts, *Path(secret.file).parts}:
            raise FetchFailed(f"the secret {secret.file} is the pod's own, and is shown to nobody")
        if not path.is_relative_to(folder) or not path.is_file():
            raise FetchFailed(
                f"the secret {secret.file} is no file below {self._folder}; put it there, or name "
                "its folder with --secrets"
            )
        return path

    def _of_variable(self, name: str) -> bytes:
        value = self._variable(name) if SECRET_VARIABLE.fullmatch(name) else None
        if not value:
            raise FetchFailed(f"the secret {name} is not set")
        return value.encode()
