"""A control plane that was taken over says what it likes: no terminal hears it raw, and no command
ends in a traceback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import aio

from sidecar.wire import admin_pb2 as pb
from sidecar.wire.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from tests.cli.shell import Shell
from tests.publishing import policy

HOSTILE = "A/\x1b[2J\x1b]0;title\x07\u202e\r\nall is well\x9b31m\x7f/c"
DOCUMENT = json.dumps(
    {
        "apiVersion": HOSTILE, "kind": HOSTILE,
        "metadata": {"namespace": HOSTILE, "name": HOSTILE, "labels": {HOSTILE: HOSTILE}},
        "spec": {HOSTILE: [HOSTILE]},
    }
).encode()  # fmt: skip
RECORD = json.dumps(
    {"number": 1, "at": 1.0, "by": HOSTILE, "action": HOSTILE, "about": {HOSTILE: HOSTILE}}
).encode()


def filled(message: Any, depth: int = 0) -> Any:
    """Every field of a message with something in it, texts hostile."""
    for field in message.DESCRIPTOR.fields:
        repeated = field.is_repeated
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[HOSTILE] = (
                HOSTILE if field.message_type.fields[1].type == FieldDescriptor.TYPE_STRING else 1
            )
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 5:
                part = getattr(message, field.name)
                filled(part.add() if repeated else part, depth + 1)
        else:
            value = _value(message, field)
            if repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def _value(message: Message, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return HOSTILE
    if field.type == FieldDescriptor.TYPE_BYTES:
        return RECORD if isinstance(message, pb.AuditRecord) else DOCUMENT
    return 1


class Hostile(AdminServicer):
    """Answers everything so; or, with `status`, with an error that says it."""

    def __init__(self, outcome: pb.Outcome.ValueType, *, fails: bool) -> None:
        self.outcome = outcome
        self.fails = fails

    def __getattribute__(self, name: str) -> Any:
        methods = {each.name: each for each in pb.DESCRIPTOR.services_by_name["Admin"].methods}
        if name not in methods:
            return super().__getattribute__(name)
        kind = getattr(pb, methods[name].output_type.name)

        async def answer(_request: Any, context: Any) -> Any:
            if self.fails:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, HOSTILE)
            found = filled(kind())
            if isinstance(found, pb.ApplyResponse):
                found.outcome = self.outcome
            return found

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            yield await answer(request, context)

        return stream if methods[name].server_streaming else answer


@asynccontextmanager
async def hostile(
    outcome: pb.Outcome.ValueType = pb.OUTCOME_PUBLISHED, *, fails: bool = False
) -> AsyncIterator[str]:
    server = aio.server()
    add_AdminServicer_to_server(Hostile(outcome, fails=fails), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


COMMANDS = [
    ("apply", "-f", "FILE"),
    ("apply", "-f", "FILE", "--wait", "--timeout", "2s"),
    ("apply", "-f", "FILE", "--dry-run"),
    ("approve",),
    ("approve", "x"),
    ("approve", "x", "--reject"),
    ("audit",),
    ("audit", "verify"),
    ("audit", "export"),
    ("diff", "-f", "FILE"),
    ("diff", "a@1"),
    ("diff", "a@1", "--brief"),
    ("get",),
    ("history",),
    ("keys",),
    ("keys", "--output", "pem"),
    ("keys", "rotate"),
    ("revoke", "--list"),
    ("rollback", "default"),
    ("rollback", "default", "--wait", "--timeout", "2s"),
    ("rollout",),
    ("rollout", "status", "--all"),
    ("rollout", "pause", "default"),
    ("status",),
]


async def checked(
    argv: tuple[str, ...], server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(policy().canonical)
    said = await Shell(server, tmp_path, capsys)(*(str(file) if a == "FILE" else a for a in argv))
    assert said.code in (0, 1)
    text = said.out + said.err
    assert text
    raw = {char for char in text if not char.isprintable() and char != "\n"}
    if argv == ("get",):
        raw.discard("\u202e")  # documents as they are, to be applied again: letters stay letters
    assert not raw, (argv, text)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
async def test_what_it_answers(
    argv: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hostile() as server:
        await checked(argv, server, tmp_path, capsys)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
async def test_what_its_errors_say(
    argv: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hostile(fails=True) as server:
        await checked(argv, server, tmp_path, capsys)


@pytest.mark.parametrize("outcome", pb.Outcome.values())
async def test_each_outcome(
    outcome: pb.Outcome.ValueType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with hostile(outcome) as server:
        for argv in (("apply", "-f", "FILE"), ("rollback", "default"), ("approve", "x")):
            await checked(argv, server, tmp_path, capsys)
