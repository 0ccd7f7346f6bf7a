"""What tests of commands that talk to a control plane share: a command run, and what it said."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import run

POLICY = """apiVersion: authz.sidecar/v1
kind: AccessPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{rules: [{{name: r, match: {{paths: ['{path}']}}, when: "{when}"}}]}}
"""


@dataclass
class Said:
    """Exit code and both outputs."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Shell:
    """Runs commands against one control plane, as somebody who has documents in a folder."""

    server: str
    folder: Path
    captured: pytest.CaptureFixture[str]

    async def __call__(self, *argv: str) -> Said:
        """In a thread of its own, for a command runs a loop of its own."""
        self.captured.readouterr()
        arguments = (*argv, "--server", self.server)
        try:
            code = await asyncio.to_thread(run, arguments)
        except SystemExit as end:  # argparse's way
            code = int(str(end.code))
        found = self.captured.readouterr()
        return Said(code, found.out, found.err)

    def write(
        self,
        path: str = "/",
        *,
        name: str = "p",
        namespace: str = "default",
        when: str = "true",
        file: str = "",
    ) -> str:
        """A policy in a file, whose name is the answer."""
        written = self.folder / (file or f"{namespace}-{name}.yaml")
        written.write_text(POLICY.format(name=name, namespace=namespace, path=path, when=when))
        return str(written)

    async def publish(self, path: str = "/", *more: str, **named: str) -> Said:
        """`apply` of such a file, which goes well."""
        said = await self("apply", "-f", self.write(path, **named), *more)
        assert said.code == 0, said
        return said
